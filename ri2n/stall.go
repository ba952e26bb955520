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
	oldest, heard := p.loss.oldestUnanswered()
	if oldest.IsZero() {
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

// heardElsewhere reports whether a path other than p has had something
// acknowledged since t.
func (s *Session) heardElsewhere(p *path, t time.Time) bool {
	for _, q := range s.paths {
		if q != p && q.carries && q.usable() && q.loss.anyAcked && !q.loss.at(q.loss.progressAt).Before(t) {
			return true
		}
	}
	return false
}

// checkStall makes p suspect if it is time.
func (s *Session) checkStall(p *path, now time.Time) {
	if !p.stallSeen.IsZero() && p.loss.heardSince(p.stallSeen) {
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
