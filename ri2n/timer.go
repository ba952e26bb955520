package ri2n

import (
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
			q.armed.remove(t.index - 1)
		}
		return
	case t.index > 0 && !at.Before(q.armed[t.index-1].key):
		return
	case t.index > 0:
		q.armed.up(t.index-1, armedTimer{at, t})
	default:
		q.armed.push(armedTimer{at, t})
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
		key, t := q.armed[0].key, q.armed[0].timer
		switch {
		case key.After(now) && t.early.After(now):
			return nil
		case t.at.After(key) && t.early.After(now):
			q.armed.down(0, armedTimer{t.at, t})
		default:
			q.armed.remove(0)
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

// An armedTimer is the place of a timer in a timerHeap.
type armedTimer struct {
	key   time.Time // the timer's at, or earlier
	timer *timer
}

// A timerHeap has the earliest key first. Four children to each, and the keys
// beside the pointers: what ten thousand timers cost is the memory they touch.
type timerHeap []armedTimer

const heapChildren = 4

func (h timerHeap) put(i int, a armedTimer) {
	h[i] = a
	a.timer.index = i + 1
}

// up puts a, which belongs at i or above it.
func (h timerHeap) up(i int, a armedTimer) {
	for i > 0 {
		parent := (i - 1) / heapChildren
		if !a.key.Before(h[parent].key) {
			break
		}
		h.put(i, h[parent])
		i = parent
	}
	h.put(i, a)
}

// down puts a, which belongs at i or below it.
func (h timerHeap) down(i int, a armedTimer) {
	for {
		first := i*heapChildren + 1
		if first >= len(h) {
			break
		}
		least := first
		for k := first + 1; k < min(first+heapChildren, len(h)); k++ {
			if h[k].key.Before(h[least].key) {
				least = k
			}
		}
		if !h[least].key.Before(a.key) {
			break
		}
		h.put(i, h[least])
		i = least
	}
	h.put(i, a)
}

func (h *timerHeap) push(a armedTimer) {
	*h = append(*h, a)
	h.up(len(*h)-1, a)
}

func (h *timerHeap) remove(i int) {
	(*h)[i].timer.index = 0
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = armedTimer{}
	*h = (*h)[:last]
	if i == last {
		return
	}
	h.up(i, a)
	if a.timer.index == i+1 {
		h.down(i, a)
	}
}
