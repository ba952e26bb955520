package ri2n

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what waits for a handshake worker, in bytes.
const (
	maxFirstBytes = 4 << 10 // for one connection ID that nobody has yet

	// For one handshake: a ClientHello of two datagrams from each of eight
	// candidates, which a time-out may send again all at once.
	maxWaitingBytes = 20 << 10
	maxWaitingTotal = 4 << 20 // for all
)

// A waitingDatagram has a long header and has not been opened.
type waitingDatagram struct {
	link *Link
	from netip.AddrPort
	data []byte
	at   time.Time

	start initialStart // of an Initial with an unknown connection ID
}

// A waitingList holds the datagrams of one handshake. While running is set a
// worker has been told of them, and none other is to be.
type waitingList struct {
	list    []waitingDatagram
	bytes   int
	running bool
	left    bool // nobody attends any more: workers do it
}

// A waitingQueue bounds and guards the waitingLists of an endpoint. What finds
// no room is dropped, as the network might have dropped it.
type waitingQueue struct {
	dropped *atomic.Uint64

	mu     sync.Mutex
	bytes  int
	firsts map[connID]*waitingList // of Initials with unknown connection IDs
}

// push adds d to l, which may hold up to most bytes, and reports whether a
// worker must be told.
func (q *waitingQueue) push(l *waitingList, d waitingDatagram, most int) (run bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(l, d, most)
}

func (q *waitingQueue) add(l *waitingList, d waitingDatagram, most int) (run bool) {
	if l.bytes+len(d.data) > most || q.bytes+len(d.data) > maxWaitingTotal {
		q.dropped.Add(1)
		return false
	}
	l.list = append(l.list, d)
	l.bytes += len(d.data)
	q.bytes += len(d.data)
	run = !l.running
	l.running = true
	return run
}

// take returns what waits in l, or nil: then the worker is done with it.
func (q *waitingQueue) take(l *waitingList) []waitingDatagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.empty(l)
}

func (q *waitingQueue) empty(l *waitingList) []waitingDatagram {
	list := l.list
	q.bytes -= l.bytes
	*l = waitingList{running: list != nil, left: l.left}
	return list
}

// attended reports whether the goroutine that dials handles l.
func (q *waitingQueue) attended(l *waitingList) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !l.left
}

// leave makes l the workers', and reports whether it has been left to the
// caller before.
func (q *waitingQueue) leave(l *waitingList) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.left = true
	return l.running
}

// drop forgets what waits in l, for which there was no worker.
func (q *waitingQueue) drop(l *waitingList) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.empty(l)
	l.running = false
}

// pushFirst is push for an Initial of a handshake that does not exist yet.
func (q *waitingQueue) pushFirst(id connID, d waitingDatagram) (run bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.firsts[id]
	if l == nil {
		if q.firsts == nil {
			q.firsts = make(map[connID]*waitingList)
		}
		l = new(waitingList)
		q.firsts[id] = l
	}
	run = q.add(l, d, maxFirstBytes)
	if len(l.list) == 0 {
		delete(q.firsts, id)
	}
	return run
}

// takeFirst is take for these; the last one forgets the connection ID.
func (q *waitingQueue) takeFirst(id connID) []waitingDatagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.firsts[id]
	if l == nil {
		return nil
	}
	list := q.empty(l)
	delete(q.firsts, id)
	return list
}
