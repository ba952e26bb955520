package ri2n

import (
	"errors"
	"time"
)

// A sessionTrace compares a session with what its tracer has been told, so
// that state may change in many places and be reported from one. The session's
// mutex guards it; a session that nobody traces has none.
type sessionTrace struct {
	tracer   Tracer
	last     time.Time
	paths    []tracedPath
	sent     uint64 // key updates that have been told
	received uint64
	closed   bool
}

// A tracedPath is what the tracer knows of one path.
type tracedPath struct {
	path    *path
	at      Remote
	state   PathState
	sending bool
	metrics time.Time // of the newest TraceMetrics; zero: none
	acked   uint64    // delivered bytes at that time
}

// startTrace asks the configuration for a tracer of s.
func (s *Session) startTrace(now time.Time) {
	if s.endpoint.cfg.Trace == nil {
		return
	}
	tracer := s.endpoint.cfg.Trace(s)
	if tracer == nil {
		return
	}
	s.trace = &sessionTrace{tracer: tracer}
	s.trace.event(now, TraceStarted{Client: s.client, Local: s.endpoint.PeerID(), Peer: s.peer})
}

func (t *sessionTrace) event(now time.Time, e TraceEvent) {
	if now.Before(t.last) { // a reader and a writer took the mutex in the other order
		now = t.last
	}
	t.last = now
	t.tracer.Trace(now, e)
}

// look reports what has changed since it was called last.
func (t *sessionTrace) look(s *Session, now time.Time) {
	for i := 0; i < len(t.paths); {
		k := &t.paths[i]
		if k.path.state == PathClosed || s.pathByID(k.path.id) != k.path {
			t.metrics(k, now)
			t.event(now, TracePath{
				Path: uint32(k.path.id), Link: k.path.link.name, Carrier: k.path.link.IsCarrier(), Remote: k.path.remote,
				Old: k.state, New: PathClosed, Reinjected: k.path.packetsReinjected,
			})
			t.paths = append(t.paths[:i], t.paths[i+1:]...)
			continue
		}
		i++
	}
	for _, p := range s.paths {
		k, known := t.find(p)
		sending := s.prefers(p)
		if at := (Remote{p.link, p.remote}); !known || k.state != p.state || k.sending != sending || k.at != at {
			info := p.info(sending)
			t.event(now, TracePath{
				Path: info.ID, Link: info.Link, Carrier: info.Carrier, Local: info.Local, Remote: info.Remote,
				Old: k.state, New: p.state, Sending: sending, Reinjected: p.packetsReinjected,
			})
			k.state, k.sending, k.at = p.state, sending, at
		}
		if d := p.loss.delivered; d != k.acked && now.Sub(k.metrics) >= TraceInterval {
			t.metrics(k, now)
		}
	}
	if n := s.keys.updates; n != t.sent {
		t.sent = n
		t.event(now, TraceKeyUpdate{Sending: true, Phase: n})
	}
	if n := s.readKeys.current.Load().count; n != t.received {
		t.received = n
		t.event(now, TraceKeyUpdate{Phase: n})
	}
	if s.err != nil && !t.closed {
		t.closed = true
		var remote *RemoteError
		t.event(now, TraceClosed{Err: s.err, Remote: errors.As(s.err, &remote)})
	}
}

// find returns what is known of p, which it adds.
func (t *sessionTrace) find(p *path) (k *tracedPath, known bool) {
	for i := range t.paths {
		if t.paths[i].path == p {
			return &t.paths[i], true
		}
	}
	t.paths = append(t.paths, tracedPath{path: p, state: PathProbing})
	return &t.paths[len(t.paths)-1], false
}

func (t *sessionTrace) metrics(k *tracedPath, now time.Time) {
	k.metrics, k.acked = now, k.path.loss.delivered
	t.event(now, TraceMetrics{k.path.info(k.sending)})
}

// prefers reports whether new data of this side leaves on p.
func (s *Session) prefers(p *path) bool { return p == s.sending || p.carries }

// packetSent reports the packet whose plain text is b, header included.
func (t *sessionTrace) packetSent(now time.Time, p *path, number packetNumber, size int, payload []byte) {
	t.event(now, TracePacketSent{uint32(p.id), uint64(number), size, traceFrames(payload)})
}

func (t *sessionTrace) packetReceived(now time.Time, p *path, pkt *receivedPacket) {
	t.event(now, TracePacketReceived{uint32(p.id), uint64(pkt.number), pkt.size, traceFrames(pkt.payload)})
}

func (t *sessionTrace) packetsLost(now time.Time, p *path, lost []lostPacket) {
	for _, l := range lost {
		t.event(now, TracePacketLost{uint32(p.id), uint64(l.number), int(l.size), l.byTime})
	}
}

// stream reports that st began or is over.
func (t *sessionTrace) stream(st *Stream, open bool) {
	e := TraceStream{ID: st.id, Open: open}
	if !open {
		e.Sent, e.Received = st.send.sentOffset(), st.recv.highest()
	}
	t.event(time.Now(), e)
}
