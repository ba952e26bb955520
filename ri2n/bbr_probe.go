package ri2n

import (
	"math"
	"time"
)

// Between two probes for bandwidth pass bbrProbeWait and up to bbrProbeJitter
// more, or about as many round trips as Reno would need to grow by the window
// (draft-ietf-ccwg-bbr-04, section 5.3.3.5).
const (
	bbrProbeWait   = 2 * time.Second
	bbrProbeJitter = time.Second
	bbrProbeRounds = 63
	bbrMaxUpRounds = 30 // bounds the doubling of growth
)

// A bbrProbe is the progress of one ProbeBW cycle.
type bbrProbe struct {
	began   time.Time // of the cycle
	wait    time.Duration
	rounds  int     // since the last probe
	samples bool    // packets of a probe are being acknowledged, and not yet responded to
	growing int     // rounds in which the long-term bound has grown
	slope   float64 // its growth for each byte acknowledged
}

// updateProbeBW follows BBRUpdateProbeBWCyclePhase (section 5.3.3.6).
func (b *bbr) updateProbeBW(now time.Time, s AckSample) {
	if !b.pipe.reached {
		return
	}
	// Asked before the bound grows with this ACK.
	atBound := b.limited() && b.cwnd >= b.bounds.inflightLong
	b.adaptLongTerm(now, s, atBound)
	inFlight := float64(s.Delivery.InFlight)
	switch b.state {
	case bbrProbeDown:
		if b.timeToProbe(now) {
			b.startProbeRefill()
		} else if inFlight <= b.bounds.withHeadroom(b.mss, b.minCwnd()) && inFlight <= b.inflight(b.maxBW.max(), 1) {
			b.startProbeCruise()
		}
	case bbrProbeCruise:
		if b.timeToProbe(now) {
			b.startProbeRefill()
		}
	case bbrProbeRefill:
		if b.inRound {
			b.probe.samples = true
			b.startProbeUp(s.DeliveryRate)
		}
	case bbrProbeUp:
		switch {
		case atBound && !(b.tolerant.queue && b.tolerant.alone()):
			b.pipe.search(s.DeliveryRate) // the bound limits, not the path
		case b.pipe.now:
			b.startProbeDown(now)
		}
	}
}

// adaptLongTerm follows BBRAdaptLongTermModel.
func (b *bbr) adaptLongTerm(now time.Time, s AckSample, atBound bool) {
	if b.inRound {
		switch b.ackPhase {
		case bbrAcksProbeStarting:
			b.ackPhase = bbrAcksProbeFeedback
		case bbrAcksProbeStopping:
			b.ackPhase = bbrAcksInit
			b.probe.samples = false
			if b.state.inProbeBW() && !s.AppLimited {
				b.maxBW.advance()
			}
		}
	}
	if b.tooMuchLost(s.Delivery.Lost, s.Delivery.SentWith) {
		if b.probe.samples {
			b.inflightTooHigh(now, float64(s.Delivery.SentWith), s.AppLimited)
		}
		return
	}
	if math.IsInf(b.bounds.inflightLong, 1) {
		return
	}
	b.bounds.inflightLong = max(b.bounds.inflightLong, float64(s.Delivery.SentWith))
	if b.state == bbrProbeUp && atBound {
		b.raiseLongTerm(float64(max(s.AckedBytes, 0)))
	}
}

// raiseLongTerm follows BBRProbeInflightLongtermUpward.
func (b *bbr) raiseLongTerm(acked float64) {
	b.bounds.inflightLong = min(b.bounds.inflightLong+acked*b.probe.slope, maxCwnd)
	if b.inRound {
		b.raiseSlope()
	}
}

// raiseSlope follows BBRRaiseInflightLongtermSlope: one packet in the first
// round, then twice as many in each.
func (b *bbr) raiseSlope() {
	growth := float64(b.mss) * float64(uint64(1)<<b.probe.growing)
	b.probe.growing = min(b.probe.growing+1, bbrMaxUpRounds)
	b.probe.slope = min(growth/max(b.cwnd, 1), 1)
}

func (b *bbr) timeToProbe(now time.Time) bool {
	rounds := min(b.targetInflight()/float64(b.mss), bbrProbeRounds)
	wait := b.probe.wait
	if b.tolerant.crowded && b.state == bbrProbeCruise {
		wait /= 2
	}
	return now.Sub(b.probe.began) > wait || float64(b.probe.rounds) >= rounds
}

func (b *bbr) startProbeDown(now time.Time) {
	b.signals.reset()
	b.tolerant.endCycle()
	b.probe.slope = 0
	b.probe.rounds = int(2 * b.random())
	b.probe.wait = bbrProbeWait + time.Duration(b.random()*float64(bbrProbeJitter))
	b.probe.began = now
	b.ackPhase = bbrAcksProbeStopping
	b.startRound()
	b.state = bbrProbeDown
	b.pacingGain, b.cwndGain = bbrDownPacingGain, bbrCwndGain
}

func (b *bbr) startProbeCruise() {
	b.state = bbrProbeCruise
	b.pacingGain, b.cwndGain = 1, bbrCwndGain
}

func (b *bbr) startProbeRefill() {
	b.bounds.reset()
	b.probe.growing = 0
	b.ackPhase = bbrAcksRefilling
	b.startRound()
	b.state = bbrProbeRefill
	b.pacingGain, b.cwndGain = 1, bbrCwndGain
}

func (b *bbr) startProbeUp(rate float64) {
	b.ackPhase = bbrAcksProbeStarting
	b.startRound()
	b.pipe.search(rate)
	b.state = bbrProbeUp
	b.pacingGain, b.cwndGain = bbrUpPacingGain, bbrUpCwndGain
	b.raiseSlope()
}
