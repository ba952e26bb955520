package ri2n

import "time"

// A session that says nothing gives back, after restAfter, what it takes to
// say something at once: most sessions of a rendezvous are silent but for a
// keepalive, and each costs memory for as long as its peer likes.
const (
	restAfter = 3 * time.Second
	restSlack = time.Second // the earlier the cheaper: one wake-up serves many
)

// restAt is when the session rests if nothing is sent or received until then.
func (s *Session) restAt() time.Time {
	at := s.lastReceived
	for _, p := range s.paths {
		if p.lastSent.After(at) {
			at = p.lastSent
		}
	}
	return at.Add(restAfter)
}

// rest drops what the next packet, sent or received, makes again.
func (s *Session) rest() {
	s.resting = true
	s.restAgain()
	for st := range s.streams.all() {
		st.send.segs.rest()
	}
}

// restAgain drops what a keepalive or its ACK has made. These do not end a
// session's rest, or each would cost both ends two timers more.
func (s *Session) restAgain() {
	s.keys.keys.park()
	s.readKeys.current.Load().keys.park()
	s.refs = nil
	for _, p := range s.paths {
		p.loss.rest()
	}
}
