package swim

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestAccrual(t *testing.T) {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name     string
		interval time.Duration
		jitter   time.Duration
		silence  time.Duration
		min, max float64
	}{
		{"as expected", time.Second, 0, time.Second, 0.2, 0.5},
		{"early", time.Second, 0, 100 * time.Millisecond, 0, 0.01},
		{"five deviations late", time.Second, 0, 1250 * time.Millisecond, 6, 7},
		{"two seconds of nothing", 100 * time.Millisecond, 30 * time.Millisecond, 2 * time.Second, 100, 300},
		{"late, but arrivals vary much", time.Second, 900 * time.Millisecond, 2 * time.Second, 0.5, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a Accrual
			r, now := rand.New(rand.NewPCG(1, 2)), start
			for range 500 {
				a.Heard(now)
				now = now.Add(tt.interval)
				if tt.jitter > 0 {
					now = now.Add(time.Duration(r.Int64N(2*int64(tt.jitter))) - tt.jitter)
				}
			}
			got := a.Phi(a.Last().Add(tt.silence))
			if got < tt.min || got > tt.max {
				t.Errorf("phi = %v, want %v to %v", got, tt.min, tt.max)
			}
			at := a.When(8)
			if before, after := a.Phi(at.Add(-2*time.Millisecond)), a.Phi(at.Add(time.Millisecond)); before >= 8 || after < 8 {
				t.Errorf("phi around When(8) = %v and %v", before, after)
			}
		})
	}
}

func TestAccrualKnowsNothingAtFirst(t *testing.T) {
	var a Accrual
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 {
		if got := a.Phi(now.Add(time.Hour)); got != 0 {
			t.Errorf("phi after %d arrivals = %v, want 0", i, got)
		}
		if got := a.When(8); !got.IsZero() {
			t.Errorf("When after %d arrivals = %v, want never", i, got)
		}
		a.Heard(now)
		now = now.Add(time.Second)
	}
}
