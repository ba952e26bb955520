package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pipeNet connects clients and workers of one test in memory, so that a
// bubble's clock runs.
type pipeNet struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
}

type pipeListener struct {
	net    *pipeNet
	name   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	open []net.Conn
}

func (n *pipeNet) listen(name string) *pipeListener {
	l := &pipeListener{net: n, name: name, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[string]*pipeListener)
	}
	n.listeners[name] = l
	return l
}

func (n *pipeNet) dial(ctx context.Context, _, name string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[name]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody is called %s", name)
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		l.mu.Lock()
		l.open = append(l.open, ours, theirs)
		l.mu.Unlock()
		return ours, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return nil }

// cut ends the listener and all its connections, as a power cut does.
func (l *pipeListener) cut() {
	l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
}

type args struct{ A, B float64 }

// offer starts a worker with the functions that the tests use.
func offer(t testing.TB, n *pipeNet, name string, cfg WorkerConfig) (*Worker, *pipeListener) {
	t.Helper()
	w := NewWorker(cfg)
	must(t, Register(w, "add", func(_ context.Context, x args) (float64, error) { return x.A + x.B, nil }))
	must(t, Register(w, "fail", func(_ context.Context, text string) (int, error) { return 0, errors.New(text) }))
	must(t, Register(w, "panic", func(context.Context, int) (int, error) { panic("as asked") }))
	must(t, Register(w, "sleep", func(ctx context.Context, d time.Duration) (string, error) {
		for i := range 10 {
			Progress(ctx, float64(i)/10)
			select {
			case <-time.After(d / 10):
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		return name, nil
	}))
	must(t, RegisterStream(w, "hash", func(_ context.Context, r io.Reader, out io.Writer) error {
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "%x", h.Sum(nil))
		return err
	}))
	must(t, RegisterStream(w, "double", func(_ context.Context, r io.Reader, out io.Writer) error {
		b, err := io.ReadAll(r)
		out.Write(b)
		out.Write(b)
		return err
	}))
	must(t, RegisterModule(w, "counter", func(_ context.Context, from int) (*atomic.Int64, error) {
		var c atomic.Int64
		c.Store(int64(from))
		return &c, nil
	}))
	must(t, RegisterMethod(w, "counter", "counter.add", func(_ context.Context, c *atomic.Int64, n int) (int64, error) {
		return c.Add(int64(n)), nil
	}))
	l := n.listen(name)
	go w.Serve(l)
	t.Cleanup(func() { w.Close() })
	return w, l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect returns a client of these workers, once they are connected.
func connect(t testing.TB, n *pipeNet, cfg ClientConfig, workers ...string) *Client {
	t.Helper()
	cfg.Dial, cfg.Workers = n.dial, workers
	c, err := NewClient(cfg)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.WaitWorkers(t.Context(), len(workers)))
	return c
}

// bubble runs f in virtual time, with its own cleanups.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestCall(t *testing.T) {
	for _, codec := range []Codec{Binary, JSON} {
		t.Run(codec.Name(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var n pipeNet
				offer(t, &n, "alice", WorkerConfig{})
				c := connect(t, &n, ClientConfig{Codec: codec}, "alice")
				for i := range 100 {
					got, err := Call[args, float64](t.Context(), c, "add", args{float64(i), 0.5})
					if want := float64(i) + 0.5; got != want || err != nil {
						t.Fatalf("add = %v, %v; want %v", got, err, want)
					}
				}
				_, err := Call[string, int](t.Context(), c, "fail", "no such row")
				var failed *FunctionError
				if !errors.As(err, &failed) || failed.Message != "no such row" || failed.Worker != "alice" {
					t.Errorf("fail = %v", err)
				}
				if _, err = Call[int, int](t.Context(), c, "panic", 1); !errors.As(err, &failed) || !strings.Contains(failed.Message, "as asked") {
					t.Errorf("panic = %v", err)
				}
				_, err = Call[int, float64](t.Context(), c, "add", 7)
				var argument *ArgumentError
				if !errors.As(err, &argument) || !strings.Contains(argument.Problem, "{A float64; B float64} -> float64") {
					t.Errorf("a call of other types = %v", err)
				}
			})
		})
	}
}

// A function that nobody offers is waited for, as long as the caller wants.
func TestUnknownFunction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		w, _ := offer(t, &n, "alice", WorkerConfig{})
		c := connect(t, &n, ClientConfig{}, "alice")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Call[int, int](ctx, c, "square", 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("square = %v", err)
		}
		s, err := CallAsync[int, int](t.Context(), c, "square", 3)
		must(t, err)
		time.Sleep(time.Second)
		must(t, Register(w, "square", func(_ context.Context, x int) (int, error) { return x * x, nil }))
		if got, err := s.Wait(t.Context()); got != 9 || err != nil {
			t.Errorf("square = %v, %v", got, err)
		}
	})
}

func TestSessions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		w, _ := offer(t, &n, "alice", WorkerConfig{Slots: 8})
		c := connect(t, &n, ClientConfig{}, "alice")
		begun := time.Now()
		var calls []*Session[string]
		var waiters []Waiter
		for i := range 5 {
			s, err := CallAsync[time.Duration, string](t.Context(), c, "sleep", time.Duration(10+10*i)*time.Second)
			must(t, err)
			calls, waiters = append(calls, s), append(waiters, s)
		}
		if i, err := WaitAny(t.Context(), waiters...); i != 0 || err != nil {
			t.Errorf("WaitAny = %d, %v", i, err)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("the first call took %v", took)
		}
		time.Sleep(7 * time.Second) // 17 of 30 s; it tells each tenth, by the second
		if ended, progress := calls[2].Probe(); ended || math.Abs(progress-0.5) > 0.01 {
			t.Errorf("after half of it: %v, %v", ended, progress)
		}
		calls[4].Cancel()
		if _, err := calls[4].Wait(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled call: %v", err)
		}
		if err := WaitAll(t.Context(), waiters[:4]...); err != nil {
			t.Error(err)
		}
		must(t, c.WaitAll(t.Context()))
		if took := time.Since(begun); took != 40*time.Second {
			t.Errorf("all took %v, want 40 s", took)
		}
		synctest.Wait()
		if len(w.slots) != 0 {
			t.Errorf("%d slots are taken; the cancelled call goes on", len(w.slots))
		}
	})
}

func TestDeadlineReachesTheFunction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		w, _ := offer(t, &n, "alice", WorkerConfig{Slots: 1})
		c := connect(t, &n, ClientConfig{}, "alice")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := Call[time.Duration, string](ctx, c, "sleep", time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call of an hour: %v", err)
		}
		time.Sleep(time.Second)
		if len(w.slots) != 0 {
			t.Error("the function goes on after its deadline")
		}
	})
}

func TestStreams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		offer(t, &n, "alice", WorkerConfig{MaxArgument: 1 << 20})
		c := connect(t, &n, ClientConfig{SpoolDir: t.TempDir()}, "alice")
		data := make([]byte, 5<<20+17)
		for i := range data {
			data[i] = byte(i * i >> 7)
		}
		var out bytes.Buffer
		must(t, c.CallStream(t.Context(), "hash", Bytes(data), &out))
		if want := fmt.Sprintf("%x", sha256.Sum256(data)); out.String() != want {
			t.Errorf("hash = %s, want %s", &out, want)
		}
		out.Reset()
		must(t, c.CallStream(t.Context(), "double", Bytes(data), &out))
		if !bytes.Equal(out.Bytes(), append(append([]byte(nil), data...), data...)) {
			t.Errorf("double returns %d bytes that differ", out.Len())
		}
		_, err := Call[[]byte, int](t.Context(), c, "fail", data)
		var argument *ArgumentError
		if !errors.As(err, &argument) {
			t.Errorf("a value beyond the worker's limit: %v", err)
		}
		if err := c.CallStream(t.Context(), "add", Bytes(nil), &out); !errors.As(err, &argument) {
			t.Errorf("a stream for a function of values: %v", err)
		}
	})
}

func TestHandles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		w, l := offer(t, &n, "alice", WorkerConfig{Slots: 2, MaxHandles: 2})
		c := connect(t, &n, ClientConfig{}, "alice")
		a, err := Open(t.Context(), c, "counter", 100)
		must(t, err)
		b, err := Open(t.Context(), c, "counter", 0)
		must(t, err)
		for i := range 10 {
			x, err := CallHandle[int, int64](t.Context(), a, "counter.add", 1)
			y, err2 := CallHandle[int, int64](t.Context(), b, "counter.add", 2)
			if x != int64(101+i) || y != int64(2+2*i) || err != nil || err2 != nil {
				t.Fatalf("counters %d, %d; %v, %v", x, y, err, err2)
			}
		}
		_, err = Call[int, int64](t.Context(), c, "counter.add", 1)
		var lost *HandleLostError
		if !errors.As(err, &lost) {
			t.Errorf("a method without a handle: %v", err)
		}
		must(t, a.Close())
		synctest.Wait()
		w.mu.Lock()
		open := w.handles
		w.mu.Unlock()
		if open != 1 {
			t.Errorf("%d handles are open, want 1", open)
		}
		l.cut()
		if _, err := CallHandle[int, int64](t.Context(), b, "counter.add", 2); !errors.As(err, &lost) || lost.Worker != "alice" {
			t.Errorf("a call on a handle that is gone: %v", err)
		}
	})
}

// The talk's run with real workers in virtual time: one is killed, one stops,
// one is slow; each of 200 calls has its result.
func TestWorkersGoAndCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		var names []string
		var listeners []*pipeListener
		for i := range 8 {
			name := fmt.Sprint("w", i)
			names = append(names, name)
			w := NewWorker(WorkerConfig{Slots: 1})
			each := time.Second
			if i == 3 {
				each = 10 * time.Second
			}
			must(t, Register(w, "work", func(ctx context.Context, x int) (int, error) {
				select {
				case <-time.After(each):
					return x * x, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}))
			l := n.listen(name)
			listeners = append(listeners, l)
			go w.Serve(l)
			t.Cleanup(func() { w.Close() })
		}
		c := connect(t, &n, ClientConfig{}, names...)
		begun := time.Now()
		var calls []*Session[int]
		for i := range 200 {
			s, err := CallAsync[int, int](t.Context(), c, "work", i)
			must(t, err)
			calls = append(calls, s)
		}
		time.Sleep(7500 * time.Millisecond)
		listeners[1].cut()
		for i, s := range calls {
			if got, err := s.Wait(t.Context()); got != i*i || err != nil {
				t.Errorf("call %d = %d, %v", i, got, err)
			}
		}
		ideal := time.Second * (200 - 7) * 10 / 61
		took := time.Since(begun)
		t.Logf("%v, ideal %v; %+v", took, ideal, c.Counters())
		if took > ideal*115/100 {
			t.Errorf("200 calls took %v, want at most 1.15 of %v", took, ideal)
		}
	})
}

// A call that takes its worker down with it is tried on three, and no more.
func TestPoison(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		var names []string
		for i := range 5 {
			name := fmt.Sprint("w", i)
			names = append(names, name)
			w := NewWorker(WorkerConfig{})
			l := n.listen(name)
			must(t, Register(w, "kill", func(ctx context.Context, _ int) (int, error) {
				l.cut()
				<-ctx.Done()
				return 0, ctx.Err()
			}))
			go w.Serve(l)
			t.Cleanup(func() { w.Close() })
		}
		c := connect(t, &n, ClientConfig{}, names...)
		_, err := Call[int, int](t.Context(), c, "kill", 1)
		var poison *PoisonError
		if !errors.As(err, &poison) || len(poison.Workers) != 3 {
			t.Errorf("a call that kills: %v; %+v", err, c.Counters())
		}
	})
}

func TestWorkerComesLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		c, err := NewClient(ClientConfig{Dial: n.dial, Workers: []string{"alice"}})
		must(t, err)
		defer c.Close()
		s, err := CallAsync[args, float64](t.Context(), c, "add", args{1, 2})
		must(t, err)
		time.Sleep(time.Minute)
		if st := c.Workers(); len(st) != 1 || st[0].Connected || st[0].Error == "" {
			t.Errorf("workers %+v", st)
		}
		offer(t, &n, "alice", WorkerConfig{})
		if got, err := s.Wait(t.Context()); got != 3 || err != nil {
			t.Errorf("add = %v, %v", got, err)
		}
	})
}

func TestCloseEndsCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		offer(t, &n, "alice", WorkerConfig{})
		c := connect(t, &n, ClientConfig{}, "alice")
		s, err := CallAsync[time.Duration, string](t.Context(), c, "sleep", time.Hour)
		must(t, err)
		time.Sleep(time.Second)
		must(t, c.Close())
		must(t, c.Close())
		if _, err := s.Wait(t.Context()); !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("a call of a closed client: %v", err)
		}
		if _, err := CallAsync[int, int](t.Context(), c, "add", 1); !errors.Is(err, ErrClosed) {
			t.Errorf("a call after Close: %v", err)
		}
	})
}

// 3 of 10 workers change a bit in one of fifty results; none gets through.
func TestLiarsThroughTheWire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		var names []string
		for i := range 10 {
			name := fmt.Sprint("w", i)
			names = append(names, name)
			w := NewWorker(WorkerConfig{Slots: 4})
			var count atomic.Int64
			must(t, Register(w, "work", func(ctx context.Context, x uint64) (uint64, error) {
				time.Sleep(100 * time.Millisecond)
				y := x * x
				if k := count.Add(1); i < 3 && k%50 == int64(i) {
					y ^= 1 << (k % 60)
				}
				return y, nil
			}))
			go w.Serve(n.listen(name))
			t.Cleanup(func() { w.Close() })
		}
		c := connect(t, &n, ClientConfig{}, names...)
		var calls []*Session[uint64]
		for i := range 1000 {
			s, err := CallAsync[uint64, uint64](t.Context(), c, "work", uint64(i), Verify(2, 3))
			must(t, err)
			calls = append(calls, s)
		}
		undecided := 0
		for i, s := range calls {
			got, err := s.Wait(t.Context())
			var differ *NoQuorumError
			if errors.As(err, &differ) {
				undecided++ // two liars had the same call, each with another lie
			} else if got != uint64(i*i) || err != nil {
				t.Errorf("call %d = %d, %v", i, got, err)
			}
		}
		t.Logf("%+v", c.Counters())
		if undecided > 5 {
			t.Errorf("%d calls are undecided", undecided)
		}
		if c.Counters().Lies == 0 {
			t.Error("no lie was told")
		}
	})
}

// Results that differ in the last bits are equal where the caller says so.
func TestEqual(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		for i, name := range []string{"a", "b", "c"} {
			w := NewWorker(WorkerConfig{})
			must(t, Register(w, "pi", func(context.Context, int) (float64, error) { return math.Pi + float64(i)*1e-12, nil }))
			go w.Serve(n.listen(name))
			t.Cleanup(func() { w.Close() })
		}
		c := connect(t, &n, ClientConfig{}, "a", "b", "c")
		_, err := Call[int, float64](t.Context(), c, "pi", 0, Verify(2, 3))
		var no *NoQuorumError
		if !errors.As(err, &no) {
			t.Errorf("results that differ: %v", err)
		}
		got, err := Call[int, float64](t.Context(), c, "pi", 0, Verify(3, 3), Equal(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }))
		if math.Abs(got-math.Pi) > 1e-9 || err != nil {
			t.Errorf("results that are close: %v, %v", got, err)
		}
	})
}

// fake is a worker that says it offers add; do is what it does with calls.
func fake(t testing.TB, n *pipeNet, name string, do func(net.Conn)) {
	l := n.listen(name)
	t.Cleanup(l.cut)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				b := make([]byte, 1<<16)
				nc.Read(b)
				if b[frameHeaderLen+2] == 1 { // it watches
					nc.Write(appendFrame(nil, frameWelcome, welcome{version: 1, slots: 1, functions: []FunctionInfo{{Name: "add", Kind: KindValues}}}.appendBody))
					nc.Read(b)
				} else {
					do(nc)
				}
			}()
		}
	}()
}

// A worker that takes calls and says nothing is given up, and connected anew.
func TestSilentWorker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		fake(t, &n, "silent", func(nc net.Conn) { io.Copy(io.Discard, nc) })
		c := connect(t, &n, ClientConfig{}, "silent")
		begun := time.Now()
		_, err := Call[args, float64](t.Context(), c, "add", args{1, 2}, AtMostOnce())
		var maybe *MaybeExecutedError
		if took := time.Since(begun); !errors.As(err, &maybe) || took < 30*time.Second || took > 31*time.Second {
			t.Errorf("a call on a silent worker: %v after %v", err, took)
		}
		_, err = Call[args, float64](t.Context(), c, "add", args{1, 2})
		var failed *AttemptsError
		if !errors.As(err, &failed) {
			t.Errorf("a call that may be repeated: %v", err)
		}
	})
}

// A worker that answers nonsense ends nothing but its own attempts.
func TestNonsense(t *testing.T) {
	sum := sha256.Sum256(nil)
	digestOf := func(call uint32, digest [32]byte) []byte {
		return appendFrame(nil, frameResult, result{call, digest}.appendBody)
	}
	value, err := Binary.Marshal(3.0)
	must(t, err)
	data := append(appendFrameHeader(nil, frameData, len(value)), value...)
	for name, answer := range map[string][]byte{
		"half a result":            data[:len(data)-2],
		"a result without its end": data,
		"the result of another":    append(data[:len(data):len(data)], digestOf(7, sha256.Sum256(value))...),
		"the failure of another":   appendFrame(nil, frameError, failure{call: 7, code: failFunction, message: "no"}.appendBody),
		"a failure of all":         appendFrame(nil, frameError, failure{code: failMalformed, message: "what?"}.appendBody),
		"too much":                 bytes.Repeat(append(appendFrameHeader(nil, frameData, maxData), make([]byte, maxData)...), 20),
		"half a header":            {byte(frameResult), 0},
		"too long":                 appendFrameHeader(nil, frameData, maxData+1),
		"much too long":            {byte(frameResult), 0xff, 0xff, 0xff, 0xff},
		"wrong digest":             digestOf(1, [32]byte{}),
		"short digest":             append(appendFrameHeader(nil, frameResult, 8), sum[:8]...),
		"unknown frame":            appendFrameHeader(nil, 0x7f, 0),
		"frame of clients":         appendFrameHeader(nil, frameEnd, 0),
		"empty failure":            appendFrameHeader(nil, frameError, 0),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var n pipeNet
				fake(t, &n, "mad", func(nc net.Conn) {
					go io.Copy(io.Discard, nc)
					nc.Write(answer)
					if len(answer) >= len(data)-2 {
						time.Sleep(100 * time.Millisecond) // then it breaks off
					}
				})
				c := connect(t, &n, ClientConfig{MaxResult: 1 << 20}, "mad")
				s, err := CallAsync[args, float64](t.Context(), c, "add", args{1, 2})
				must(t, err)
				time.Sleep(time.Second)
				offer(t, &n, "alice", WorkerConfig{})
				c.addWorker("alice")
				if got, err := s.Wait(t.Context()); got != 3 || err != nil {
					t.Errorf("add = %v, %v", got, err)
				}
				if n := c.Counters().ResultsTooLarge; (n > 0) != (name == "too much") {
					t.Errorf("%d results were too large", n)
				}
			})
		})
	}
	// A result that is none of the type ends the call, since the worker meant it.
	bubble(t, func(t *testing.T) {
		var n pipeNet
		fake(t, &n, "mad", func(nc net.Conn) {
			go io.Copy(io.Discard, nc)
			b, _ := Binary.Marshal("three")
			sum := sha256.Sum256(b)
			out := append(appendFrameHeader(nil, frameData, len(b)), b...)
			nc.Write(append(out, digestOf(1, sum)...))
		})
		c := connect(t, &n, ClientConfig{}, "mad")
		_, err := Call[args, float64](t.Context(), c, "add", args{1, 2})
		var wrong *ResultError
		if !errors.As(err, &wrong) {
			t.Errorf("a text in place of a number: %v", err)
		}
	})
}

// A worker that breaks off every call is not asked for ever, and one beside it
// does the work.
func TestBrokenWorker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n pipeNet
		fake(t, &n, "broken", func(net.Conn) {})
		c := connect(t, &n, ClientConfig{}, "broken")
		_, err := Call[args, float64](t.Context(), c, "add", args{1, 2})
		var failed *AttemptsError
		if !errors.As(err, &failed) || len(failed.Causes) != mostAttempts {
			t.Errorf("a call on a worker that breaks off: %v", err)
		}
		_, err = Call[args, float64](t.Context(), c, "add", args{1, 2}, AtMostOnce())
		var maybe *MaybeExecutedError
		if !errors.As(err, &maybe) {
			t.Errorf("the same, at most once: %v", err)
		}
		s, err := CallAsync[args, float64](t.Context(), c, "add", args{1, 2})
		must(t, err)
		time.Sleep(time.Second)
		offer(t, &n, "alice", WorkerConfig{})
		c.addWorker("alice")
		if got, err := s.Wait(t.Context()); got != 3 || err != nil {
			t.Errorf("add = %v, %v", got, err)
		}
	})
}
