package ri2n

import (
	"testing"
	"time"
)

// jain is the fairness index of Jain: 1 when all shares are equal.
func jain(shares ...float64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// seeds keeps the fast links, which take long to simulate, to one run.
func seeds(rate float64) uint64 {
	if rate > 50e6/8 {
		return 1
	}
	return 3
}

// share runs two flows, the second 2 s after the first, and returns what part
// of the link each had between from and to.
func share(t *testing.T, b bottleneck, first, second CongestionController, from, to time.Duration) (x, y float64) {
	t.Helper()
	l := &bottleneckLink{now: t0, linkFree: t0}
	r1 := b.start(t, first, l)
	l.until(2 * time.Second)
	b.seed += 100
	r2 := b.start(t, second, l)
	l.until(from)
	d1, d2 := r1.delivered, r2.delivered
	l.until(to)
	x, y = r1.utilisation(from, to, d1), r2.utilisation(from, to, d2)
	t.Logf("%.3f and %.3f: %v; %v", x, y, r1, r2)
	return x, y
}

// Convergence takes a dozen probes of two to three seconds, and more where
// random loss hides what a probe has lost.
const shareFrom, shareTo = 20 * time.Second, 50 * time.Second

func TestBBRSharesWithBBR(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
		least  float64 // Jain's index
	}{
		{"queue of one BDP", func(*bottleneck) {}, 0.7},
		{"queue of half", func(b *bottleneck) { b.queue /= 2 }, 0.7},
		{"deep queue", func(b *bottleneck) { b.queue *= 8 }, 0.7},
		{"20 Mbit/s", func(b *bottleneck) { b.rate /= 5; b.queue /= 5 }, 0.7},
		{"20 Mbit/s, loss 1 %", func(b *bottleneck) { b.rate /= 5; b.queue /= 5; b.loss = 0.01 }, 0.7},
		{"20 Mbit/s, loss 3 %", func(b *bottleneck) { b.rate /= 5; b.queue /= 5; b.loss = 0.03 }, 0.7},
	} {
		if raceEnabled {
			break // one goroutine, and slow: make test runs these without the detector
		}
		t.Run(tt.name, func(t *testing.T) {
			b0 := bbrLink
			tt.change(&b0)
			for seed := range seeds(b0.rate) {
				b := b0
				b.seed = seed + 1
				other := b
				other.seed += 50
				x, y := share(t, b, simBBR(b), simBBR(other), shareFrom, shareTo)
				if j := jain(x, y); j < tt.least {
					t.Errorf("seed %d: shares %.3f and %.3f, Jain %.3f, want at least %.1f", seed, x, y, j, tt.least)
				}
			}
		})
	}
}

func TestBBRSharesWithCubic(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
	}{
		{"queue of half a BDP", func(b *bottleneck) { b.queue /= 2 }},
		{"queue of one", func(*bottleneck) {}},
		{"queue of two", func(b *bottleneck) { b.queue *= 2 }},
		{"20 Mbit/s, queue of one", func(b *bottleneck) { b.rate /= 5; b.queue /= 5 }},
		{"20 Mbit/s, queue of four", func(b *bottleneck) { b.rate /= 5; b.queue = b.queue * 4 / 5 }},
	} {
		if raceEnabled {
			break // one goroutine, and slow: make test runs these without the detector
		}
		t.Run(tt.name, func(t *testing.T) {
			b0 := bbrLink
			tt.change(&b0)
			for seed := range seeds(b0.rate) {
				b := b0
				b.seed = seed + 1
				x, y := share(t, b, newCubic(b.mss), simBBR(b), shareFrom, shareTo)
				if x < 0.22*(x+y) || y < 0.22*(x+y) {
					t.Errorf("CUBIC first: CUBIC %.3f and BBR %.3f, want each 22 to 78 %%", x, y)
				}
				x, y = share(t, b, simBBR(b), newCubic(b.mss), shareFrom, shareTo)
				if x < 0.22*(x+y) || y < 0.22*(x+y) {
					t.Errorf("BBR first: BBR %.3f and CUBIC %.3f, want each 22 to 78 %%", x, y)
				}
			}
		})
	}
}
