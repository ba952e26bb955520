package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// WorkerConfig configures a [Worker]. The zero value works.
type WorkerConfig struct {
	// Name appears in errors and events. Empty: the clients use the address
	// at which they reach it.
	Name string

	// Site says which workers share a house and its uplink. Empty: unknown.
	Site string

	// Slots is how many calls are carried out at once. Zero: one for each
	// processor.
	Slots int

	// MaxArgument bounds an argument that is a value, in bytes. Zero: 256 MiB.
	// Streams have no bound.
	MaxArgument int64

	// MaxConns bounds the connections of all clients. Zero: 1024.
	MaxConns int

	// MaxHandles bounds the handles that are open, of all clients. Zero: 256.
	MaxHandles int

	// HandleIdle is how long a handle lives without a call. Zero: 10 min.
	HandleIdle time.Duration

	// Logger receives what the owner of the computer should know. Nil: silent.
	Logger *slog.Logger
}

const (
	// beatTime is how often a worker says that it is at work.
	beatTime = time.Second
	// busyPause is what a client that finds all slots taken is asked to wait.
	busyPause = 500 * time.Millisecond
	// slotPatience is how long a call waits for a slot before it is given back.
	slotPatience = 2 * time.Second
	// tellTime is how often clients that watch are told what has changed of a
	// worker's load.
	tellTime = 2 * time.Second
	// idleConn is how long a connection may be without a call.
	idleConn = 2 * time.Minute
)

// errWorkerClosed ends what a closed worker was doing.
var errWorkerClosed = errors.New("the worker was closed")

// A Worker offers functions to clients. Serve it one listener or more.
type Worker struct {
	cfg     WorkerConfig
	log     *slog.Logger
	slots   chan struct{}
	ctx     context.Context
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	stats   workerCounters

	mu        sync.Mutex // guards what follows
	closed    bool
	functions map[string]*function
	changed   chan struct{} // closed when functions change
	conns     map[net.Conn]struct{}
	handles   int // open
	listeners map[net.Listener]struct{}
}

// WorkerCounters count since the worker's start. Each limit has one.
type WorkerCounters struct {
	Calls          uint64 `json:"calls"`
	Failures       uint64 `json:"failures"` // errors of functions
	Panics         uint64 `json:"panics"`
	Refused        uint64 `json:"refused"` // unknown functions, wrong types, unknown handles
	Busy           uint64 `json:"busy"`    // calls given back since all slots were taken
	TooLarge       uint64 `json:"too_large"`
	Malformed      uint64 `json:"malformed"`
	ConnsRefused   uint64 `json:"conns_refused"`
	HandlesRefused uint64 `json:"handles_refused"` // since too many are open
}

type workerCounters struct {
	calls, failures, panics, refused, busy, tooLarge, malformed, connsRefused, handlesRefused atomic.Uint64
}

// NewWorker returns a worker without functions. Close it after use.
func NewWorker(cfg WorkerConfig) *Worker {
	if cfg.Slots <= 0 {
		cfg.Slots = runtime.GOMAXPROCS(0)
	}
	cfg.Slots = min(cfg.Slots, 0xffff)
	if cfg.MaxArgument <= 0 {
		cfg.MaxArgument = 256 << 20
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 1024
	}
	if cfg.MaxHandles <= 0 {
		cfg.MaxHandles = 256
	}
	if cfg.HandleIdle <= 0 {
		cfg.HandleIdle = 10 * time.Minute
	}
	w := &Worker{
		cfg: cfg, log: cfg.Logger, slots: make(chan struct{}, cfg.Slots),
		functions: make(map[string]*function), changed: make(chan struct{}),
		conns: make(map[net.Conn]struct{}), listeners: make(map[net.Listener]struct{}),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	return w
}

// Counters returns a snapshot.
func (w *Worker) Counters() WorkerCounters {
	c := &w.stats
	return WorkerCounters{
		Calls: c.calls.Load(), Failures: c.failures.Load(), Panics: c.panics.Load(), Refused: c.refused.Load(), Busy: c.busy.Load(),
		TooLarge: c.tooLarge.Load(), Malformed: c.malformed.Load(), ConnsRefused: c.connsRefused.Load(), HandlesRefused: c.handlesRefused.Load(),
	}
}

// Serve takes connections of clients until ln fails or the worker is closed,
// and returns why; it is [net.ErrClosed] after Close. It closes ln.
func (w *Worker) Serve(ln net.Listener) error {
	defer ln.Close()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return net.ErrClosed
	}
	w.listeners[ln] = struct{}{}
	w.mu.Unlock()
	for {
		c, err := ln.Accept()
		if err != nil {
			if w.ctx.Err() != nil {
				return net.ErrClosed
			}
			return fmt.Errorf("rpc: accept: %w", err)
		}
		w.mu.Lock()
		room := !w.closed && len(w.conns) < w.cfg.MaxConns
		if room {
			w.conns[c] = struct{}{}
			w.running.Go(func() { w.serveConn(c) })
		}
		w.mu.Unlock()
		if !room {
			w.stats.connsRefused.Add(1)
			c.Close()
		}
	}
}

// Close ends all calls and returns when they have ended. It may be called
// twice.
func (w *Worker) Close() error {
	w.mu.Lock()
	w.closed = true
	for ln := range w.listeners {
		ln.Close()
	}
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.cancel(errWorkerClosed)
	w.running.Wait()
	return nil
}

// changedLocked wakes whoever tells clients what there is.
func (w *Worker) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// offer returns what the worker offers now, and what is closed when that
// changes.
func (w *Worker) offer() (welcome, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := welcome{
		version: protocolVersion, slots: uint16(w.cfg.Slots), busy: uint16(len(w.slots)), name: w.cfg.Name, site: w.cfg.Site,
		calls: w.stats.calls.Load(), failures: w.stats.failures.Load(),
	}
	for _, name := range sortedKeys(w.functions) {
		x.functions = append(x.functions, w.functions[name].info(name))
	}
	return x, w.changed
}

func (w *Worker) function(name string) *function {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.functions[name]
}
