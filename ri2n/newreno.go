package ri2n

import (
	"math"
	"time"
)

// A newReno is the controller of RFC 9002, appendix B. It is the plain
// reference that tests compare others with.
type newReno struct {
	mss            int
	srtt           time.Duration
	cwnd, ssthresh float64

	undoCwnd, undoSsthresh float64 // before the last cut; zero: nothing to undo

	recoveryStart time.Time
	use           windowUse
}

func newNewReno(maxDatagramSize int) *newReno {
	c := &newReno{mss: max(maxDatagramSize, 1)}
	c.Reset()
	return c
}

func (c *newReno) Reset() {
	*c = newReno{mss: c.mss, cwnd: initialCwnd(c.mss), ssthresh: math.Inf(1)}
}

// SetMaxDatagramSize follows the path MTU. The window keeps its bytes, save
// that the initial window and the minimum are counted in datagrams.
func (c *newReno) SetMaxDatagramSize(size int) {
	size = max(size, 1)
	if c.cwnd == initialCwnd(c.mss) && math.IsInf(c.ssthresh, 1) {
		c.cwnd = initialCwnd(size)
	}
	c.mss = size
	c.cwnd = max(c.cwnd, minimumCwnd(size))
}

func (c *newReno) Cwnd() int           { return int(c.cwnd) }
func (c *newReno) InSlowStart() bool   { return c.cwnd < c.ssthresh }
func (c *newReno) PacingRate() float64 { return pacingRate(c.cwnd, c.srtt, c.InSlowStart()) }

func (c *newReno) OnSent(_ time.Time, _, inFlight int) { c.use.inFlight(inFlight) }

func (c *newReno) OnAck(_ time.Time, s AckSample) {
	c.srtt = s.RTT.Smoothed
	c.use.inFlight(s.PriorInFlight)
	if s.RoundStart {
		defer c.use.roundStart()
	}
	if !s.LargestAckedSentAt.After(c.recoveryStart) || !c.use.limited(c.cwnd, c.mss, c.InSlowStart()) {
		return
	}
	if c.InSlowStart() {
		c.cwnd = min(c.cwnd+float64(s.AckedBytes), maxCwnd)
		return
	}
	c.cwnd = min(c.cwnd+float64(c.mss)*float64(s.AckedBytes)/c.cwnd, maxCwnd)
}

func (c *newReno) OnLoss(now time.Time, e LossEvent) {
	if e.LostBytes <= 0 {
		return
	}
	if e.LargestLostSentAt.After(c.recoveryStart) {
		c.undoCwnd, c.undoSsthresh = c.cwnd, c.ssthresh
		c.recoveryStart = now
		c.ssthresh = max(c.cwnd/2, minimumCwnd(c.mss))
		c.cwnd = c.ssthresh
	}
	if e.Persistent {
		c.cwnd = minimumCwnd(c.mss)
		c.recoveryStart = time.Time{}
	}
}

func (c *newReno) OnSpurious(time.Time) {
	if c.undoCwnd == 0 {
		return
	}
	c.cwnd, c.ssthresh = max(c.cwnd, c.undoCwnd), c.undoSsthresh
	c.undoCwnd = 0
	c.recoveryStart = time.Time{}
}
