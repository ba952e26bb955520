package ri2n

import "time"

// A clock wakes one goroutine at a set time.
type clock interface {
	// set makes wait return at at, in place of what was set before. It may be
	// called by any goroutine, one at a time, also while another waits.
	set(at time.Time)
	// wait blocks until the time has come. It may return early.
	wait()
	// close frees the clock once nobody waits.
	close()
}

// A runtimeClock is a time.Timer. It stands still with the others in a
// simulation, as a descriptor would not. Go rounds what it waits for up to a
// millisecond where nothing else keeps it awake (golang.org/issue/53824).
type runtimeClock struct{ timer *time.Timer }

func newRuntimeClock() *runtimeClock { return &runtimeClock{time.NewTimer(time.Hour)} }

func (c *runtimeClock) set(at time.Time) { c.timer.Reset(time.Until(at)) }
func (c *runtimeClock) wait()            { <-c.timer.C }
func (c *runtimeClock) close()           { c.timer.Stop() }

// A stoppedClock takes the place of one that has been closed.
type stoppedClock struct{}

func (stoppedClock) set(time.Time) {}
func (stoppedClock) wait()         {}
func (stoppedClock) close()        {}
