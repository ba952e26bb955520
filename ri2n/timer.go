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
	at    time.Time // latest; zero: not armed
	early time.Time // from here on it may fire in the company of others
	key   time.Time // its place in the heap: at, or earlier
	index int       // in the heap plus one; zero: not there
}

// timerQueue fires the timers of one endpoint from one goroutine.
//
// The deadline of a busy session moves with every packet, nearly always to a
// later time. Such a timer keeps its place in the heap and is looked at again
// when that comes up.
type timerQueue struct {
	mu     sync.Mutex
	armed  timerHeap
	clock  clock
	wakeAt time.Time // when clock goes off; zero: run is not waiting
}

func newTimerQueue() *timerQueue { return &timerQueue{clock: newRuntimeClock()} }

// set arms t for at, or disarms it when at is zero.
func (q *timerQueue) set(t *timer, at time.Time) { q.setBetween(t, at, at) }

// setBetween arms t for at, or from early on when the queue is awake anyway:
// ten thousand sessions whose keepalives may move by some milliseconds wake a
// processor tens of times a second, not hundreds.
func (q *timerQueue) setBetween(t *timer, early, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.early = early
	t.at = at
	switch {
	case at.IsZero():
		if t.index > 0 {
			heap.Remove(&q.armed, t.index-1)
		}
		return
	case t.index > 0 && !at.Before(t.key):
		return
	case t.index > 0:
		t.key = at
		heap.Fix(&q.armed, t.index-1)
	default:
		t.key = at
		heap.Push(&q.armed, t)
	}
	if at.Before(q.wakeAt) {
		q.wakeAt = at
		q.clock.set(at)
	}
}

// useKernel takes the time from the kernel's timers, where there are such that
// are more punctual than those of the runtime.
func (q *timerQueue) useKernel() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, plain := q.clock.(*runtimeClock); !plain {
		return
	}
	if c := newKernelClock(); c != nil {
		old := q.clock
		q.clock = c
		old.set(time.Now()) // run changes over
	}
}

// interrupt makes run look at done.
func (q *timerQueue) interrupt() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.clock.set(time.Now())
}

// run fires due timers until done is closed, and interrupt has been called
// after that.
func (q *timerQueue) run(done <-chan struct{}) {
	for {
		now := time.Now()
		for t := q.due(now); t != nil; t = q.due(now) {
			t.fire(now)
		}
		if c := q.sleep(done); c == nil {
			return
		} else {
			c.wait()
		}
	}
}

// due returns the next timer that is to fire at now, and disarms it.
func (q *timerQueue) due(now time.Time) *timer {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeAt = time.Time{}
	for len(q.armed) > 0 {
		t := q.armed[0]
		switch {
		case t.key.After(now) && t.early.After(now):
			return nil
		case t.at.After(t.key) && t.early.After(now):
			t.key = t.at
			heap.Fix(&q.armed, 0)
		default:
			heap.Pop(&q.armed)
			t.at = time.Time{}
			return t
		}
	}
	return nil
}

// sleep sets the clock to the earliest deadline and returns it, or nil when
// done is closed.
func (q *timerQueue) sleep(done <-chan struct{}) clock {
	q.mu.Lock()
	defer q.mu.Unlock()
	if isClosed(done) {
		q.clock.close()
		q.clock = stoppedClock{}
		return nil
	}
	q.wakeAt = time.Now().Add(time.Hour)
	if len(q.armed) > 0 && q.armed[0].key.Before(q.wakeAt) {
		q.wakeAt = q.armed[0].key
	}
	q.clock.set(q.wakeAt)
	return q.clock
}

// timerHeap implements heap.Interface, earliest first.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].key.Before(h[j].key) }
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
