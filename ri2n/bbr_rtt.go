package ri2n

import "time"

// draft-ietf-ccwg-bbr-04, sections 5.3.4 and 5.5.7.2.
const (
	bbrMinRTTWindow     = 10 * time.Second
	bbrProbeRTTInterval = 5 * time.Second
	bbrProbeRTTDuration = 200 * time.Millisecond

	// A flow that has lately found the RTT within an eighth of its minimum
	// probes half as often if it is alone: at most once in bbrMinRTTWindow, as
	// BBRv1 does. The queue is empty by itself, and a probe costs half the rate
	// for 250 ms.
	bbrNearMin       = 8
	bbrNearMinMemory = bbrProbeRTTInterval / 2
)

// bbrMinRTT is the estimate of the RTT without queue, and the clock of
// ProbeRTT.
type bbrMinRTT struct {
	min     time.Duration // zero: not known
	minAt   time.Time
	probe   time.Duration // the least since the last probe; zero: not known
	probeAt time.Time

	nearAt time.Time // when a sample was last near min

	expired bool      // it is time to probe
	until   time.Time // when the present probe may end; zero: not yet drained
	round   bool      // a round trip of it has passed
}

// update follows BBRUpdateMinRTT (section 5.3.4.3).
func (m *bbrMinRTT) update(now time.Time, s AckSample, shared bool) {
	interval := bbrProbeRTTInterval
	if !shared && now.Sub(m.nearAt) <= bbrNearMinMemory {
		interval = bbrMinRTTWindow
	}
	m.expired = m.probe > 0 && now.Sub(m.probeAt) > interval
	if s.RTTSampled && s.RTT.Latest > 0 && (m.probe == 0 || m.expired || s.RTT.Latest < m.probe) {
		m.probe, m.probeAt = s.RTT.Latest, now
	}
	if m.probe > 0 && (m.min == 0 || m.probe < m.min || now.Sub(m.minAt) > bbrMinRTTWindow) {
		m.min, m.minAt = m.probe, m.probeAt
	}
	if s.RTTSampled && s.RTT.Latest <= m.min+m.min/bbrNearMin {
		m.nearAt = now
	}
}

// checkProbeRTT follows BBRCheckProbeRTT.
func (b *bbr) checkProbeRTT(now time.Time, s AckSample) {
	if b.state != bbrProbeRTT && b.minRTT.expired && !b.idleRestart {
		b.saveCwnd()
		b.state = bbrProbeRTT
		b.pacingGain, b.cwndGain = 1, bbrProbeRTTCwndGain
		b.minRTT.until = time.Time{}
		b.ackPhase = bbrAcksProbeStopping
		b.startRound()
		b.ignoreFrom = b.delivered
	}
	if b.state == bbrProbeRTT {
		b.handleProbeRTT(now, s)
	}
	if s.Delivery.volume() > 0 {
		b.idleRestart = false
	}
}

func (b *bbr) handleProbeRTT(now time.Time, s AckSample) {
	// Samples of so small a window say little: they count as limited by the
	// application.
	b.ignoreUntil = b.delivered + uint64(max(s.Delivery.InFlight, 0))
	switch {
	case b.minRTT.until.IsZero():
		if float64(s.Delivery.InFlight) <= b.probeRTTCwnd() {
			b.minRTT.until = now.Add(bbrProbeRTTDuration)
			b.minRTT.round = false
			b.startRound()
		}
	default:
		b.minRTT.round = b.minRTT.round || b.inRound
		if b.minRTT.round {
			b.checkProbeRTTDone(now)
		}
	}
}

func (b *bbr) checkProbeRTTDone(now time.Time) {
	if b.minRTT.until.IsZero() || !now.After(b.minRTT.until) {
		return
	}
	b.minRTT.probeAt = now // until the next one
	b.restoreCwnd()
	b.bounds.reset()
	if !b.pipe.reached {
		b.enterStartup()
		return
	}
	// What is in flight is below the BDP already, so there is nothing to drain.
	b.startProbeDown(now)
	b.startProbeCruise()
}

func (b *bbr) probeRTTCwnd() float64 {
	return max(b.bdp(b.bw(), bbrProbeRTTCwndGain), b.minCwnd())
}
