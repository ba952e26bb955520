package ri2n

import "math"

// maxBandwidth is the windowed maximum of delivery rates over this ProbeBW
// cycle and the last (draft-ietf-ccwg-bbr-04, sections 5.5.3 to 5.5.6).
type maxBandwidth struct {
	last, this float64 // bytes per second; zero: no sample
}

func (m *maxBandwidth) add(rate float64) { m.this = max(m.this, rate) }

func (m *maxBandwidth) max() float64 { return max(m.last, m.this) }

// advance begins another cycle. A cycle without samples is none.
func (m *maxBandwidth) advance() {
	if m.this > 0 {
		m.last, m.this = m.this, 0
	}
}

// fullPipeGrowth and fullPipeRounds say what a plateau is (section 5.3.1.2).
const (
	fullPipeGrowth = 1.25
	fullPipeRounds = 3
)

// fullPipe finds out whether sending faster still makes data arrive faster.
type fullPipe struct {
	base    float64 // bytes per second, from which growth is counted
	rounds  int     // without growth
	now     bool    // the present search has ended
	reached bool    // some search has: the path has been full once
}

// search begins anew, with growth counted from base.
func (p *fullPipe) search(base float64) { p.base, p.rounds, p.now = base, 0, false }

// round takes the rate with which a round trip ended.
func (p *fullPipe) round(rate float64) {
	if p.now {
		return
	}
	if rate >= p.base*fullPipeGrowth {
		p.search(rate)
		return
	}
	if p.rounds++; p.rounds >= fullPipeRounds {
		p.now, p.reached = true, true
	}
}

// pathBounds is what losses have taught: the short-term bounds until the next
// probe for bandwidth, the long-term one beyond (section 3.4.2.3). +Inf means
// none.
type pathBounds struct {
	bwShort       float64
	inflightShort float64
	inflightLong  float64
}

// reset drops the short-term bounds.
func (p *pathBounds) reset() { p.bwShort, p.inflightShort = math.Inf(1), math.Inf(1) }

// lower follows BBRInitLowerBounds and BBRLossLowerBounds (section 5.5.10.3).
func (p *pathBounds) lower(maxBW, cwnd, latestBW, latestInflight float64) {
	if math.IsInf(p.bwShort, 1) {
		p.bwShort = maxBW
	}
	if math.IsInf(p.inflightShort, 1) {
		p.inflightShort = cwnd
	}
	p.bwShort = max(latestBW, bbrBeta*p.bwShort)
	p.inflightShort = max(latestInflight, bbrBeta*p.inflightShort)
}

// withHeadroom is the long-term bound less what is left to other flows.
func (p *pathBounds) withHeadroom(mss int, least float64) float64 {
	if math.IsInf(p.inflightLong, 1) {
		return p.inflightLong
	}
	return max(p.inflightLong-max(float64(mss), bbrHeadroom*p.inflightLong), least)
}

// bw is the bandwidth that the sender reckons with (BBRBoundBWForModel).
func (b *bbr) bw() float64 { return min(b.maxBW.max(), b.bounds.bwShort) }

// deliverySignals is what the last round trip has delivered, and whether it
// has lost (section 5.5.10.3). Its rounds are counted from the first loss.
type deliverySignals struct {
	bwLatest       float64
	inflightLatest float64
	lossInRound    bool
	roundEnd       uint64 // delivered at which the loss round ends
	roundStart     bool   // with this ACK
	lossEvents     int    // in this loss round
	startupLoss    bool   // Startup has lost too much
}

// reset follows BBRResetCongestionSignals.
func (d *deliverySignals) reset() {
	d.lossInRound, d.lossEvents = false, 0
	d.bwLatest, d.inflightLatest = 0, 0
}

// advance follows BBRAdvanceLatestDeliverySignals.
func (d *deliverySignals) advance(s AckSample) {
	if d.roundStart {
		d.bwLatest, d.inflightLatest = s.DeliveryRate, s.Delivery.volume()
	}
}

// volume is what was delivered from the sending of the newest packet of the
// ACK until now: RS.delivered.
func (d DeliverySpan) volume() float64 {
	if d.Total <= d.Prior {
		return 0
	}
	return float64(d.Total - d.Prior)
}

// updateLatestDelivery follows BBRUpdateLatestDeliverySignals.
func (b *bbr) updateLatestDelivery(s AckSample) {
	d := &b.signals
	d.roundStart = false
	d.bwLatest = max(d.bwLatest, s.DeliveryRate)
	d.inflightLatest = max(d.inflightLatest, s.Delivery.volume())
	if s.Delivery.Prior >= d.roundEnd {
		d.roundEnd = b.delivered
		d.roundStart = true
	}
}

// updateCongestion follows BBRUpdateCongestionSignals: it takes the bandwidth
// sample and, once in a round trip, responds to loss.
func (b *bbr) updateCongestion(s AckSample) {
	if s.DeliveryRate > 0 && (s.DeliveryRate >= b.maxBW.max() || !s.AppLimited) {
		b.maxBW.add(s.DeliveryRate)
	}
	b.tolerant.acked(s)
	if !b.signals.roundStart {
		return
	}
	tolerated := b.tolerant.endRound(b.state, b.minRTT.min, b.mss)
	if b.signals.lossInRound {
		switch {
		case b.state == bbrStartup:
			b.signals.startupLoss = !tolerated && b.recovering && b.signals.lossEvents >= bbrStartupLossEvents
		case !b.state.probing() && !tolerated:
			b.bounds.lower(b.maxBW.max(), b.cwnd, b.signals.bwLatest, b.signals.inflightLatest)
		}
	}
	b.signals.lossInRound, b.signals.lossEvents = false, 0
}
