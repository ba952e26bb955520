package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ClientConfig configures a [Client]. Dial is needed; zero values of the others
// work.
type ClientConfig struct {
	// Dial connects to a worker, as overlay.Node.DialContext and
	// net.Dialer.DialContext do.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Workers are the addresses of workers. They are tried again while they
	// are not there.
	Workers []string

	// Watch reports the addresses of workers that come and go, besides
	// Workers, until ctx ends. Nil: there are no others.
	Watch func(ctx context.Context, report func(addresses []string)) error

	// Codec encodes arguments and results. Nil: [Binary].
	Codec Codec

	// SuspectAfter is the silence after which a worker's calls are done
	// elsewhere as well; workers send a sign of life each second. Zero: 3 s.
	SuspectAfter time.Duration

	// LostAfter is the silence after which a worker is given up. Zero: 30 s.
	LostAfter time.Duration

	// SpotCheck is the share of calls, from 0 to 1, that two workers do, so
	// that one that lies is found. Calls with [Verify] are checked anyway.
	SpotCheck float64

	// MaxOutstanding bounds calls without a result; more wait. Zero: 100 000.
	MaxOutstanding int

	// MaxResult bounds a result that is a value, in bytes. Zero: 256 MiB. A
	// worker that sends more is taken for broken.
	MaxResult int64

	// MaxStream bounds a result that is a stream, in bytes, likewise. Zero: 64 GiB.
	MaxStream int64

	// SpoolDir takes results of streams of more than 1 MiB until they are
	// complete. Empty: the system's directory for temporary files.
	SpoolDir string

	// OnEvent is told what happens to calls and workers, in order. It must not
	// block and must not call the client. Nil: nobody is told.
	OnEvent func(Event)

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger
}

const (
	deadlyCalls  = 3  // workers lost over one call before it is given up
	mostAttempts = 16 // of one call, workers that were full included
	isolateAfter = 2  // lies, so that one broken disk is not a liar

	redialFirst = 200 * time.Millisecond
	redialLast  = 10 * time.Second
	dialTime    = 15 * time.Second
	// keptConns is how many idle connections to one worker are kept.
	keptConns = 16
	// keptRunners is how many goroutines wait for attempts.
	keptRunners = 64
	// doubtTime is how long a call whose connection broke waits for the news
	// that its worker is gone.
	doubtTime = 2 * time.Second
)

// ErrClosed reports the use of a client that has been closed.
var ErrClosed = fmt.Errorf("rpc: client closed: %w", net.ErrClosed)

// A Client calls functions of workers. Close it after use.
type Client struct {
	cfg     ClientConfig
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	room    chan struct{} // a token for each call without a result

	// Goroutines that have carried out an attempt take the next one from here:
	// their stacks have grown as far as a connection needs.
	handoff chan *try
	parked  atomic.Int32

	signatures      sync.Map // of types
	resultsTooLarge atomic.Uint64

	mu      sync.Mutex // guards what follows; where it is held there is now
	plan    *plan
	closed  bool
	calls   map[uint64]*pending
	last    uint64 // id of the last call
	remotes map[string]*remote
	timer   *time.Timer
	armed   bool
	known   chan struct{} // closed when more is known of the workers
	looked  bool          // Watch has reported
}

// NewClient returns a client and begins to connect to its workers.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Dial == nil {
		return nil, errors.New("rpc: ClientConfig.Dial is needed")
	}
	if cfg.SpotCheck < 0 || cfg.SpotCheck > 1 {
		return nil, fmt.Errorf("rpc: ClientConfig.SpotCheck is %v, not within 0 and 1", cfg.SpotCheck)
	}
	if cfg.Codec == nil {
		cfg.Codec = Binary
	}
	if cfg.SuspectAfter <= 0 {
		cfg.SuspectAfter = 3 * time.Second
	}
	if cfg.LostAfter <= 0 {
		cfg.LostAfter = 30 * time.Second
	}
	if cfg.MaxResult <= 0 {
		cfg.MaxResult = 256 << 20
	}
	if cfg.MaxStream <= 0 {
		cfg.MaxStream = 64 << 30
	}
	if cfg.MaxOutstanding <= 0 {
		cfg.MaxOutstanding = 100_000
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger, room: make(chan struct{}, cfg.MaxOutstanding),
		calls: make(map[uint64]*pending), remotes: make(map[string]*remote), known: make(chan struct{}),
		handoff: make(chan *try),
		plan: newPlan(planConfig{
			suspectAfter: cfg.SuspectAfter, lostAfter: cfg.LostAfter, deadly: deadlyCalls,
			mostAttempts: mostAttempts, isolateAfter: isolateAfter, spotCheck: cfg.SpotCheck,
		}, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.timer.Stop()
	for _, address := range cfg.Workers {
		c.addWorker(address)
	}
	if cfg.Watch != nil {
		c.running.Go(c.watch)
	}
	return c, nil
}

// Close ends all calls with [ErrClosed] and returns when all goroutines have
// ended. It may be called twice.
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	if first {
		for id := range c.calls {
			c.plan.cancel(time.Now(), id)
		}
		c.carry()
		for _, p := range c.calls {
			p.end(nil, ErrClosed)
		}
		clear(c.calls)
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
	return nil
}

// Counters returns a snapshot.
func (c *Client) Counters() Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	counters := c.plan.counters
	counters.ResultsTooLarge = c.resultsTooLarge.Load()
	return counters
}

// WorkerStatus describes a worker.
type WorkerStatus struct {
	Address   string         `json:"address"`
	Name      string         `json:"name,omitempty"`
	Site      string         `json:"site,omitempty"`
	Connected bool           `json:"connected"`
	Error     string         `json:"error,omitempty"` // why it is not connected
	Err       error          `json:"-"`               // the same
	Functions []FunctionInfo `json:"functions"`

	// As the worker says, of all its clients.
	Slots    int    `json:"slots"`
	Busy     int    `json:"busy"` // slots that are taken
	Calls    uint64 `json:"calls"`
	Failures uint64 `json:"failures"` // errors of functions

	// As this client has seen.
	Running  int     `json:"running"`
	Done     uint64  `json:"done"`   // calls with a result
	Broken   uint64  `json:"broken"` // attempts that were lost with their connection
	Speed    float64 `json:"speed"`  // of its calls, as a multiple of the first worker's; zero: unknown
	Suspect  bool    `json:"suspect"`
	Isolated bool    `json:"isolated"` // it lied too often
	Lies     int     `json:"lies"`
}

// Workers returns what is known of each worker, by address.
func (c *Client) Workers() []WorkerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []WorkerStatus{}
	for _, address := range sortedKeys(c.remotes) {
		r := c.remotes[address]
		s := WorkerStatus{Address: address, Name: r.offer.name, Site: r.offer.site, Functions: r.offer.functions,
			Slots: int(r.offer.slots), Busy: int(r.offer.busy), Calls: r.offer.calls, Failures: r.offer.failures, Done: r.done, Broken: r.broken}
		if s.Functions == nil {
			s.Functions = []FunctionInfo{}
		}
		if r.err != nil {
			s.Err, s.Error = r.err, r.err.Error()
		}
		if w := c.plan.workers[address]; w != nil {
			s.Connected, s.Running, s.Suspect, s.Isolated, s.Lies = true, len(w.running), w.suspect, w.isolated, w.lies
			if w.factor > 0 {
				s.Speed = 1 / w.factor
			}
		}
		list = append(list, s)
	}
	return list
}

// An Event is something that happened to a call or a worker.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     EventKind `json:"kind"`
	Worker   string    `json:"worker,omitempty"`
	Call     uint64    `json:"call,omitempty"`
	Function string    `json:"function,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

// An EventKind says what an [Event] is about.
type EventKind string

// Kinds of events.
const (
	EventWorkerUp       EventKind = "worker-up"
	EventWorkerDown     EventKind = "worker-down"
	EventWorkerIsolated EventKind = "worker-isolated"
	EventStarted        EventKind = "started" // a call on a worker
	EventReturned       EventKind = "returned"
	EventStopped        EventKind = "stopped" // its result is not needed
	EventDone           EventKind = "done"    // the call has its result
	EventFailed         EventKind = "failed"
)

// emit tells the configuration's function. The mutex is held.
func (c *Client) emit(e Event) {
	if c.cfg.OnEvent != nil {
		e.Time = time.Now()
		c.cfg.OnEvent(e)
	}
}

// tick lets the plan look at the clock.
func (c *Client) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if c.closed {
		return
	}
	c.plan.advance(time.Now())
	c.carry()
}

// carry does what the plan has decided, and arms the timer. The mutex is held.
func (c *Client) carry() {
	for decisions := c.plan.take(); len(decisions) > 0; decisions = c.plan.take() {
		for _, d := range decisions {
			c.do(d)
		}
	}
	if due := c.plan.deadline(time.Now()); !due.IsZero() && !c.armed && !c.closed {
		c.armed = true
		c.timer.Reset(time.Until(due))
	}
}

// carryOut runs attempts: the first one, and those that are handed to it.
func (c *Client) carryOut(t *try) {
	for {
		t.run()
		t = nil
		if c.parked.Add(1) > keptRunners {
			c.parked.Add(-1)
			return
		}
		select {
		case t = <-c.handoff:
			c.parked.Add(-1)
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Client) do(d decision) {
	p := c.calls[d.call]
	switch d.kind {
	case startAttempt:
		r := c.remotes[d.worker]
		if p == nil || r == nil || c.closed {
			return
		}
		t := &try{client: c, remote: r, call: p, number: d.attempt}
		p.tries[d.attempt] = t
		c.emit(Event{Kind: EventStarted, Worker: d.worker, Call: d.call, Function: p.spec.function})
		select {
		case c.handoff <- t:
		default:
			c.running.Go(func() { c.carryOut(t) })
		}
	case stopAttempt:
		if p != nil && p.tries[d.attempt] != nil {
			p.tries[d.attempt].stop()
			delete(p.tries, d.attempt)
		}
		c.emit(Event{Kind: EventStopped, Worker: d.worker, Call: d.call})
	case settleResult:
		if p == nil {
			return
		}
		t := p.tries[d.attempt]
		delete(c.calls, d.call)
		t.remote.done++
		c.emit(Event{Kind: EventDone, Worker: t.remote.address, Call: d.call, Function: p.spec.function})
		p.end(t.result, t.err)
	case settleFailed:
		if p == nil {
			return
		}
		delete(c.calls, d.call)
		c.emit(Event{Kind: EventFailed, Call: d.call, Function: p.spec.function, Detail: d.err.Error()})
		p.end(nil, d.err)
	case dropWorker:
		if r := c.remotes[d.worker]; r != nil && r.control != nil {
			r.control.close()
		}
	case isolateWorker:
		c.log.Warn("a worker lies and gets no more calls", "worker", d.worker)
		c.emit(Event{Kind: EventWorkerIsolated, Worker: d.worker})
	}
}

// watch follows the workers that come and go.
func (c *Client) watch() {
	err := c.cfg.Watch(c.ctx, func(addresses []string) {
		keep := make(map[string]bool, len(addresses)+len(c.cfg.Workers))
		for _, a := range c.cfg.Workers {
			keep[a] = true
		}
		for _, a := range addresses {
			keep[a] = true
			c.addWorker(a)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for a, r := range c.remotes {
			if !keep[a] {
				delete(c.remotes, a)
				r.cancel()
			}
		}
		c.looked = true
		c.learned()
	})
	if err != nil && c.ctx.Err() == nil {
		c.log.Warn("workers that come and go are no longer watched", "err", err)
	}
}

// addWorker begins to connect to a worker.
func (c *Client) addWorker(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.remotes[address] != nil {
		return
	}
	r := &remote{client: c, address: address, idle: make(chan *clientConn, keptConns)}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	c.remotes[address] = r
	c.running.Go(r.run)
}

// WaitWorkers waits until n workers are connected.
func (c *Client) WaitWorkers(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		have, known := len(c.plan.workers), c.known
		c.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-known:
		case <-ctx.Done():
			return fmt.Errorf("rpc: %d of %d workers are connected: %w", have, n, ctx.Err())
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

// Function waits until a connected worker offers the function, and returns
// what it says of it. When ctx ends first the error is a [*NoWorkerError].
func (c *Client) Function(ctx context.Context, name string) (FunctionInfo, error) {
	for {
		c.mu.Lock()
		have, known := len(c.plan.workers), c.known
		for address := range c.plan.workers {
			if r := c.remotes[address]; r != nil {
				for _, f := range r.offer.functions {
					if f.Name == name {
						c.mu.Unlock()
						return f, nil
					}
				}
			}
		}
		c.mu.Unlock()
		select {
		case <-known:
		case <-ctx.Done():
			return FunctionInfo{}, &NoWorkerError{Function: name, Workers: have}
		case <-c.ctx.Done():
			return FunctionInfo{}, ErrClosed
		}
	}
}

// learned wakes whoever waits for news of workers. The mutex is held.
func (c *Client) learned() {
	close(c.known)
	c.known = make(chan struct{})
}

// WaitTried waits until each worker is connected or could not be reached once.
func (c *Client) WaitTried(ctx context.Context) error {
	for {
		c.mu.Lock()
		tried, known := c.looked || c.cfg.Watch == nil, c.known
		for _, r := range c.remotes {
			tried = tried && (r.gone != nil || r.err != nil)
		}
		c.mu.Unlock()
		if tried {
			return nil
		}
		select {
		case <-known:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}
