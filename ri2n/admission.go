package ri2n

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"time"
)

// Limits on what strangers may cost (docs/decisions/0016-bad-input.md).
const (
	// handshakeShare is the part of one core, as a divisor, that handshakes
	// may take which come to nothing; those that end with a session are free.
	handshakeShare = 10
	// handshakeBurst is how much of it may be saved up.
	handshakeBurst = 150 * time.Millisecond
	// handshakeCost is the least that a handshake is taken to cost: a server's
	// half of one on the slowest core that it was measured on.
	handshakeCost = 400 * time.Microsecond

	// A prefix that has asked for little lately may begin a handshake while
	// others have used the budget up: this many Initials at once, and one more
	// in each interval. The flight of a dialer has two.
	modestInitials = 3
	modestInterval = time.Second

	// Replies to addresses that have proven nothing, for each prefix.
	maxReplyBurst = 32
	replyInterval = time.Second / 16

	prefixSlots = 2048 // in each of two rows
)

// An admission decides what the Initials of strangers are worth. Its tables
// have a fixed size. The endpoint's mutex guards it.
type admission struct {
	left     time.Duration // of processor time; may be below zero
	refilled time.Time     // zero: the budget has never been touched
	cost     time.Duration // of one handshake, as measured; zero: handshakeCost

	modest  prefixLimiter
	replies prefixLimiter
}

// refill brings the budget up to now.
func (a *admission) refill(now time.Time) {
	if a.refilled.IsZero() {
		a.left = handshakeBurst
	} else if d := now.Sub(a.refilled); d > 0 {
		a.left = min(handshakeBurst, a.left+d/handshakeShare)
	}
	a.refilled = now
}

// short reports whether the budget is so far used that an address should
// prove itself first.
func (a *admission) short(now time.Time) bool {
	a.refill(now)
	return a.left < handshakeBurst*3/4
}

// admits reports whether a handshake with somebody of the given prefix may
// begin. The lower three fifths of the budget are for those who ask for little.
func (a *admission) admits(now time.Time, prefix netip.Prefix) bool {
	a.refill(now)
	return a.left >= handshakeBurst*3/5 || a.left > 0 && a.modest.allow(now, prefix, modestInterval, modestInitials)
}

// charge books one handshake and returns what it was taken to cost.
func (a *admission) charge(now time.Time) time.Duration {
	a.refill(now)
	cost := max(a.cost, handshakeCost)
	a.left -= cost
	return cost
}

// refund takes back the charge for a handshake that ended with a session.
func (a *admission) refund(cost time.Duration, prefix netip.Prefix) {
	a.left = min(handshakeBurst, a.left+cost)
	if prefix.IsValid() {
		a.modest.giveBack(prefix, 2*modestInterval)
		a.replies.giveBack(prefix, 2*replyInterval)
	}
}

// measured learns from a handshake that took d, as far as one look can tell
// computing from waiting.
func (a *admission) measured(d time.Duration) {
	d = min(max(d, handshakeCost), 10*handshakeCost)
	if a.cost == 0 {
		a.cost = handshakeCost
	}
	a.cost += (d - a.cost) / 16
}

// repliesTo reports whether an unproven address of the given prefix may be
// answered.
func (a *admission) repliesTo(now time.Time, prefix netip.Prefix) bool {
	return a.replies.allow(now, prefix, replyInterval, maxReplyBurst)
}

// A prefixLimiter limits how often something happens for each address prefix.
// It is a count-min sketch of two rows: prefixes that share a slot in both
// share a limit, which who does not know the seed cannot bring about. The
// zero value is ready.
type prefixLimiter struct {
	rows *[2][prefixSlots]int64 // nil until used
	seed maphash.Seed
	base time.Time // of the times in rows
}

// allow takes one of burst allowances of prefix, which come back one in each
// interval, and reports whether there was one.
func (p *prefixLimiter) allow(now time.Time, prefix netip.Prefix, interval time.Duration, burst int) bool {
	if p.rows == nil {
		p.rows, p.seed, p.base = new([2][prefixSlots]int64), maphash.MakeSeed(), now
	}
	first, second := p.slots(prefix)
	t := int64(now.Sub(p.base))
	full := max(t, min(*first, *second)) + int64(interval)
	if full-t > int64(interval)*int64(burst) {
		return false
	}
	*first, *second = max(*first, full), max(*second, full)
	return true
}

// giveBack returns what is worth the given time to prefix.
func (p *prefixLimiter) giveBack(prefix netip.Prefix, d time.Duration) {
	if p.rows == nil {
		return
	}
	first, second := p.slots(prefix)
	*first -= int64(d)
	*second -= int64(d)
}

// slots returns those of prefix. Each holds the time when all its allowances
// will have come back (the generic cell rate algorithm).
func (p *prefixLimiter) slots(prefix netip.Prefix) (first, second *int64) {
	var key [17]byte
	a := prefix.Addr().As16()
	copy(key[:], a[:])
	key[16] = byte(prefix.Bits())
	sum := maphash.Bytes(p.seed, key[:])
	return &p.rows[0][uint32(sum)%prefixSlots], &p.rows[1][uint32(sum>>32)%prefixSlots]
}

// appendRetry appends a Retry packet.
func appendRetry(b []byte, dcid, scid connID, token []byte, mac *mac1Hasher) []byte {
	start := len(b)
	b = appendLongPrefix(b, longRetry, version1, dcid, scid)
	b = binary.BigEndian.AppendUint16(b, uint16(len(token)))
	b = append(b, token...)
	m := mac.mac(b[start:])
	return append(b, m[:]...)
}
