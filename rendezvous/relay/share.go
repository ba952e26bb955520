package relay

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// level returns the most that each of several senders may have so that together
// they have no more than capacity: who wants less has what it wants, and what
// that leaves goes to the others in equal parts (max-min fairness).
func level(capacity float64, wants []float64) float64 {
	slices.Sort(wants)
	for i, w := range wants {
		share := capacity / float64(len(wants)-i)
		if w >= share {
			return share
		}
		capacity -= w
	}
	return capacity
}

// shareOut divides the rate of the whole relay among those who have sent since
// the last time.
func (t *table) shareOut(now time.Time) {
	past := now.Sub(t.shared).Seconds()
	if t.limits.TotalRate <= 0 || past <= 0 {
		return
	}
	t.shared = now
	var wants []float64
	for _, a := range t.accounts {
		if a.offered > 0 {
			wants = append(wants, float64(a.offered)/past)
			a.offered = 0
		}
	}
	// Somebody who begins to send before the next time has no more than the
	// others.
	t.share = level(float64(t.limits.TotalRate), wants)
	for _, a := range t.accounts {
		t.allot(a, now)
	}
}

// allot gives an account its share.
func (t *table) allot(a *account, now time.Time) {
	if t.limits.TotalRate <= 0 {
		return
	}
	burst := max(int(t.share/10), minBurst)
	if a.part == nil {
		a.part = rate.NewLimiter(rate.Limit(t.share), burst)
		return
	}
	a.part.SetLimitAt(now, rate.Limit(t.share))
	a.part.SetBurstAt(now, burst)
}

// quotaTime is the time for which a quota holds.
const quotaTime = 24 * time.Hour

// maySpend reports whether something is left of the quota of a.
func (t *table) maySpend(a *account, now time.Time) bool {
	if now.Sub(a.day) >= quotaTime {
		a.day, a.spent = now, 0
	}
	return t.limits.RelayQuota <= 0 || a.spent < t.limits.RelayQuota
}

// spend counts n bytes against the quota of a and reports whether they are
// within it.
func (t *table) spend(a *account, now time.Time, n int) bool {
	if !t.maySpend(a, now) {
		return false
	}
	a.spent += int64(n)
	return true
}
