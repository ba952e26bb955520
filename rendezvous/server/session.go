package server

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

// A session is what the server needs of an agent's ri2n session.
type session interface {
	Peer() ri2n.PeerID
	Remote() netip.AddrPort
	AcceptControl(ctx context.Context) (net.Conn, error)
	SendDatagram(flow uint64, b []byte) error
	ReceiveDatagram(ctx context.Context) ([]byte, error)
	MaxDatagramSize() int
	Done() <-chan struct{}
	CloseWithError(code uint64, reason string) error
}

// overRI2N is a session over ri2n.
type overRI2N struct{ *ri2n.Session }

// AcceptControl returns the agent's first stream.
func (s overRI2N) AcceptControl(ctx context.Context) (net.Conn, error) {
	st, err := s.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return st, nil
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

// serve runs one session to its end.
func (s *Server) serve(ctx context.Context, sess session) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		sess.CloseWithError(protocol.ReasonShutdown.CloseCode(), protocol.ReasonShutdown.String())
		return
	}
	a := s.table.arrive(time.Now(), sess.Peer(), sess.Remote(), sess.MaxDatagramSize())
	a.session = sess
	s.unlock()
	s.log.Debug("session", "peer", a.peer, "remote", a.remote)

	ctx, cancel := context.WithCancel(ctx)
	var datagrams sync.WaitGroup
	datagrams.Go(func() { s.readDatagrams(ctx, a) })
	if err := s.readControl(ctx, a); errors.Is(err, protocol.ErrMalformed) {
		s.mu.Lock()
		s.table.violation(time.Now(), a, err.Error())
		s.unlock()
	}
	// The control stream is the session's reason to be. When it ends, by the
	// agent's will or ours, so does the session; a writer that is still at
	// work closes it with the reason.
	s.mu.Lock()
	if !a.gone {
		s.table.end(time.Now(), a, protocol.ReasonNone)
	}
	s.unlock()
	<-sess.Done()
	cancel()
	datagrams.Wait()
	s.mu.Lock()
	s.table.leave(time.Now(), a)
	reason := a.reason
	s.unlock()
	s.log.Debug("session ended", "peer", a.peer, "remote", a.remote, "after", time.Since(a.since), "reason", reason)
}

// readControl handles the agent's messages until the control stream ends.
func (s *Server) readControl(ctx context.Context, a *agent) error {
	hello, cancel := context.WithTimeout(ctx, helloTime)
	control, err := a.session.AcceptControl(hello)
	cancel()
	if err != nil {
		return err
	}
	s.mu.Lock()
	a.control = control
	gone := a.gone
	s.unlock()
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
	s.mu.Lock()
	switch m, ok := first.(protocol.Hello); {
	case !ok:
		s.table.violation(time.Now(), a, "the first message is not HELLO")
	case m.Version < protocol.Version:
		s.table.send(a, protocol.Error{Reason: protocol.ReasonVersion})
		s.table.end(time.Now(), a, protocol.ReasonVersion)
	default:
		s.table.send(a, protocol.Hello{Version: protocol.Version, Software: software})
	}
	s.unlock()
	asking := newAsking()
	defer s.stopAsking(&asking)
	for {
		m, err := protocol.Read(control)
		if err != nil {
			return err
		}
		if ask, ok := m.(protocol.Ask); ok && s.ledger != nil {
			if err := s.ask(ctx, a, &asking, ask); err != nil {
				return err
			}
			continue
		}
		s.mu.Lock()
		released := s.table.receive(time.Now(), a, m)
		gone := a.gone
		s.unlock()
		for _, r := range released {
			s.relay(r)
		}
		if gone {
			return nil
		}
	}
}

// readDatagrams relays what the agent sends until its session ends.
func (s *Server) readDatagrams(ctx context.Context, a *agent) {
	for {
		b, err := a.session.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		s.mu.Lock()
		r, ok := s.table.datagram(time.Now(), a, b)
		s.unlock()
		if ok {
			s.relay(r)
		}
	}
}

// frames are buffers for datagrams that leave; SendDatagram copies them.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// relay passes one packet on. The target's session queues it behind other
// packets of the same sender only, and shares itself fairly among senders.
func (s *Server) relay(r relayed) {
	buf := frames.Get().(*[]byte)
	*buf = protocol.AppendFrame((*buf)[:0], r.number, r.packet)
	err := r.to.session.SendDatagram(r.flow, *buf)
	frames.Put(buf)
	if err == nil {
		return
	}
	reason := dropQueue
	if errors.Is(err, ri2n.ErrDatagramTooLarge) {
		reason = dropTooLarge
		s.measure(r.to)
	}
	s.mu.Lock()
	s.table.counters.datagramsDropped[reason]++
	s.mu.Unlock()
}

// write sends what waits in the outbox of a, and closes the session when the
// table has given it up. At most one goroutine does so at a time, while there
// is something to do.
func (s *Server) write(a *agent) {
	var b []byte
	for {
		s.mu.Lock()
		batch, control, gone, reason := a.outbox, a.control, a.gone, a.reason
		a.outbox = nil
		if len(batch) == 0 || control == nil {
			a.writing = false
			s.mu.Unlock()
			if gone {
				a.session.CloseWithError(reason.CloseCode(), reason.String())
			}
			return
		}
		s.mu.Unlock()
		b = b[:0]
		for _, m := range batch {
			b = protocol.Append(b, m)
		}
		control.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := control.Write(b); err != nil {
			a.session.CloseWithError(protocol.ReasonBusy.CloseCode(), "control stream: "+err.Error())
			s.mu.Lock()
			a.outbox, a.writing = nil, false
			s.mu.Unlock()
			return
		}
	}
}
