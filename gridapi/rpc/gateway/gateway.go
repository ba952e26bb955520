package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// Config configures a [Gateway]. Client is needed; zero values of the others
// work.
type Config struct {
	// Client returns the client that a request is answered with, and what is
	// called when it has been.
	Client func(ctx context.Context) (c *rpc.Client, release func(), err error)

	// Explain adds to a problem what its error says to do next, for errors that
	// package rpc does not know. Nil: nothing is added.
	Explain func(error) (cause, next string)

	// Wait is how long a call waits for a worker that offers its function. Zero:
	// 10 s.
	Wait time.Duration

	// Look is how long a list of workers waits for those that have not answered
	// yet. Zero: 3 s.
	Look time.Duration

	// MaxCalls bounds calls under way; more are refused. Zero: 1000.
	MaxCalls int

	// MaxValue bounds the argument of a function on values, in bytes. Zero:
	// 64 MiB. The argument of a program goes through a file, bounded by
	// MaxStream: zero means 16 GiB.
	MaxValue, MaxStream int64

	// SpoolDir takes arguments of programs while they are being called. Empty:
	// the system's directory for temporary files.
	SpoolDir string

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger
}

// Counters count since the start. Each limit has one.
type Counters struct {
	Calls    uint64 `json:"calls"`
	Failed   uint64 `json:"failed"`    // answered with a problem
	TooMany  uint64 `json:"too_many"`  // since too many were under way
	TooLarge uint64 `json:"too_large"` // arguments
}

// A Gateway answers requests for functions.
type Gateway struct {
	cfg   Config
	mux   *http.ServeMux
	room  chan struct{}
	stats struct{ calls, failed, tooMany, tooLarge atomic.Uint64 }
}

// New returns a gateway.
func New(cfg Config) *Gateway {
	if cfg.Wait <= 0 {
		cfg.Wait = 10 * time.Second
	}
	if cfg.Look <= 0 {
		cfg.Look = 3 * time.Second
	}
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = 1000
	}
	if cfg.MaxValue <= 0 {
		cfg.MaxValue = 64 << 20
	}
	if cfg.MaxStream <= 0 {
		cfg.MaxStream = 16 << 30
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, mux: http.NewServeMux(), room: make(chan struct{}, cfg.MaxCalls)}
	g.mux.HandleFunc("POST /v1/functions/{name}", g.call)
	g.mux.HandleFunc("GET /v1/functions", g.listing(func(c *rpc.Client) any {
		return map[string]any{"functions": offersOf(c.Workers())}
	}))
	g.mux.HandleFunc("GET /v1/workers", g.listing(func(c *rpc.Client) any {
		return map[string]any{"workers": c.Workers()}
	}))
	g.mux.HandleFunc("GET /openapi.json", g.listing(func(c *rpc.Client) any { return describe(offersOf(c.Workers())) }))
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		g.problem(w, problem{kind: "no-such-path", status: http.StatusNotFound, Title: "There is no such path", Detail: r.Method + " " + r.URL.Path + " is nothing of ours",
			Next: "POST /v1/functions/NAME, GET /v1/functions, GET /v1/workers, GET /openapi.json"})
	})
	return g
}

// Counters returns a snapshot.
func (g *Gateway) Counters() Counters {
	return Counters{g.stats.calls.Load(), g.stats.failed.Load(), g.stats.tooMany.Load(), g.stats.tooLarge.Load()}
}

// ServeHTTP implements [http.Handler].
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// listing answers with what list makes of a client that has asked all workers.
func (g *Gateway) listing(list func(*rpc.Client) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, release, err := g.cfg.Client(r.Context())
		if err != nil {
			g.fail(w, err, "", 0)
			return
		}
		defer release()
		ctx, cancel := context.WithTimeout(r.Context(), g.cfg.Look)
		defer cancel()
		_ = c.WaitTried(ctx) // who has not answered by then is not there
		b, err := json.Marshal(list(c))
		if err != nil {
			g.fail(w, err, "", 0)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(b, '\n'))
	}
}

// An offer is a function and who offers it.
type offer struct {
	rpc.FunctionInfo
	Workers []string `json:"workers"`
	Slots   int      `json:"slots"` // of all of them
}

// offersOf returns what the workers offer, each function once, by name.
func offersOf(workers []rpc.WorkerStatus) []offer {
	found := make(map[string]*offer)
	list := []offer{}
	for _, w := range workers {
		if !w.Connected {
			continue
		}
		for _, f := range w.Functions {
			o := found[f.Name]
			if o == nil {
				o = &offer{FunctionInfo: f}
				found[f.Name] = o
			}
			if f.Typical > 0 && (o.Typical == 0 || f.Typical < o.Typical) {
				o.Typical = f.Typical
			}
			o.Workers = append(o.Workers, w.Address)
			o.Slots += w.Slots
		}
	}
	for _, name := range sortedNames(found) {
		list = append(list, *found[name])
	}
	return list
}

// call answers POST /v1/functions/NAME.
func (g *Gateway) call(w http.ResponseWriter, r *http.Request) {
	g.stats.calls.Add(1)
	name := r.PathValue("name")
	select {
	case g.room <- struct{}{}:
		defer func() { <-g.room }()
	default:
		g.stats.tooMany.Add(1)
		w.Header().Set("Retry-After", "1")
		g.problem(w, problem{kind: "too-many-calls", status: http.StatusServiceUnavailable, Title: "Too many calls are under way", Detail: fmt.Sprintf("at most %d calls are made at once", g.cfg.MaxCalls),
			Function: name, Next: "wait, and call again"})
		return
	}
	options, timeout, err := optionsOf(r)
	if err != nil {
		g.problem(w, problem{kind: "wrong-parameter", status: http.StatusBadRequest, Title: "A parameter is wrong", Detail: err.Error(), Function: name,
			Next: "timeout=30s, verify=2of3, once=true"})
		return
	}
	ctx := r.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c, release, err := g.cfg.Client(ctx)
	if err != nil {
		g.fail(w, err, name, 0)
		return
	}
	defer release()
	waiting, stop := context.WithTimeout(ctx, g.cfg.Wait)
	info, err := c.Function(waiting, name)
	stop()
	if err != nil {
		g.fail(w, err, name, 0)
		return
	}
	number := new(atomic.Uint64)
	options = append(options, rpc.OnStart(number.Store))
	if info.Kind == rpc.KindStream {
		err = g.callStream(ctx, w, r, c, name, options, number)
	} else {
		err = g.callValues(ctx, w, r, c, info, options, number)
	}
	if err != nil {
		g.fail(w, err, name, number.Load())
	}
}

// optionsOf decodes the parameters of a call. A timeout of zero is none.
func optionsOf(r *http.Request) (list []rpc.Option, timeout time.Duration, err error) {
	verified, once := false, false
	for key, values := range r.URL.Query() {
		text := values[0]
		switch key {
		case "timeout":
			if timeout, err = time.ParseDuration(text); err != nil || timeout <= 0 {
				return nil, 0, fmt.Errorf("timeout=%q is no time such as 30s", text)
			}
		case "verify":
			n, m, found := strings.Cut(text, "of")
			need, errN := strconv.Atoi(n)
			of, errM := strconv.Atoi(m)
			if !found || errN != nil || errM != nil || need < 2 || of < need || of > 16 {
				return nil, 0, fmt.Errorf("verify=%q is not NofM, with 2 or more of at most 16", text)
			}
			list, verified = append(list, rpc.Verify(need, of)), true
		case "once":
			if once, err = strconv.ParseBool(text); err != nil {
				return nil, 0, fmt.Errorf("once=%q is neither true nor false", text)
			}
			if once {
				list = append(list, rpc.AtMostOnce())
			}
		default:
			return nil, 0, fmt.Errorf("there is no parameter %q", key)
		}
	}
	if verified && once {
		return nil, 0, errors.New("a call that several workers do is not done once")
	}
	return list, timeout, nil
}

// errTooLarge reports a body beyond its bound.
type errTooLarge struct{ most int64 }

func (e *errTooLarge) Error() string {
	return fmt.Sprintf("the argument has more than %d bytes", e.most)
}

// errNotJSON reports an argument of a function on values that is no JSON.
type errNotJSON struct{ signature, problem string }

func (e *errNotJSON) Error() string { return e.problem }

// callValues calls a function on values.
func (g *Gateway) callValues(ctx context.Context, w http.ResponseWriter, r *http.Request, c *rpc.Client, info rpc.FunctionInfo, options []rpc.Option, number *atomic.Uint64) error {
	// No page of another origin can send this type without asking first.
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return &errNotJSON{info.Signature, "the function works on values: send them with Content-Type: application/json"}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, g.cfg.MaxValue+1))
	if err != nil {
		return err
	}
	if int64(len(body)) > g.cfg.MaxValue {
		return &errTooLarge{g.cfg.MaxValue}
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		body = []byte("null")
	}
	if !json.Valid(body) {
		return &errNotJSON{info.Signature, "the body is not JSON"}
	}
	result, err := c.CallEncoded(ctx, info.Name, rpc.JSON, body, options...)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", "application/json")
	head.Set("Grid-Call", strconv.FormatUint(number.Load(), 10))
	w.Write(append(result, '\n'))
	return nil
}

// callStream calls a program. Its argument goes through a file, since several
// workers may need it.
func (g *Gateway) callStream(ctx context.Context, w http.ResponseWriter, r *http.Request, c *rpc.Client, name string, options []rpc.Option, number *atomic.Uint64) error {
	f, err := os.CreateTemp(g.cfg.SpoolDir, "grid-argument-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, io.LimitReader(r.Body, g.cfg.MaxStream+1))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if n > g.cfg.MaxStream {
		return &errTooLarge{g.cfg.MaxStream}
	}
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	answer := &firstWrite{w: w, before: func() { head.Set("Grid-Call", strconv.FormatUint(number.Load(), 10)) }}
	err = c.CallStream(ctx, name, rpc.File(f.Name()), answer, options...)
	if err != nil && answer.begun {
		g.cfg.Logger.Info("a result was not taken", "function", name, "err", err)
		panic(http.ErrAbortHandler) // so that half of it does not look whole
	}
	if err == nil && !answer.begun {
		answer.before()
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// A firstWrite calls before with its first byte.
type firstWrite struct {
	w      io.Writer
	before func()
	begun  bool
}

func (f *firstWrite) Write(b []byte) (int, error) {
	if !f.begun {
		f.begun = true
		f.before()
	}
	return f.w.Write(b)
}
