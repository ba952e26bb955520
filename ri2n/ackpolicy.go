package ri2n

import "time"

// defaultAckThreshold is how many ack-eliciting packets share an ACK unless
// the peer asks for another number (RFC 9000, section 13.2.2).
const defaultAckThreshold = 2

// An ackPolicy decides when the packets received on a path are acknowledged.
// The zero value acknowledges every second packet, or else at once.
type ackPolicy struct {
	// threshold is the number of ack-eliciting packets that makes an ACK due.
	// Zero means defaultAckThreshold. ACK_FREQ changes it.
	threshold int
	// maxAckDelay is how long an ack-eliciting packet waits at most.
	maxAckDelay time.Duration

	unacked   int // ack-eliciting packets since the last ACK
	immediate bool
	due       time.Time // zero: nothing waits

	largest   packetNumber
	largestAt time.Time // arrival of largest; zero: nothing arrived
}

// received records that packet pn arrived. outOfOrder means that it was not
// the next in sequence (see receivedPackets.inOrder), immediate that it asks
// for an ACK at once: FIN or ECN-CE. Duplicates are not recorded.
func (p *ackPolicy) received(now time.Time, pn packetNumber, ackEliciting, outOfOrder, immediate bool) {
	if p.largestAt.IsZero() || pn > p.largest {
		p.largest, p.largestAt = pn, now
	}
	if !ackEliciting {
		return
	}
	p.unacked++
	threshold := p.threshold
	if threshold <= 0 {
		threshold = defaultAckThreshold
	}
	if outOfOrder || immediate || p.unacked >= threshold {
		p.immediate = true
	}
	if p.due.IsZero() {
		p.due = now.Add(p.maxAckDelay)
	}
}

// needsAckNow reports whether an ACK should leave without waiting for the
// deadline.
func (p *ackPolicy) needsAckNow() bool { return p.immediate }

// wantsAck reports whether any ack-eliciting packet awaits its ACK, so that
// one may be added to a packet that leaves anyway.
func (p *ackPolicy) wantsAck() bool { return p.unacked > 0 }

// deadline returns when an ACK must leave, or zero. With needsAckNow that is
// at once.
func (p *ackPolicy) deadline() time.Time { return p.due }

// delay returns how long the ACK of the largest packet has been held back:
// the field of that name in PATH_ACK.
func (p *ackPolicy) delay(now time.Time) time.Duration {
	if p.largestAt.IsZero() {
		return 0
	}
	return max(0, now.Sub(p.largestAt))
}

// sent records that an ACK of everything received has left.
func (p *ackPolicy) sent() {
	p.unacked, p.immediate, p.due = 0, false, time.Time{}
}

// wantsNone reports whether everything received has been acknowledged.
func (p *ackPolicy) wantsNone() bool { return p.unacked == 0 && !p.largestAt.IsZero() }
