package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/carrier"
	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Session is what a relay needs of the session with an agent.
type Session interface {
	// Peer is who the agent has proven to be.
	Peer() ri2n.PeerID
	// AcceptControl returns the stream that messages travel on.
	AcceptControl(ctx context.Context) (net.Conn, error)
	carrier.Carrier
}

// OverRI2N returns the Session of an ri2n session that is for the relay alone.
func OverRI2N(s *ri2n.Session) Session { return overRI2N{carrier.RI2N{Session: s}} }

type overRI2N struct{ carrier.RI2N }

// AcceptControl returns the agent's first stream.
func (s overRI2N) AcceptControl(ctx context.Context) (net.Conn, error) {
	st, err := s.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Remote returns where the agent is seen on the path that it is answered on.
func (s overRI2N) Remote() netip.AddrPort {
	remote := s.RI2N.Remote()
	return netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
}

const (
	helloTime = 10 * time.Second // for the control stream and the first message
	writeTime = 10 * time.Second // for a batch of messages that is not acknowledged
	software  = "instantgrid"
)

// Serve runs one session to its end.
func (r *Relay) Serve(ctx context.Context, sess Session) {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		sess.CloseWithError(protocol.ReasonShutdown.CloseCode(), protocol.ReasonShutdown.String())
		return
	}
	a := r.table.arrive(time.Now(), sess.Peer(), sess.Remote(), sess.MaxDatagramSize())
	a.session = sess
	r.unlock()
	r.log.Debug("session", "peer", a.peer, "remote", a.remote)

	ctx, cancel := context.WithCancel(ctx)
	var datagrams sync.WaitGroup
	datagrams.Go(func() {
		sess.Datagrams(ctx, func(list [][]byte) { r.datagrams(a, list) })
	})
	if err := r.readControl(ctx, a); errors.Is(err, protocol.ErrMalformed) {
		r.mu.Lock()
		r.table.violation(time.Now(), a, err.Error())
		r.unlock()
	}
	// The control stream is the session's reason to be. When it ends, by the
	// agent's will or ours, so does the session; a writer that is still at
	// work closes it with the reason.
	r.mu.Lock()
	if !a.gone {
		r.table.end(time.Now(), a, protocol.ReasonNone)
	}
	r.unlock()
	<-sess.Done()
	cancel()
	datagrams.Wait()
	r.mu.Lock()
	r.table.leave(time.Now(), a)
	reason := a.reason
	r.unlock()
	r.log.Debug("session ended", "peer", a.peer, "remote", a.remote, "after", time.Since(a.since), "reason", reason)
}

// readControl handles the agent's messages until the control stream ends.
func (r *Relay) readControl(ctx context.Context, a *Agent) error {
	hello, cancel := context.WithTimeout(ctx, helloTime)
	control, err := a.session.AcceptControl(hello)
	cancel()
	if err != nil {
		return err
	}
	r.mu.Lock()
	a.control = control
	gone := a.gone
	r.unlock()
	if gone {
		return nil
	}
	if err := control.SetReadDeadline(time.Now().Add(helloTime)); err != nil {
		return err
	}
	first, err := protocol.Read(control)
	if err != nil {
		return err
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	r.mu.Lock()
	switch m, ok := first.(protocol.Hello); {
	case !ok:
		r.table.violation(time.Now(), a, "the first message is not HELLO")
	case m.Version < protocol.Version:
		r.table.send(a, protocol.Error{Reason: protocol.ReasonVersion})
		r.table.end(time.Now(), a, protocol.ReasonVersion)
	default:
		r.table.send(a, protocol.Hello{Version: protocol.Version, Software: software})
	}
	r.unlock()
	var asker Asker
	if r.cfg.NewAsker != nil {
		asker = r.cfg.NewAsker(a)
		defer asker.Stop()
	}
	for {
		m, err := protocol.Read(control)
		if err != nil {
			return err
		}
		if ask, ok := m.(protocol.Ask); ok && asker != nil {
			if err := asker.Ask(ctx, ask); err != nil {
				return err
			}
			continue
		}
		var remote netip.AddrPort
		if _, ok := m.(protocol.Register); ok {
			remote = a.session.Remote() // outside of the lock, which the session's is not below
		}
		r.mu.Lock()
		if remote.IsValid() {
			a.observed = remote
		}
		released := r.table.receive(time.Now(), a, m)
		gone := a.gone
		r.unlock()
		r.pass(released)
		if gone {
			return nil
		}
	}
}

// datagrams relays what an agent sends.
func (r *Relay) datagrams(a *Agent, list [][]byte) {
	f := flights.Get().(*flight)
	f.relayed = f.relayed[:0]
	now := time.Now()
	r.mu.Lock()
	for _, b := range list {
		if d, ok := r.table.datagram(now, a, b); ok {
			f.relayed = append(f.relayed, d)
		}
	}
	r.mu.Unlock()
	r.pass(f.relayed)
	clear(f.relayed)
	flights.Put(f)
}

// A flight is the memory for datagrams that leave together; SendDatagrams copies
// them.
type flight struct {
	b       []byte
	list    [][]byte
	relayed []relayed
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// pass sends packets on, those with the same way together. The target's session
// queues them behind other packets of the same sender only, and shares itself
// fairly among senders.
func (r *Relay) pass(list []relayed) {
	f := flights.Get().(*flight)
	defer flights.Put(f)
	for len(list) > 0 {
		first := list[0]
		f.b, f.list = f.b[:0], f.list[:0]
		for len(list) > 0 && list[0].to == first.to && list[0].flow == first.flow {
			start := len(f.b)
			f.b = protocol.AppendFrame(append(f.b, r.cfg.Header...), list[0].number, list[0].packet)
			f.list = append(f.list, f.b[start:len(f.b):len(f.b)]) // stays valid when f.b moves
			list = list[1:]
		}
		r.send(first.to, first.flow, f.list)
	}
}

func (r *Relay) send(to *Agent, flow uint64, list [][]byte) {
	for len(list) > 0 {
		n, err := to.session.SendDatagrams(flow, list)
		if err == nil {
			return
		}
		reason, lost := dropQueue, len(list)-n // the session has ended
		if errors.Is(err, ri2n.ErrDatagramTooLarge) {
			reason, lost = dropTooLarge, 1
			r.measure(to)
		}
		r.mu.Lock()
		r.table.counters.DatagramsDropped[reason] += uint64(lost)
		r.mu.Unlock()
		list = list[n+lost:]
	}
}

// write sends what waits in the outbox of a, and closes the session when the
// table has given it up. At most one goroutine does so at a time, while there
// is something to do.
func (r *Relay) write(a *Agent) {
	var b []byte
	for {
		r.mu.Lock()
		batch, control, gone, reason := a.outbox, a.control, a.gone, a.reason
		a.outbox = nil
		if len(batch) == 0 || control == nil {
			a.writing = false
			r.mu.Unlock()
			if gone {
				a.session.CloseWithError(reason.CloseCode(), reason.String())
			}
			return
		}
		r.mu.Unlock()
		b = b[:0]
		for _, m := range batch {
			b = protocol.Append(b, m)
		}
		control.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := control.Write(b); err != nil {
			a.session.CloseWithError(protocol.ReasonBusy.CloseCode(), "control stream: "+err.Error())
			r.mu.Lock()
			a.outbox, a.writing = nil, false
			r.mu.Unlock()
			return
		}
	}
}
