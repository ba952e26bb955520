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
		short  bool // 10 s instead of 20
	}{
		{"100 Mbit/s 40 ms", func(*bottleneck) {}, 0.93, false},
		{"loss 0.5 %", func(b *bottleneck) { b.loss = 0.005 }, 0.93, true},
		{"loss 1 %", func(b *bottleneck) { b.loss = 0.01 }, 0.93, false},
		{"loss 3 %", func(b *bottleneck) { b.loss = 0.03 }, 0.93, false},
		{"loss 5 %", func(b *bottleneck) { b.loss = 0.05 }, 0.85, true},
		{"loss 10 %", func(b *bottleneck) { b.loss = 0.10 }, 0.85, true},
		{"loss 3 % behind the queue", func(b *bottleneck) { b.loss, b.lossLate = 0.03, true }, 0.90, false},
		{"20 Mbit/s 100 ms 1 %", func(b *bottleneck) { b.rate, b.rtt, b.queue, b.loss = 20e6/8, 100*ms, 250_000, 0.01 }, 0.93, false},
		{"queue of a quarter BDP", func(b *bottleneck) { b.queue = 125_000 }, 0.90, true},
		{"queue of a quarter BDP, loss 1 %", func(b *bottleneck) { b.queue, b.loss = 125_000, 0.01 }, 0.90, true},
		{"queue of one second", func(b *bottleneck) { b.queue = 12_500_000 }, 0.93, true},
		{"jitter 10 ms, reordering", func(b *bottleneck) { b.jitter = 10 * ms }, 0.90, true},
		{"jitter 10 ms, loss 1 %", func(b *bottleneck) { b.jitter, b.loss = 10*ms, 0.01 }, 0.92, true},
		{"10 Mbit/s, jitter 10 ms, loss 10 %", func(b *bottleneck) { b.rate, b.queue, b.jitter, b.loss = 10e6/8, 100_000, 10*ms, 0.1 }, 0.75, true},
		{"timers 2 ms late", func(b *bottleneck) { b.late = 2 * ms }, 0.93, true},
		{"thin ACKs", func(b *bottleneck) { b.threshold = 32 }, 0.93, true},
		{"ACKs every 20 ms", func(b *bottleneck) { b.ackSlot = 20 * ms }, 0.84, true},
		{"policer", func(b *bottleneck) { b.policer = 125_000 }, 0.85, true},
		{"1 Mbit/s", func(b *bottleneck) { b.rate, b.queue = 1e6/8, 20_000 }, 0.90, true},
		{"1 Mbit/s, loss 3 %", func(b *bottleneck) { b.rate, b.queue, b.loss = 1e6/8, 20_000, 0.03 }, 0.80, true},
		{"200 Mbit/s", func(b *bottleneck) { b.rate *= 2; b.queue *= 2 }, 0.93, true},
		{"10 ms", func(b *bottleneck) { b.rtt = 10 * ms; b.queue = 125_000 }, 0.93, true},
	} {
		if raceEnabled {
			break // one goroutine, and slow: make test runs these without the detector
		}
		t.Run(tt.name, func(t *testing.T) {
			b := bbrLink
			tt.change(&b)
			end := 20 * time.Second
			if tt.short {
				end = 10 * time.Second
			}
			cc := simBBR(b)
			r := b.run(t, cc, 5*time.Second)
			early := r.utilisation(0, 5*time.Second, 0)
			r.until(end)
			got := r.utilisation(0, end, 0)
			t.Logf("first 5 s %.3f, in all %.3f: %v; %v bw %.1f Mbit/s floor %.3f", early, got, r, cc.state, cc.maxBW.max()*8/1e6, cc.tolerant.floor())
			if got < tt.want {
				t.Errorf("utilisation = %.3f, want at least %.2f", got, tt.want)
			}
		})
	}
}

// TestBBRFollowsRateChanges counts the packet-timed rounds, and the time,
// until the flow uses a new rate.
func TestBBRFollowsRateChanges(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to float64 // Mbit/s
		queue    int
		within   time.Duration // until the queue is short and the rate is used
	}{
		{"100 to 10, queue of 500 kB", 100, 10, 500_000, 10 * time.Second},
		{"100 to 10, queue of 60 kB", 100, 10, 60_000, 6 * time.Second},
		{"10 to 100", 10, 100, 500_000, 8 * time.Second},
		{"10 to 100, loss 1 %", -10, 100, 500_000, 8 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bbrLink
			b.queue = tt.queue
			if tt.from < 0 {
				tt.from, b.loss = -tt.from, 0.01
			}
			b.rate = tt.from * 1e6 / 8
			cc := simBBR(b)
			r := b.run(t, cc, 6*time.Second)
			r.rate = tt.to * 1e6 / 8
			rounds, changed := 0, r.now
			r.trace = func(*bottleneckRun) {
				if cc.inRound {
					rounds++
				}
			}
			reached := time.Duration(0)
			for at := 6 * time.Second; at < 20*time.Second; at += 250 * ms {
				d := r.delivered
				r.until(at + 250*ms)
				use := r.utilisation(at, at+250*ms, d)
				if use >= 0.85 && r.rttEst.latest < 2*b.rtt+20*ms && cc.maxBW.max() < 1.3*r.rate {
					reached = r.now.Sub(changed)
					break
				}
			}
			t.Logf("followed after %v and %d rounds: %v %v", reached, rounds, r, cc.state)
			if reached == 0 || reached > tt.within {
				t.Errorf("followed after %v, want within %v", reached, tt.within)
			}
			at := r.now.Sub(t0)
			d := r.delivered
			r.until(at + 5*time.Second)
			if use := r.utilisation(at, at+5*time.Second, d); use < 0.85 {
				t.Errorf("in the 5 s after: utilisation %.3f, want 0.85", use)
			}
		})
	}
}

// In a deep buffer the queue stays bounded: a probe for bandwidth has 2.25 BDP in
// flight.
func TestBBRBoundsTheQueue(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for _, loss := range []float64{0, 0.01, 0.03} {
		b := bbrLink
		b.queue = 12_500_000 // 1 s
		b.loss = loss
		cc := simBBR(b)
		r := b.run(t, cc, 2*time.Second)
		most := time.Duration(0)
		r.trace = func(r *bottleneckRun) { most = max(most, r.rttEst.smoothed) }
		r.until(20 * time.Second)
		t.Logf("loss %v: largest smoothed RTT %v: %v", loss, most, r)
		if limit := b.rtt * 23 / 10; most >= limit {
			t.Errorf("loss %v: smoothed RTT reached %v, want below %v", loss, most, limit)
		}
	}
}

// After a black-out of two seconds the flow is back within a PTO.
func TestBBRBlackout(t *testing.T) {
	if raceEnabled {
		return // one goroutine, and slow: make test runs it without the detector
	}
	for seed := range uint64(2) {
		for _, at := range []time.Duration{100 * ms, 300 * ms, 3 * time.Second, 3100 * ms, 5200 * ms} {
			b := bbrLink
			b.seed = seed
			cc := simBBR(b)
			r := b.run(t, cc, at)
			r.dead = true
			r.until(at + 2*time.Second)
			r.dead = false
			if r.ptos < 3 || r.ptos > 6 {
				t.Errorf("at %v: probes in 2 s = %d, want 3 to 6", at, r.ptos)
			}
			r.until(at + 4*time.Second)
			before := r.delivered
			r.until(at + 6*time.Second)
			got := r.utilisation(at+4*time.Second, at+6*time.Second, before)
			if got < 0.85 {
				t.Errorf("at %v, seed %d: utilisation 2 s after the black-out = %.3f, want 0.85: %v %v", at, seed, got, r, cc.state)
			}
		}
	}
}

// A link that dies and lives by turns makes probe time-outs the rule.
func TestBBRSurvivesProbeTimeouts(t *testing.T) {
	b := bbrLink
	cc := simBBR(b)
	r := b.run(t, cc, 0)
	for i := range 20 {
		r.dead = i%2 == 1
		r.until(time.Duration(i+1) * 700 * ms)
	}
	r.dead = false
	r.until(16 * time.Second)
	before := r.delivered
	r.until(20 * time.Second)
	got := r.utilisation(16*time.Second, 20*time.Second, before)
	t.Logf("%d probe time-outs, then utilisation %.3f: %v", r.ptos, got, r)
	if got < 0.85 {
		t.Errorf("utilisation after the storm = %.3f, want 0.85: %v %v", got, r, cc.state)
	}
}

// Startup ends whatever the path does to it.
func TestBBRLeavesStartup(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
	}{
		{"plain", func(*bottleneck) {}},
		{"deep queue", func(b *bottleneck) { b.queue = 12_500_000 }},
		{"no queue to speak of", func(b *bottleneck) { b.queue = 6000 }},
		{"loss 10 %", func(b *bottleneck) { b.loss = 0.1 }},
		{"loss 30 %", func(b *bottleneck) { b.loss = 0.3 }},
		{"jitter", func(b *bottleneck) { b.jitter = 15 * ms }},
		{"ACKs every 50 ms", func(b *bottleneck) { b.ackSlot = 50 * ms }},
		{"policer", func(b *bottleneck) { b.policer = 30_000 }},
		{"64 kbit/s", func(b *bottleneck) { b.rate = 8000; b.queue = 10_000 }},
		{"1 ms", func(b *bottleneck) { b.rtt = ms }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(3) {
				b := bbrLink
				b.seed = seed
				tt.change(&b)
				cc := simBBR(b)
				r := b.start(t, cc, &bottleneckLink{now: t0, linkFree: t0})
				var left time.Duration
				r.trace = func(r *bottleneckRun) {
					if left == 0 && cc.pipe.reached {
						left = r.now.Sub(t0)
					}
				}
				for at := 100 * ms; at <= 5*time.Second && left == 0; at += 100 * ms {
					r.until(at)
				}
				t.Logf("after %v: %v", left, r)
				if left == 0 {
					t.Errorf("seed %d: still in %v after 5 s: %v", seed, cc.state, r)
				}
			}
		})
	}
}

// A flow that its application holds back does not mistake that for the path's
// rate, and takes all when it may.
func TestBBRApplicationLimited(t *testing.T) {
	b := bbrLink
	b.appRate = 5e6 / 8
	cc := simBBR(b)
	r := b.run(t, cc, 8*time.Second)
	if got := float64(r.delivered) / 8; got < 0.95*b.appRate {
		t.Errorf("delivered %.0f of the %.0f bytes/s that were offered", got, b.appRate)
	}
	r.appRate = 0
	r.flush()
	before := r.delivered
	r.until(10 * time.Second)
	if got := r.utilisation(8*time.Second, 10*time.Second, before); got < 0.8 {
		t.Errorf("utilisation in the 2 s after = %.3f, want 0.8: %v %v", got, r, cc.state)
	}
	// And after a pause, at once.
	r.appRate = 1 // all but nothing
	r.until(13 * time.Second)
	r.appRate = 0
	r.flush()
	before = r.delivered
	r.until(14 * time.Second)
	if got := r.utilisation(13*time.Second, 14*time.Second, before); got < 0.85 {
		t.Errorf("utilisation in the second after a pause = %.3f, want 0.85: %v %v", got, r, cc.state)
	}
}
