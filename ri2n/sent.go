package ri2n

import (
	"math/bits"
	"time"
)

// A frameKind says what a frameRef refers to. The session defines the kinds.
type frameKind uint8

// refNone marks an empty frameRef.
const refNone frameKind = 0

// A frameRef remembers one frame of a sent packet well enough to send it
// again: for stream data the range, never the bytes.
type frameRef struct {
	kind   frameKind
	fin    bool
	length uint32
	id     uint64
	offset uint64
	stream *Stream
}

// A sentState is what became of a packet number.
type sentState uint8

const (
	sentSkipped sentState = iota // never sent, so never rightly acknowledged
	sentOutstanding
	sentAcked
	sentLost       // declared lost; kept for a while to notice that it was not
	sentLostByTime // the same, by the time threshold alone
	sentGivenUp    // the same, without evidence: see markAllLost
)

// A sentPacket is the record of one packet number: 104 bytes. Times are
// nanoseconds since the lossDetector's epoch.
type sentPacket struct {
	sentAt int64

	// Delivery rate (draft-cheng-iccrg-delivery-rate-estimation), as it was
	// when the packet left.
	delivered   uint64 // bytes acknowledged by then
	deliveredAt int64  // when the newest of them was acknowledged

	first frameRef
	extra []frameRef

	sendElapsed uint32 // microseconds from the start of the sampling interval; saturates
	inFlight    uint32 // bytes in flight when the packet had left, itself included
	lostBefore  uint32 // bytes lost before it left, modulo 2^32

	// run is set once n is acknowledged, as are all numbers in (n-run, n].
	run  uint32
	size uint16

	state        sentState
	ackEliciting bool
	probe        bool // PMTU probe: its loss is no sign of congestion
	appLimited   bool
	inBurst      bool // the kernel was to cut it out of a burst
}

// lost reports whether p has been declared lost.
func (p *sentPacket) lost() bool { return p.state >= sentLost }

// forget drops what the record refers to but keeps the memory of extra.
func (p *sentPacket) forget() {
	p.first = frameRef{}
	clear(p.extra)
	p.extra = p.extra[:0]
}

const (
	minSentRing = 2       // a keepalive and its ACK
	maxSentRing = 1 << 18 // 26 MiB; 3 Gbit/s over 1 s of 1200-byte packets

	// sentRingInterval is how often the size of the ring is reviewed, and how
	// long an empty one is kept.
	sentRingInterval = time.Second
)

// A sentRing holds the records of the packet numbers in [base, next) in a
// power of two of slots. The zero value is empty and owns no memory.
type sentRing struct {
	slots      []sentPacket
	base, next packetNumber
	peak       int // largest window since the last review
}

func (r *sentRing) len() int { return int(r.next - r.base) }

// at returns the record of n, which must be in [base, next). The pointer is
// valid until the next push.
func (r *sentRing) at(n packetNumber) *sentPacket {
	return &r.slots[uint64(n)&uint64(len(r.slots)-1)]
}

// push appends a record in state sentSkipped and returns its number.
func (r *sentRing) push() packetNumber {
	if r.len() == len(r.slots) {
		r.resize(max(minSentRing, 2*len(r.slots)))
	}
	n := r.next
	r.next++
	r.peak = max(r.peak, r.len())
	p := r.at(n)
	*p = sentPacket{extra: p.extra[:0]}
	return n
}

// pop forgets the record of base.
func (r *sentRing) pop() {
	r.at(r.base).forget()
	r.base++
}

// resize moves the records to a ring of size slots, a power of two that is at
// least len.
func (r *sentRing) resize(size int) {
	old := *r
	r.slots = make([]sentPacket, size)
	for n := old.base; n < old.next; n++ {
		*r.at(n) = *old.at(n)
	}
}

// review gives back memory that the last interval did not need.
func (r *sentRing) review() {
	if r.len() == 0 && r.peak == 0 {
		r.slots = nil
	} else if want := max(minSentRing, 1<<bits.Len(uint(2*r.peak-1))); want < len(r.slots)/2 {
		r.resize(want)
	}
	r.peak = r.len()
}
