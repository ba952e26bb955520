package ri2n

import (
	"math"
	"math/rand/v2"
	"time"
)

// Constants of BBRv3 (draft-ietf-ccwg-bbr-04, section 2.4 ff.).
const (
	bbrStartupPacingGain = 2.77
	bbrDrainPacingGain   = 0.35
	bbrDownPacingGain    = 0.90
	bbrUpPacingGain      = 1.25
	bbrCwndGain          = 2.0
	bbrUpCwndGain        = 2.25
	bbrProbeRTTCwndGain  = 0.5

	bbrPacingMargin = 0.01 // of the estimate (section 5.6.2)
	bbrBeta         = 0.7
	bbrHeadroom     = 0.15
	bbrMinPipeCwnd  = 4 // packets

	bbrMaxRate = maxPacingRate
	bbrMinRate = minPacingRate
)

// A bbrState is a state of draft-ietf-ccwg-bbr-04, section 5.1.
type bbrState uint8

const (
	bbrStartup bbrState = iota
	bbrDrain
	bbrProbeDown
	bbrProbeCruise
	bbrProbeRefill
	bbrProbeUp
	bbrProbeRTT
)

func (s bbrState) String() string {
	return [...]string{"Startup", "Drain", "ProbeBW_DOWN", "ProbeBW_CRUISE", "ProbeBW_REFILL", "ProbeBW_UP", "ProbeRTT"}[s]
}

// inProbeBW reports whether s is one of the four states of ProbeBW.
func (s bbrState) inProbeBW() bool { return s >= bbrProbeDown && s <= bbrProbeUp }

// probing reports whether s sends more in order to find more bandwidth.
func (s bbrState) probing() bool {
	return s == bbrStartup || s == bbrProbeRefill || s == bbrProbeUp
}

// A bbrAckPhase tells what the packets now acknowledged were sent for.
type bbrAckPhase uint8

const (
	bbrAcksInit bbrAckPhase = iota
	bbrAcksRefilling
	bbrAcksProbeStarting
	bbrAcksProbeFeedback
	bbrAcksProbeStopping
)

// A bbr is the BBRv3 congestion controller (draft-ietf-ccwg-bbr-04) with a
// rule for random loss of our own (see lossTolerance). Volumes are bytes and
// rates bytes per second, both float64; a bound that is not set is +Inf. No
// volume is ever divided by anything but a positive constant or a checked
// divisor, so there is no NaN.
type bbr struct {
	mss int
	rng *rand.Rand // of the waits between probes

	// What the pacer and the window obey.
	cwnd       float64
	rate       float64 // zero: no round trip has been measured
	pacingGain float64
	cwndGain   float64

	state    bbrState
	ackPhase bbrAckPhase

	// The model of the path.
	maxBW    maxBandwidth
	pipe     fullPipe
	bounds   pathBounds
	signals  deliverySignals
	minRTT   bbrMinRTT
	extra    extraAcked
	tolerant lossTolerance

	// Packet-timed rounds (section 5.5.1).
	delivered uint64 // total, at the last ACK
	roundEnd  uint64 // delivered at which the present round ends
	inRound   bool   // this ACK begins a round

	probe bbrProbe

	// Use of the window, to tell whether it limits the sender.
	fullThisRound, fullLastRound bool

	// Application-limited samples (section 4.1.2.4) that we caused ourselves:
	// of packets that left with delivered in [ignoreFrom, ignoreUntil].
	ignoreFrom, ignoreUntil uint64
	idleRestart             bool

	// Loss recovery (section 5.6.4.4).
	recoveryStart time.Time
	recovering    bool
	priorCwnd     float64 // the last good window; zero: none saved
	undo          bbrUndo
}

// newBBR returns a controller for packets of maxDatagramSize bytes. A nil rng
// makes every wait the shortest.
func newBBR(maxDatagramSize int, rng *rand.Rand) *bbr {
	b := &bbr{mss: max(maxDatagramSize, 1), rng: rng}
	b.Reset()
	return b
}

func (b *bbr) Reset() {
	*b = bbr{mss: b.mss, rng: b.rng, cwnd: initialCwnd(b.mss)}
	b.bounds.reset()
	b.bounds.inflightLong = math.Inf(1)
	b.enterStartup()
}

// SetMaxDatagramSize follows the path MTU. The window keeps its bytes, save
// that the initial window and the minimum are counted in datagrams.
func (b *bbr) SetMaxDatagramSize(size int) {
	size = min(max(size, 1), 1<<16)
	if b.cwnd == initialCwnd(b.mss) && b.rate == 0 {
		b.cwnd = initialCwnd(size)
	}
	b.mss = size
	b.cwnd = max(b.cwnd, b.minCwnd())
}

func (b *bbr) Cwnd() int         { return int(b.cwnd) }
func (b *bbr) InSlowStart() bool { return b.state == bbrStartup }

func (b *bbr) PacingRate() float64 { return b.rate }

func (b *bbr) minCwnd() float64 { return float64(bbrMinPipeCwnd * b.mss) }

// OnSent follows BBROnTransmit (section 5.2.2).
func (b *bbr) OnSent(now time.Time, bytes, inFlight int) {
	if float64(inFlight+b.mss) > b.cwnd {
		b.fullThisRound = true
	}
	if inFlight > bytes || b.delivered == 0 {
		return
	}
	// Nothing was in flight: a restart from idle (section 5.4).
	b.idleRestart = true
	b.extra.restart(now)
	switch {
	case b.state.inProbeBW():
		b.setPacingRate(1)
	case b.state == bbrProbeRTT:
		b.checkProbeRTTDone(now)
	}
}

// OnAck follows BBRUpdateOnACK (section 5.2.3).
func (b *bbr) OnAck(now time.Time, s AckSample) {
	if !(s.DeliveryRate > 0) {
		s.DeliveryRate = 0
	}
	s.DeliveryRate = min(s.DeliveryRate, bbrMaxRate)
	if s.Delivery.Prior >= b.ignoreFrom && s.Delivery.Prior <= b.ignoreUntil && b.ignoreUntil > 0 {
		s.AppLimited = true
	}
	b.updateRound(s.Delivery)
	b.leaveRecovery(s)

	b.updateLatestDelivery(s)
	b.updateCongestion(s)
	b.extra.update(now, float64(max(s.AckedBytes, 0)), b.bw(), b.cwnd, b.inRound, b.pipe.reached)
	b.checkFullPipe(s)
	b.checkStartupDone(s)
	b.checkDrainDone(now, s)
	b.updateProbeBW(now, s)
	b.minRTT.update(now, s, b.tolerant.shared)
	b.checkProbeRTT(now, s)
	b.signals.advance(s)

	b.initPacing(s.RTT.Smoothed)
	b.setPacingRate(b.pacingGain)
	b.setCwnd(float64(max(s.AckedBytes, 0)))
	if b.inRound {
		b.fullLastRound, b.fullThisRound = b.fullThisRound, false
	}
}

// updateRound follows BBRUpdateRound (section 5.5.1).
func (b *bbr) updateRound(d DeliverySpan) {
	b.delivered = max(b.delivered, d.Total)
	b.inRound = d.Prior >= b.roundEnd
	if b.inRound {
		b.startRound()
		b.probe.rounds++
	}
}

func (b *bbr) startRound() { b.roundEnd = b.delivered }

// limited reports whether the window has held the sender back in this round
// trip or the last.
func (b *bbr) limited() bool { return b.fullThisRound || b.fullLastRound }

// random returns a number in [0, 1).
func (b *bbr) random() float64 {
	if b.rng == nil {
		return 0
	}
	return b.rng.Float64()
}

// enterStartup begins the exponential search (section 5.3.1).
func (b *bbr) enterStartup() {
	b.state = bbrStartup
	b.pacingGain, b.cwndGain = bbrStartupPacingGain, bbrCwndGain
}

func (b *bbr) checkFullPipe(s AckSample) {
	if b.inRound && !s.AppLimited {
		b.pipe.round(s.DeliveryRate)
	}
}

// checkStartupDone leaves Startup at a plateau of bandwidth or at much loss
// (sections 5.3.1.2 and 5.3.1.3).
func (b *bbr) checkStartupDone(s AckSample) {
	if b.state != bbrStartup {
		return
	}
	if b.signals.startupLoss && !b.pipe.reached {
		b.pipe.reached = true
		b.bounds.inflightLong = max(b.inflight(b.maxBW.max(), 1), b.signals.inflightLatest)
	}
	b.signals.startupLoss = false
	if b.pipe.reached {
		b.state = bbrDrain
		b.pacingGain, b.cwndGain = bbrDrainPacingGain, bbrCwndGain
	}
}

// checkDrainDone leaves Drain when the queue made by Startup has gone.
func (b *bbr) checkDrainDone(now time.Time, s AckSample) {
	if b.state == bbrDrain && float64(s.Delivery.InFlight) <= b.inflight(b.bw(), 1) {
		b.startProbeDown(now)
	}
}
