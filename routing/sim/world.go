// Package sim runs thousands of routing nodes in one process and in virtual
// time: an event queue, links with delay and loss, nodes that die, stall or
// lie. The same seed gives the same run. Tests and cmd/netsim use it; what it
// reports is simulated, not measured on a network.
//
// One goroutine owns a [World] and everything in it.
package sim

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// Epoch is when every world begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A Machine is a state machine of one node that wants to be called in time.
type Machine interface {
	// Advance does what has fallen due at now.
	Advance(now time.Time)
	// Deadline returns when Advance must be called next; zero is never.
	Deadline() time.Time
}

// A Host is a computer of the world: it has machines and a mailbox.
type Host struct {
	// Receive takes a message of the host with that index. Nil drops all.
	Receive func(now time.Time, from int, msg []byte)

	// Machines are advanced when their deadlines have come.
	Machines []Machine

	index   int
	x, y    float64 // where it is, which makes delays
	dead    bool
	resumes time.Time // zero, or the end of a stall
	wake    time.Time // of the earliest wake-up in the queue
	slow    time.Duration
}

// A World is a set of hosts and the network between them.
type World struct {
	// Delay bounds the one-way delay of two hosts, which depends on where
	// they are: from MinDelay for neighbours to MaxDelay. NewWorld sets 5 ms
	// and 75 ms.
	MinDelay, MaxDelay time.Duration

	// Loss is the part of all messages that is lost, from 0 to 1.
	Loss float64

	// Drop, if not nil, says which messages are lost besides.
	Drop func(from, to int) bool

	// Stopped, if not nil, makes RunUntil return early once it returns true.
	Stopped func() bool

	// Sent and Lost count messages, Bytes their sizes.
	Sent, Lost, Bytes uint64

	rand   *rand.Rand
	now    time.Time
	hosts  []*Host
	events eventQueue
	count  uint64
}

// NewWorld returns a world without hosts.
func NewWorld(seed uint64) *World {
	return &World{
		MinDelay: 5 * time.Millisecond,
		MaxDelay: 75 * time.Millisecond,
		rand:     rand.New(rand.NewPCG(seed, 1)),
		now:      epoch,
	}
}

// Rand returns the source of all that is random in the world.
func (w *World) Rand() *rand.Rand { return w.rand }

// Now returns the virtual time.
func (w *World) Now() time.Time { return w.now }

// Elapsed returns the virtual time since the world began.
func (w *World) Elapsed() time.Duration { return w.now.Sub(epoch) }

// Add puts a host somewhere into the world and returns its index.
func (w *World) Add(h *Host) int {
	h.index, h.x, h.y = len(w.hosts), w.rand.Float64(), w.rand.Float64()
	w.hosts = append(w.hosts, h)
	return h.index
}

// Len returns the number of hosts, dead ones included.
func (w *World) Len() int { return len(w.hosts) }

// Alive reports whether host i lives, stalled or not.
func (w *World) Alive(i int) bool { return !w.hosts[i].dead }

// Kill ends host i for good: it sends and receives no more.
func (w *World) Kill(i int) { w.hosts[i].dead = true }

// Stall stops host i for d, as SIGSTOP does. What arrives meanwhile waits, as
// it would in the socket's buffer, and timers run out late.
func (w *World) Stall(i int, d time.Duration) { w.hosts[i].resumes = w.now.Add(d) }

// Starve makes host i handle each message and timer after a random delay of
// at most d, as where others leave it little of the processor. Zero ends it.
func (w *World) Starve(i int, d time.Duration) { w.hosts[i].slow = d }

// Delay returns the one-way delay from a to b.
func (w *World) Delay(a, b int) time.Duration {
	from, to := w.hosts[a], w.hosts[b]
	far := math.Hypot(from.x-to.x, from.y-to.y) / math.Sqrt2
	return w.MinDelay + time.Duration(far*float64(w.MaxDelay-w.MinDelay))
}

// Send takes msg, which belongs to the world from then on, from one host to
// another.
func (w *World) Send(from, to int, msg []byte) {
	if w.hosts[from].dead {
		return
	}
	w.Sent++
	w.Bytes += uint64(len(msg))
	if w.hosts[to].dead || w.Loss > 0 && w.rand.Float64() < w.Loss || w.Drop != nil && w.Drop(from, to) {
		w.Lost++
		return
	}
	w.push(event{at: w.now.Add(w.Delay(from, to)), host: to, from: from, msg: msg})
}

// After calls f once d has passed.
func (w *World) After(d time.Duration, f func()) {
	w.push(event{at: w.now.Add(d), call: f})
}

// Touch must be called after host i was used from outside an event, so that
// its new deadlines are known.
func (w *World) Touch(i int) {
	h := w.hosts[i]
	var d time.Time
	for _, m := range h.Machines {
		if at := m.Deadline(); !at.IsZero() && (d.IsZero() || at.Before(d)) {
			d = at
		}
	}
	if !d.IsZero() && d.Before(w.now) {
		d = w.now
	}
	if d.IsZero() || h.dead || !h.wake.IsZero() && !d.Before(h.wake) {
		return
	}
	h.wake = d
	w.push(event{at: d, host: i, from: wakeUp})
}

// Run lets d pass.
func (w *World) Run(d time.Duration) {
	w.RunUntil(d, func() bool { return false })
}

// RunUntil lets time pass until done holds, at most d, and reports whether it
// does. done is called before and after every event.
func (w *World) RunUntil(d time.Duration, done func() bool) bool {
	end := w.now.Add(d)
	for {
		if done() {
			return true
		}
		if w.count%1024 == 0 && w.stopped() {
			return false
		}
		if len(w.events) == 0 || w.events[0].at.After(end) {
			w.now = end
			return done()
		}
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		w.happen(e)
	}
}

func (w *World) stopped() bool { return w.Stopped != nil && w.Stopped() }

// happen does e.
func (w *World) happen(e event) {
	if e.call != nil {
		e.call()
		return
	}
	h := w.hosts[e.host]
	if h.dead {
		return
	}
	if h.resumes.After(w.now) {
		e.at = h.resumes
		w.push(e)
		return
	}
	if h.slow > 0 && !e.late {
		e.late = true
		e.at = w.now.Add(time.Duration(w.rand.Int64N(int64(h.slow))))
		w.push(e)
		return
	}
	if e.from == wakeUp {
		if e.late || !h.wake.After(w.now) {
			h.wake = time.Time{}
		}
		for _, m := range h.Machines {
			if d := m.Deadline(); !d.IsZero() && !d.After(w.now) {
				m.Advance(w.now)
			}
		}
	} else if h.Receive != nil {
		h.Receive(w.now, e.from, e.msg)
	}
	w.Touch(e.host)
}

func (w *World) push(e event) {
	w.count++
	e.order = w.count
	heap.Push(&w.events, e)
}

// wakeUp is the sender of what is no message but a timer.
const wakeUp = -1

// An event is a message that arrives, a timer, or a call from outside.
type event struct {
	at    time.Time
	order uint64 // of events at the same instant
	host  int
	from  int
	late  bool // a starved host has let it wait already
	msg   []byte
	call  func()
}

// An eventQueue is a heap by time.
type eventQueue []event

func (q eventQueue) Len() int { return len(q) }

func (q eventQueue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].order < q[j].order
}

func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *eventQueue) Push(e any) { *q = append(*q, e.(event)) }

func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}
