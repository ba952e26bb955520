package ri2n

import (
	"math"
	"time"
)

// Constants of RFC 9438, section 4. The window is in segments there; here it
// is in bytes, and cubicC applies after division by the segment size.
const (
	cubicC     = 0.4 // segments per second cubed
	cubicBeta  = 0.7
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta)
)

// A cubic is the CUBIC congestion controller (RFC 9438) with HyStart++ in its
// first slow start.
type cubic struct {
	mss  int
	srtt time.Duration // of the last ACK; zero: none

	cubicState
	undo      cubicState // before the last cut
	undoValid bool

	recoveryStart time.Time // losses of packets sent before it are old news
	lastAck       time.Time // until when epoch has been counted
	use           windowUse
	hystart       hystart
}

// The cubicState is what a cut changes and an undo restores. Sizes are bytes.
type cubicState struct {
	cwnd, ssthresh float64 // ssthresh +Inf: not known yet

	wMax  float64       // window at the last cut; zero: no cut yet
	prior float64       // cwnd just before the last cut
	wEst  float64       // what Reno would have (section 4.3); zero: no epoch begun
	k     float64       // seconds until the curve is back at wMax
	start float64       // cwnd at the begin of the epoch
	epoch time.Duration // time in congestion avoidance spent limited by the window
}

// newCubic returns a controller for packets of maxDatagramSize bytes.
func newCubic(maxDatagramSize int) *cubic {
	c := &cubic{mss: max(maxDatagramSize, 1)}
	c.Reset()
	return c
}

func (c *cubic) Reset() {
	*c = cubic{mss: c.mss, cubicState: cubicState{cwnd: initialCwnd(c.mss), ssthresh: math.Inf(1)}}
}

// SetMaxDatagramSize follows the path MTU. The window keeps its bytes, save
// that the initial window and the minimum are counted in datagrams.
func (c *cubic) SetMaxDatagramSize(size int) {
	size = max(size, 1)
	if c.cwnd == initialCwnd(c.mss) && c.wMax == 0 {
		c.cwnd = initialCwnd(size)
	}
	c.mss = size
	c.cwnd = max(c.cwnd, minimumCwnd(size))
}

func (c *cubic) Cwnd() int           { return int(c.cwnd) }
func (c *cubic) InSlowStart() bool   { return c.cwnd < c.ssthresh }
func (c *cubic) PacingRate() float64 { return pacingRate(c.cwnd, c.srtt, c.InSlowStart()) }

func (c *cubic) OnSent(now time.Time, bytes, inFlight int) {
	c.use.inFlight(inFlight)
	if inFlight <= bytes {
		c.lastAck = now // the silence before is no part of the epoch
	}
}

func (c *cubic) OnAck(now time.Time, s AckSample) {
	c.srtt = s.RTT.Smoothed
	c.use.inFlight(s.PriorInFlight)
	if s.RoundStart {
		defer c.use.roundStart()
	}
	elapsed := now.Sub(c.lastAck)
	if c.lastAck.IsZero() || elapsed < 0 {
		elapsed = 0
	}
	c.lastAck = now

	slowStart := c.InSlowStart()
	growth := hystartFullGrowth
	if slowStart && math.IsInf(c.ssthresh, 1) {
		var rtt time.Duration
		if s.RTTSampled {
			rtt = s.RTT.Latest
		}
		growth = c.hystart.ack(rtt, s.RoundStart)
	}
	if s.AckedBytes <= 0 || !s.LargestAckedSentAt.After(c.recoveryStart) {
		return // RFC 9002, section 7.3.2: no growth in recovery
	}
	if !c.use.limited(c.cwnd, c.mss, slowStart) {
		return // RFC 9438, section 5.8: nor does the epoch go on
	}
	acked := float64(s.AckedBytes)
	if slowStart {
		if growth == hystartEndOfSlowStart {
			c.ssthresh = c.cwnd
			return
		}
		c.cwnd = min(c.cwnd+growth*acked, c.ssthresh, maxCwnd)
		return
	}
	if c.wEst == 0 {
		c.beginEpoch()
	} else {
		c.epoch += elapsed
	}
	c.avoid(acked)
}

// beginEpoch starts the curve of RFC 9438, section 4.2, at the present window.
func (c *cubic) beginEpoch() {
	c.epoch = 0
	c.start, c.wEst = c.cwnd, c.cwnd
	c.k = 0
	if c.wMax > c.cwnd {
		c.k = math.Cbrt((c.wMax - c.cwnd) / float64(c.mss) / cubicC)
	} else {
		c.wMax = c.cwnd
	}
}

// window is W_cubic (RFC 9438, equation 1) at t seconds into the epoch.
func (c *cubic) window(t float64) float64 {
	d := t - c.k
	return cubicC*d*d*d*float64(c.mss) + c.wMax
}

// avoid grows the window in congestion avoidance (RFC 9438, sections 4.3 to 4.5).
func (c *cubic) avoid(acked float64) {
	alpha := cubicAlpha
	if c.wEst >= c.prior {
		alpha = 1
	}
	c.wEst = min(c.wEst+alpha*float64(c.mss)*acked/c.cwnd, maxCwnd)

	t := c.epoch.Seconds()
	if c.window(t) < c.wEst {
		c.cwnd = min(max(c.cwnd, c.wEst), maxCwnd)
		return
	}
	target := min(max(c.window(t+c.srtt.Seconds()), c.cwnd), 1.5*c.cwnd)
	// A window's worth of ACKs takes us to the target; a larger ACK no further.
	c.cwnd = min(c.cwnd+(target-c.cwnd)*min(1, acked/c.cwnd), maxCwnd)
}

func (c *cubic) OnLoss(now time.Time, e LossEvent) {
	if e.LostBytes <= 0 {
		return
	}
	if e.LargestLostSentAt.After(c.recoveryStart) {
		c.undo, c.undoValid = c.cubicState, true
		c.recoveryStart = now
		c.cut()
	}
	if e.Persistent {
		// RFC 9002, section 7.6.2: slow start again, and no recovery period.
		c.cwnd = minimumCwnd(c.mss)
		c.wEst = 0
		c.recoveryStart = time.Time{}
	}
}

// cut is the multiplicative decrease with fast convergence (RFC 9438, sections
// 4.6 and 4.7).
func (c *cubic) cut() {
	c.prior = c.cwnd
	if c.cwnd < c.wMax {
		c.wMax = c.cwnd * (1 + cubicBeta) / 2
	} else {
		c.wMax = c.cwnd
	}
	c.ssthresh = max(c.cwnd*cubicBeta, minimumCwnd(c.mss))
	c.cwnd = c.ssthresh
	c.wEst = 0
}

// OnSpurious restores the state before the last cut (RFC 9438, section 4.9.2).
func (c *cubic) OnSpurious(time.Time) {
	if !c.undoValid {
		return
	}
	grown := c.cwnd
	c.cubicState = c.undo
	c.cwnd = max(c.cwnd, grown)
	c.undoValid = false
	c.recoveryStart = time.Time{}
}
