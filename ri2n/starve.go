package ri2n

import "time"

// A peer that sends and acknowledges nothing would have us keep a record of
// each of our ACKs, since the oldest packet in flight keeps those after it.
const (
	starvedRecords = 2048 // of sent packets on a path, before anybody looks
	starvedAfter   = time.Second
)

// acksStarved gives up what is in flight on p when that has gone
// unacknowledged for long and is a small part of what is remembered: its
// frames are sent again, the records go.
func (s *Session) acksStarved(p *path, now time.Time) {
	since := p.loss.oldestSent()
	if since.IsZero() || now.Sub(since) < starvedAfter || 8*p.loss.ackElicitingInFlight() > p.loss.ring.len() {
		return
	}
	s.endpoint.counters.acksStarved.Add(1)
	s.reinject(p)
	p.loss.forgetResolved()
}

// forgetResolved drops the records of what is acknowledged or lost, and of
// skipped numbers before what is in flight. ACKs of these count no more.
func (d *lossDetector) forgetResolved() {
	for d.advance(); d.ring.base < d.cursor; {
		d.ring.pop()
	}
}
