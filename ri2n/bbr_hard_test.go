package ri2n

import (
	"testing"
	"time"
)

// TestBBROnHardPaths: paths on which other implementations failed.
func TestBBROnHardPaths(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs these without the detector
	}
	far := bottleneck{rate: 100e6 / 8, rtt: 50 * ms, queue: 625_000, mss: 1200, seed: 1}
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
		want   float64 // share of the link in 10 s, start-up included
	}{
		{"jitter 10 ms, loss 3 %", func(b *bottleneck) { b.jitter, b.loss = 10*ms, 0.03 }, 0.85},
		// At 100 Mbit/s 30 ms would be more than the ranges of an ACK can tell.
		{"20 Mbit/s, jitter 30 ms", func(b *bottleneck) { b.rate, b.queue, b.jitter = 20e6/8, 125_000, 30*ms }, 0.80},
		{"20 Mbit/s, jitter 30 ms, loss 3 %", func(b *bottleneck) { b.rate, b.queue, b.jitter, b.loss = 20e6/8, 125_000, 30*ms, 0.03 }, 0.80},
		{"ACKs every 10 ms, jitter 5 ms", func(b *bottleneck) { b.ackSlot, b.jitter = 10*ms, 5*ms }, 0.90},
		{"ACKs every 50 ms", func(b *bottleneck) { b.ackSlot = 50 * ms }, 0.80},
		{"policer of 50 kB", func(b *bottleneck) { b.policer = 50_000 }, 0.80},
		{"policer of a fifth of a second", func(b *bottleneck) { b.policer = b.rate / 5 }, 0.85},
		{"queue of 0.25 BDP", func(b *bottleneck) { b.queue /= 4 }, 0.92},
		{"queue of 0.5 BDP", func(b *bottleneck) { b.queue /= 2 }, 0.92},
		{"queue of 2 BDP", func(b *bottleneck) { b.queue *= 2 }, 0.94},
		{"queue of 8 BDP", func(b *bottleneck) { b.queue *= 8 }, 0.94},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := far
			tt.change(&b)
			cc := simBBR(b)
			r := b.run(t, cc, 10*time.Second)
			got := r.utilisation(0, 10*time.Second, 0)
			t.Logf("%.3f: %v; %v floor %.3f", got, r, cc.state, cc.tolerant.floor())
			if got < tt.want {
				t.Errorf("utilisation = %.3f, want at least %.2f", got, tt.want)
			}
			if r.drops > r.sends/5 {
				t.Errorf("%d of %d packets were dropped", r.drops, r.sends)
			}
		})
	}
}

// A path whose round trip changes under way, as after a change of route.
func TestBBRFollowsRoundTrips(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for _, tt := range []struct{ from, to time.Duration }{{40 * ms, 120 * ms}, {120 * ms, 40 * ms}, {40 * ms, 300 * ms}} {
		b := bbrLink
		b.rtt, b.queue = tt.from, 1_000_000
		cc := simBBR(b)
		r := b.run(t, cc, 6*time.Second)
		r.rtt = tt.to
		const settled, end = 20 * time.Second, 30 * time.Second
		r.until(settled)
		before := r.delivered
		r.until(end)
		got := r.utilisation(settled, end, before)
		t.Logf("%v to %v: %.3f: %v; %v min %v", tt.from, tt.to, got, r, cc.state, cc.minRTT.min)
		if got < 0.9 || cc.minRTT.min < tt.to || cc.minRTT.min > tt.to+tt.to/2 {
			t.Errorf("%v to %v: utilisation %.3f and minimum %v: %v", tt.from, tt.to, got, cc.minRTT.min, r)
		}
	}
}

// A minute in which the application has next to nothing to send costs no rate.
func TestBBRAfterALongPause(t *testing.T) {
	b := bbrLink
	cc := simBBR(b)
	r := b.run(t, cc, 4*time.Second)
	r.appRate = 100
	r.until(64 * time.Second)
	r.appRate = 0
	r.flush()
	before := r.delivered
	r.until(65 * time.Second)
	if got := r.utilisation(64*time.Second, 65*time.Second, before); got < 0.85 {
		t.Errorf("utilisation in the second after = %.3f, want 0.85: %v %v", got, r, cc.state)
	}
}

// Ten flows that begin one after another share a link. Jain's index is 0.88 to 0.97
// and 0.80 to 0.91 over seeds; a regression falls to a half.
func TestTenBBRFlows(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for queue, least := range map[int]float64{500_000: 0.85, 1_250_000: 0.75} {
		b := bbrLink
		b.queue = queue
		l := &bottleneckLink{now: t0, linkFree: t0}
		var flows []*bottleneckRun
		for i := range 10 {
			b.seed = uint64(10 * i)
			flows = append(flows, b.start(t, simBBR(b), l))
			l.until(time.Duration(i+1) * 300 * ms)
		}
		const from, to = 20 * time.Second, 50 * time.Second
		l.until(from)
		for _, r := range flows {
			r.delivered = 0
		}
		l.until(to)
		var shares []float64
		sum := 0.0
		for _, r := range flows {
			shares = append(shares, r.utilisation(from, to, 0))
			sum += shares[len(shares)-1]
		}
		t.Logf("queue %d: %.3f, in all %.3f, Jain %.3f", queue, shares, sum, jain(shares...))
		if j := jain(shares...); j < least || sum < 0.95 {
			t.Errorf("queue %d: shares %.3f of %.3f in all, Jain %.3f, want at least %.2f", queue, shares, sum, j, least)
		}
	}
}

// Beside the BBRv1 of kernel TCP in a queue of more than a BDP. In a shorter one
// BBRv1 heeds no loss and leaves any other flow little, another BBRv1 excepted.
func TestBBRSharesWithBBRv1(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for _, tt := range []struct {
		queue int
		late  time.Duration
	}{{1_250_000, 0}, {1_250_000, 2 * time.Second}, {2_000_000, 0}} {
		b := bbrLink
		b.queue = tt.queue
		l := &bottleneckLink{now: t0, linkFree: t0}
		rival := b.start(t, newBBR1(b.mss), l)
		l.until(tt.late)
		b.seed = 9
		ours := b.start(t, simBBR(b), l)
		l.until(tt.late + 15*time.Second)
		share := float64(ours.delivered) / float64(ours.delivered+rival.delivered)
		t.Logf("queue %d, %v late: %.3f in the first 15 s: %v", tt.queue, tt.late, share, ours)
		if share < 0.25 || share > 0.75 {
			t.Errorf("queue %d, %v late: share %.3f, want 0.25 to 0.75", tt.queue, tt.late, share)
		}
	}
}

// As the fair scenario of ri2n-bench has it: both begin at once, and all counts.
func TestBBRBesideCubicFromTheStart(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for seed := range uint64(3) {
		b := bbrLink
		b.queue, b.mss, b.seed = 1_250_000, 1472, seed
		l := &bottleneckLink{now: t0, linkFree: t0}
		rival := b.start(t, newCubic(b.mss), l)
		ours := b.start(t, simBBR(b), l)
		l.until(15 * time.Second)
		share := float64(ours.delivered) / float64(ours.delivered+rival.delivered)
		t.Logf("seed %d: %.3f: %v", seed, share, ours)
		if share < 0.25 || share > 0.75 {
			t.Errorf("seed %d: share %.3f, want 0.25 to 0.75", seed, share)
		}
	}
}
