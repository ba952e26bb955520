package ri2n

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestBurstSize(t *testing.T) {
	for _, tt := range []struct {
		name      string
		mbit      float64
		mss, cwnd int
		want      float64
	}{
		{"at least two packets", 1, 1200, 1 << 20, 2400},
		{"half a millisecond", 100, 1200, 1 << 20, 6250},
		{"ten packets below 200 Mbit/s", 199, 1200, 1 << 20, 12000},
		{"a quarter of the window", 100, 1200, 12000, 3000},
		{"half a millisecond at 400", 400, 1200, 1 << 20, 25000},
		{"one GSO send", 10_000, 1200, 1 << 30, 65536},
		{"64 segments", 10_000, 600, 1 << 30, 38400},
	} {
		if got := burstSize(tt.mbit*1e6/8, tt.mss, tt.cwnd); math.Abs(got-tt.want) > 1e-6 {
			t.Errorf("%s: burst = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPacerWithoutRate(t *testing.T) {
	for _, rate := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		var p pacer
		if got := p.budget(t0, rate, 1200, 12000); got < 12000 {
			t.Errorf("budget at rate %v = %d, want no limit", rate, got)
		}
		p.sent(12000)
		if got := p.nextTime(t0, 1200); !got.Equal(t0) {
			t.Errorf("next time at rate %v = %v, want now", rate, got)
		}
	}
}

// Whatever the lateness of timers up to 2 ms, a sender with much to send gets
// its rate: no less, and no more than the one burst that it began with.
func TestPacerConservesRate(t *testing.T) {
	for _, mbit := range []float64{0.5, 10, 100, 199, 201, 1000, 10_000} {
		for _, late := range []time.Duration{0, 50 * time.Microsecond, 1100 * time.Microsecond, 2 * ms} {
			var p pacer
			rng := rand.New(rand.NewPCG(uint64(mbit), uint64(late)))
			rate, now, sent := mbit*1e6/8, t0, 0
			const mss, cwnd = 1200, 10 << 20
			end := t0.Add(5 * time.Second)
			if mbit > 1000 {
				end = t0.Add(500 * ms)
			}
			for now.Before(end) {
				for p.budget(now, rate, mss, cwnd) >= mss {
					p.sent(mss)
					sent += mss
				}
				now = p.nextTime(now, 2*mss+rng.IntN(1<<16))
				if late > 0 {
					now = now.Add(time.Duration(rng.Int64N(int64(late))))
				}
			}
			allowed := rate * now.Sub(t0).Seconds()
			burst := burstSize(rate, mss, cwnd)
			if s := float64(sent); s > allowed+burst || s < allowed-burst-rate*pacerCatchUp.Seconds() {
				t.Errorf("%v Mbit/s, %v late: sent %d in %v, want %.0f to within a burst of %.0f",
					mbit, late, sent, now.Sub(t0), allowed, burst)
			}
		}
	}
}

func TestPacerAfterIdleness(t *testing.T) {
	const rate, mss, cwnd = 100e6 / 8, 1200, 1 << 20
	burst := int(burstSize(rate, mss, cwnd))
	var p pacer
	drain := func(now time.Time) (n int) {
		for p.budget(now, rate, mss, cwnd) >= mss {
			p.sent(mss)
			n += mss
		}
		return n
	}
	if got := drain(t0); got > burst {
		t.Errorf("first burst of %d bytes, want at most %d", got, burst)
	}
	// Nobody waited: one burst, however long the silence.
	if got := drain(t0.Add(time.Hour)); got > burst {
		t.Errorf("burst after an hour of silence = %d, want at most %d", got, burst)
	}
	// A sender who waited but came an hour late gets 2 ms, not more.
	now := p.nextTime(t0.Add(time.Hour), mss).Add(time.Hour)
	limit := burst + rate*2/1000
	if got := drain(now); got > limit || got <= burst {
		t.Errorf("burst after waiting = %d, want up to %d", got, limit)
	}
	// Nor does he keep what he does not use.
	now = p.nextTime(now, mss).Add(time.Hour)
	p.budget(now, rate, mss, cwnd)
	if got := p.budget(now.Add(time.Second), rate, mss, cwnd); got > burst {
		t.Errorf("budget a second after waking = %d, want at most %d", got, burst)
	}
}

// The moment that nextTime names is enough.
func TestPacerNextTimeSuffices(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for range 10_000 {
		var p pacer
		rate := math.Exp(rng.Float64()*18 + 3)
		mss := 600 + rng.IntN(15_000)
		p.budget(t0, rate, mss, 1<<30)
		p.sent(rng.IntN(1 << 17))
		need := min(mss, int(p.burst))
		at := p.nextTime(t0, need)
		if got := p.budget(at, rate, mss, 1<<30); got < need {
			t.Fatalf("budget at the named time = %d, want %d (rate %v, mss %d)", got, need, rate, mss)
		}
	}
}

// RFC 9002, section 7.7: an initial window may leave in one burst.
func TestPacerQuietPath(t *testing.T) {
	const mss, cwnd, rate = 1200, 12_000, 1e6
	var p pacer
	now := time.Unix(1, 0)
	p.budget(now, rate, mss, cwnd)
	for i := range 10 {
		budget := p.budget(now, rate, mss, cwnd)
		if i == 0 {
			budget = p.quiet(mss, cwnd)
		}
		if budget < mss {
			t.Fatalf("packet %d of the first burst has to wait", i)
		}
		p.sent(mss)
	}
	if got := p.budget(now, rate, mss, cwnd); got >= mss {
		t.Errorf("%d bytes may follow the burst", got)
	}
	if got := (&pacer{}).quiet(mss, 2*mss); got != 2*mss {
		t.Errorf("burst = %d bytes, want no more than the window of %d", got, 2*mss)
	}
}
