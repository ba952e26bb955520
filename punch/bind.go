package punch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
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

// A binding is one Binding transaction under way.
type binding struct {
	server netip.AddrPort
	// anySource admits an answer from another transport address than the
	// server's, as CHANGE-REQUEST asks for.
	anySource bool
	answer    chan bindAnswer // holds one
}

type bindAnswer struct {
	mapped netip.AddrPort
	other  netip.AddrPort // OTHER-ADDRESS, or zero
	from   netip.AddrPort
	err    error
}

// deliver hands the response over if it comes from the right place.
func (t *binding) deliver(m *Mux, h stunHeader, b []byte, from netip.AddrPort) {
	if from != t.server && !t.anySource {
		m.counters.unknownResponse.Add(1)
		return
	}
	msg, err := decodeSTUN(b)
	if err != nil {
		m.counters.notSTUN.Add(1)
		return
	}
	a := bindAnswer{from: from}
	if h.class == classError {
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
	a, err := m.transact(ctx, server, changeNothing, bindRequests)
	return a.mapped, err
}

// transact runs one Binding transaction of at most requests requests.
func (m *Mux) transact(ctx context.Context, server netip.AddrPort, change changeRequest, requests int) (bindAnswer, error) {
	server = canonical(server)
	t := &binding{server: server, anySource: change != changeNothing, answer: make(chan bindAnswer, 1)}
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

// Gather asks every server for the reflexive transport address of the socket
// and returns the candidates of the link: the host candidates given, then each
// distinct reflexive address. Without host candidates the socket's own address
// is one, unless it is a wildcard. Servers that do not answer before ctx ends
// are left out. The behavior is what [Classify] makes of the answers.
//
// The result is true now: gather again before an attempt that follows a change
// of the network, such as a restarted router.
func (m *Mux) Gather(ctx context.Context, host []netip.AddrPort, servers []netip.AddrPort) ([]Candidate, Behavior) {
	if len(host) == 0 && !m.local.Addr().IsUnspecified() {
		host = []netip.AddrPort{m.local}
	}
	seen := m.observe(ctx, servers)
	var list []Candidate
	add := func(kind Kind, a netip.AddrPort) {
		if len(list) < maxCandidates && !slices.ContainsFunc(list, func(c Candidate) bool { return c.Addr == a }) {
			list = append(list, Candidate{Addr: a, Kind: kind})
		}
	}
	for _, a := range host {
		add(KindHost, canonical(a))
	}
	for _, o := range seen {
		if o.Mapped.IsValid() {
			add(KindServerReflexive, o.Mapped)
		}
	}
	return list, Classify(m.base(host), seen)
}

// base returns the address that checks leave from, as far as it is known.
func (m *Mux) base(host []netip.AddrPort) netip.AddrPort {
	if m.local.Addr().IsUnspecified() && len(host) == 1 {
		return canonical(host[0])
	}
	return m.local
}

// observe runs one Binding transaction with each server, 5 ms apart.
func (m *Mux) observe(ctx context.Context, servers []netip.AddrPort) []Observation {
	seen := make([]Observation, len(servers))
	var wait sync.WaitGroup
	for i, s := range servers {
		seen[i].Server = s
		wait.Go(func() {
			select {
			case <-time.After(time.Duration(i) * checkSpacing):
			case <-ctx.Done():
				return
			}
			if mapped, err := m.Bind(ctx, s); err == nil {
				seen[i].Mapped = mapped
			}
		})
	}
	wait.Wait()
	return seen
}

// filterTries is how often a request is sent whose answer a NAT may filter.
const filterTries = 3

// Discover measures the behavior of the network before the socket (RFC 5780):
// mapping from what the servers see, and filtering where a server offers an
// alternate address; otherwise filtering stays unknown. It takes up to four
// seconds when answers are filtered. Run it on a socket that talks to nobody
// else at the servers' addresses, or earlier traffic hides filters.
func (m *Mux) Discover(ctx context.Context, host []netip.AddrPort, servers []netip.AddrPort) (Behavior, []Observation) {
	// Filtering first: the mapping tests open filters toward the alternate
	// address (RFC 5780, section 4.4).
	filtering := Unknown
	for _, s := range servers {
		first, err := m.transact(ctx, s, changeNothing, bindRequests)
		if err != nil || !first.other.IsValid() || first.other.Addr() == s.Addr() {
			continue
		}
		if _, err := m.transact(ctx, s, changeAddress|changePort, filterTries); err == nil {
			filtering = EndpointIndependent
		} else if _, err := m.transact(ctx, s, changePort, filterTries); err == nil {
			filtering = AddressDependent
		} else if ctx.Err() == nil {
			filtering = AddressAndPortDependent
		}
		if a := first.other; !slices.Contains(servers, a) {
			// The alternate address and the server's own with the alternate
			// port tell all three mappings apart.
			servers = append(slices.Clip(servers), netip.AddrPortFrom(s.Addr(), a.Port()), a)
		}
		break
	}
	seen := m.observe(ctx, servers)
	b := Classify(m.base(host), seen)
	b.Filtering = filtering
	return b, seen
}
