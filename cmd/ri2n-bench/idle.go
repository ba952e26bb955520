package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// A memoryReport is what a process holds, after a collection that returned
// what it could to the system.
type memoryReport struct {
	RSS        int64   `json:"rss"` // bytes
	Goroutines int     `json:"goroutines"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

func readMemory() (memoryReport, error) {
	// Twice: what a finalizer or a pool held goes with the second.
	runtime.GC()
	debug.FreeOSMemory()
	rss, err := residentSize()
	return memoryReport{rss, runtime.NumGoroutine(), processCPU()}, err
}

// serveCPU answers with the processor time alone: a collection costs some.
func serveCPU(c conn) error {
	if err := writeLine(c, memoryReport{CPUSeconds: processCPU()}); err != nil {
		return err
	}
	return c.CloseWrite()
}

func serveMemory(c conn) error {
	m, err := readMemory()
	if err != nil {
		return err
	}
	if err := writeLine(c, m); err != nil {
		return err
	}
	return c.CloseWrite()
}

// serveIdle leaves the connection open without a goroutine of ours.
func serveIdle(c conn) error {
	if _, err := c.Write([]byte{opIdle}); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return errKept
}

// An idle is what sessions without traffic cost, the dearer end counting.
type idle struct {
	Sessions        int     `json:"sessions"`
	RSS             float64 `json:"rss"`        // bytes for each session
	Goroutines      float64 `json:"goroutines"` // for each session
	CPUShare        float64 `json:"cpu_share"`  // of one core, both ends together
	SetupsPerSecond float64 `json:"setups_per_second"`
}

const idleDialers = 32 // handshakes at a time

// measureIdle holds count sessions open for the given time.
func measureIdle(ctx context.Context, d dialer, count int, during time.Duration) (idle, error) {
	var mu sync.Mutex
	var kept []conn
	defer func() {
		for _, c := range kept {
			if a, ok := c.(aborter); ok {
				a.abort()
			}
			c.Close()
		}
	}()
	open := func(n int) error {
		dialing, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		todo := make(chan struct{}, n)
		for range n {
			todo <- struct{}{}
		}
		close(todo)
		var workers sync.WaitGroup
		for range idleDialers {
			workers.Go(func() {
				for range todo {
					if dialing.Err() != nil {
						return
					}
					c, err := openIdle(dialing, d)
					if err != nil {
						cancel(err)
						return
					}
					mu.Lock()
					kept = append(kept, c)
					mu.Unlock()
				}
			})
		}
		workers.Wait()
		if dialing.Err() != nil {
			return fmt.Errorf("after %d sessions: %w", len(kept), context.Cause(dialing))
		}
		return nil
	}
	// Buffers and pools that the first sessions bring are not those of each.
	if err := open(idleDialers); err != nil {
		return idle{}, err
	}
	before, err := bothEnds(ctx, d)
	if err != nil {
		return idle{}, err
	}
	start := time.Now()
	if err := open(count); err != nil {
		return idle{}, err
	}
	took := time.Since(start)
	// Handshakes leave timers, probes, retransmissions and records of what they
	// refused that end within seconds, of whichever contender.
	if err := sleep(ctx, max(2*time.Second, during*3/5)); err != nil {
		return idle{}, err
	}
	after, err := bothEnds(ctx, d)
	if err != nil {
		return idle{}, err
	}
	quiet, err := cpuOf(ctx, d)
	if err != nil {
		return idle{}, err
	}
	start = time.Now()
	if err := sleep(ctx, during); err != nil {
		return idle{}, err
	}
	silent := time.Since(start).Seconds()
	end, err := cpuOf(ctx, d)
	if err != nil {
		return idle{}, err
	}
	result := idle{Sessions: count, CPUShare: (end - quiet) / silent, SetupsPerSecond: float64(count) / took.Seconds()}
	for i := range after {
		result.RSS = max(result.RSS, float64(after[i].RSS-before[i].RSS)/float64(count))
		result.Goroutines = max(result.Goroutines, float64(after[i].Goroutines-before[i].Goroutines)/float64(count))
	}
	return result, nil
}

func openIdle(ctx context.Context, d dialer) (conn, error) {
	c, err := d.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(setupLimit))
	var b [1]byte
	if _, err = c.Write([]byte{opIdle}); err == nil {
		_, err = io.ReadFull(c, b[:])
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// bothEnds returns what this process and the server hold.
func bothEnds(ctx context.Context, d dialer) (ends [2]memoryReport, err error) {
	if ends[1], err = askMemory(ctx, d); err != nil {
		return ends, err
	}
	ends[0], err = readMemory()
	return ends, err
}

// cpuOf returns the CPU-seconds of both ends so far.
func cpuOf(ctx context.Context, d dialer) (float64, error) {
	theirs, err := ask(ctx, d, opCPU)
	return processCPU() + theirs.CPUSeconds, err
}

func askMemory(ctx context.Context, d dialer) (memoryReport, error) {
	m, err := ask(ctx, d, opMemory)
	if err == nil && m.RSS <= 0 {
		err = errors.New("this system does not tell the memory of a process")
	}
	return m, err
}

// ask sends an operation that is answered with a memoryReport.
func ask(ctx context.Context, d dialer, op byte) (m memoryReport, err error) {
	c, err := d.Dial(ctx)
	if err != nil {
		return m, fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(quietLimit))
	if _, err := c.Write([]byte{op}); err != nil {
		return m, err
	}
	err = readLine(c, &m)
	return m, err
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
