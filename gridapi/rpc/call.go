package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A Source is an argument of any length that can be read more than once: by
// each worker that the call goes to.
type Source interface {
	Open() (io.ReadCloser, error)
}

// File is a [Source] that reads the file of that name.
type File string

// Open opens the file.
func (f File) Open() (io.ReadCloser, error) { return os.Open(string(f)) }

// Bytes is a [Source] of bytes in memory.
type Bytes []byte

// Open returns a reader of the bytes.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// An Option says how a call is to be done.
type Option func(*pending)

// AtMostOnce forbids to do the call again: when its worker is lost it ends with
// a [*MaybeExecutedError].
func AtMostOnce() Option { return func(p *pending) { p.spec.once = true } }

// Verify has the call done by several workers until need of their results are
// equal, of at most of; otherwise it ends with a [*NoQuorumError].
func Verify(need, of int) Option {
	return func(p *pending) { p.spec.need, p.spec.of = need, max(of, need) }
}

// EqualBytes is the comparison that [Verify] uses in place of equal bytes, on
// encoded results: for functions that are not deterministic to the last bit.
// It must be an equivalence.
func EqualBytes(equal func(a, b []byte) bool) Option {
	return func(p *pending) { p.equal = equal }
}

// Equal is [EqualBytes] on decoded results.
func Equal[Out any](equal func(a, b Out) bool) Option {
	return func(p *pending) {
		p.equal = func(a, b []byte) bool {
			var x, y Out
			return p.codec.Unmarshal(a, &x) == nil && p.codec.Unmarshal(b, &y) == nil && equal(x, y)
		}
	}
}

// WithCodec encodes the argument and the result of this call.
func WithCodec(codec Codec) Option { return func(p *pending) { p.codec = codec } }

// A pending is a call without a result.
type pending struct {
	client    *Client
	ctx       context.Context
	spec      callSpec
	codec     Codec
	signature string
	argument  []byte
	source    Source // in place of argument
	handle    *handleConn
	equal     func(a, b []byte) bool
	progress  atomic.Uint32
	begun     time.Time
	done      chan struct{}
	once      sync.Once
	unwatch   func() bool
	onStart   func(uint64)

	// Guarded by the client's mutex; result and err are written before done is
	// closed.
	tries  map[uint64]*try
	result *spool
	err    error
}

// submit hands a call to the plan. It waits while too many are outstanding.
func (c *Client) submit(ctx context.Context, p *pending, options []Option) error {
	p.client, p.ctx, p.done, p.tries = c, ctx, make(chan struct{}), make(map[uint64]*try)
	p.progress.Store(progressUnknown)
	if p.codec == nil {
		p.codec = c.cfg.Codec
	}
	for _, o := range options {
		o(p)
	}
	if p.spec.once && p.spec.need > 1 {
		return fmt.Errorf("rpc: a call of %s cannot be verified and done at most once", p.spec.function)
	}
	select {
	case c.room <- struct{}{}:
	default:
		select {
		case c.room <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("rpc: call of %s: %w", p.spec.function, ctx.Err())
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		<-c.room
		return ErrClosed
	}
	c.last++
	p.spec.id, p.begun = c.last, time.Now()
	c.calls[c.last] = p
	if p.onStart != nil {
		p.onStart(c.last)
	}
	if ctx.Done() != nil {
		p.unwatch = context.AfterFunc(ctx, func() { p.cancel(ctx.Err()) })
	}
	c.plan.submit(p.begun, p.spec)
	c.carry()
	return nil
}

// end settles p. The client's mutex is held.
func (p *pending) end(result *spool, err error) {
	p.once.Do(func() {
		p.result, p.err = result, err
		for _, t := range p.tries {
			if t.result != nil && t.result != result {
				t.result.Close()
			}
		}
		p.tries = nil
		if p.unwatch != nil {
			p.unwatch()
		}
		<-p.client.room
		close(p.done)
	})
}

// cancel ends p with an error of ours.
func (p *pending) cancel(cause error) {
	c := p.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[p.spec.id] != p {
		return
	}
	c.plan.cancel(time.Now(), p.spec.id)
	c.carry()
	delete(c.calls, p.spec.id)
	p.end(nil, fmt.Errorf("rpc: call %d of %s: %w", p.spec.id, p.spec.function, cause))
}

// classOf returns the digest of the first result that a counts as equal to.
func (p *pending) classOf(number uint64, a answer) string {
	class := a.digest
	if b, err := a.result.bytes(); err == nil {
		for _, t := range p.tries {
			if t.result == nil {
				continue
			}
			if o, err := t.result.bytes(); err == nil && p.equal(o, b) {
				class = t.class
				break
			}
		}
	}
	p.tries[number].class = class
	return class
}

// Call calls a function and waits for its result. See the options for how it
// is done. The error is a [*FunctionError] where the function returned one,
// one of this package's errors where no result could be had, or ctx's, which
// also stops the function.
func Call[In, Out any](ctx context.Context, c *Client, function string, in In, options ...Option) (Out, error) {
	s, err := CallAsync[In, Out](ctx, c, function, in, options...)
	if err != nil {
		var none Out
		return none, err
	}
	return s.Wait(ctx)
}

// CallAsync begins a call and returns once it is queued. It waits only while
// ClientConfig.MaxOutstanding calls are. The call ends with ctx.
func CallAsync[In, Out any](ctx context.Context, c *Client, function string, in In, options ...Option) (*Session[Out], error) {
	p := &pending{signature: signature[In, Out](c), spec: callSpec{function: function}, codec: c.cfg.Codec}
	for _, o := range options {
		o(p)
	}
	var err error
	if p.argument, err = p.codec.Marshal(in); err != nil {
		return nil, &ArgumentError{Function: function, Problem: err.Error()}
	}
	if err := c.submit(ctx, p, nil); err != nil {
		return nil, err
	}
	return &Session[Out]{p}, nil
}

// CallEncoded is [Call] for callers that do not know the types: the argument is
// in the encoding of codec, and so is the result.
func (c *Client) CallEncoded(ctx context.Context, function string, codec Codec, argument []byte, options ...Option) ([]byte, error) {
	p := &pending{spec: callSpec{function: function}, codec: codec, argument: argument}
	if err := c.submit(ctx, p, options); err != nil {
		return nil, err
	}
	<-p.done
	if p.err != nil {
		return nil, p.err
	}
	defer p.result.Close()
	return p.result.bytes()
}

// OnStart has f called with the call's number as soon as it has one, before the
// first event about it.
func OnStart(f func(call uint64)) Option { return func(p *pending) { p.onStart = f } }

// CallStream calls a function of [RegisterStream]: argument and result may have
// any length. The result is written to w once it is complete and certain.
func (c *Client) CallStream(ctx context.Context, function string, argument Source, w io.Writer, options ...Option) error {
	p := &pending{spec: callSpec{function: function}, source: argument}
	if err := c.submit(ctx, p, options); err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return p.err
	}
	defer p.result.Close()
	return p.result.copyTo(w)
}

// A Session is a call under way (GridRPC's session).
type Session[Out any] struct{ p *pending }

// ID names the call in events and errors.
func (s *Session[Out]) ID() uint64 { return s.p.spec.id }

// Done is closed when the call has ended.
func (s *Session[Out]) Done() <-chan struct{} { return s.p.done }

// Err returns how the call ended; nil while it has not.
func (s *Session[Out]) Err() error {
	select {
	case <-s.p.done:
		return s.p.err
	default:
		return nil
	}
}

// Probe reports whether the call has ended, and how much of it is done as far
// as its function says ([Progress]), from 0 to 1.
func (s *Session[Out]) Probe() (ended bool, progress float64) {
	select {
	case <-s.p.done:
		return true, 1
	default:
	}
	if x := s.p.progress.Load(); x <= progressWhole {
		progress = float64(x) / progressWhole
	}
	return false, progress
}

// Cancel ends the call with [context.Canceled] and stops its function. One
// that has ended stays as it is.
func (s *Session[Out]) Cancel() { s.p.cancel(context.Canceled) }

// Wait returns the result. It may be called again. When ctx ends first its
// error is returned, and the call goes on.
func (s *Session[Out]) Wait(ctx context.Context) (out Out, err error) {
	select {
	case <-s.p.done:
	default:
		select {
		case <-s.p.done:
		case <-ctx.Done():
			return out, fmt.Errorf("rpc: wait for call %d of %s: %w", s.p.spec.id, s.p.spec.function, ctx.Err())
		}
	}
	if s.p.err != nil {
		return out, s.p.err
	}
	b, err := s.p.result.bytes()
	if err == nil {
		err = s.p.codec.Unmarshal(b, &out)
	}
	if err != nil {
		return out, &ResultError{Function: s.p.spec.function, Call: s.p.spec.id, Err: err}
	}
	return out, nil
}

// A Waiter is a [Session] of any type.
type Waiter interface {
	Done() <-chan struct{}
	Err() error
}

// WaitAll waits until all calls have ended (grpc_wait_and) and returns the
// first error of one, or ctx's.
func WaitAll(ctx context.Context, calls ...Waiter) error {
	var first error
	for _, w := range calls {
		select {
		case <-w.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.Err(); first == nil {
			first = err
		}
	}
	return first
}

// WaitAny waits until one of the calls has ended (grpc_wait_or) and returns its
// index. Of several the lowest is returned. Without calls, and when ctx ends
// first, it is -1.
func WaitAny(ctx context.Context, calls ...Waiter) (int, error) {
	for i, w := range calls {
		select {
		case <-w.Done():
			return i, w.Err()
		default:
		}
	}
	if len(calls) == 0 {
		return -1, nil
	}
	ended := make(chan int, len(calls))
	stop := make(chan struct{})
	defer close(stop)
	for i, w := range calls {
		go func() {
			select {
			case <-w.Done():
				ended <- i
			case <-stop:
			}
		}()
	}
	select {
	case i := <-ended:
		return i, calls[i].Err()
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// WaitAll waits until every call of the client has ended (grpc_wait_all),
// whatever its outcome.
func (c *Client) WaitAll(ctx context.Context) error {
	for {
		c.mu.Lock()
		var some *pending
		for _, p := range c.calls {
			some = p
			break
		}
		c.mu.Unlock()
		if some == nil {
			return nil
		}
		select {
		case <-some.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
