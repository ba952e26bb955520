package ri2n

import "time"

// A rateSample estimates the delivery rate from the packets of one ACK
// (draft-cheng-iccrg-delivery-rate-estimation, section 3): bytes delivered
// between the sending and the acknowledgement of the newest of them, over the
// longer of the time it took to send and the time it took to acknowledge.
type rateSample struct {
	any         bool
	sentAt      int64
	delivered   uint64
	deliveredAt int64
	sendElapsed int64
	appLimited  bool
	inFlight    uint32
	lostBefore  uint32
}

// add takes one newly acknowledged packet into account.
func (s *rateSample) add(p *sentPacket) {
	if s.any && p.sentAt <= s.sentAt {
		return
	}
	*s = rateSample{
		any:         true,
		sentAt:      p.sentAt,
		delivered:   p.delivered,
		deliveredAt: p.deliveredAt,
		sendElapsed: int64(p.sendElapsed) * 1000,
		appLimited:  p.appLimited,
		inFlight:    p.inFlight,
		lostBefore:  p.lostBefore,
	}
}

// deliver counts an acknowledged packet. One that was given up, and left before
// sampling began anew, was on its way during none of the intervals that samples
// measure since: a path that comes back has the ACKs of a whole window for the
// first packet, and would look several times as fast as it is.
func (d *lossDetector) deliver(t int64, p *sentPacket) {
	if p.sentAt < d.sampledFrom {
		d.outlived += uint64(p.size)
		return
	}
	d.delivered += uint64(p.size)
	d.deliveredAt = t
}

// finishRate fills in the rate and the round trip of out.
func (d *lossDetector) finishRate(s *rateSample, rtt *rttEstimator, out *ackOutcome) {
	if d.appLimitedUntil != 0 && d.delivered > d.appLimitedUntil {
		d.appLimitedUntil = 0
	}
	if !s.any {
		return
	}
	d.firstSentAt = s.sentAt
	out.appLimited = s.appLimited
	if s.delivered >= d.roundEnd {
		d.roundEnd = d.delivered
		out.roundStart = true
	}
	// Bytes cannot have been delivered in less than a round trip; a shorter
	// interval is an artefact of ACKs that arrived together.
	elapsed := max(s.sendElapsed, d.deliveredAt-s.deliveredAt)
	if elapsed <= 0 || time.Duration(elapsed) < rtt.min {
		return
	}
	out.deliveryRate = float64(d.delivered-s.delivered) / time.Duration(elapsed).Seconds()
}

// finishDelivery fills in the delivery of out once losses are known.
func (d *lossDetector) finishDelivery(s *rateSample, out *ackOutcome) {
	if !s.any {
		return
	}
	out.delivery = DeliverySpan{
		Total:    d.delivered,
		Prior:    s.delivered,
		SentWith: int(s.inFlight),
		Lost:     int(uint32(d.lost) - s.lostBefore),
		InFlight: d.inFlight,
	}
}

// setAppLimited records that the sender has run out of data while the
// congestion window had room: samples from packets sent until what is now in
// flight has been delivered underestimate the path.
func (d *lossDetector) setAppLimited() {
	d.appLimitedUntil = max(1, d.delivered+uint64(d.inFlight))
}
