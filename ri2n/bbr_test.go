package ri2n

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestBBRSurvivesAnyEvents feeds random, also senseless, events: the window
// and the rate stay finite and positive, and time in a state stays bounded.
func TestBBRSurvivesAnyEvents(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		mss := 1200
		b := newBBR(mss, rng)
		now := t0
		var rtt rttEstimator
		var total uint64
		value := func(scale int) int {
			switch rng.IntN(12) {
			case 0:
				return 0
			case 1:
				return math.MaxInt32
			case 2:
				return -scale
			}
			return rng.IntN(scale)
		}
		rate := func() float64 {
			switch rng.IntN(12) {
			case 0:
				return math.Inf(1)
			case 1:
				return math.NaN()
			case 2:
				return 0
			case 3:
				return math.MaxFloat64
			case 4:
				return -1e9
			case 5:
				return 1e-300
			}
			return rng.Float64() * 1e9
		}
		for range 2000 {
			switch step := rng.IntN(20); step {
			case 0:
				now = now.Add(time.Duration(rng.Int64N(int64(20 * time.Second))))
			case 1:
				now = now.Add(-time.Duration(rng.Int64N(int64(time.Second))))
			default:
				now = now.Add(time.Duration(rng.Int64N(int64(10 * ms))))
			}
			switch rng.IntN(12) {
			case 0:
				b.OnSpurious(now)
			case 1:
				b.SetMaxDatagramSize(value(9000))
			case 2, 3:
				b.OnLoss(now, LossEvent{LostBytes: value(1 << 20), LargestLostSentAt: now.Add(-time.Duration(rng.Int64N(int64(time.Second)))),
					Persistent: rng.IntN(20) == 0, PriorInFlight: value(1 << 20),
					Worst: LossShare{Size: value(9000), SentWith: value(1 << 20), Lost: value(1 << 20), AppLimited: rng.IntN(4) == 0}})
			case 4, 5, 6:
				b.OnSent(now, value(9000), value(1<<20))
			case 7:
				if rng.IntN(50) == 0 {
					b.Reset()
				}
			default:
				if rng.IntN(4) > 0 {
					rtt.sample(time.Duration(rng.Int64N(int64(time.Duration(1)<<(10+rng.IntN(22))))), 0, 0)
				}
				total += uint64(max(0, value(100_000)))
				prior := total - min(total, uint64(max(0, value(1<<20))))
				if rng.IntN(50) == 0 {
					prior = total + 5 // cannot be
				}
				b.OnAck(now, AckSample{AckedBytes: value(100_000), PriorInFlight: value(1 << 20), LargestAckedSentAt: now.Add(-40 * ms),
					RTT: rtt.stats(), RTTSampled: rtt.samples > 0 && rng.IntN(4) > 0, DeliveryRate: rate(), AppLimited: rng.IntN(4) == 0,
					Delivery: DeliverySpan{Total: total, Prior: prior, SentWith: value(1 << 20), Lost: value(1 << 18), InFlight: value(1 << 20)}})
			}
			if cwnd := b.Cwnd(); cwnd < 2*b.mss && cwnd < maxCwnd || cwnd > maxCwnd {
				t.Fatalf("seed %d: cwnd %d with packets of %d", seed, cwnd, b.mss)
			}
			if r := b.PacingRate(); math.IsNaN(r) || math.IsInf(r, 0) || r < 0 || b.rate > 0 && r < bbrMinRate {
				t.Fatalf("seed %d: pacing rate %v", seed, r)
			}
			for name, v := range map[string]float64{"bw": b.bw(), "long": b.bounds.inflightLong, "short": b.bounds.inflightShort,
				"extra": b.extra.max(), "floor": b.tolerant.floor(), "bdp": b.bdp(b.bw(), 2)} {
				if math.IsNaN(v) || v < 0 {
					t.Fatalf("seed %d: %s is %v", seed, name, v)
				}
			}
		}
	}
}

func TestBBRFullPipe(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rates []float64
		want  bool
	}{
		{"doubling", []float64{1, 2, 4, 8, 16}, false},
		{"growth of a quarter", []float64{100, 125, 157, 197}, false},
		{"two rounds without growth", []float64{100, 100, 100}, false},
		{"three", []float64{100, 100, 100, 100}, true},
		{"three, slowly growing", []float64{100, 108, 116, 124}, true},
		{"growth in between", []float64{100, 100, 100, 130, 130, 130}, false},
		{"decline", []float64{100, 50, 20, 10}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p fullPipe
			for _, r := range tt.rates {
				p.round(r)
			}
			if p.now != tt.want || p.reached != tt.want {
				t.Errorf("now %v, reached %v, want %v", p.now, p.reached, tt.want)
			}
		})
	}
}

func TestMaxBandwidth(t *testing.T) {
	var m maxBandwidth
	m.add(5)
	m.add(3)
	m.advance()
	m.add(2)
	if got := m.max(); got != 5 {
		t.Errorf("after one cycle: %v, want 5", got)
	}
	m.advance()
	if got := m.max(); got != 2 {
		t.Errorf("after two: %v, want 2", got)
	}
	m.advance()
	m.advance()
	if got := m.max(); got != 2 {
		t.Errorf("after cycles without samples: %v, want 2", got)
	}
}

func TestLossTolerance(t *testing.T) {
	const mss = 1000
	const path = 40 * ms
	round := func(l *lossTolerance, state bbrState, rtt time.Duration, lost, arrived int) bool {
		l.noteLoss(lost * mss)
		var e rttEstimator
		e.sample(rtt, 0, 0)
		l.acked(AckSample{AckedBytes: arrived * mss, RTT: e.stats(), RTTSampled: true})
		return l.endRound(state, path, mss)
	}
	learn := func(lost int) *lossTolerance {
		l := new(lossTolerance)
		for range 10 {
			round(l, bbrProbeCruise, path, lost, 100-lost)
		}
		return l
	}
	for _, tt := range []struct {
		name  string
		floor int // percent
		rtt   time.Duration
		lost  int // percent
		want  bool
	}{
		{"no loss", 0, path, 0, true},
		{"2 % on a clean path", 0, path, 2, true},
		{"5 % on a clean path", 0, path, 5, false},
		{"3 % on a path of 3 %", 3, path, 3, true},
		{"8 % on a path of 3 %", 3, path, 8, true},
		{"12 % on a path of 3 %", 3, path, 12, false},
		{"3 % with a queue", 3, 60 * ms, 3, true},
		{"10 % with a queue", 3, 60 * ms, 10, false},
		{"1 % with a queue on a clean path", 0, 60 * ms, 1, false},
		{"9 % on a path of 9 %", 9, path, 9, true},
		{"20 % on a path of 20 %", 20, path, 20, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := learn(tt.floor)
			if got := round(l, bbrProbeCruise, tt.rtt, tt.lost, 100-tt.lost); got != tt.want {
				t.Errorf("tolerated = %v, want %v (floor %.3f)", got, tt.want, l.floor())
			}
		})
	}
	t.Run("a lower minimum RTT shows that there was a queue", func(t *testing.T) {
		l := learn(3)
		l.endRound(bbrProbeCruise, path/2, mss)
		if l.floor() != 0 {
			t.Errorf("floor = %v, want 0", l.floor())
		}
	})
}

// Packets of ProbeRTT are too few to measure the path.
func TestBBRIgnoresProbeRTTSamples(t *testing.T) {
	b := bbrLink
	cc := simBBR(b)
	r := b.run(t, cc, 4*time.Second)
	before := cc.maxBW.max()
	seen := false
	r.trace = func(r *bottleneckRun) {
		seen = seen || cc.state == bbrProbeRTT
		if cc.maxBW.max() < 0.97*before {
			t.Fatalf("bandwidth fell from %v to %v in %v", before, cc.maxBW.max(), cc.state)
		}
	}
	r.until(12 * time.Second)
	if !seen {
		t.Error("no ProbeRTT in 12 s")
	}
}

// Losses that prove spurious change nothing for good.
func TestBBRTakesBackSpuriousLoss(t *testing.T) {
	loss := func(b *bbr, now time.Time) {
		b.OnLoss(now, LossEvent{LostBytes: 60_000, LargestLostSentAt: now.Add(-ms), PriorInFlight: 500_000,
			Worst: LossShare{Size: 1200, SentWith: 600_000, Lost: 300_000}})
	}
	link := bbrLink
	link.queue = 12_500_000
	t.Run("in a probe", func(t *testing.T) {
		cc := simBBR(link)
		r := link.run(t, cc, 2*time.Second)
		for cc.state != bbrProbeUp {
			r.until(r.now.Sub(t0) + ms)
		}
		cc.probe.samples = true
		before := cc.bounds
		loss(cc, r.now)
		if cc.state != bbrProbeDown || cc.bounds == before {
			t.Fatalf("after the loss: %v, bounds %v: the test loses nothing", cc.state, cc.bounds)
		}
		cc.OnSpurious(r.now)
		if cc.state != bbrProbeUp || cc.bounds != before {
			t.Errorf("after the undo: %v, bounds %v, want %v, %v", cc.state, cc.bounds, bbrProbeUp, before)
		}
		loss(cc, r.now)
		cc.OnSpurious(r.now)
		down := cc.bounds
		cc.OnSpurious(r.now)
		if cc.bounds != down {
			t.Errorf("a second undo of one episode changed the bounds from %v to %v", down, cc.bounds)
		}
	})
	t.Run("in Startup", func(t *testing.T) {
		cc := simBBR(link)
		r := link.run(t, cc, 150*ms)
		loss(cc, r.now)
		cc.signals.startupLoss = true
		cc.checkStartupDone(AckSample{})
		if cc.state != bbrDrain {
			t.Fatalf("state %v, want %v", cc.state, bbrDrain)
		}
		cc.OnSpurious(r.now)
		if cc.state != bbrStartup || cc.pipe.reached {
			t.Errorf("after the undo: %v, full pipe %v, want %v, false", cc.state, cc.pipe.reached, bbrStartup)
		}
	})
}
