package ri2n

import (
	"container/heap"
	"sync"
	"time"
)

// A timer is one deadline of a session or a handshake in a timerQueue. Its
// fire function runs on the queue's goroutine and must not block.
type timer struct {
	fire func(now time.Time)

	// guarded by the queue's mutex
	at    time.Time // latest
	early time.Time // from here on it may fire in the company of others
	index int       // in the heap plus one; zero: not armed
}

// timerQueue fires the timers of one endpoint from one goroutine.
type timerQueue struct {
	wake chan struct{} // capacity 1: the earliest deadline has changed

	mu    sync.Mutex
	armed timerHeap
}

func newTimerQueue() *timerQueue {
	return &timerQueue{wake: make(chan struct{}, 1)}
}

// set arms t for at, or disarms it when at is zero.
func (q *timerQueue) set(t *timer, at time.Time) { q.setBetween(t, at, at) }

// setBetween arms t for at, or from early on when the queue is awake anyway:
// ten thousand sessions whose keepalives may move by some milliseconds wake a
// processor tens of times a second, not hundreds.
func (q *timerQueue) setBetween(t *timer, early, at time.Time) {
	q.mu.Lock()
	t.early = early
	if t.at.Equal(at) {
		q.mu.Unlock()
		return
	}
	t.at = at
	switch {
	case at.IsZero():
		if t.index > 0 {
			heap.Remove(&q.armed, t.index-1)
		}
	case t.index > 0:
		heap.Fix(&q.armed, t.index-1)
	default:
		heap.Push(&q.armed, t)
	}
	first := len(q.armed) > 0 && q.armed[0] == t
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// run fires due timers until done is closed.
func (q *timerQueue) run(done <-chan struct{}) {
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		now := time.Now()
		wait := time.Hour
		for {
			q.mu.Lock()
			if len(q.armed) == 0 {
				q.mu.Unlock()
				break
			}
			t := q.armed[0]
			if t.at.After(now) && t.early.After(now) {
				wait = t.at.Sub(now)
				q.mu.Unlock()
				break
			}
			heap.Pop(&q.armed)
			t.at = time.Time{}
			q.mu.Unlock()
			t.fire(now)
		}
		clock.Reset(wait)
		select {
		case <-clock.C:
		case <-q.wake:
		case <-done:
			return
		}
	}
}

// timerHeap implements heap.Interface, earliest first.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h) + 1
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = 0
	return t
}
