package routing

import "time"

// senders is how many senders the limiter knows at a time. A sender that
// falls out starts with a full bucket again, which takes a flood from more
// than this many members to exploit.
const senders = 256

// A limiter bounds the requests of each sender by a token bucket. The node
// owns it; it takes no memory until somebody asks something twice.
type limiter struct {
	rate, burst float64
	buckets     map[PeerID]*tokens
	order       ring[PeerID]
}

type tokens struct {
	left float64
	at   time.Time
}

// allow reports whether peer may have one more request answered at now.
func (l *limiter) allow(now time.Time, peer PeerID) bool {
	t := l.buckets[peer]
	if t == nil {
		if l.buckets == nil {
			l.buckets = make(map[PeerID]*tokens)
		}
		if old, full := l.order.push(peer, senders); full {
			delete(l.buckets, old)
		}
		t = &tokens{left: l.burst, at: now}
		l.buckets[peer] = t
	}
	t.left = min(l.burst, t.left+now.Sub(t.at).Seconds()*l.rate)
	t.at = now
	if t.left < 1 {
		return false
	}
	t.left--
	return true
}

// A ring holds the newest of a series of values, the oldest of which make
// place. The zero value is empty and grows as needed.
type ring[T any] struct {
	values []T
	next   int
}

// push adds v. When max values are there already, it replaces the oldest,
// which it returns.
func (r *ring[T]) push(v T, max int) (old T, full bool) {
	if len(r.values) < max {
		r.values = append(r.values, v)
		return old, false
	}
	old = r.values[r.next]
	r.values[r.next] = v
	r.next = (r.next + 1) % max
	return old, true
}
