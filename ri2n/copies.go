package ri2n

import (
	"cmp"
	"slices"
	"time"
)

const (
	// maxPathCopies bounds the ranges that wait to be sent once more on a path;
	// the oldest are dropped. A guess: more than a window of 12 MB.
	maxPathCopies = 8192

	// Copies of the end of a transfer take at most one byte in tailCost, after
	// the first tailFree.
	tailCost = 20
	tailFree = 64 << 10
)

// A copyRange is what one path has sent and another is to send as well.
type copyRange struct {
	stream *Stream
	off    uint64
	n      uint32
	fin    bool

	datagram []byte // in place of a stream's range
	number   uint64 // of the datagram
	at       time.Time
}

// needed reports whether the peer may still lack c.
func (c *copyRange) needed(now time.Time) bool {
	if c.stream == nil {
		return now.Sub(c.at) <= maxFlowDelay
	}
	st := c.stream
	return !st.retired && !st.resetSent && st.send.needs(c.off, int(c.n), c.fin)
}

// drop gives back what c holds.
func (c *copyRange) drop() {
	if c.datagram != nil {
		putDatagram(c.datagram)
	}
	*c = copyRange{}
}

// A copyQueue holds what waits to be sent once more on one path.
type copyQueue struct{ list fifo[copyRange] }

// push adds c, at the cost of the oldest when there are too many. It returns
// how many were dropped.
func (q *copyQueue) push(c copyRange) (dropped int) {
	if q.list.len() >= maxPathCopies {
		old := q.list.pop()
		old.drop()
		dropped = 1
	}
	q.list.push(c)
	return dropped
}

// front returns the oldest range that is still needed, or nil.
func (q *copyQueue) front(now time.Time) *copyRange {
	for q.list.len() > 0 {
		if c := q.list.at(0); c.needed(now) {
			return c
		}
		q.popFront()
	}
	return nil
}

func (q *copyQueue) popFront() {
	c := q.list.pop()
	c.drop()
}

func (q *copyQueue) clear() {
	for q.list.len() > 0 {
		q.popFront()
	}
}

// copy queues c for p.
func (s *Session) copyTo(p *path, c copyRange) {
	if n := p.copies.push(c); n > 0 {
		s.endpoint.counters.copiesDropped.Add(uint64(n))
	}
}

// takesCopies reports whether copies may leave on p: also for a while after it has
// become suspect. On a path that loses packets, where copies are wanted most,
// each loss of a lone message makes it that, and all but a few are mistaken.
func (p *path) takesCopies(now time.Time) bool {
	return p.carries || p.proven && (p.state == PathSuspect && now.Sub(p.suspectSince) < failAfter || p.shunned && now.Sub(p.lastReceived) < failAfter)
}

// otherCarriers returns the best paths for copies of what leaves on p, at most
// n. They are appended to list, which is empty.
func (s *Session) otherCarriers(list []*path, p *path, n int, now time.Time) []*path {
	for _, q := range s.paths {
		if q != p && q.takesCopies(now) {
			list = append(list, q)
		}
	}
	slices.SortStableFunc(list, func(a, b *path) int {
		switch {
		case a.carries && !b.carries:
			return -1
		case b.carries && !a.carries:
			return 1
		}
		return cmp.Compare(a.rtt.srtt(), b.rtt.srtt())
	})
	return list[:min(n, len(list))]
}

// appendCopies adds what p has to send once more.
func (s *Session) appendCopies(p *path, now time.Time, b []byte, limit int, refs []frameRef) ([]byte, []frameRef) {
	for {
		c := p.copies.front(now)
		if c == nil {
			return b, refs
		}
		if c.stream == nil {
			f := datagramNumberedFrame{number: c.number, data: c.datagram}
			if datagramNumberedLen(f) > limit-len(b) {
				if len(refs) > 0 {
					return b, refs
				}
				p.copies.popFront() // the path's packets are too small for it
				continue
			}
			b = appendDatagramNumberedFrame(b, f)
			refs = append(refs, frameRef{kind: refCopy, length: uint32(len(c.datagram))})
			p.copies.popFront()
			continue
		}
		st := c.stream
		header := 1 + varintLen(st.id) + varintLen(st.send.end) + 2
		room := limit - len(b) - header
		if room < minStreamRoom {
			return b, refs
		}
		off, end := max(c.off, st.send.base), c.off+uint64(c.n)
		n := 0
		if end > off {
			n = min(int(end-off), room)
		} else {
			off = end
		}
		last := off+uint64(n) == end
		b = appendStreamHeader(b, st.id, off, n, true, c.fin && last)
		at := len(b)
		b = b[:at+n]
		st.send.copyRange(b[at:], off)
		refs = append(refs, frameRef{kind: refCopy, stream: st, offset: off, length: uint32(n), fin: c.fin && last})
		s.endpoint.counters.bytesCopied.Add(uint64(n))
		if last {
			p.copies.popFront()
		} else {
			c.off, c.n = off+uint64(n), uint32(end-off)-uint32(n)
		}
	}
}

// copyTails looks, once everything has been sent for the first time, for what
// is on its way on a slow path and would arrive sooner if it left now on a
// faster one; under PolicyLatency all of it leaves on a second path.
func (s *Session) copyTails(now time.Time) {
	if !s.tailDue || len(s.sendQueue) > 0 {
		return
	}
	s.tailDue = false
	for _, p := range s.paths {
		if !p.carries {
			continue
		}
		slow := p.view(s, now)
		var fast *path
		var fastView pathView
		for _, q := range s.paths {
			if q == p || !q.takesCopies(now) || fast != nil && fast.carries && !q.carries {
				continue
			}
			if v := q.view(s, now); fast == nil || q.carries && !fast.carries || v.arrival(0) < fastView.arrival(0) {
				fast, fastView = q, v
			}
		}
		if fast == nil {
			continue
		}
		from := p.tailFrom
		p.tailFrom = p.loss.ring.next
		p.loss.outstandingFrom(from, func(sp *sentPacket) {
			ago := now.Sub(p.loss.at(sp.sentAt))
			s.copyTail(sp.first, fast, &slow, &fastView, ago)
			for _, r := range sp.extra {
				s.copyTail(r, fast, &slow, &fastView, ago)
			}
		})
	}
}

func (s *Session) copyTail(r frameRef, fast *path, slow, view *pathView, ago time.Duration) {
	if r.kind != refStream {
		return
	}
	c := copyRange{stream: r.stream, off: r.offset, n: r.length, fin: r.fin}
	switch pol := s.policyOf(r.stream); {
	case pol == PolicyLatency:
	case pol == PolicyAggregate:
		if !fast.carries || !worthCopying(slow, view, ago) || s.tailCopied > tailFree+s.sendUsed/tailCost {
			return
		}
		s.tailCopied += uint64(r.length)
	default:
		return
	}
	s.copyTo(fast, c)
}

// numbered gives a datagram that is to leave on p and other paths its number. It
// reports false if it leaves on one only, or room is too small for the number.
func (s *Session) numbered(p *path, d []byte, room int, now time.Time) (datagramNumberedFrame, bool) {
	var scratch [maxPaths]*path
	if s.policy != PolicyLatency && s.policy.copies() < 2 || len(s.otherCarriers(scratch[:0], p, 1, now)) == 0 {
		return datagramNumberedFrame{}, false
	}
	f := datagramNumberedFrame{number: s.datagramNumber, data: d}
	if datagramNumberedLen(f) > room {
		return f, false
	}
	s.datagramNumber++
	return f, true
}

// copyDatagram queues f, which leaves on p, for the other paths.
func (s *Session) copyDatagram(p *path, f datagramNumberedFrame, now time.Time) {
	var scratch [maxPaths]*path
	for _, q := range s.otherCarriers(scratch[:0], p, max(s.policy.copies()-1, 1), now) {
		data := getDatagram(len(f.data))
		copy(data, f.data)
		s.copyTo(q, copyRange{datagram: data, number: f.number, at: now})
	}
}
