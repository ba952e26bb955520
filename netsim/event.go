package netsim

import "time"

// An event is the end of a packet's way over a link, or a call.
type event struct {
	at  time.Duration // since the start
	seq uint64        // order among events of one moment: first in, first out
	dir *direction
	p   *packet
	fn  func() // in place of dir and p
}

func (e *event) before(o *event) bool {
	if e.at != o.at {
		return e.at < o.at
	}
	return e.seq < o.seq
}

// An eventQueue is a binary heap of events. It is written out since
// container/heap boxes every element, and the queue is the hot spot.
type eventQueue struct {
	heap []event
	seq  uint64
}

// push adds an event and gives it its place among those of the same moment.
func (q *eventQueue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = e
}

// next returns the moment of the earliest event.
func (q *eventQueue) next() (at time.Duration, ok bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.heap[0].at, true
}

// pop removes the earliest event. The queue must not be empty.
func (q *eventQueue) pop() event {
	top := q.heap[0]
	last := len(q.heap) - 1
	e := q.heap[last]
	q.heap[last] = event{}
	q.heap = q.heap[:last]
	if last == 0 {
		return top
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= last {
			break
		}
		if right := down + 1; right < last && q.heap[right].before(&q.heap[down]) {
			down = right
		}
		if !q.heap[down].before(&e) {
			break
		}
		q.heap[i] = q.heap[down]
		i = down
	}
	q.heap[i] = e
	return top
}
