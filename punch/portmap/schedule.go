package portmap

import "time"

const (
	// spacing is the shortest time between two requests to keep the mapping,
	// however often the router announces itself.
	spacing = 5 * time.Second
	// retryFirst and retryMost bound the wait after a failure, which doubles.
	retryFirst = 30 * time.Second
	retryMost  = 2 * time.Hour
	// shortest is how soon a mapping is renewed at the earliest.
	shortest = 10 * time.Second
	// permanentCheck is how often a mapping without a lifetime is made again,
	// since a router may forget it all the same.
	permanentCheck = time.Hour
)

// A schedule says when the router is asked next. The client's loop owns it.
type schedule struct {
	due      time.Time
	last     time.Time // when it was asked last
	expires  time.Time // of the mapping; zero: there is none, or it never does
	failures int       // in a row
}

// early returns how long to wait before the router may be asked, which is not
// positive if that is now.
func (s *schedule) early(now time.Time) time.Duration {
	wait := s.due.Sub(now)
	if !s.last.IsZero() {
		wait = max(wait, s.last.Add(spacing).Sub(now))
	}
	return wait
}

// kicked has the router asked as soon as may be.
func (s *schedule) kicked() { s.due, s.failures = time.Time{}, 0 }

// begun records that the router is asked at now.
func (s *schedule) begun(now time.Time) { s.last = now }

// kept records a mapping of a lifetime; zero is for ever. It is renewed at half
// of it (RFC 6887, section 11.2.1).
func (s *schedule) kept(now time.Time, lifetime time.Duration) {
	s.failures = 0
	if lifetime == 0 {
		s.due, s.expires = now.Add(permanentCheck), now.Add(2*permanentCheck)
		return
	}
	s.due, s.expires = now.Add(max(lifetime/2, shortest)), now.Add(lifetime)
}

// failed records that there was no mapping to be had. While one is held the next
// try comes in time.
func (s *schedule) failed(now time.Time) {
	wait := min(retryFirst<<min(s.failures, 10), retryMost)
	s.failures++
	if left := s.expires.Sub(now); !s.expires.IsZero() && left > 0 {
		wait = max(min(wait, left/2), shortest)
	}
	s.due = now.Add(wait)
}
