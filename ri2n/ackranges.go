package ri2n

import "slices"

// maxReceivedRanges bounds what is remembered of received packet numbers, of
// which maxAckRanges are told (docs/wire-format.md, PATH_ACK). Each late packet
// is a gap: 30 ms of jitter at 100 Mbit/s make over a hundred of them at a
// time. Ranges are 16 bytes.
const maxReceivedRanges = 512

// manyRanges is when a PING should make the peer tell which ACKs it has, so
// that old gaps can be forgotten.
const manyRanges = 16

// gaps returns the number of gaps that are remembered.
func (r *receivedPackets) gaps() int { return len(r.older) }

// A receivedPackets is the set of packet numbers received on one path. It
// holds at most maxReceivedRanges ranges; when a gap too many appears, it
// forgets the lowest range, and all below then counts as received. The zero
// value is the empty set. One range needs no memory beyond the struct.
type receivedPackets struct {
	any   bool
	floor packetNumber // everything below counts as received
	last  ackRange     // the highest range, valid if any
	older []ackRange   // the others, ascending, with gaps between
}

// add puts n into the set and reports whether it was there, or is too old to
// tell: then the packet must be ignored.
func (r *receivedPackets) add(n packetNumber) (duplicate bool) {
	switch {
	case n < r.floor:
		return true
	case !r.any:
		r.any = true
		r.last = ackRange{n, n}
		return false
	case n > r.last.largest:
		if n == r.last.largest+1 {
			r.last.largest = n
			return false
		}
		r.older = append(r.older, r.last)
		r.last = ackRange{n, n}
		r.prune()
		return false
	case n >= r.last.smallest:
		return true
	}
	return r.addOlder(n)
}

// addOlder is add for n below the highest range.
func (r *receivedPackets) addOlder(n packetNumber) (duplicate bool) {
	// i is the first of the older ranges that does not end below n.
	i, _ := slices.BinarySearchFunc(r.older, n, func(a ackRange, n packetNumber) int {
		if a.largest < n {
			return -1
		}
		return 1
	})
	if i < len(r.older) && r.older[i].smallest <= n {
		return true
	}
	above := &r.last
	if i < len(r.older) {
		above = &r.older[i]
	}
	joinsBelow := i > 0 && r.older[i-1].largest+1 == n
	joinsAbove := n+1 == above.smallest
	switch {
	case joinsBelow && joinsAbove:
		above.smallest = r.older[i-1].smallest
		r.older = slices.Delete(r.older, i-1, i)
		r.shrink()
	case joinsAbove:
		above.smallest = n
	case joinsBelow:
		r.older[i-1].largest = n
	default:
		r.older = slices.Insert(r.older, i, ackRange{n, n})
		r.prune()
	}
	return false
}

// prune forgets the lowest range if there are too many.
func (r *receivedPackets) prune() {
	if len(r.older)+1 > maxReceivedRanges {
		r.floor = r.older[0].largest + 1
		r.older = slices.Delete(r.older, 0, 1)
	}
}

// shrink gives back the memory of a time with many gaps.
func (r *receivedPackets) shrink() {
	if len(r.older) == 0 && cap(r.older) > 8 {
		r.older = nil
	}
}

// forgetBelow removes the numbers below n, which from then on count as
// received: the peer knows that we have them (RFC 9000, section 13.2.4).
func (r *receivedPackets) forgetBelow(n packetNumber) {
	if !r.any || n <= r.floor {
		return
	}
	n = min(n, r.last.largest) // the largest stays known
	r.floor = max(r.floor, n)
	i := 0
	for i < len(r.older) && r.older[i].largest < n {
		i++
	}
	r.older = slices.Delete(r.older, 0, i)
	if len(r.older) > 0 {
		r.older[0].smallest = max(r.older[0].smallest, n)
	} else {
		r.last.smallest = max(r.last.smallest, n)
	}
	r.shrink()
}

// contains reports whether n is in the set, or too old to tell.
func (r *receivedPackets) contains(n packetNumber) bool {
	switch {
	case n < r.floor:
		return true
	case !r.any || n > r.last.largest:
		return false
	case n >= r.last.smallest:
		return true
	}
	i, _ := slices.BinarySearchFunc(r.older, n, func(a ackRange, n packetNumber) int {
		if a.largest < n {
			return -1
		}
		return 1
	})
	return i < len(r.older) && r.older[i].smallest <= n
}

// inOrder reports whether n, not added yet, is the number that follows the
// largest, so that its arrival reveals neither a gap nor reordering.
func (r *receivedPackets) inOrder(n packetNumber) bool {
	return !r.any || n == r.last.largest+1
}

// largest returns the largest number received; ok is false when there is none.
func (r *receivedPackets) largest() (n packetNumber, ok bool) { return r.last.largest, r.any }

// appendRanges appends the highest ranges to dst, descending: at most limit,
// and no more than maxAckRanges.
func (r *receivedPackets) appendRanges(dst []ackRange, limit int) []ackRange {
	limit = min(limit, maxAckRanges)
	if !r.any || limit <= 0 {
		return dst
	}
	dst = append(dst, r.last)
	for i := len(r.older) - 1; i >= 0 && len(r.older)-i < limit; i-- {
		dst = append(dst, r.older[i])
	}
	return dst
}

// ackHeard notes that the peer has an ACK of ours up to largest. Gaps below the
// one before that are forgotten: a packet that was late by two round trips has
// long been sent again.
func (p *path) ackHeard(largest packetNumber) {
	if largest <= p.forgetBy {
		return
	}
	p.numbers.forgetBelow(p.forgetBy)
	p.forgetBy = largest
}
