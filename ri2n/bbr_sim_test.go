package ri2n

import (
	"math/rand/v2"
	"testing"
	"time"
)

func simBBR(b bottleneck) *bbr { return newBBR(b.mss, rand.New(rand.NewPCG(b.seed, 11))) }

var bbrLink = bottleneck{rate: 100e6 / 8, rtt: 40 * ms, queue: 500_000, mss: 1200, seed: 1}

// TestBBRUtilisation: share of what the link can deliver, start-up included.
func TestBBRUtilisation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
		want   float64
	}{
		{"100 Mbit/s 40 ms", func(*bottleneck) {}, 0.93},
		{"loss 0.5 %", func(b *bottleneck) { b.loss = 0.005 }, 0.93},
		{"loss 1 %", func(b *bottleneck) { b.loss = 0.01 }, 0.93},
		{"loss 3 %", func(b *bottleneck) { b.loss = 0.03 }, 0.93},
		{"loss 5 %", func(b *bottleneck) { b.loss = 0.05 }, 0.85},
		{"loss 10 %", func(b *bottleneck) { b.loss = 0.10 }, 0.3},
		{"loss 3 % behind the queue", func(b *bottleneck) { b.loss, b.lossLate = 0.03, true }, 0.90},
		{"20 Mbit/s 100 ms 1 %", func(b *bottleneck) { b.rate, b.rtt, b.queue, b.loss = 20e6/8, 100*ms, 250_000, 0.01 }, 0.93},
		{"queue of a quarter BDP", func(b *bottleneck) { b.queue = 125_000 }, 0.90},
		{"queue of a quarter BDP, loss 1 %", func(b *bottleneck) { b.queue, b.loss = 125_000, 0.01 }, 0.90},
		{"queue of one second", func(b *bottleneck) { b.queue = 12_500_000 }, 0.93},
		{"jitter 10 ms, reordering", func(b *bottleneck) { b.jitter = 10 * ms }, 0.90},
		{"jitter 10 ms, loss 1 %", func(b *bottleneck) { b.jitter, b.loss = 10*ms, 0.01 }, 0.85},
		{"10 Mbit/s, jitter 10 ms, loss 10 %", func(b *bottleneck) { b.rate, b.queue, b.jitter, b.loss = 10e6/8, 100_000, 10*ms, 0.1 }, 0.3},
		{"timers 2 ms late", func(b *bottleneck) { b.late = 2 * ms }, 0.93},
		{"thin ACKs", func(b *bottleneck) { b.threshold = 32 }, 0.93},
		{"ACKs every 20 ms", func(b *bottleneck) { b.ackSlot = 20 * ms }, 0.90},
		{"policer", func(b *bottleneck) { b.policer = 125_000 }, 0.85},
		{"1 Mbit/s", func(b *bottleneck) { b.rate, b.queue = 1e6/8, 20_000 }, 0.90},
		{"1 Mbit/s, loss 3 %", func(b *bottleneck) { b.rate, b.queue, b.loss = 1e6/8, 20_000, 0.03 }, 0.80},
		{"400 Mbit/s", func(b *bottleneck) { b.rate *= 4; b.queue *= 4 }, 0.93},
		{"10 ms", func(b *bottleneck) { b.rtt = 10 * ms; b.queue = 125_000 }, 0.93},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bbrLink
			tt.change(&b)
			const end = 20 * time.Second
			cc := simBBR(b)
			r := b.run(t, cc, 5*time.Second)
			early := r.utilisation(0, 5*time.Second, 0)
			r.until(end)
			got := r.utilisation(0, end, 0)
			t.Logf("first 5 s %.3f, 20 s %.3f: %v; %v bw %.1f Mbit/s floor %.3f", early, got, r, cc.state, cc.maxBW.max()*8/1e6, cc.tolerant.floor())
			if got < tt.want {
				t.Errorf("utilisation = %.3f, want at least %.2f", got, tt.want)
			}
		})
	}
}
