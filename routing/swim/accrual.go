package swim

import (
	"math"
	"time"
)

// An Accrual is a phi accrual failure detector for one session. It is fed
// with the times at which something arrived, and says how unusual the present
// silence is. The zero value is ready; one goroutine owns it.
type Accrual struct {
	// MinDeviation keeps regular traffic from making it nervous: no standard
	// deviation below it is believed. Zero means 50 ms.
	MinDeviation time.Duration

	last     time.Time
	count    int
	mean     float64 // of the intervals, in seconds
	variance float64
}

// accrualMemory is how many intervals the estimate remembers, roughly: it
// moves by a hundredth of the difference with each.
const accrualMemory = 100

// Heard records that something arrived at now. Arrivals within a millisecond
// of each other are one.
func (a *Accrual) Heard(now time.Time) {
	if a.last.IsZero() {
		a.last = now
		return
	}
	interval := now.Sub(a.last).Seconds()
	if interval < 1e-3 {
		return
	}
	a.last = now
	a.count = min(a.count+1, accrualMemory)
	delta := interval - a.mean
	a.mean += delta / float64(a.count)
	a.variance += (delta*(interval-a.mean) - a.variance) / float64(a.count)
}

// Phi returns the suspicion at now: phi says that a silence this long comes
// about by chance once in 10 to the phi times, if intervals are distributed
// normally. It is zero until three intervals are known, and at most 300.
func (a *Accrual) Phi(now time.Time) float64 {
	if a.count < 3 {
		return 0
	}
	least := a.MinDeviation
	if least == 0 {
		least = 50 * time.Millisecond
	}
	deviation := max(math.Sqrt(max(0, a.variance)), least.Seconds())
	y := (now.Sub(a.last).Seconds() - a.mean) / deviation
	// The upper tail of the normal distribution.
	later := math.Erfc(y/math.Sqrt2) / 2
	if later <= 1e-300 {
		return 300
	}
	return max(0, -math.Log10(later))
}

// Last returns when something arrived last, or zero.
func (a *Accrual) Last() time.Time { return a.last }

// When returns when phi will reach threshold if nothing arrives, or zero
// while it cannot tell. The answer is within a millisecond.
func (a *Accrual) When(threshold float64) time.Time {
	if a.count < 3 {
		return time.Time{}
	}
	low, high := time.Duration(0), time.Millisecond
	for a.Phi(a.last.Add(high)) < threshold {
		if low, high = high, 2*high; high > 24*time.Hour {
			return time.Time{}
		}
	}
	for high-low > time.Millisecond {
		if mid := low + (high-low)/2; a.Phi(a.last.Add(mid)) < threshold {
			low = mid
		} else {
			high = mid
		}
	}
	return a.last.Add(high)
}
