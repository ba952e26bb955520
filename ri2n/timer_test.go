package ri2n

import (
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
