package ri2n

import (
	"math"
	"time"
)

const (
	pacerBurstTime     = 500 * time.Microsecond
	pacerMaxBurst      = 64 << 10 // one GSO send
	pacerMaxSegments   = 64
	pacerMinSegments   = 2
	pacerSlowRate      = 200e6 / 8 // bytes per second; below it bursts stay small
	pacerSlowSegments  = 10
	pacerSlowCwndShare = 4

	// pacerCatchUp is how late a timer may wake without loss of rate.
	// time.Sleep and epoll round up to a millisecond, and a busy machine adds
	// another.
	pacerCatchUp = 2 * time.Millisecond
)

// A pacer spreads the packets of a path over time (RFC 9002, section 7.7): a
// token bucket of bytes. It holds no more than one burst, except that a sender
// who waited for the time that nextTime gave, and woke late, may catch up with
// what the delay cost. The zero value has a full bucket.
type pacer struct {
	tokens float64 // negative after more was sent than the budget
	last   time.Time
	rate   float64   // bytes per second, at last
	burst  float64   // size of the bucket, at last
	wake   time.Time // when a waiting sender should wake; zero: nobody waits
	sentAt time.Time // the call of budget before which something last left; zero: never
}

// burstSize is the size of the bucket in bytes.
func burstSize(rate float64, mss, cwnd int) float64 {
	least := float64(pacerMinSegments * mss)
	burst := min(rate*pacerBurstTime.Seconds(), pacerMaxBurst, float64(pacerMaxSegments*mss))
	if rate < pacerSlowRate {
		burst = min(burst, float64(pacerSlowSegments*mss), float64(cwnd/pacerSlowCwndShare))
	}
	return max(burst, least)
}

// budget returns how many bytes may leave at now, given the rate in bytes per
// second, the packet size and the congestion window. A rate that is not
// positive and finite means that there is no pacing.
func (p *pacer) budget(now time.Time, rate float64, mss, cwnd int) int {
	if !(rate > 0) || math.IsInf(rate, 1) {
		*p = pacer{}
		return math.MaxInt32
	}
	burst := burstSize(rate, mss, cwnd)
	if p.last.IsZero() {
		*p = pacer{tokens: burst, last: now, rate: rate, burst: burst}
		return int(burst)
	}
	elapsed := max(0, now.Sub(p.last))
	limit := burst
	switch {
	case !p.wake.IsZero() && !now.Before(p.wake):
		limit += rate * min(now.Sub(p.wake), pacerCatchUp).Seconds()
		p.wake = time.Time{}
	case p.wake.IsZero() && elapsed > pacerCatchUp:
		p.tokens = min(p.tokens, burst) // what was not caught up by now is forfeit
	}
	if add := rate * elapsed.Seconds(); p.tokens+add < limit {
		p.tokens += add
	} else {
		p.tokens = max(p.tokens, limit)
	}
	p.last, p.rate, p.burst = now, rate, burst
	return int(max(0, p.tokens))
}

// quiet tells that nothing is in flight: an initial window, or cwnd if that is
// less, may leave at once (RFC 9002, section 7.7), so that a request of a few
// packets is not spread over milliseconds. No more of it than the rate has
// earned since something last left: where the round trip is shorter than that
// window takes to send, nothing is in flight time and again.
//
// It is called after budget and returns what that would.
func (p *pacer) quiet(mss, cwnd int) int {
	most := float64(min(pacerSlowSegments*mss, cwnd))
	if !p.sentAt.IsZero() {
		most = min(most, p.rate*p.last.Sub(p.sentAt).Seconds())
	}
	p.tokens = max(p.tokens, most)
	return int(max(0, p.tokens))
}

// sent takes n bytes that left, also when the budget did not allow them.
func (p *pacer) sent(n int) {
	p.sentAt = p.last
	p.tokens = max(p.tokens-float64(n), -pacerMaxBurst*pacerMaxSegments)
}

// nextTime returns when budget will allow need bytes, or a full burst if that
// is less, at the rate of the last call of budget; now if it does already. A
// sender who means to wait until then should call budget again at that time
// or soon after.
func (p *pacer) nextTime(now time.Time, need int) time.Time {
	missing := min(float64(need), p.burst) - p.tokens
	if missing <= 0 || !(p.rate > 0) {
		return now
	}
	// Rounded up, lest the sender wakes a byte too early.
	wait := time.Duration(math.Ceil(missing/p.rate*1e9)) + 1
	p.wake = p.last.Add(wait)
	if p.wake.Before(now) {
		p.wake = now
	}
	return p.wake
}

// worthWaking returns the bytes that a sender should wait for: a packet, or at
// high rates the burst that leaves with one system call.
func (p *pacer) worthWaking(mss int) int {
	return max(mss, int(min(p.rate*pacerBurstTime.Seconds(), pacerMaxBurst)))
}
