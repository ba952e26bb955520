package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Session is what a relay needs of the session with an agent.
type Session interface {
	// Peer is who the agent has proven to be.
	Peer() ri2n.PeerID
	// Remote is where the agent is seen, as far as known.
	Remote() netip.AddrPort
	// AcceptControl returns the stream that messages travel on.
	AcceptControl(ctx context.Context) (net.Conn, error)

	SendDatagram(flow uint64, b []byte) error
	// Datagrams gives what arrives to deliver, which owns it and does not
	// block, until ctx or the session ends.
	Datagrams(ctx context.Context, deliver func([]byte))
	MaxDatagramSize() int
	Done() <-chan struct{}
	CloseWithError(code uint64, reason string) error
}

// OverRI2N returns the Session of an ri2n session that is for the relay alone.
func OverRI2N(s *ri2n.Session) Session { return overRI2N{s} }

type overRI2N struct{ *ri2n.Session }

// AcceptControl returns the agent's first stream.
func (s overRI2N) AcceptControl(ctx context.Context) (net.Conn, error) {
	st, err := s.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Datagrams reads the session's datagrams.
func (s overRI2N) Datagrams(ctx context.Context, deliver func([]byte)) {
	for {
		b, err := s.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		deliver(b)
	}
}

// Remote returns where the agent is seen on the path that it is answered on.
func (s overRI2N) Remote() (remote netip.AddrPort) {
	for _, p := range s.Paths() {
		if p.Remote.IsValid() && (p.Sending || !remote.IsValid()) {
			remote = p.Remote
		}
	}
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
		sess.Datagrams(ctx, func(b []byte) { r.datagram(a, b) })
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
		for _, d := range released {
			r.pass(d)
		}
		if gone {
			return nil
		}
	}
}

// datagram relays what an agent sends.
func (r *Relay) datagram(a *Agent, b []byte) {
	r.mu.Lock()
	d, ok := r.table.datagram(time.Now(), a, b)
	r.mu.Unlock()
	if ok {
		r.pass(d)
	}
}

// frames are buffers for datagrams that leave; SendDatagram copies them.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// pass sends one packet on. The target's session queues it behind other
// packets of the same sender only, and shares itself fairly among senders.
func (r *Relay) pass(d relayed) {
	buf := frames.Get().(*[]byte)
	*buf = protocol.AppendFrame(append((*buf)[:0], r.cfg.Header...), d.number, d.packet)
	err := d.to.session.SendDatagram(d.flow, *buf)
	frames.Put(buf)
	if err == nil {
		return
	}
	reason := dropQueue
	if errors.Is(err, ri2n.ErrDatagramTooLarge) {
		reason = dropTooLarge
		r.measure(d.to)
	}
	r.mu.Lock()
	r.table.counters.DatagramsDropped[reason]++
	r.mu.Unlock()
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
