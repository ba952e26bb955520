package ri2n

import (
	"sync/atomic"
	"time"
)

// pathCounters count what has happened on one path, or on all closed ones.
// The session's mutex guards them.
type pathCounters struct {
	packetsSent, packetsReceived, packetsLost, packetsDuplicate uint64
	packetsSpurious, packetsReinjected                          uint64
	bytesSent, bytesReceived                                    uint64
	bursts                                                      uint64
	probeTimeouts, failovers                                    uint64
}

func (c *pathCounters) add(o *pathCounters) {
	c.packetsSent += o.packetsSent
	c.packetsReceived += o.packetsReceived
	c.packetsLost += o.packetsLost
	c.packetsDuplicate += o.packetsDuplicate
	c.packetsSpurious += o.packetsSpurious
	c.packetsReinjected += o.packetsReinjected
	c.bytesSent += o.bytesSent
	c.bytesReceived += o.bytesReceived
	c.bursts += o.bursts
	c.probeTimeouts += o.probeTimeouts
	c.failovers += o.failovers
}

// StallBounds are the upper bounds of a [StallHistogram]; what is above the
// last falls into one more.
var StallBounds = [...]time.Duration{
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 150 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// A StallHistogram counts the times in which data was in flight on a path and
// nothing was acknowledged for longer than a probe time-out, by their length:
// from the last sign until the data was given to another path, or until the
// same path answered.
type StallHistogram struct {
	Counts [len(StallBounds) + 1]uint64
	Sum    time.Duration
}

// Count returns the number of stalls.
func (h *StallHistogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

func (h *StallHistogram) observe(d time.Duration) {
	h.Counts[stallBucket(d)]++
	h.Sum += d
}

func stallBucket(d time.Duration) int {
	for i, bound := range StallBounds {
		if d <= bound {
			return i
		}
	}
	return len(StallBounds)
}

// stallCounters is a StallHistogram that many sessions share.
type stallCounters struct {
	counts [len(StallBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (c *stallCounters) observe(d time.Duration) {
	c.counts[stallBucket(d)].Add(1)
	c.sum.Add(int64(d))
}

func (c *stallCounters) snapshot() (h StallHistogram) {
	for i := range c.counts {
		h.Counts[i] = c.counts[i].Load()
	}
	h.Sum = time.Duration(c.sum.Load())
	return h
}

// A limit is what keeps a session from sending more.
type limit uint8

const (
	limitApplication limit = iota // nothing to send
	limitFlow                     // the peer's credit
	limitWindow                   // congestion windows
	limitPacing                   // the pacer
	limits
)

// limitedTimes sums how long each limit held. The zero value counts nothing.
type limitedTimes struct {
	sums  [limits]time.Duration
	now   limit
	since time.Time // zero: not begun
}

// set tells that l is what limits from now on.
func (t *limitedTimes) set(now time.Time, l limit) {
	if !t.since.IsZero() {
		if d := now.Sub(t.since); d > 0 {
			t.sums[t.now] += d
		} else {
			now = t.since
		}
	}
	t.now, t.since = l, now
}

// A SessionStats is a snapshot of one session. Counts cover all its paths,
// those that are closed included, and both directions where not said
// otherwise. Bytes are of UDP payload unless they are said to be a stream's.
type SessionStats struct {
	Paths []PathInfo // those that are not closed

	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64
	Bursts                       uint64 // calls that sent; PacketsSent/Bursts is the length of one
	PacketsLost                  uint64 // declared lost, PMTU probes included
	PacketsSpurious              uint64 // lost or reinjected, acknowledged after all
	PacketsReinjected            uint64 // given up on a path that others could replace
	PacketsDuplicate             uint64 // received more than once
	ProbeTimeouts                uint64
	Failovers                    uint64 // paths that became suspect
	AuthenticationFailed         uint64 // packets for this session that did not open
	KeyUpdatesSent               uint64
	KeyUpdatesReceived           uint64

	// Stalls are those in which this side had data in flight.
	Stalls StallHistogram

	// Streams is the number of streams that are not over, StreamsOpened that
	// of all, by whoever.
	Streams       int
	StreamsOpened uint64
	// StreamBytesSent counts new data that left, StreamBytesReceived the
	// highest offsets that came in, of all streams.
	StreamBytesSent, StreamBytesReceived uint64
	// BufferedBytes wait for the peer's acknowledgement; UnreadBytes have
	// arrived in order and wait for Read; ReorderBytes arrived beyond a gap.
	BufferedBytes, UnreadBytes, ReorderBytes int

	// ApplicationLimited and its like say how long which of four limits kept
	// this side from sending more, from the first packet on: no data of the
	// application, the peer's credit, congestion windows, the pacer.
	ApplicationLimited, FlowLimited, WindowLimited, PacingLimited time.Duration
}

// Stats returns a snapshot. It takes the session's mutex for a time
// proportional to the number of open streams.
func (s *Session) Stats() SessionStats {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum pathCounters
	if s.past != nil {
		sum = *s.past
	}
	v := SessionStats{
		AuthenticationFailed: s.readKeys.forgeries.Load(),
		KeyUpdatesSent:       s.keys.updates,
		KeyUpdatesReceived:   s.readKeys.current.Load().count,
		Streams:              s.streams.len(),
		StreamsOpened:        s.opened + s.peerOpened,
		StreamBytesSent:      s.sendUsed,
		StreamBytesReceived:  s.recvHighest,
	}
	if s.stalls != nil {
		v.Stalls = *s.stalls
	}
	for _, p := range s.paths {
		sum.add(&p.pathCounters)
		v.Paths = append(v.Paths, p.info(p == s.sending))
	}
	v.PacketsSent, v.PacketsReceived = sum.packetsSent, sum.packetsReceived
	v.BytesSent, v.BytesReceived = sum.bytesSent, sum.bytesReceived
	v.Bursts = sum.bursts
	v.PacketsLost, v.PacketsSpurious = sum.packetsLost, sum.packetsSpurious
	v.PacketsReinjected, v.PacketsDuplicate = sum.packetsReinjected, sum.packetsDuplicate
	v.ProbeTimeouts, v.Failovers = sum.probeTimeouts, sum.failovers
	for st := range s.streams.all() {
		v.BufferedBytes += st.send.buffered()
		v.UnreadBytes += st.recv.readable()
		v.ReorderBytes += int(st.recv.ahead.total())
	}
	t := s.limited
	if s.err == nil {
		t.set(now, t.now)
	}
	v.ApplicationLimited, v.FlowLimited = t.sums[limitApplication], t.sums[limitFlow]
	v.WindowLimited, v.PacingLimited = t.sums[limitWindow], t.sums[limitPacing]
	return v
}

// burstSent counts a burst of packets that is about to leave on p.
func (s *Session) burstSent(now time.Time, p *path, t *transmission) {
	p.bursts++
	if s.trace != nil {
		s.trace.event(now, TraceBurst{uint32(p.id), t.count, len(t.buf)})
	}
}

// flushed notes what keeps the session from sending more.
func (s *Session) flushed(now time.Time) {
	l := limitApplication
	switch {
	case s.state != sessionOpen && s.state != sessionLingering:
	case s.pacingLimited():
		l = limitPacing
	case len(s.sendQueue) > 0 || s.datagrams.len() > 0:
		l = limitWindow
	case s.blocked > 0:
		l = limitFlow
	}
	s.limited.set(now, l)
	if s.trace != nil {
		s.trace.look(s, now)
	}
}

func (s *Session) pacingLimited() bool {
	for _, p := range s.paths {
		if p.limited {
			return true
		}
	}
	return false
}

// noteCredit keeps count of the streams that wait for the peer's credit alone.
func (s *Session) noteCredit(st *Stream) {
	blocked := !st.queued && !st.retired && st.send.blockedAt(st.creditLimit())
	if blocked == st.blocked {
		return
	}
	st.blocked = blocked
	if blocked {
		s.blocked++
	} else {
		s.blocked--
	}
}

// keepCounters adds what a path that closes has counted to past.
func (s *Session) keepCounters(p *path) {
	if s.past == nil {
		s.past = new(pathCounters)
	}
	s.past.add(&p.pathCounters)
}

// stalled records that nothing was acknowledged on a path since then.
func (s *Session) stalled(since, now time.Time) {
	if since.IsZero() || !now.After(since) {
		return
	}
	d := now.Sub(since)
	if s.stalls == nil {
		s.stalls = new(StallHistogram)
	}
	s.stalls.observe(d)
	s.endpoint.counters.stalls.observe(d)
}

// observe counts what an ACK or a timer has found about p.
func (s *Session) observe(p *path, now time.Time, out *ackOutcome) {
	if out.deliveryRate > 0 {
		p.deliveryRate = out.deliveryRate
	}
	if out.newlyLost == 0 && out.spurious == 0 {
		return
	}
	p.packetsLost += uint64(out.newlyLost)
	p.packetsSpurious += uint64(out.spurious)
	s.endpoint.counters.packetsLost.Add(uint64(out.newlyLost))
	s.endpoint.counters.packetsSpurious.Add(uint64(out.spurious))
	if s.trace != nil {
		s.trace.packetsLost(now, p, out.lostPackets)
	}
}
