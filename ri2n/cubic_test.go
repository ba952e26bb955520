package ri2n

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const testMSS = 1200

// A ccDriver feeds a controller windows' worth of ACKs in virtual time.
type ccDriver struct {
	cc  CongestionController
	now time.Time
	rtt rttEstimator
}

func newCCDriver(cc CongestionController, rtt time.Duration) *ccDriver {
	d := &ccDriver{cc: cc, now: t0}
	d.rtt.sample(rtt, 0, 0)
	return d
}

// round sends a full window and acknowledges it packet by packet, evenly over
// the next RTT.
func (d *ccDriver) round(appLimited bool) {
	n := d.cc.Cwnd() / testMSS
	inFlight := n * testMSS
	if appLimited {
		inFlight /= 4
	}
	sentAt := d.now
	d.cc.OnSent(sentAt, inFlight, inFlight)
	for i := range n {
		d.now = sentAt.Add(d.rtt.smoothed * time.Duration(i+1) / time.Duration(n))
		if !appLimited {
			inFlight = d.cc.Cwnd() // whatever is acknowledged is replaced
		}
		d.cc.OnAck(d.now, AckSample{
			AckedBytes: testMSS, PriorInFlight: inFlight, LargestAckedSentAt: sentAt.Add(1),
			RTT: d.rtt.stats(), RTTSampled: true, RoundStart: i == 0,
		})
	}
}

func (d *ccDriver) lose() {
	d.now = d.now.Add(ms)
	d.cc.OnLoss(d.now, LossEvent{LostBytes: testMSS, LargestLostSentAt: d.now.Add(-1), PriorInFlight: d.cc.Cwnd()})
	d.now = d.now.Add(ms)
}

func TestInitialWindow(t *testing.T) {
	// RFC 9002, section 7.2.
	for _, tt := range []struct{ mss, want int }{
		{1000, 10_000}, {1200, 12_000}, {1472, 14_720}, {1500, 14_720}, {9000, 18_000},
	} {
		for _, cc := range []CongestionController{newCubic(tt.mss), newNewReno(tt.mss)} {
			if cc.Cwnd() != tt.want || !slowStart(cc) || cc.PacingRate() != 0 {
				t.Errorf("%T, %d-byte packets: window = %d, slow start %v, rate %v, want %d, true, 0",
					cc, tt.mss, cc.Cwnd(), slowStart(cc), cc.PacingRate(), tt.want)
			}
		}
	}
	c := newCubic(1200)
	c.SetMaxDatagramSize(1452)
	if c.Cwnd() != 14_520 {
		t.Errorf("window after the MTU became 1452 = %d, want 14520", c.Cwnd())
	}
}

func TestSlowStartDoubles(t *testing.T) {
	for _, cc := range []CongestionController{newCubic(testMSS), newNewReno(testMSS)} {
		d := newCCDriver(cc, 50*ms)
		for range 5 {
			before := cc.Cwnd()
			d.round(false)
			if cc.Cwnd() != 2*before {
				t.Errorf("%T: window %d after %d, want double", cc, cc.Cwnd(), before)
			}
		}
		if got, want := cc.PacingRate(), 2*float64(cc.Cwnd())/0.05; math.Abs(got-want) > 1 {
			t.Errorf("%T: pacing rate = %.0f, want %.0f", cc, got, want)
		}
	}
}

func TestNoGrowthWhileAppLimited(t *testing.T) {
	for _, cc := range []CongestionController{newCubic(testMSS), newNewReno(testMSS)} {
		d := newCCDriver(cc, 50*ms)
		for range 3 {
			d.round(false)
		}
		d.round(true) // the round before still counts
		before := cc.Cwnd()
		for range 100 {
			d.round(true)
		}
		if cc.Cwnd() != before {
			t.Errorf("%T: app limited, window %d became %d", cc, before, cc.Cwnd())
		}
	}
}

// The window follows W(t) = C (t-K)^3 + W_max (RFC 9438, section 4.2).
func TestCubicCurve(t *testing.T) {
	c := newCubic(testMSS)
	d := newCCDriver(c, 100*ms)
	c.cwnd, c.ssthresh = 1000*testMSS, 500*testMSS
	d.lose()
	if got := c.Cwnd(); got != 700*testMSS {
		t.Fatalf("window after a loss = %d, want %d", got, 700*testMSS)
	}
	k := math.Cbrt(1000 * 0.3 / 0.4) // 9.09 s
	var begin time.Time
	for i := range 160 { // 16 s
		d.round(false)
		if i == 0 {
			begin = d.now.Add(-d.rtt.smoothed)
		}
		at := d.now.Sub(begin).Seconds()
		// The window aims one RTT ahead and takes one or two to get there.
		w := func(t float64) float64 { return 0.4*math.Pow(t-k, 3) + 1000 }
		if got := c.cwnd / testMSS; got < w(at-0.25) || got > w(at+0.1) {
			t.Fatalf("after %.1f s: window = %.1f packets, want about %.1f", at, got, w(at))
		}
	}
	if c.Cwnd() < 1100*testMSS {
		t.Errorf("window after 16 s = %d packets, want it beyond W_max", c.Cwnd()/testMSS)
	}
}

// At a short RTT and a small window CUBIC is at least as fast as Reno
// (RFC 9438, section 4.3).
func TestCubicRenoFriendly(t *testing.T) {
	c := newCubic(testMSS)
	d := newCCDriver(c, 10*ms)
	c.cwnd, c.ssthresh = 40*testMSS, 20*testMSS
	d.lose()
	const rounds = 40
	for range rounds {
		d.round(false)
	}
	// alpha = 0.53 packets each round until W_max, then one.
	want := 28 + 0.529*12/0.529 + (rounds - 12/0.529)
	if got := c.cwnd / testMSS; math.Abs(got-want) > 2 {
		t.Errorf("window after %d rounds = %.1f packets, want %.1f", rounds, got, want)
	}
}

func TestCubicFastConvergence(t *testing.T) {
	c := newCubic(testMSS)
	d := newCCDriver(c, 50*ms)
	c.cwnd, c.ssthresh = 100*testMSS, 50*testMSS
	d.lose()
	if c.wMax != 100*testMSS {
		t.Errorf("W_max = %v packets, want 100", c.wMax/testMSS)
	}
	d.lose() // below the last W_max: give way
	if got := c.wMax / testMSS; math.Abs(got-70*0.85) > 1e-6 {
		t.Errorf("W_max = %v packets, want 59.5 (RFC 9438, section 4.7)", got)
	}
}

// Time without sending, or without need of the window, is no part of the
// epoch: the window does not jump afterwards (RFC 9438, section 5.8).
func TestCubicEpochStandsStillWhenIdle(t *testing.T) {
	grow := func(pause func(*ccDriver)) float64 {
		c := newCubic(testMSS)
		d := newCCDriver(c, 50*ms)
		c.cwnd, c.ssthresh = 200*testMSS, 100*testMSS
		d.lose()
		for range 10 {
			d.round(false)
		}
		pause(d)
		for range 10 {
			d.round(false)
		}
		return c.cwnd
	}
	want := grow(func(*ccDriver) {})
	for name, pause := range map[string]func(*ccDriver){
		"idle":        func(d *ccDriver) { d.now = d.now.Add(time.Minute) },
		"app limited": func(d *ccDriver) { d.round(true); d.round(true); d.rtt.reset(); d.rtt.sample(50*ms, 0, 0) },
	} {
		if got := grow(pause); math.Abs(got-want) > 0.01*want {
			t.Errorf("%s: window = %.0f, want %.0f as without a pause", name, got, want)
		}
	}
}

func TestOneCutPerRoundTrip(t *testing.T) {
	for _, cc := range []CongestionController{newCubic(testMSS), newNewReno(testMSS)} {
		d := newCCDriver(cc, 50*ms)
		for range 4 {
			d.round(false)
		}
		d.lose()
		after := cc.Cwnd()
		cc.OnLoss(d.now, LossEvent{LostBytes: testMSS, LargestLostSentAt: d.now.Add(-30 * ms)})
		if cc.Cwnd() != after {
			t.Errorf("%T: a loss from before the cut cut again", cc)
		}
		if slowStart(cc) {
			t.Errorf("%T: slow start after a loss", cc)
		}
		cc.OnAck(d.now, AckSample{AckedBytes: testMSS, PriorInFlight: after, LargestAckedSentAt: d.now.Add(-30 * ms), RTT: d.rtt.stats()})
		if cc.Cwnd() != after {
			t.Errorf("%T: the window grew in recovery", cc)
		}
	}
}

func TestUndoOfSpuriousLoss(t *testing.T) {
	for _, cc := range []CongestionController{newCubic(testMSS), newNewReno(testMSS)} {
		d := newCCDriver(cc, 50*ms)
		for range 4 {
			d.round(false)
		}
		cc.OnSpurious(d.now) // nothing to undo
		before := cc.Cwnd()
		d.lose()
		if cc.Cwnd() >= before {
			t.Fatalf("%T: no cut", cc)
		}
		cc.OnSpurious(d.now)
		if cc.Cwnd() != before || !slowStart(cc) {
			t.Errorf("%T: after the undo window = %d, slow start %v, want %d, true", cc, cc.Cwnd(), slowStart(cc), before)
		}
		d.lose()
		after := cc.Cwnd()
		cc.OnSpurious(d.now)
		cc.OnSpurious(d.now)
		if cc.Cwnd() != before || after >= before {
			t.Errorf("%T: window after a second cut and undo = %d, want %d", cc, cc.Cwnd(), before)
		}
	}
}

func TestPersistentCongestionCollapsesWindow(t *testing.T) {
	for _, cc := range []CongestionController{newCubic(testMSS), newNewReno(testMSS)} {
		d := newCCDriver(cc, 50*ms)
		for range 4 {
			d.round(false)
		}
		cc.OnLoss(d.now, LossEvent{LostBytes: testMSS, LargestLostSentAt: d.now, Persistent: true})
		if cc.Cwnd() != 2*testMSS || !slowStart(cc) {
			t.Errorf("%T: window = %d, slow start %v, want %d, true", cc, cc.Cwnd(), slowStart(cc), 2*testMSS)
		}
		for range 50 {
			d.lose()
		}
		if cc.Cwnd() != 2*testMSS {
			t.Errorf("%T: window = %d below or above the minimum", cc, cc.Cwnd())
		}
	}
}

// No sequence of events yields a window or a rate out of range.
func TestControllersStayInRange(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		c := newCubic(testMSS)
		for _, cc := range []CongestionController{c, newNewReno(testMSS)} {
			now := t0
			var rtt rttEstimator
			for range 3000 {
				now = now.Add(time.Duration(math.Exp(rng.Float64() * 28)))
				switch rng.IntN(8) {
				case 0:
					cc.OnLoss(now, LossEvent{LostBytes: rng.IntN(1 << 20), LargestLostSentAt: now, Persistent: rng.IntN(4) == 0})
				case 1:
					cc.OnSpurious(now)
				case 2:
					cc.OnSent(now, 1200, rng.IntN(1<<31))
				default:
					rtt.sample(time.Duration(rng.Int64N(int64(10*time.Second))), 0, 0)
					cc.OnAck(now, AckSample{
						AckedBytes: rng.IntN(1 << 31), PriorInFlight: rng.IntN(1 << 31), LargestAckedSentAt: now,
						RTT: rtt.stats(), RTTSampled: true, RoundStart: rng.IntN(3) == 0,
					})
				}
				rate := cc.PacingRate()
				if w := cc.Cwnd(); w < 2*testMSS || w > maxCwnd || math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0 {
					t.Fatalf("seed %d: %T has window %d, rate %v", seed, cc, w, rate)
				}
			}
		}
		if math.IsNaN(c.k) || math.IsNaN(c.wEst) || math.IsNaN(c.wMax) {
			t.Fatalf("seed %d: NaN in %+v", seed, c.cubicState)
		}
	}
}

// slowStart reports whether one of our controllers is in slow start.
func slowStart(cc CongestionController) bool {
	return cc.(interface{ InSlowStart() bool }).InSlowStart()
}
