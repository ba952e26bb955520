package ri2n

import (
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// RFC 9002, section 6.1.1. The threshold grows to the distance of
	// reordering that proved losses spurious, up to maxPacketThreshold: 10 ms of
	// jitter at 100 Mbit/s is a distance of 100 packets. Beyond it the time
	// threshold decides, as in RFC 8985.
	minPacketThreshold = 3
	maxPacketThreshold = 512

	// The time threshold is 9/8 of an RTT (RFC 9002, section 6.1.2): one and
	// minPatience eighths. It grows in the same way, to two RTTs, as RACK's
	// reordering window does (RFC 8985, section 6.2); both go back to their
	// minimum after quietEpisodes episodes of real losses only.
	minPatience   = 1
	maxPatience   = 8
	quietEpisodes = 16

	// persistentCongestionThreshold as in RFC 9002, section 7.6.1.
	persistentCongestionThreshold = 3

	// A lost packet is remembered for lostRetention probe time-outs after it
	// was sent, in case its ACK arrives after all.
	lostRetention = 3

	// Two packet numbers are skipped on average in each window of packets, but
	// not more than one in minSkipInterval, so that a receiver which
	// acknowledges what it has not got is caught before it has made the window
	// twice as large (CVE-2025-4820). An honest one pays with an early ACK.
	minSkipInterval = 128
)

// errAckUnsent reports an ACK for a packet number that was never sent
// (RFC 9000, section 13.1: PROTOCOL_VIOLATION).
var errAckUnsent = errors.New("ri2n: acknowledgement of a packet that was not sent")

// A lossDetector follows the sent packets of one packet number space, that is
// of one path, until they are acknowledged or lost (RFC 9002, section 6).
// The zero value is ready; it skips no packet numbers.
type lossDetector struct {
	rng   *rand.Rand
	epoch time.Time // the zero of all int64 times below
	ring  sentRing

	largeSize int // above it a packet counts as large in an ackOutcome

	// cursor is the oldest number that may be outstanding; those in
	// [ring.base, cursor) are resolved.
	cursor   packetNumber
	lastSent packetNumber // newest number given to sent, with anySent
	skipAt   packetNumber // number that will be skipped next; zero: not chosen

	skipState uint64 // of drawSkip; zero: not seeded

	largestAcked packetNumber // with anyAcked

	maxAckDelay    time.Duration // of the last ACK
	inFlight       int           // bytes
	eliciting      int           // ack-eliciting packets in flight
	lastEliciting  int64
	lastEvent      int64 // newest send or ACK
	progressAt     int64 // newest ACK that acknowledged something; zero: none
	reviewAt       int64
	lossAt         int64 // time-threshold loss of cursor; zero: none
	retention      int64 // how long after sending a lost packet is remembered
	firstSampleAt  int64 // when the first RTT sample was taken; zero: none yet
	congestionFrom int64 // send time of the first packet of a run of losses; zero: none

	// What reordering has taught; decays after quietEpisodes.
	threshold packetNumber
	patience  int32 // time threshold: eighths of the RTT beyond one RTT
	quiet     int32 // loss episodes since the last spurious loss

	// The latest loss episode: losses among packets sent after episodeFrom and
	// up to episodeEnd, when the first of them was noticed.
	episodeFrom, episodeEnd int64
	episodeLost             int32 // not yet proven spurious
	anySent, anyAcked       bool

	// Delivery rate.
	delivered       uint64 // bytes that samples count
	outlived        uint64 // bytes acknowledged of packets that had left before sampling began anew
	lost            uint64 // bytes, PMTU probes excepted
	deliveredAt     int64
	firstSentAt     int64
	sampledFrom     int64  // when sampling began anew: a packet left with nothing in flight
	appLimitedUntil uint64 // samples are app limited until delivered passes it; zero: not
	roundEnd        uint64 // delivered at which the current round trip ends
}

// An ackOutcome is what an ACK or a timer did. The slices belong to the
// caller, who may keep the value and pass it again after reset.
type ackOutcome struct {
	acked []frameRef // frames now known to have arrived
	lost  []frameRef // frames to send again

	priorInFlight int // bytes in flight before the event
	ackedBytes    int // bytes that left flight by acknowledgement
	lostBytes     int // bytes lost, PMTU probes excepted
	ackedLarge    int // packets above largeSize among the newly acknowledged
	lostLarge     int // and among the lost, PMTU probes excepted
	newlyAcked    int // packets, spurious ones included
	newlyLost     int // packets, PMTU probes included

	lostPackets []lostPacket // those of newlyLost that a threshold declared lost

	largestAckedSentAt time.Time // newest newly acknowledged packet; zero: none
	largestLostSentAt  time.Time // newest lost packet, PMTU probes excepted; zero: none

	burst, lone          lossCount // ack-eliciting packets by how they left, PMTU probes excepted
	elsewhere            bool      // set by the caller: the ACK came by another path, so its time tells no RTT
	rttSampled           bool
	spurious             int  // packets that had been declared lost
	undo                 bool // every loss of the latest episode was spurious
	persistentCongestion bool

	deliveryRate float64 // bytes per second; zero: no sample
	appLimited   bool    // the sample says what was offered, not what fits
	roundStart   bool    // a packet sent since the last round's end was acknowledged
	delivery     DeliverySpan
	worstLoss    LossShare
}

// outcomes lends an ackOutcome to the session whose ACKs or timers are being
// handled; the sessions that are not need none.
var outcomes = sync.Pool{New: func() any { return new(ackOutcome) }}

// takeOutcome returns an empty outcome that is the session's until flush.
func (s *Session) takeOutcome() *ackOutcome {
	if s.outcome == nil {
		s.outcome = outcomes.Get().(*ackOutcome)
	}
	s.outcome.reset()
	return s.outcome
}

func (s *Session) dropOutcome() {
	if s.outcome != nil {
		s.outcome.reset() // no stream is to live on in it
		outcomes.Put(s.outcome)
		s.outcome = nil
	}
}

// reset empties o and keeps the memory of its slices.
func (o *ackOutcome) reset() {
	clear(o.acked)
	clear(o.lost)
	*o = ackOutcome{acked: o.acked[:0], lost: o.lost[:0], lostPackets: o.lostPackets[:0]}
}

// A lostPacket is shown to observers.
type lostPacket struct {
	number packetNumber
	size   uint16
	byTime bool // by the time threshold
}

// kind returns the count of packets that left as p did.
func (o *ackOutcome) kind(p *sentPacket) *lossCount {
	if p.inBurst {
		return &o.burst
	}
	return &o.lone
}

// feed tells the congestion controller what happened, in the order that it
// expects: an undo first, then losses, then what was acknowledged.
func (o *ackOutcome) feed(now time.Time, cc CongestionController, rtt *rttEstimator) {
	if o.undo {
		cc.OnSpurious(now)
	}
	if o.lostBytes > 0 {
		cc.OnLoss(now, LossEvent{
			LostBytes:         o.lostBytes,
			LargestLostSentAt: o.largestLostSentAt,
			Persistent:        o.persistentCongestion,
			PriorInFlight:     o.priorInFlight,
			Worst:             o.worstLoss,
		})
	}
	if o.ackedBytes > 0 {
		cc.OnAck(now, AckSample{
			AckedBytes:         o.ackedBytes,
			PriorInFlight:      o.priorInFlight,
			LargestAckedSentAt: o.largestAckedSentAt,
			RTT:                rtt.stats(),
			RTTSampled:         o.rttSampled,
			DeliveryRate:       o.deliveryRate,
			AppLimited:         o.appLimited,
			RoundStart:         o.roundStart,
			Delivery:           o.delivery,
		})
	}
}

// newLossDetector returns a detector whose first packet number is 0. It skips
// numbers at random as rng says; a nil rng skips none.
func newLossDetector(rng *rand.Rand) *lossDetector {
	return &lossDetector{rng: rng}
}

// since and at convert between times and nanoseconds since the epoch, which
// begins 1 ns before the first event so that zero can mean never.
func (d *lossDetector) since(now time.Time) int64 {
	if d.epoch.IsZero() {
		d.epoch = now.Add(-1)
		d.threshold, d.patience = minPacketThreshold, minPatience
		d.retention = int64(lostRetention * 3 * initialRTT)
	}
	return int64(now.Sub(d.epoch))
}

func (d *lossDetector) at(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return d.epoch.Add(time.Duration(nanos))
}

// canSend reports whether there is room for the record of another packet. It
// is false only on a path whose peer has long stopped to acknowledge.
func (d *lossDetector) canSend() bool { return d.ring.len()+2 <= maxSentRing }

// nextPacketNumber takes the number of the next packet. A number that is then
// not given to sent counts as skipped, so no number is ever used twice.
func (d *lossDetector) nextPacketNumber() packetNumber {
	if d.rng != nil && d.eliciting > 0 {
		if d.skipAt == 0 {
			mean := uint64(max(d.eliciting/2, minSkipInterval))
			d.skipAt = d.ring.next + 1 + packetNumber(d.drawSkip(2*mean))
		} else if d.ring.next >= d.skipAt {
			d.ring.push()
			d.skipAt = 0
		}
	}
	return d.ring.push()
}

// drawSkip returns a number below n from a generator of its own (splitmix64),
// so that skipping does not take from the draws of congestion control.
func (d *lossDetector) drawSkip(n uint64) uint64 {
	if d.skipState == 0 {
		d.skipState = d.rng.Uint64() | 1
	}
	d.skipState += 0x9e3779b97f4a7c15
	z := d.skipState
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	high, _ := bits.Mul64(z^z>>31, n)
	return high
}

// sent records that the packet pn of size bytes left at now. A packet that is
// not ack-eliciting is not in flight. extra is copied. pn must come from
// nextPacketNumber, and must be larger than that of any earlier call.
func (d *lossDetector) sent(now time.Time, pn packetNumber, size int, ackEliciting, probe bool, first frameRef, extra []frameRef) {
	if pn < d.ring.base || pn >= d.ring.next || d.anySent && pn <= d.lastSent {
		panic("ri2n: sent packet numbers must come from nextPacketNumber, in order")
	}
	t := d.since(now)
	d.lastSent, d.anySent = pn, true
	d.lastEvent = t
	if t >= d.reviewAt {
		if d.reviewAt != 0 {
			d.ring.review()
		}
		d.reviewAt = t + int64(sentRingInterval)
	}
	p := d.ring.at(pn)
	p.sentAt = t
	p.size = uint16(min(max(size, 0), 1<<16-1))
	p.state = sentOutstanding
	p.ackEliciting = ackEliciting
	p.probe = probe
	p.first = first
	p.extra = append(p.extra[:0], extra...)
	if !ackEliciting {
		d.settle(t)
		return
	}
	if d.eliciting == 0 {
		d.firstSentAt, d.deliveredAt, d.sampledFrom = t, t, t
	}
	p.delivered = d.delivered
	p.deliveredAt = d.deliveredAt
	p.sendElapsed = uint32(min((t-d.firstSentAt)/1000, math.MaxUint32))
	p.appLimited = d.appLimitedUntil != 0
	d.inFlight += int(p.size)
	p.inFlight = uint32(min(d.inFlight, math.MaxUint32))
	p.lostBefore = uint32(d.lost)
	d.eliciting++
	d.lastEliciting = t
}

// sentInBurst records that the packets pns, just given to sent, left in one
// piece.
func (d *lossDetector) sentInBurst(pns []packetNumber) {
	for _, pn := range pns {
		d.ring.at(pn).inBurst = true
	}
}

// onAck takes an ACK of this space's packets that arrived at now, samples rtt
// and finds the packets that are lost. What happened is added to out, which
// should have been reset. The cost is that of the packets it resolves and of
// the ranges, however wide those are.
//
// It returns errAckUnsent when the ACK covers a number that was not sent; the
// detector then stays consistent but the session should end.
func (d *lossDetector) onAck(now time.Time, ack *ackFrame, rtt *rttEstimator, maxAckDelay time.Duration, out *ackOutcome) error {
	t := d.since(now)
	d.lastEvent = t
	d.maxAckDelay = maxAckDelay
	out.priorInFlight = d.inFlight
	if len(ack.ranges) == 0 {
		return nil
	}
	largest := ack.ranges[0].largest
	for _, r := range ack.ranges {
		if !d.anySent || r.largest > d.lastSent {
			return errAckUnsent
		}
	}

	var sample rateSample
	eliciting, largestIsNew := false, false
	var newest *sentPacket
	priorLargest := d.largestAcked
	for _, r := range ack.ranges {
		// end is one above the number looked at, since numbers start at 0.
		for end := d.unackedBelow(r.largest + 1); end > d.ring.base && end > r.smallest; end = d.unackedBelow(end) {
			n := end - 1
			p := d.ring.at(n)
			if p.state == sentSkipped {
				return errAckUnsent
			}
			eliciting = eliciting || p.ackEliciting
			largestIsNew = largestIsNew || n == largest
			if newest == nil || p.sentAt > newest.sentAt {
				newest = p
			}
			d.acknowledge(t, n, p, priorLargest, &sample, out)
		}
	}
	if newest == nil {
		return nil
	}
	if !d.anyAcked || largest > d.largestAcked {
		d.largestAcked, d.anyAcked = largest, true
	}
	out.largestAckedSentAt = d.at(newest.sentAt)
	d.progressAt = t
	if largestIsNew && eliciting && !out.elsewhere {
		rtt.sample(time.Duration(t-d.ring.at(largest).sentAt), ack.delay, maxAckDelay)
		out.rttSampled = true
		if d.firstSampleAt == 0 {
			d.firstSampleAt = t
		}
	}
	d.finishRate(&sample, rtt, out)
	d.detectLost(t, rtt, out)
	d.finishDelivery(&sample, out)
	d.settle(t)
	return nil
}

// unackedBelow returns the largest e <= end such that e-1 is not acknowledged,
// or a value of at most ring.base when there is none. Runs of acknowledged
// numbers are jumped over and joined on the way, as in a disjoint-set forest.
func (d *lossDetector) unackedBelow(end packetNumber) packetNumber {
	for end > d.ring.base {
		p := d.ring.at(end - 1)
		if p.state != sentAcked {
			break
		}
		below := end - packetNumber(p.run)
		if below > d.ring.base {
			if q := d.ring.at(below - 1); q.state == sentAcked {
				p.run += q.run
				below = end - packetNumber(p.run)
			}
		}
		end = below
	}
	return end
}

// acknowledge resolves the packet n.
func (d *lossDetector) acknowledge(t int64, n packetNumber, p *sentPacket, priorLargest packetNumber, sample *rateSample, out *ackOutcome) {
	out.newlyAcked++
	if int(p.size) > d.largeSize {
		out.ackedLarge++
	}
	switch {
	case p.state == sentGivenUp:
		out.spurious++
		d.deliver(t, p)
	case p.lost():
		out.spurious++
		if p.sentAt > d.episodeFrom && d.episodeLost > 0 && !p.probe {
			d.episodeLost--
			out.undo = out.undo || d.episodeLost == 0
		}
		// RFC 9002, section 6.1.1: raise the threshold to what would have been
		// patient enough.
		if priorLargest > n {
			d.threshold = min(max(d.threshold, priorLargest-n+1), maxPacketThreshold)
		}
		if p.state == sentLostByTime {
			d.patience = min(d.patience+1, maxPatience)
		}
		d.quiet = 0
		d.congestionFrom = 0
		d.deliver(t, p)
	case p.ackEliciting:
		d.inFlight -= int(p.size)
		d.eliciting--
		out.ackedBytes += int(p.size)
		if !p.probe {
			out.kind(p).acked++
		}
		d.deliver(t, p)
		sample.add(p)
	}
	if p.first.kind != refNone {
		out.acked = append(out.acked, p.first)
	}
	out.acked = append(out.acked, p.extra...)
	p.forget()
	p.state = sentAcked
	p.run = 1
}

// detectLost declares lost what the packet and time thresholds say (RFC 9002,
// section 6.1). Packets are sent in the order of their numbers, so those lost
// come before those that are not, and the search ends at the first of these.
func (d *lossDetector) detectLost(t int64, rtt *rttEstimator, out *ackOutcome) {
	d.lossAt = 0
	if !d.anyAcked {
		return
	}
	delay := int64(rtt.lossDelay(int(d.patience)))
	d.retention = int64(lostRetention * rtt.pto(d.maxAckDelay))
	for d.advance(); d.cursor < d.ring.next && d.cursor < d.largestAcked; d.advance() {
		p := d.ring.at(d.cursor)
		if t-p.sentAt < delay && d.largestAcked-d.cursor < d.threshold {
			d.lossAt = p.sentAt + delay
			return
		}
		byTime := d.largestAcked-d.cursor < d.threshold
		out.lostPackets = append(out.lostPackets, lostPacket{d.cursor, p.size, byTime})
		d.lose(t, p, out)
		if byTime {
			p.state = sentLostByTime
		}
		d.checkPersistent(p, rtt, out)
	}
}

// leave takes an outstanding ack-eliciting packet out of flight.
func (d *lossDetector) leave(p *sentPacket, out *ackOutcome) {
	d.inFlight -= int(p.size)
	d.eliciting--
	out.newlyLost++
	if p.first.kind != refNone {
		out.lost = append(out.lost, p.first)
	}
	out.lost = append(out.lost, p.extra...)
	if !p.probe {
		out.lostBytes += int(p.size)
	}
}

// lose declares an outstanding ack-eliciting packet lost.
func (d *lossDetector) lose(t int64, p *sentPacket, out *ackOutcome) {
	d.leave(p, out)
	p.state = sentLost
	if p.probe {
		return
	}
	if int(p.size) > d.largeSize {
		out.lostLarge++
	}
	out.kind(p).lost++
	d.lost += uint64(p.size)
	out.worstLoss.add(p, uint32(d.lost)-p.lostBefore)
	if at := d.at(p.sentAt); at.After(out.largestLostSentAt) {
		out.largestLostSentAt = at
	}
	// A loss among packets sent after the last episode was noticed opens
	// another, as it opens another recovery period (RFC 9002, section 7.3.2).
	if p.sentAt > d.episodeEnd {
		d.episodeFrom, d.episodeEnd = d.episodeEnd, t
		d.episodeLost = 0
		if d.quiet++; d.quiet > quietEpisodes {
			d.threshold, d.patience = minPacketThreshold, minPatience
		}
	}
	d.episodeLost++
}

// checkPersistent looks for a run of losses that lasts long enough to be
// persistent congestion (RFC 9002, section 7.6). Only packets sent since the
// first RTT sample count.
func (d *lossDetector) checkPersistent(p *sentPacket, rtt *rttEstimator, out *ackOutcome) {
	if p.probe || d.firstSampleAt == 0 || p.sentAt < d.firstSampleAt {
		return
	}
	if d.congestionFrom == 0 {
		d.congestionFrom = p.sentAt
		return
	}
	if p.sentAt-d.congestionFrom > int64(persistentCongestionThreshold*rtt.pto(d.maxAckDelay)) {
		out.persistentCongestion = true
		d.threshold, d.patience = minPacketThreshold, minPatience
		d.congestionFrom = p.sentAt
	}
}

// advance moves cursor to the oldest outstanding packet. An acknowledged one
// on the way ends a run of losses.
func (d *lossDetector) advance() {
	d.cursor = max(d.cursor, d.ring.base)
	for ; d.cursor < d.ring.next; d.cursor++ {
		switch p := d.ring.at(d.cursor); {
		case p.state == sentOutstanding && p.ackEliciting:
			return
		case p.state == sentAcked && p.ackEliciting:
			d.congestionFrom = 0
		case p.state == sentSkipped && (!d.anySent || d.cursor > d.lastSent):
			return // reserved, may still be sent
		}
	}
}

// settle forgets the oldest records as far as they are of no more use.
func (d *lossDetector) settle(t int64) {
	d.advance()
	for d.ring.base < d.cursor {
		p := d.ring.at(d.ring.base)
		if p.lost() && t-p.sentAt < d.retention {
			return
		}
		// While packets beyond a skipped number are on their way, it waits
		// for the ACK that must not cover it.
		if p.state == sentSkipped && d.eliciting > 0 && (!d.anyAcked || d.ring.base > d.largestAcked) {
			return
		}
		d.ring.pop()
	}
}

// onTimer finds packets lost by the time threshold. It is due at lossTime.
func (d *lossDetector) onTimer(now time.Time, rtt *rttEstimator, out *ackOutcome) {
	t := d.since(now)
	out.priorInFlight = d.inFlight
	d.detectLost(t, rtt, out)
	d.settle(t)
	if d.eliciting == 0 && t >= d.lastEvent+int64(sentRingInterval) {
		// What is left are losses and numbers that were taken but not used.
		d.ring = sentRing{base: d.ring.next, next: d.ring.next}
		d.cursor = d.ring.next
	}
}

// rest gives back memory at once if nothing is remembered.
func (d *lossDetector) rest() {
	if d.ring.len() == 0 {
		d.ring.slots, d.ring.peak = nil, 0
	}
}

// idle reports whether nothing is in flight that might be lost.
func (d *lossDetector) idle() bool { return d.lossAt == 0 && d.eliciting == 0 }

// lossTime returns when onTimer is due: when the next packet will be lost
// unless it is acknowledged or, with nothing in flight, when memory is to be
// given back. Zero means never.
func (d *lossDetector) lossTime() time.Time {
	if d.lossAt != 0 {
		return d.at(d.lossAt)
	}
	if d.eliciting == 0 && d.ring.slots != nil {
		return d.at(d.lastEvent + int64(sentRingInterval))
	}
	return time.Time{}
}

// ptoDeadline returns when probes must leave after ptoCount earlier ones went
// unanswered (RFC 9002, section 6.2.1), or zero when nothing ack-eliciting is
// in flight. It is never before that of lossTime.
func (d *lossDetector) ptoDeadline(rtt *rttEstimator, maxAckDelay time.Duration, ptoCount int) time.Time {
	if d.eliciting == 0 {
		return time.Time{}
	}
	at := d.at(d.lastEliciting).Add(backoffPTO(rtt.pto(maxAckDelay), ptoCount))
	if loss := d.at(d.lossAt); loss.After(at) {
		return loss // RFC 9002, appendix A.8: no probe while a loss is about to show
	}
	return at
}

// backoffPTO doubles pto count times, up to maxPTO.
func backoffPTO(pto time.Duration, count int) time.Duration {
	for ; count > 0 && pto < maxPTO; count-- {
		pto *= 2
	}
	return min(pto, maxPTO)
}

// oldestSent returns when the oldest packet in flight left, or zero if there
// is none.
func (d *lossDetector) oldestSent() time.Time {
	if d.advance(); d.eliciting == 0 || d.cursor >= d.ring.next {
		return time.Time{}
	}
	return d.at(d.ring.at(d.cursor).sentAt)
}

// heardSince reports whether anything has been acknowledged after t.
func (d *lossDetector) heardSince(t time.Time) bool {
	return d.progressAt != 0 && d.at(d.progressAt).After(t)
}

// bytesInFlight returns the bytes of ack-eliciting packets that are neither
// acknowledged nor lost.
func (d *lossDetector) bytesInFlight() int { return d.inFlight }

// ackElicitingInFlight returns the number of those packets.
func (d *lossDetector) ackElicitingInFlight() int { return d.eliciting }

// outstanding calls yield for each packet in flight, oldest first. The pointer
// is valid during the call only; yield must not call the detector.
func (d *lossDetector) outstanding(yield func(*sentPacket)) {
	d.outstandingFrom(0, yield)
}

// outstandingFrom is outstanding for the packets from number from on.
func (d *lossDetector) outstandingFrom(from packetNumber, yield func(*sentPacket)) {
	for n := max(d.cursor, d.ring.base, from); n < d.ring.next; n++ {
		if p := d.ring.at(n); p.state == sentOutstanding && p.ackEliciting {
			yield(p)
		}
	}
}

// markAllLost gives up everything in flight, because the path is suspect or
// abandoned. It is no evidence of congestion: out should not be fed to the
// controller, and ACKs that come after all undo nothing.
func (d *lossDetector) markAllLost(out *ackOutcome) { d.markLostSince(time.Time{}, out) }

// markLostSince is markAllLost for what has left after t, and for what is
// missing below the newest that has arrived.
func (d *lossDetector) markLostSince(t time.Time, out *ackOutcome) {
	from := int64(-1)
	if !t.IsZero() && !d.epoch.IsZero() {
		from = int64(t.Sub(d.epoch))
	}
	d.advance()
	for n := d.cursor; n < d.ring.next && d.eliciting > 0; n++ {
		if p := d.ring.at(n); p.state == sentOutstanding && p.ackEliciting && (p.sentAt > from || d.anyAcked && n < d.largestAcked) {
			d.leave(p, out)
			p.state = sentGivenUp
		}
	}
	d.advance()
	if d.eliciting == 0 {
		d.lossAt = 0
	}
	d.congestionFrom = 0
}
