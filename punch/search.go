package punch

import (
	"net/netip"
	"time"
)

const (
	// probeSpacing keeps a search at 200 probes a second.
	probeSpacing = 5 * time.Millisecond
	// searchTail is how long a search waits after its last probe, besides two
	// round trips.
	searchTail = 300 * time.Millisecond
	// maxHits bounds the pairs that one search follows up. Before an
	// endpoint-independent filter every socket of a burst is hit.
	maxHits = 64
	// maxAnswers is how many probes of one hit are answered.
	maxAnswers = 8
	// searchRounds is how often a search is begun anew where ports can be told:
	// a neighbor's mapping at the wrong moment fails one round.
	searchRounds = 3
)

// nominateAfter is when the controlling side's choice is sent, counted from the
// choice; after the last one it stands without an answer.
var nominateAfter = [...]time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}

// A hit is a socket of ours and an address of the peer's that reached it.
type hit struct {
	socket int
	from   netip.AddrPort
}

// hitState is what is known of a hit.
type hitState struct {
	valid   bool // one of our probes was answered from where it went
	sent    bool // one of our probes went there
	answers int  // sent
}

// A search sends the probes of one round and picks the pair that works. It is a
// state machine: the attempt's loop owns it and tells it the time.
type search struct {
	controlling bool
	remote      netip.Addr
	shots       []shot
	due         time.Time // of the next shot
	end         time.Time

	sent   map[hit]bool // where probes went, and from which socket
	hits   map[hit]*hitState
	chosen hit
	choice time.Time // when; zero: not chosen
	told   int       // nominations sent

	confirmed bool // the nomination was answered
}

// newSearch begins a search at now. remoteShots is how many probes the peer
// sends.
func newSearch(now time.Time, controlling bool, remote netip.Addr, list []shot, remoteShots int, rtt time.Duration) *search {
	last := time.Duration(max(len(list), remoteShots)) * probeSpacing
	return &search{
		controlling: controlling, remote: remote, shots: list, due: now,
		end:  now.Add(last + last/8 + searchTail + 2*rtt),
		hits: make(map[hit]*hitState), sent: make(map[hit]bool),
	}
}

// A sending is a probe that is to leave now.
type sending struct {
	socket int
	to     netip.AddrPort
	kind   probeKind
}

// next returns a probe that leaves at now.
func (s *search) next(now time.Time) (sending, bool) {
	if !s.choice.IsZero() {
		if s.told < len(nominateAfter)-1 && !now.Before(s.choice.Add(nominateAfter[s.told])) {
			s.told++
			return sending{s.chosen.socket, s.chosen.from, probeNominate}, true
		}
		return sending{}, false
	}
	if len(s.shots) == 0 || now.Before(s.due) {
		return sending{}, false
	}
	x := s.shots[0]
	s.shots = s.shots[1:]
	s.due = now.Add(probeSpacing)
	out := sending{x.socket, netip.AddrPortFrom(s.remote, x.port), probeOpen}
	if len(s.sent) < maxGuesses+maxSpray {
		s.sent[hit{x.socket, out.to}] = true
	}
	return out, true
}

// heard takes an authenticated probe, and returns what to send for it. That a
// probe came in does not say that one gets back: before a filter that looks at
// addresses only, it may have come to another mapping than ours toward its
// sender. So a hit counts when a probe that went there was answered from there.
func (s *search) heard(now time.Time, h hit, kind probeKind) (out []sending) {
	if h.from.Addr() != s.remote {
		return nil // somebody forwards, or a pool of addresses
	}
	st := s.hits[h]
	if st == nil {
		if len(s.hits) >= maxHits && (kind != probeNominate || len(s.hits) > maxHits) {
			return nil
		}
		st = &hitState{sent: s.sent[h]}
		s.hits[h] = st
	}
	switch {
	case kind == probeAnswer:
		st.valid = st.valid || st.sent
	case kind == probeAgree:
		s.confirmed = s.confirmed || s.controlling && h == s.chosen && s.told > 0
		return nil
	case kind == probeNominate && !s.controlling:
		s.chosen, s.choice = h, now
	}
	if s.controlling && s.choice.IsZero() && st.valid {
		s.chosen, s.choice = h, now
	}
	if kind == probeAnswer || st.answers == maxAnswers {
		return nil
	}
	st.answers++
	if kind == probeNominate {
		return append(out, sending{h.socket, h.from, probeAgree})
	}
	// From a socket of its own, what goes anywhere but where it has sent opens
	// another mapping: it would come from another port, and the ports after it
	// would no longer be those that the peer expects.
	if !st.sent && h.socket != mainSocket {
		return nil
	}
	out = append(out, sending{h.socket, h.from, probeAnswer})
	if !st.valid && s.choice.IsZero() {
		// Ours may have come before the peer's mapping was there.
		st.sent = true
		out = append(out, sending{h.socket, h.from, probeOpen})
	}
	// What is sent here counts against the rate.
	if s.due.Before(now) {
		s.due = now
	}
	s.due = s.due.Add(time.Duration(len(out)) * probeSpacing)
	return out
}

// result returns the pair that both sides agree on, once there is one, or
// over, when there will be none.
func (s *search) result(now time.Time) (h hit, found, over bool) {
	if !s.choice.IsZero() {
		// The choice works both ways. An answer to its nomination that does not
		// come may have been lost, and the transport's own proof follows.
		last := s.choice.Add(nominateAfter[len(nominateAfter)-1])
		if !s.controlling || s.confirmed || !now.Before(last) {
			return s.chosen, true, false
		}
		return hit{}, false, false
	}
	if now.Before(s.end) {
		return hit{}, false, false
	}
	if !s.controlling {
		for h, st := range s.hits { // its nomination was lost
			if st.valid {
				return h, true, false
			}
		}
	}
	return hit{}, false, true
}

// deadline returns when to look at the search again.
func (s *search) deadline() time.Time {
	if !s.choice.IsZero() {
		return s.choice.Add(nominateAfter[min(s.told, len(nominateAfter)-1)])
	}
	if len(s.shots) > 0 && s.due.Before(s.end) {
		return s.due
	}
	return s.end
}
