package ri2n

import (
	"sync"
	"time"
)

// Limits of the outgoing datagram queue. What carries datagrams, a relayed
// session or an audio stream, suffers more from their age than from a loss.
const (
	maxFlowDatagrams = 64                    // queued for one flow, however slow the path
	maxFlowDelay     = 50 * time.Millisecond // age at which a datagram is dropped
	minFlowBytes     = 256 << 10             // of one flow beyond maxFlowDatagrams: four bursts
	maxFlowBytes     = 8 << 20               // what 50 ms are at 1.3 Gbit/s
	maxFlows         = 1024                  // flows with something queued
	maxQueuedBytes   = 16 << 20              // of all flows; a guess
	flowQuantum      = 1500                  // bytes that a flow may send in its turn

	// minDatagramCost is what a short datagram counts for in its flow's turn:
	// about the overhead of a packet, so that empty ones are not free.
	minDatagramCost = 32
	// minDatagramWeight is what one counts for in its flow's share of the
	// memory, since its buffer is no smaller.
	minDatagramWeight = 512
)

// Limits of the queue of received datagrams. Whoever reads in batches has shown
// to keep up with many, and may be held up for as long as a scheduler takes.
const (
	maxInboxDatagrams = 256
	maxInboxBytes     = 512 << 10

	maxBatchInboxDatagrams = 4096
	maxBatchInboxBytes     = 6 << 20
)

// A datagramQueue holds outgoing datagrams by flow and serves the flows by
// deficit round robin (Shreedhar and Varghese, 1995), so that each gets the
// same number of bytes while it has something to send.
//
// A flow may hold maxFlowDatagrams, and more while they are no more bytes than
// share: what the path carries in maxFlowDelay, since the rest would only wait
// to be dropped. TCP inside needs that much (decision 0028). A flow that holds
// its maximum loses its oldest datagram to the new one, as
// does the flow that holds most bytes when the whole queue is full. The zero
// value is an empty queue. The caller holds the session's mutex. What expires
// is dropped when its flow's turn comes, so a queue that nobody pops keeps it.
type datagramQueue struct {
	flows map[uint64]*datagramFlow // those with something queued
	turns fifo[*datagramFlow]      // the same flows in the order of their turns
	spare *datagramFlow            // the flow last forgotten, to be used again
	wide  bool                     // flows has held many: a map does not shrink by itself
	count int
	size  int // bytes queued
	share int // of one flow, in bytes

	drops   uint64 // datagrams not sent, for whichever reason
	refused uint64 // of these, the ones of flows beyond maxFlows or larger than the queue
}

// A datagramFlow is the queue of one flow.
type datagramFlow struct {
	id      uint64
	queue   fifo[queuedDatagram]
	size    int  // bytes queued
	weight  int  // the same, short datagrams counted for more
	deficit int  // bytes that it may still send in this turn
	serving bool // its turn has begun
}

type queuedDatagram struct {
	b  []byte // from getDatagram
	at time.Time
}

// push queues a copy of b for flow at the time now. It returns how many
// datagrams that cost, b or older ones.
func (q *datagramQueue) push(now time.Time, flow uint64, b []byte) (dropped int) {
	before := q.drops
	f := q.flows[flow]
	if f == nil && len(q.flows) >= maxFlows || len(b) > maxQueuedBytes {
		q.refused++
		q.drops++
		return 1
	}
	if f == nil {
		f = q.admit(flow)
	}
	// Make room before b goes in, yet without forgetting f.
	for f.queue.len() > 0 && (f.full(q.share) || f.queue.at(0).expired(now)) {
		q.drop(f)
	}
	c := getDatagram(len(b))
	copy(c, b)
	f.queue.push(queuedDatagram{c, now})
	f.size += len(c)
	f.weight += max(len(c), minDatagramWeight)
	q.size += len(c)
	q.count++
	for q.size > maxQueuedBytes {
		q.drop(q.longest())
	}
	return int(q.drops - before)
}

// pop removes and returns the next datagram, which the caller hands back with
// release. It returns false if nothing is queued that is young enough at now,
// or if the next datagram is longer than max; that one stays until it fits or
// expires.
func (q *datagramQueue) pop(now time.Time, max int) ([]byte, bool) {
	f := q.next(now)
	if f == nil || len(f.queue.at(0).b) > max {
		return nil, false
	}
	f.deficit -= f.queue.at(0).cost()
	b := q.take(f)
	if f.queue.len() == 0 {
		q.forget()
	}
	return b, true
}

// peekSize returns the length of what pop would return at now, or -1 if there
// is nothing.
func (q *datagramQueue) peekSize(now time.Time) int {
	f := q.next(now)
	if f == nil {
		return -1
	}
	return len(f.queue.at(0).b)
}

// len returns the number of datagrams queued, expired ones included.
func (q *datagramQueue) len() int {
	if q == nil {
		return 0
	}
	return q.count
}

// release takes back a datagram that pop returned.
func (q *datagramQueue) release(b []byte) { putDatagram(b) }

// reset drops everything.
func (q *datagramQueue) reset() {
	for q.turns.len() > 0 {
		f := *q.turns.at(0)
		for f.queue.len() > 0 {
			q.drop(f)
		}
		q.forget()
	}
	q.spare = nil
}

// next drops what has expired and returns the flow to be served, which is then
// at the front of turns and may send its oldest datagram. It returns nil if
// the queue is empty. Until pop, it returns the same flow again.
func (q *datagramQueue) next(now time.Time) *datagramFlow {
	for q.turns.len() > 0 {
		f := *q.turns.at(0)
		for f.queue.len() > 0 && f.queue.at(0).expired(now) {
			q.drop(f)
		}
		if f.queue.len() == 0 {
			q.forget()
			continue
		}
		if !f.serving {
			f.serving = true
			f.deficit += flowQuantum
		}
		if f.queue.at(0).cost() <= f.deficit {
			return f
		}
		f.serving = false
		q.turns.push(q.turns.pop())
	}
	return nil
}

// full reports whether f, whose share is so many bytes, must lose a datagram
// for another.
func (f *datagramFlow) full(share int) bool {
	return f.queue.len() >= maxFlowDatagrams && f.weight >= share
}

// expired reports whether d is too old to be sent at now.
func (d *queuedDatagram) expired(now time.Time) bool { return now.Sub(d.at) > maxFlowDelay }

// cost is what d counts for in its flow's turn, in bytes.
func (d *queuedDatagram) cost() int { return max(len(d.b), minDatagramCost) }

// admit begins the queue of a flow that has nothing queued.
func (q *datagramQueue) admit(id uint64) *datagramFlow {
	f := q.spare
	if q.spare = nil; f == nil {
		f = new(datagramFlow)
	}
	f.id = id
	if q.flows == nil {
		q.flows = make(map[uint64]*datagramFlow)
	}
	q.flows[id] = f
	q.wide = q.wide || len(q.flows) > fifoKeep
	q.turns.push(f)
	return f
}

// forget removes the flow at the front of turns, which must be empty.
func (q *datagramQueue) forget() {
	f := q.turns.pop()
	delete(q.flows, f.id)
	if len(q.flows) == 0 && q.wide {
		q.flows, q.wide = nil, false
	}
	*f = datagramFlow{queue: f.queue}
	q.spare = f
}

// take removes the oldest datagram of f.
func (q *datagramQueue) take(f *datagramFlow) []byte {
	b := f.queue.pop().b
	f.size -= len(b)
	f.weight -= max(len(b), minDatagramWeight)
	q.size -= len(b)
	q.count--
	return b
}

// drop discards the oldest datagram of f.
func (q *datagramQueue) drop(f *datagramFlow) {
	putDatagram(q.take(f))
	q.drops++
}

// longest returns the flow that holds most bytes. It looks at all of them,
// which happens only while the whole queue is full.
func (q *datagramQueue) longest() *datagramFlow {
	var most *datagramFlow
	for i := range q.turns.len() {
		if f := *q.turns.at(i); most == nil || f.size > most.size {
			most = f
		}
	}
	return most
}

// A datagramInbox holds received datagrams until they are read. When it is
// full, a new datagram replaces the oldest. The zero value is empty.
type datagramInbox struct {
	queue   fifo[[]byte] // from getDatagram, with DatagramRoom in front
	size    int          // bytes in it
	batches bool         // it is read in batches
	drops   uint64       // datagrams replaced before they were read
}

// push queues a copy of b and reports whether that dropped the oldest.
func (q *datagramInbox) push(b []byte) (dropped bool) {
	most, bytes := maxInboxDatagrams, maxInboxBytes
	if q.batches {
		most, bytes = maxBatchInboxDatagrams, maxBatchInboxBytes
	}
	for q.queue.len() >= most || q.size+len(b) > bytes && q.queue.len() > 0 {
		putDatagram(q.take())
		q.drops++
		dropped = true
	}
	q.size += len(b)
	c := getDatagram(DatagramRoom + len(b))
	copy(c[DatagramRoom:], b)
	q.queue.push(c)
	return dropped
}

// take removes the oldest datagram and returns its buffer.
func (q *datagramInbox) take() []byte {
	c := q.queue.pop()
	q.size -= len(c) - DatagramRoom
	return c
}

// pop returns the oldest datagram, which the caller owns, or false if there is
// none.
func (q *datagramInbox) pop() ([]byte, bool) {
	if q.queue.len() == 0 {
		return nil, false
	}
	c := q.take()
	b := append(make([]byte, 0, len(c)-DatagramRoom), c[DatagramRoom:]...)
	putDatagram(c)
	return b, true
}

// popBatch moves the oldest datagrams to list and returns how many.
func (q *datagramInbox) popBatch(list [][]byte) int {
	n := min(len(list), q.queue.len())
	for i := range n {
		list[i] = q.take()
	}
	return n
}

func (q *datagramInbox) len() int { return q.queue.len() }

// The sizes of pooled datagram buffers, in bytes: one for the usual packet and
// one for the largest (ri2n.md, PMTU).
const (
	smallDatagram = 2 << 10
	largeDatagram = 16 << 10
)

// These caches are shared by all sessions; they hold no state.
var (
	smallDatagrams = sync.Pool{New: func() any { return new([smallDatagram]byte) }}
	largeDatagrams = sync.Pool{New: func() any { return new([largeDatagram]byte) }}
)

// getDatagram returns a buffer of n bytes, from a pool if n is usual.
func getDatagram(n int) []byte {
	switch {
	case n <= smallDatagram:
		return smallDatagrams.Get().(*[smallDatagram]byte)[:n]
	case n <= largeDatagram:
		return largeDatagrams.Get().(*[largeDatagram]byte)[:n]
	default:
		return make([]byte, n)
	}
}

// putDatagram takes back a buffer from getDatagram, not resliced from its front.
func putDatagram(b []byte) {
	switch cap(b) {
	case smallDatagram:
		smallDatagrams.Put((*[smallDatagram]byte)(b[:smallDatagram]))
	case largeDatagram:
		largeDatagrams.Put((*[largeDatagram]byte)(b[:largeDatagram]))
	}
}
