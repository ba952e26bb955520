package ri2n

import "time"

const (
	bbrLossThreshold     = 0.02 // section 2.5
	bbrStartupLossEvents = 6    // section 5.3.1.3

	// bbrYield is how much of the volume that was too much remains. The draft
	// keeps all of it, and leaves a flow that came later little to grow into.
	bbrYield = 0.7

	// The loss-tolerant rule: up to randomLossCeiling of random loss is no
	// congestion.
	randomLossCeiling = 0.10
	// randomLossEnd is where the rule, fading from the ceiling on, has ended,
	// and what is believed before the path's own loss is known.
	randomLossEnd = 0.15
	// queueGrowth is how much above the minimum the smallest RTT of a round
	// trip must be to show a standing queue.
	queueGrowth = 1.25
	// emptyQueueShare: a queue that adds a sixteenth to the RTT counts as empty.
	emptyQueueShare = 16
	// randomLossMemory is how many packets the estimate of random loss looks
	// back, about; randomLossSample is how many make an estimate.
	randomLossMemory = 2000
	randomLossSample = 200
	// randomLossFade is the number of round trips with a queue in which the
	// estimate fades.
	randomLossFade = 128
)

// A lossTolerance tells random loss from congestion. Loss that comes without a
// queue and does not depend on what we send is taken for the path's own. It is
// measured while the sender cruises; twice that and the threshold of the draft
// may be lost before it counts as congestion, whether the sender probes or not.
// Where a round trip has no RTT near the minimum there is a queue, and the
// draft's rule holds for what is lost beyond the path's own.
type lossTolerance struct {
	lost, arrived float64       // bytes, in this loss round
	rttMin        time.Duration // in this loss round; zero: none
	roundMin      time.Duration // in the last that had a sample
	queue         bool          // the last loss round had a standing queue
	calm          bool          // neither it nor the one before had
	empty         bool          // the last loss round found the queue all but empty
	crowded       bool          // the last loss round had a queue of more than one BDP

	// deep tells that a probe for bandwidth made a queue in the last cycle of
	// probing, or in this one. A path with room for one loses nothing for want of
	// room while it is empty. At a policer, in a very shallow queue and as one of
	// many flows a probe makes none to speak of.
	deep, deepThisCycle bool

	// shared tells, for the same time, that there was a queue while we cruised:
	// others send as well. cruised counts the loss rounds since Cruise began.
	shared, sharedThisCycle bool
	cruised                 int

	floorLost, floorAll float64       // bytes, while cruising; fades
	floorMin            time.Duration // RTT without queue as believed then
}

func (l *lossTolerance) acked(s AckSample) {
	l.arrived += float64(max(s.AckedBytes, 0))
	if s.RTTSampled && (l.rttMin == 0 || s.RTT.Latest < l.rttMin) {
		l.rttMin = s.RTT.Latest
	}
}

func (l *lossTolerance) noteLoss(bytes int) { l.lost += float64(max(bytes, 0)) }

// threshold is the share of loss up to which there is no congestion.
func (l *lossTolerance) threshold(mss int) float64 {
	floor := l.believed(mss)
	switch {
	case l.queue:
		return bbrLossThreshold + floor
	case !l.known(mss):
		return randomLossEnd
	}
	return bbrLossThreshold + 2*floor
}

// known reports whether enough has been seen to tell the path's own loss.
func (l *lossTolerance) known(mss int) bool {
	return l.floorAll >= float64(randomLossSample*mss)
}

// believed is the share of loss that is taken for the path's own: the floor,
// less and less of it above the ceiling.
func (l *lossTolerance) believed(mss int) float64 {
	floor := l.floor()
	if !l.known(mss) {
		return 0
	}
	if floor <= randomLossCeiling {
		return floor
	}
	return max(0, randomLossCeiling*(randomLossEnd-floor)/(randomLossEnd-randomLossCeiling))
}

// tolerates reports whether so much loss in a loss round is no reason to slow
// down. One packet more or less is chance.
func (l *lossTolerance) tolerates(mss int) bool {
	share := l.threshold(mss)
	if l.queue {
		if share = 2 * l.believed(mss); share == 0 {
			return false
		}
	}
	return l.lost <= share*(l.lost+l.arrived)+float64(mss)
}

// compensation is the factor on the pacing rate that makes up for random loss:
// what arrives should fill the path. Where no queue has been seen it makes up
// for three quarters, since all of it would keep a policer's loss alive that it
// caused itself.
func (l *lossTolerance) compensation(mss int) float64 {
	switch {
	case l.queue, l.alone() && !l.empty:
		return 1
	case l.alone():
		return 1 / (1 - l.believed(mss))
	}
	return 1 / (1 - 0.75*l.believed(mss))
}

// margin is the factor between the estimated bandwidth and the pacing rate. The
// draft paces 1 % below the estimate at all times, to empty the queue; we only
// while there is one, and 1 % above it while it is empty, since an empty queue
// is a link that idles now and then.
func (l *lossTolerance) margin() float64 {
	if l.empty && l.alone() {
		return 1 + bbrPacingMargin
	}
	return 1 - bbrPacingMargin
}

// alone reports whether the path has room for a queue, and nobody else fills
// it. What two flows add to an empty queue each of them takes for its own.
func (l *lossTolerance) alone() bool { return l.deep && !l.shared }

// endCycle closes a cycle of probing for bandwidth.
func (l *lossTolerance) endCycle() {
	l.deep, l.deepThisCycle = l.deepThisCycle, false
	l.shared, l.sharedThisCycle = l.sharedThisCycle, false
}

// floor is the path's own loss, 0 to 1.
func (l *lossTolerance) floor() float64 {
	if l.floorAll <= 0 {
		return 0
	}
	return l.floorLost / l.floorAll
}

// endRound closes a loss round and reports whether what it lost may be put
// down to the path. pathMin is the RTT without queue.
func (l *lossTolerance) endRound(state bbrState, pathMin time.Duration, mss int) bool {
	if l.rttMin > 0 && pathMin > 0 {
		queue := float64(l.rttMin) > queueGrowth*float64(pathMin)
		l.calm = !queue && !l.queue
		l.queue = queue
		l.empty = l.rttMin <= pathMin+pathMin/emptyQueueShare
		l.crowded = l.rttMin > 2*pathMin
		l.roundMin = l.rttMin
		if queue && (state == bbrProbeUp || state == bbrStartup) {
			l.deep, l.deepThisCycle = true, true
		}
		// What Drain or a probe left behind may take two rounds to go.
		if state != bbrProbeCruise {
			l.cruised = 0
		} else if l.cruised++; queue && l.cruised > 2 {
			l.shared, l.sharedThisCycle = true, true
		}
	}
	all := l.lost + l.arrived
	tolerated := l.tolerates(mss)
	if pathMin < l.floorMin-l.floorMin/8 {
		// There had been a queue after all.
		l.floorLost, l.floorAll = 0, 0
		l.deep, l.deepThisCycle = false, false
	}
	l.floorMin = pathMin
	if !l.calm {
		l.floorLost -= l.floorLost / randomLossFade
		l.floorAll -= l.floorAll / randomLossFade
	} else if state == bbrProbeCruise || state == bbrProbeRefill {
		l.floorLost += l.lost
		l.floorAll += all
		if l.floorAll > float64(randomLossMemory*mss) {
			l.floorLost /= 2
			l.floorAll /= 2
		}
	}
	l.lost, l.arrived, l.rttMin = 0, 0, 0
	return tolerated
}

// OnLoss follows BBRHandleLostPacket (section 5.5.10.2) and what section
// 5.6.4.4 says of loss recovery.
func (b *bbr) OnLoss(now time.Time, e LossEvent) {
	if e.LostBytes <= 0 {
		return
	}
	if e.LargestLostSentAt.After(b.recoveryStart) {
		b.saveForUndo()
		b.saveCwnd()
		b.recoveryStart, b.recovering = now, true
	}
	b.tolerant.noteLoss(e.LostBytes)
	if !b.signals.lossInRound {
		b.signals.lossInRound = true
		b.signals.roundEnd = b.delivered
	}
	b.signals.lossEvents++
	if e.Persistent {
		// As after a retransmission time-out: start again from little, with the
		// rate that is known.
		b.cwnd = b.minCwnd()
		b.pipe.search(0) // what trickles through now is no plateau
	}
	w := e.Worst
	if !b.probe.samples || w.Size <= 0 || !b.tooMuchLost(w.Lost, w.SentWith) {
		return
	}
	b.inflightTooHigh(now, b.inflightAtLoss(w), w.AppLimited)
}

// tooMuchLost is IsInflightTooHigh.
func (b *bbr) tooMuchLost(lost, sentWith int) bool {
	return float64(lost) > float64(sentWith)*b.tolerant.threshold(b.mss)
}

// inflightAtLoss estimates the volume in flight at which the losses crossed
// the threshold (BBRInflightAtLoss).
func (b *bbr) inflightAtLoss(w LossShare) float64 {
	threshold := b.tolerant.threshold(b.mss)
	before := float64(max(0, w.SentWith-w.Size))
	lostBefore := float64(max(0, w.Lost-w.Size))
	return before + max(0, (threshold*before-lostBefore)/(1-threshold))
}

// inflightTooHigh is BBRHandleInflightTooHigh.
func (b *bbr) inflightTooHigh(now time.Time, sentWith float64, appLimited bool) {
	b.probe.samples = false // one response for each probe
	if !appLimited {
		yield := max(sentWith*bbrYield, b.inflight(b.maxBW.max(), 1/(1-bbrHeadroom)))
		b.bounds.inflightLong = max(min(sentWith, yield), b.targetInflight()*bbrBeta, b.minCwnd())
	}
	if b.state == bbrProbeUp {
		b.startProbeDown(now)
	}
}

// leaveRecovery ends loss recovery with the first ACK of a packet that was
// sent in it, and gives back the window.
func (b *bbr) leaveRecovery(s AckSample) {
	if b.recovering && s.LargestAckedSentAt.After(b.recoveryStart) {
		b.recovering = false
		if b.state != bbrProbeRTT {
			b.restoreCwnd()
		}
	}
}

func (b *bbr) saveCwnd() {
	if !b.recovering && b.state != bbrProbeRTT {
		b.priorCwnd = b.cwnd
	} else {
		b.priorCwnd = max(b.priorCwnd, b.cwnd)
	}
}

func (b *bbr) restoreCwnd() { b.cwnd = max(b.cwnd, b.priorCwnd) }

// bbrUndo is what the losses of one episode may have changed.
type bbrUndo struct {
	valid  bool
	state  bbrState
	filled bool // the pipe had been full
	bounds pathBounds
}

func (b *bbr) saveForUndo() {
	b.undo = bbrUndo{valid: true, state: b.state, filled: b.pipe.reached, bounds: b.bounds}
}

// OnSpurious takes back the response to an episode of losses that were none.
func (b *bbr) OnSpurious(time.Time) {
	if !b.undo.valid {
		return
	}
	u := b.undo
	b.undo.valid = false
	b.recovering = false
	b.recoveryStart = time.Time{}
	b.signals.lossInRound, b.signals.lossEvents, b.signals.startupLoss = false, 0, false
	b.bounds.bwShort = max(b.bounds.bwShort, u.bounds.bwShort)
	b.bounds.inflightShort = max(b.bounds.inflightShort, u.bounds.inflightShort)
	b.bounds.inflightLong = max(b.bounds.inflightLong, u.bounds.inflightLong)
	b.tolerant.lost = 0
	b.pipe.search(0)
	if b.state == bbrProbeRTT {
		return
	}
	b.restoreCwnd()
	switch {
	case u.state == bbrStartup && !u.filled && b.state != bbrStartup:
		b.pipe = fullPipe{}
		b.enterStartup()
	case u.state == bbrProbeUp && b.state == bbrProbeDown:
		b.startProbeUp(b.maxBW.max())
	}
}
