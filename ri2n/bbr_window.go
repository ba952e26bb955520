package ri2n

import (
	"math"
	"time"
)

// bdp is gain times the volume that fills the path at rate bw, or the initial
// window while the round trip is not known (BBRBDPMultiple).
func (b *bbr) bdp(bw, gain float64) float64 {
	if b.minRTT.min <= 0 {
		return initialCwnd(b.mss)
	}
	return min(gain*min(bw, bbrMaxRate)*b.minRTT.min.Seconds(), maxCwnd)
}

// quantized is BBRQuantizationBudget: room for three bursts, so that sending
// and receiving in bursts costs no rate.
func (b *bbr) quantized(volume float64) float64 {
	volume = max(volume, 3*burstSize(b.rate, b.mss, b.Cwnd()), b.minCwnd())
	if b.state == bbrProbeUp {
		volume += float64(2 * b.mss)
	}
	return min(volume, maxCwnd)
}

// inflight is BBRInflight.
func (b *bbr) inflight(bw, gain float64) float64 { return b.quantized(b.bdp(bw, gain)) }

// targetInflight is BBRTargetInflight: the BDP, unless congestion cut cwnd.
func (b *bbr) targetInflight() float64 { return min(b.bdp(b.bw(), 1), b.cwnd) }

// initPacing sets the first pacing rate, from the initial window and the first
// round trip (section 5.6.2).
func (b *bbr) initPacing(srtt time.Duration) {
	if b.rate == 0 && srtt > 0 {
		b.rate = min(max(bbrStartupPacingGain*initialCwnd(b.mss)/srtt.Seconds(), bbrMinRate), bbrMaxRate)
	}
}

// setPacingRate is BBRSetPacingRateWithGain.
func (b *bbr) setPacingRate(gain float64) {
	rate := gain * b.bw() * b.tolerant.margin() * b.tolerant.compensation(b.mss)
	if b.rate > 0 && (b.pipe.reached || rate > b.rate) {
		b.rate = min(max(rate, bbrMinRate), bbrMaxRate)
	}
}

// setCwnd follows BBRSetCwnd and what bounds it (sections 5.6.4.5 to 5.6.4.7).
func (b *bbr) setCwnd(acked float64) {
	target := b.quantized(max(b.bdp(b.bw(), b.cwndGain), b.standing()) + b.extra.max())
	if b.pipe.reached {
		b.cwnd = min(b.cwnd+acked, target)
	} else if b.cwnd < target || float64(b.delivered) < initialCwnd(b.mss) {
		b.cwnd += acked
	}
	b.cwnd = max(b.cwnd, b.minCwnd())
	if b.state == bbrProbeRTT {
		b.cwnd = min(b.cwnd, b.probeRTTCwnd())
	}

	limit := math.Inf(1)
	switch b.state {
	case bbrProbeDown, bbrProbeRefill, bbrProbeUp:
		limit = b.bounds.inflightLong
	case bbrProbeCruise, bbrProbeRTT:
		limit = b.bounds.withHeadroom(b.mss, b.minCwnd())
	}
	limit = max(min(limit, b.bounds.inflightShort), b.minCwnd())
	b.cwnd = min(b.cwnd, limit, maxCwnd)
}

// maxStandingGain bounds standing, in BDP.
const maxStandingGain = 3

// standing is the volume that the pacing rate needs at the smallest RTT of the
// last round trip, where others keep a queue of more than a BDP. The draft's
// window of two BDP would hold the flow below its share there; it is meant to
// bound the queue that the flow makes itself, which the pacing rate does as well.
func (b *bbr) standing() float64 {
	if !b.tolerant.crowded || !b.pipe.reached {
		return 0
	}
	gain := b.tolerant.roundMin.Seconds() / max(b.minRTT.min, 1).Seconds()
	return b.bdp(b.bw(), min(gain, maxStandingGain))
}

// extraAckedRounds is half the window in which extraAcked is a maximum, in
// round trips (BBRExtraAckedFilterLen).
const extraAckedRounds = 5

// extraAcked measures how much more than expected ACKs bring at once, since
// links and receivers gather them (section 5.5.9).
type extraAcked struct {
	since      time.Time
	acked      float64 // since then
	this, last float64 // maxima of two successive windows
	rounds     int     // of the present one
}

func (e *extraAcked) restart(now time.Time) { e.since, e.acked = now, 0 }

func (e *extraAcked) max() float64 { return max(e.this, e.last) }

func (e *extraAcked) update(now time.Time, acked, bw, cwnd float64, inRound, full bool) {
	if inRound {
		window := 1
		if full {
			window = extraAckedRounds
		}
		if e.rounds++; e.rounds >= window {
			e.last, e.this, e.rounds = e.this, 0, 0
		}
	}
	if e.since.IsZero() {
		e.since = now
	}
	expected := min(bw, bbrMaxRate) * max(0, now.Sub(e.since).Seconds())
	if e.acked <= expected {
		e.restart(now)
		expected = 0
	}
	e.acked = min(e.acked+acked, maxCwnd)
	e.this = max(e.this, min(e.acked-expected, cwnd))
}
