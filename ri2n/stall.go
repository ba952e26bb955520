package ri2n

import "time"

const (
	// stallQuiet is the least silence of a path, while another one is heard,
	// that counts as a sign: three times as long as an ACK may be held back.
	stallQuiet = 3 * maxAckDelay

	// stallConfirm is how long a path that looks dead has to say otherwise: its
	// ACKs may wait in the buffer of its socket, whose reader comes after that
	// of the path that was heard.
	stallConfirm = 3 * time.Millisecond
)

// stallDeadline is when a path that carries data becomes suspect unless
// something is acknowledged; zero: never. Each packet that leaves puts the PTO
// off, so an application that writes steadily would fill the whole window of a
// dead path before that told of it.
//
// The oldest packet in flight should be acknowledged within a PTO of its
// leaving. On a busy path that moment is near: the packet left a round trip
// ago, queue and all. When it has passed, and the path is silent while another
// is heard, the path is dead. Without another that is heard it may be us who
// were held up, and a whole PTO of silence decides.
func (s *Session) stallDeadline(p *path) time.Time {
	slow, overdue := s.stallTimes(p)
	at := slow
	if !overdue.IsZero() && overdue.Before(slow) {
		at = overdue
		if !p.stallSeen.IsZero() {
			at = p.stallSeen.Add(stallConfirm)
		}
		if slow.Before(at) {
			at = slow
		}
	}
	if !at.IsZero() && at.Before(p.stallCheck) {
		return p.stallCheck
	}
	return at
}

// stallTimes returns when p is suspect for its own silence, and when it looks
// so because of what is heard elsewhere. Zero means never.
func (s *Session) stallTimes(p *path) (slow, overdue time.Time) {
	if !p.carries || p.state != PathActive && p.state != PathStandby || len(s.paths) == 1 || !s.alternative(p) {
		return slow, overdue
	}
	oldest, heard := p.owedSince, p.heardAt
	if oldest.IsZero() || p.loss.ackElicitingInFlight() == 0 {
		return slow, overdue
	}
	pto := p.rtt.pto(maxAckDelay)
	slow = oldest.Add(pto)
	if heard.After(oldest) {
		slow = heard.Add(pto)
	}
	overdue = oldest.Add(pto + max(0, p.rtt.latest-p.rtt.smoothed))
	if silent := heard.Add(stallQuiet); overdue.Before(silent) {
		overdue = silent
	}
	if !s.heardElsewhere(p, overdue.Add(-stallQuiet/2)) {
		overdue = time.Time{}
	}
	return slow, overdue
}

// heard notes that an ACK on p itself tells of packets up to largest.
func (s *Session) heard(p *path, largest packetNumber, now time.Time) {
	if largest >= p.heardTo {
		p.heardTo = largest + 1
		p.heardAt = now
		p.owedSince = p.loss.oldestSent()
	}
}

// progress notes that an ACK, which arrived on by, has acknowledged something of
// p for the first time.
func (s *Session) progress(p, by *path, now time.Time) {
	if by != p && p.loss.ackElicitingInFlight() == 0 {
		p.owedSince = time.Time{}
	}
	s.revive(p, now)
}

// heardElsewhere reports whether a path other than p has had something
// acknowledged since t.
func (s *Session) heardElsewhere(p *path, t time.Time) bool {
	for _, q := range s.paths {
		if q != p && q.carries && q.usable() && !q.heardAt.IsZero() && !q.heardAt.Before(t) {
			return true
		}
	}
	return false
}

// checkStall makes p suspect if it is time.
func (s *Session) checkStall(p *path, now time.Time) {
	if !p.stallSeen.IsZero() && p.heardAt.After(p.stallSeen) {
		p.stallSeen = time.Time{}
	}
	slow, overdue := s.stallTimes(p)
	switch {
	case now.Before(p.stallCheck):
	case !isDue(slow, now) && !isDue(overdue, now):
	case !p.bearing():
		p.stallCheck = now.Add(p.rtt.pto(maxAckDelay))
	case isDue(slow, now), !p.stallSeen.IsZero() && now.Sub(p.stallSeen) >= stallConfirm:
		s.suspect(p, now)
	case p.stallSeen.IsZero():
		p.stallSeen = now
	}
}

// reportInterval is how often at most what arrives on one path is reported on
// another as well; on a path with a longer round trip it is that, up to
// maxReportWait.
const (
	reportInterval = 10 * time.Millisecond
	maxReportWait  = 100 * time.Millisecond
)

// maxReportRanges keeps reports small; the ACK on the path itself has more.
const maxReportRanges = 8

// appendReports repeats on p the ACKs that have left on other paths lately, in
// case those are dead in that direction: so the peer knows which of the packets
// that wait for an answer have arrived, and sends the others again only.
func (s *Session) appendReports(b []byte, limit int, p *path, now time.Time) []byte {
	for _, q := range s.paths {
		// What the next report covers was acknowledged a round trip ago, so that
		// it comes after the ACK on the path, from which the RTT is measured.
		wait := max(reportInterval, min(q.rtt.min, maxReportWait))
		if q == p || q.ackedTo <= q.told || s.acksTravel(q) || now.Sub(q.toldAt) < wait || limit-len(b) < 200 {
			continue
		}
		upTo := q.tellNext
		q.tellNext, q.toldAt = q.ackedTo, now
		if upTo <= q.told {
			continue
		}
		var scratch [maxAckRanges]ackRange
		ranges := q.numbers.appendRanges(scratch[:0], len(scratch))
		for len(ranges) > 0 && ranges[0].smallest > upTo {
			ranges = ranges[1:]
		}
		if len(ranges) == 0 {
			continue
		}
		ranges = ranges[:min(len(ranges), maxReportRanges)]
		ranges[0].largest = min(ranges[0].largest, upTo)
		b = appendAckFrame(b, ackFrame{path: q.id, delay: q.acks.delay(now), ranges: ranges})
		q.told = upTo
	}
	return b
}
