package punch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// RFC 8489, section 6.2.1, with the values recommended there: Rc requests, the
// wait doubling from RTO, and at most Rm times RTO after the last one. The
// first retry comes early, since a lost packet would else cost half a second
// at start.
const (
	bindRTO       = 500 * time.Millisecond
	bindFirst     = 200 * time.Millisecond
	bindRequests  = 7
	bindFinalWait = 16 * bindRTO
)

// ErrNoAnswer reports that a STUN server did not answer: it is down, or UDP
// toward it is blocked.
var ErrNoAnswer = errors.New("punch: no answer to STUN Binding requests")

// errUnchanged reports a server that answers CHANGE-REQUEST from where it was
// asked, so that it says nothing about filtering.
var errUnchanged = errors.New("punch: the STUN server does not heed CHANGE-REQUEST")

// A binding is one Binding transaction under way.
type binding struct {
	server  netip.AddrPort
	source  netip.AddrPort  // where the answer must come from
	answer  chan bindAnswer // holds one
	anyPort bool            // the answer comes from any port of source
}

type bindAnswer struct {
	mapped netip.AddrPort
	other  netip.AddrPort // OTHER-ADDRESS, or zero
	err    error
}

// deliver hands the response over if it comes from the right place.
func (t *binding) deliver(m *Mux, h stunHeader, b []byte, from netip.AddrPort) {
	if t.anyPort && from.Addr() == t.source.Addr() {
		from = t.source
	}
	if from != t.source && from != t.server {
		m.counters.unknownResponse.Add(1)
		return
	}
	msg, err := decodeSTUN(b)
	if err != nil {
		m.counters.notSTUN.Add(1)
		return
	}
	var a bindAnswer
	if from != t.source {
		a.err = errUnchanged
	} else if h.class == classError {
		var code stun.ErrorCodeAttribute
		if code.GetFrom(msg) != nil {
			code.Code = 500
		}
		a.err = fmt.Errorf("punch: STUN server %v answered with error %d", t.server, code.Code)
	} else if a.mapped, a.err = mappedAddress(msg); a.err == nil {
		a.other = otherAddress(msg)
	}
	select {
	case t.answer <- a:
	default: // a second answer to one transaction
	}
}

// Bind asks the STUN server for the reflexive transport address of this
// socket. It retransmits as RFC 8489, section 6.2.1, says, for up to 24 s
// unless ctx ends first, and then returns [ErrNoAnswer] or the error of ctx.
// The answer must carry our transaction ID and come from server.
func (m *Mux) Bind(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error) {
	a, err := m.transact(ctx, server, server, changeNothing, bindRequests)
	return a.mapped, err
}

// transact runs one Binding transaction of at most requests requests, whose
// answer comes from source: the server itself, unless change asks otherwise.
func (m *Mux) transact(ctx context.Context, server, source netip.AddrPort, change changeRequest, requests int) (bindAnswer, error) {
	server = canonical(server)
	t := &binding{server: server, source: canonical(source), answer: make(chan bindAnswer, 1)}
	var id transactionID
	if _, err := rand.Read(id[:]); err != nil {
		return bindAnswer{}, fmt.Errorf("punch: read transaction ID: %w", err)
	}
	m.mu.Lock()
	switch {
	case m.closed:
		m.mu.Unlock()
		return bindAnswer{}, net.ErrClosed
	case len(m.binds) >= maxBinds:
		m.mu.Unlock()
		return bindAnswer{}, errors.New("punch: too many Binding transactions at once")
	}
	m.binds[id] = t
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.binds, id)
		m.mu.Unlock()
	}()

	request := newBinding(id, change)
	wait := bindFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return bindAnswer{}, fmt.Errorf("punch: bind to %v: %w", server, ctx.Err())
		case <-m.closing:
			return bindAnswer{}, net.ErrClosed
		case a := <-t.answer:
			return a, a.err
		case <-timer.C:
		}
		if sent == requests {
			return bindAnswer{}, fmt.Errorf("%w from %v", ErrNoAnswer, server)
		}
		if m.pace.budget.take(time.Now()) == 0 {
			// A failed send counts as a lost packet; the link may come back.
			_ = m.send(request, server)
		}
		sent++
		switch sent {
		case requests:
			timer.Reset(min(bindFinalWait, wait))
		default:
			timer.Reset(wait)
		}
		if wait = wait * 2; sent == 1 {
			wait = bindRTO
		}
	}
}
