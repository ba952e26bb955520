package ri2n

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Timers fire at their time, whichever way that moved after they were set.
func TestTimerQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTimerQueue()
		done := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { q.run(done) })
		start := time.Now()
		at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

		var mu sync.Mutex
		var fired []string
		timers := make(map[string]*timer)
		for _, name := range []string{"later", "sooner", "twice", "off", "again", "never"} {
			timers[name] = &timer{fire: func(now time.Time) {
				mu.Lock()
				defer mu.Unlock()
				fired = append(fired, name+" "+now.Sub(start).String())
			}}
		}
		q.set(timers["later"], at(10))
		q.set(timers["later"], at(500)) // keeps its place in the heap
		q.set(timers["sooner"], at(900))
		q.set(timers["sooner"], at(20))
		q.set(timers["twice"], at(100))
		q.set(timers["twice"], at(400))
		q.set(timers["twice"], at(200))
		q.set(timers["off"], at(50))
		q.set(timers["off"], time.Time{})
		q.set(timers["never"], time.Time{})
		q.set(timers["again"], at(30))
		time.Sleep(300 * time.Millisecond)
		q.set(timers["again"], at(350))
		time.Sleep(time.Second)

		want := []string{"sooner 20ms", "again 30ms", "twice 200ms", "again 350ms", "later 500ms"}
		mu.Lock()
		if !slices.Equal(fired, want) {
			t.Errorf("fired %q, want %q", fired, want)
		}
		mu.Unlock()
		if n := len(q.armed); n != 0 {
			t.Errorf("%d timers are still armed", n)
		}
		close(done)
		q.interrupt()
		running.Wait()
		q.set(timers["never"], at(5000)) // after the end: no effect
		q.interrupt()
	})
}

// An endpoint that gets a kernel socket changes its clock, and timers that were
// set before that still fire.
func TestTimerQueueChangesClock(t *testing.T) {
	q := newTimerQueue()
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { q.run(done) })
	fired := make(chan string, 3)
	set := func(name string, wait time.Duration) *timer {
		tm := &timer{fire: func(time.Time) { fired <- name }}
		q.set(tm, time.Now().Add(wait))
		return tm
	}
	set("before", 20*time.Millisecond)
	q.useKernel()
	q.useKernel() // once is enough
	set("after", time.Millisecond)
	far := set("sooner", time.Hour)
	for range 2 {
		<-fired
	}
	q.set(far, time.Now()) // wakes the sleeping goroutine
	if got := <-fired; got != "sooner" {
		t.Errorf("%q fired, want the one that was moved", got)
	}
	close(done)
	q.interrupt()
	running.Wait()
}

// TestTimerHeap compares a timerHeap with a list.
func TestTimerHeap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	begin := time.Now()
	key := func() time.Time { return begin.Add(time.Duration(rng.IntN(1000))) }
	var h timerHeap
	want := make(map[*timer]time.Time)
	for step := range 20_000 {
		switch op := rng.IntN(4); {
		case op < 2 && len(h) < 300:
			a := armedTimer{key(), new(timer)}
			h.push(a)
			want[a.timer] = a.key
		case len(h) == 0:
		case op == 2:
			i := rng.IntN(len(h))
			gone := h[i].timer
			h.remove(i)
			if gone.index != 0 {
				t.Fatalf("step %d: a removed timer has the index %d", step, gone.index)
			}
			delete(want, gone)
		default:
			i := rng.IntN(len(h))
			a := armedTimer{key(), h[i].timer}
			if a.key.Before(h[i].key) {
				h.up(i, a)
			} else {
				h.down(i, a)
			}
			want[a.timer] = a.key
		}
		if len(h) != len(want) {
			t.Fatalf("step %d: %d timers, want %d", step, len(h), len(want))
		}
		for i, a := range h {
			if a.timer.index != i+1 || !want[a.timer].Equal(a.key) || h[(max(i, 1)-1)/heapChildren].key.After(a.key) {
				t.Fatalf("step %d: timer %d is out of place", step, i)
			}
		}
	}
}
