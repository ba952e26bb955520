package ri2n

import "time"

// A bbr1 models the BBRv1 of kernel TCP, as a rival in simulations
// (draft-cardwell-iccrg-bbr-congestion-control-00). It leaves out what
// compensates for gathered ACKs and for policers.
type bbr1 struct {
	mss        int
	cwnd       float64
	rate       float64
	gain       float64
	bw         [10]float64 // maximum of each of the last rounds
	round      int
	full       float64
	fullRounds int
	filled     bool
	state      bbr1State
	phase      int
	phaseAt    time.Time
	min        time.Duration
	minAt      time.Time
	until      time.Time // of ProbeRTT
	priorCwnd  float64

	recoveryStart time.Time
	recovering    bool
	conserve      bool
	lostInPhase   bool
}

type bbr1State uint8

const (
	bbr1Startup bbr1State = iota
	bbr1Drain
	bbr1ProbeBW
	bbr1ProbeRTT
)

const bbr1High = 2.885

var bbr1Cycle = [...]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

func newBBR1(mss int) *bbr1 {
	return &bbr1{mss: mss, cwnd: initialCwnd(mss), gain: bbr1High}
}

func (b *bbr1) maxBW() float64 {
	most := 0.0
	for _, x := range b.bw {
		most = max(most, x)
	}
	return most
}

func (b *bbr1) bdp(gain float64) float64 {
	if b.min == 0 {
		return initialCwnd(b.mss)
	}
	return gain * b.maxBW() * b.min.Seconds()
}

func (b *bbr1) OnSent(time.Time, int, int)  {}
func (b *bbr1) OnSpurious(time.Time)        {}
func (b *bbr1) Reset()                      { *b = *newBBR1(b.mss) }
func (b *bbr1) Cwnd() int                   { return int(b.cwnd) }
func (b *bbr1) PacingRate() float64         { return b.rate }
func (b *bbr1) InSlowStart() bool           { return b.state == bbr1Startup }
func (b *bbr1) SetMaxDatagramSize(size int) { b.mss = size }

func (b *bbr1) OnLoss(now time.Time, e LossEvent) {
	b.lostInPhase = true
	if e.LargestLostSentAt.After(b.recoveryStart) {
		if !b.recovering {
			b.priorCwnd = b.cwnd
		}
		b.recoveryStart, b.recovering, b.conserve = now, true, true
		b.cwnd = float64(max(e.PriorInFlight-e.LostBytes, b.mss))
	} else {
		b.cwnd = max(b.cwnd-float64(e.LostBytes), float64(b.mss))
	}
}

func (b *bbr1) OnAck(now time.Time, s AckSample) {
	if s.RoundStart {
		b.round++
		b.bw[b.round%len(b.bw)] = 0
		b.conserve = false
	}
	if s.DeliveryRate > 0 && (!s.AppLimited || s.DeliveryRate >= b.maxBW()) {
		b.bw[b.round%len(b.bw)] = max(b.bw[b.round%len(b.bw)], s.DeliveryRate)
	}
	if b.recovering && s.LargestAckedSentAt.After(b.recoveryStart) {
		b.recovering, b.conserve = false, false
		b.cwnd = max(b.cwnd, b.priorCwnd)
	}
	inFlight := float64(s.Delivery.InFlight)
	b.cycle(now, inFlight)
	if !b.filled && s.RoundStart && !s.AppLimited {
		if b.maxBW() >= 1.25*b.full {
			b.full, b.fullRounds = b.maxBW(), 0
		} else if b.fullRounds++; b.fullRounds >= 3 {
			b.filled = true
		}
	}
	if b.state == bbr1Startup && b.filled {
		b.state, b.gain = bbr1Drain, 1/bbr1High
	}
	if b.state == bbr1Drain && inFlight <= b.bdp(1) {
		b.startProbeBW(now, 2)
	}
	b.probeRTT(now, s, inFlight)

	rate := b.gain * b.maxBW() * 0.99
	if b.rate == 0 {
		b.rate = bbr1High * initialCwnd(b.mss) / max(s.RTT.Smoothed.Seconds(), 1e-3)
	} else if b.filled || rate > b.rate {
		b.rate = max(rate, 1000)
	}
	gain := 2.0
	if !b.filled {
		gain = bbr1High
	}
	target := b.bdp(gain) + float64(3*b.mss)
	acked := float64(s.AckedBytes)
	switch {
	case b.conserve:
		b.cwnd = max(b.cwnd, inFlight+acked)
	case b.filled:
		b.cwnd = min(b.cwnd+acked, target)
	case b.cwnd < target:
		b.cwnd += acked
	}
	b.cwnd = max(b.cwnd, float64(4*b.mss))
	if b.state == bbr1ProbeRTT {
		b.cwnd = min(b.cwnd, float64(4*b.mss))
	}
}

func (b *bbr1) startProbeBW(now time.Time, phase int) {
	b.state, b.phase, b.phaseAt, b.lostInPhase = bbr1ProbeBW, phase, now, false
	b.gain = bbr1Cycle[phase]
}

func (b *bbr1) cycle(now time.Time, inFlight float64) {
	if b.state != bbr1ProbeBW {
		return
	}
	over := now.Sub(b.phaseAt) > b.min
	switch {
	case b.gain > 1:
		over = over && (b.lostInPhase || inFlight >= b.bdp(b.gain))
	case b.gain < 1:
		over = over || inFlight <= b.bdp(1)
	}
	if over {
		b.startProbeBW(now, (b.phase+1)%len(bbr1Cycle))
	}
}

func (b *bbr1) probeRTT(now time.Time, s AckSample, inFlight float64) {
	expired := b.min > 0 && now.Sub(b.minAt) > 10*time.Second
	if s.RTTSampled && (b.min == 0 || s.RTT.Latest <= b.min || expired) {
		b.min, b.minAt = s.RTT.Latest, now
	}
	if expired && b.state != bbr1ProbeRTT {
		b.priorCwnd = max(b.cwnd, b.priorCwnd)
		if !b.recovering {
			b.priorCwnd = b.cwnd
		}
		b.state, b.gain, b.until = bbr1ProbeRTT, 1, time.Time{}
	}
	if b.state != bbr1ProbeRTT {
		return
	}
	if b.until.IsZero() {
		if inFlight <= float64(4*b.mss) {
			b.until = now.Add(200*time.Millisecond + s.RTT.Smoothed)
		}
		return
	}
	if now.After(b.until) {
		b.minAt = now
		b.cwnd = max(b.cwnd, b.priorCwnd)
		if b.filled {
			b.startProbeBW(now, 2)
		} else {
			b.state, b.gain = bbr1Startup, bbr1High
		}
	}
}
