package rpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A workerConn is one client's connection. It carries one call at a time; a
// client with several calls has several connections. The goroutine that reads
// owns everything but what write guards.
type workerConn struct {
	w *Worker
	c net.Conn
	r *bufio.Reader

	run      *execution     // the last call; nil: none yet
	runs     chan func()    // to the goroutine that carries calls out; nil: none yet
	stream   *io.PipeWriter // takes DATA; nil: no stream is under way
	dropping bool           // DATA of a call that was refused comes

	state  any // of the handle; nil: none
	module string

	write sync.Mutex // guards out and the order of frames
	out   []byte
}

// An execution is one call under way.
type execution struct {
	number   uint32 // that the answer repeats
	ctx      context.Context
	cancel   context.CancelCauseFunc
	progress atomic.Uint32
	answered bool          // guarded by workerConn.write: nothing more is sent for it
	done     chan struct{} // closed when the answer was sent
}

// serveConn serves a connection until its end.
func (w *Worker) serveConn(nc net.Conn) {
	c := &workerConn{w: w, c: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	watch, err := c.greet()
	switch {
	case err == nil && watch:
		c.tellChanges()
	case err == nil:
		err = c.serveFrames()
	}
	if errors.Is(err, errMalformed) {
		w.stats.malformed.Add(1)
		c.refuse(failure{code: failMalformed, message: err.Error()})
	}
	nc.Close()
	c.closeState()
	w.mu.Lock()
	delete(w.conns, nc)
	w.mu.Unlock()
}

// serveFrames takes frame by frame until the connection ends, and the call with
// it.
func (c *workerConn) serveFrames() (err error) {
	for err == nil {
		var k frameKind
		var n int
		if k, n, err = readHeader(c.r); err == nil {
			err = c.take(k, n)
		}
	}
	if c.run != nil {
		c.run.cancel(errAborted)
		if c.stream != nil {
			c.stream.CloseWithError(errAborted)
		}
		<-c.run.done
	}
	if c.runs != nil {
		close(c.runs)
	}
	return err
}

// take handles one frame, whose body of n bytes is next.
func (c *workerConn) take(k frameKind, n int) error {
	switch {
	case k == frameCall:
		if c.stream != nil || c.dropping {
			return fmt.Errorf("%w: CALL within an argument", errMalformed)
		}
		return c.call(n)
	case k == frameData && c.stream != nil:
		return c.pass(n)
	case k == frameData && c.dropping:
		_, err := c.r.Discard(n)
		return err
	case k == frameEnd && n == 0 && c.stream != nil:
		c.stream.Close()
		c.stream = nil
	case k == frameEnd && n == 0 && c.dropping:
		c.dropping = false
	case k == frameAbort && n == 0:
		if c.run != nil {
			c.run.cancel(errAborted)
		}
		c.stream, c.dropping = nil, false
	default:
		return fmt.Errorf("%w: frame %#x of %d bytes", errMalformed, byte(k), n)
	}
	return nil
}

// call begins one call.
func (c *workerConn) call(n int) error {
	b, err := readBody(c.r, n)
	if err != nil {
		return err
	}
	x, err := parseCall(b)
	if err != nil {
		return err
	}
	if c.run != nil {
		<-c.run.done
	}
	c.c.SetReadDeadline(time.Time{})
	c.w.stats.calls.Add(1)
	f, codec, no := c.check(x)
	if no.code != 0 {
		c.w.stats.refused.Add(1)
		c.dropping = true
		no.call = x.number
		return c.refuse(no)
	}
	if !c.takeSlot() {
		c.w.stats.busy.Add(1)
		c.dropping = true
		return c.refuse(failure{call: x.number, code: failBusy, pause: uint32(busyPause.Milliseconds()), message: "all its slots are taken"})
	}
	var argument []byte
	if f.stream == nil {
		if argument, err = c.readArgument(); argument == nil {
			<-c.w.slots
			if err == nil {
				c.w.stats.tooLarge.Add(1)
				err = c.refuse(failure{call: x.number, code: failTooLarge, message: fmt.Sprintf("the argument has more than %d bytes", c.w.cfg.MaxArgument)})
			}
			return err
		}
	}
	c.begin(x, f, codec, argument)
	return nil
}

// begin has a call carried out on another goroutine, while this one reads on.
// That goroutine is the same for all calls of the connection: its stack has
// grown as far as they need. The slot is taken.
func (c *workerConn) begin(x call, f *function, codec Codec, argument []byte) {
	run := &execution{number: x.number, done: make(chan struct{})}
	run.progress.Store(progressUnknown)
	ctx, stop := context.WithValue(c.w.ctx, progressKey{}, run), context.CancelFunc(func() {})
	if x.timeout > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, time.Duration(x.timeout)*time.Millisecond, errDeadline)
	}
	run.ctx, run.cancel = context.WithCancelCause(ctx)
	c.run = run
	var body *io.PipeReader
	if f.stream != nil {
		body, c.stream = io.Pipe()
	}
	if c.runs == nil {
		c.runs = make(chan func())
		c.w.running.Go(func() {
			for f := range c.runs {
				f()
			}
		})
	}
	c.runs <- func() {
		defer close(run.done)
		defer stop()
		defer run.cancel(nil)
		if body != nil {
			defer body.CloseWithError(errAborted) // what comes is dropped
			defer context.AfterFunc(run.ctx, func() { body.CloseWithError(context.Cause(run.ctx)) })()
		}
		beats := c.beat(run)
		begun := time.Now()
		err := c.answer(run, f, codec, argument, body)
		f.took(time.Since(begun))
		beats.Stop()
		<-c.w.slots
		idle := idleConn
		if c.state != nil {
			idle = c.w.cfg.HandleIdle
		}
		c.c.SetReadDeadline(time.Now().Add(idle))
		if err != nil {
			c.c.Close()
		}
	}
}

// greet exchanges HELLO and WELCOME.
func (c *workerConn) greet() (watch bool, err error) {
	c.c.SetReadDeadline(time.Now().Add(idleConn))
	k, n, err := readHeader(c.r)
	if err != nil {
		return false, err
	}
	if k != frameHello {
		return false, fmt.Errorf("%w: frame %#x in place of HELLO", errMalformed, byte(k))
	}
	b, err := readBody(c.r, n)
	if err != nil {
		return false, err
	}
	h, err := parseHello(b)
	if err != nil {
		return false, err
	}
	offer, _ := c.w.offer()
	return h.watch, c.sendFrame(frameWelcome, offer.appendBody)
}

// tellChanges tells a watching client what changes until it goes.
func (c *workerConn) tellChanges() {
	c.c.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	c.w.running.Go(func() {
		defer close(gone)
		io.Copy(io.Discard, c.r)
	})
	// What changed since greet is told again: once too often at the most.
	ticker := time.NewTicker(tellTime)
	defer ticker.Stop()
	var last []byte
	for {
		offer, changed := c.w.offer()
		if b := offer.appendBody(nil); !bytes.Equal(b, last) {
			last = b
			if c.sendFrame(frameWelcome, func(out []byte) []byte { return append(out, b...) }) != nil {
				c.c.Close()
			}
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-gone:
			return
		}
	}
}

// closeState ends the handle.
func (c *workerConn) closeState() {
	if c.state == nil {
		return
	}
	if x, ok := c.state.(io.Closer); ok {
		x.Close()
	}
	c.state = nil
	c.w.mu.Lock()
	c.w.handles--
	c.w.mu.Unlock()
}

// check says why a call cannot be carried out.
func (c *workerConn) check(x call) (f *function, codec Codec, no failure) {
	f = c.w.function(x.function)
	if f == nil {
		return nil, nil, failure{code: failUnknown, message: "there is no function " + x.function}
	}
	if (f.stream != nil) != (x.flags&callStream != 0) {
		return nil, nil, failure{code: failType, message: "function " + x.function + " takes values, or streams; the call is for the other"}
	}
	if x.signature != "" && f.signature != "" && x.signature != f.signature {
		return nil, nil, failure{code: failType, message: fmt.Sprintf("function %s is %s; the call is for %s", x.function, f.signature, x.signature)}
	}
	if codec = codecByName(x.codec); codec == nil && f.stream == nil {
		return nil, nil, failure{code: failType, message: "there is no encoding " + x.codec}
	}
	if f.open == nil && f.module != "" && (c.state == nil || c.module != f.module) {
		return nil, nil, failure{code: failHandle, message: "function " + x.function + " needs a handle of " + f.module}
	}
	return f, codec, failure{}
}

// takeSlot waits for a free slot, not for long.
func (c *workerConn) takeSlot() bool {
	select {
	case c.w.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(slotPatience)
	defer timer.Stop()
	select {
	case c.w.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-c.w.ctx.Done():
	}
	return false
}

var (
	errAborted  = errors.New("the caller no longer wants the result")
	errDeadline = errors.New("the time that the caller gave is over")
)

// readArgument returns a value; nil without an error: it is too large, and was
// dropped.
func (c *workerConn) readArgument() ([]byte, error) {
	argument := []byte{}
	for {
		k, n, err := readHeader(c.r)
		if err != nil {
			return nil, err
		}
		switch {
		case k == frameEnd && n == 0:
			return argument, nil
		case k == frameAbort && n == 0:
			return nil, errAborted
		case k != frameData:
			return nil, fmt.Errorf("%w: frame %#x within an argument", errMalformed, byte(k))
		case argument == nil || int64(len(argument)+n) > c.w.cfg.MaxArgument:
			argument = nil
			if _, err := c.r.Discard(n); err != nil {
				return nil, err
			}
		default:
			at := len(argument)
			argument = append(argument, make([]byte, n)...)
			if _, err := io.ReadFull(c.r, argument[at:]); err != nil {
				return nil, err
			}
		}
	}
}

// pass hands n bytes to the function, or drops them if it has ended.
func (c *workerConn) pass(n int) error {
	for n > 0 {
		b, err := c.r.Peek(min(n, 32<<10))
		if err != nil {
			return err
		}
		c.stream.Write(b) // an error says that nobody reads
		c.r.Discard(len(b))
		n -= len(b)
	}
	return nil
}

// beat tells the client now and then that the call goes on, until it is
// answered. A connection that does not take it ends the call.
func (c *workerConn) beat(run *execution) *time.Timer {
	var timer *time.Timer
	tick := func() {
		c.write.Lock()
		defer c.write.Unlock()
		if run.answered {
			return
		}
		c.out = appendFrame(c.out[:0], frameBeat, beat{uint16(run.progress.Load())}.appendBody)
		if c.flush() != nil {
			run.cancel(errAborted)
			return
		}
		timer.Reset(beatTime)
	}
	c.write.Lock() // until timer is set
	defer c.write.Unlock()
	timer = time.AfterFunc(beatTime, tick)
	return timer
}

// answer runs the function and sends what comes of it. An error is the
// connection's.
func (c *workerConn) answer(run *execution, f *function, codec Codec, argument []byte, body *io.PipeReader) error {
	if f.stream != nil {
		s := &sumWriter{c: c, sum: sha256.New()}
		err := c.guard(func() error { return f.stream(run.ctx, body, s) })
		switch {
		case s.err != nil:
			return s.err
		case err != nil:
			return c.finish(run, frameError, c.failed(run, err).appendBody)
		}
		return c.finish(run, frameResult, result{run.number, [32]byte(s.sum.Sum(nil))}.appendBody)
	}
	var value []byte
	err := c.guard(func() (err error) {
		if f.open != nil {
			return c.openState(run.ctx, f, codec, argument)
		}
		value, err = f.values(run.ctx, c.state, codec, argument)
		return err
	})
	if err != nil {
		return c.finish(run, frameError, c.failed(run, err).appendBody)
	}
	end := result{run.number, sha256.Sum256(value)}
	c.write.Lock()
	defer c.write.Unlock()
	run.answered = true
	c.out = c.out[:0]
	for rest := value; len(rest) > 0; {
		part := rest[:min(len(rest), maxData)]
		rest = rest[len(part):]
		c.out = append(appendFrameHeader(c.out, frameData, len(part)), part...)
		if len(c.out) >= maxData && len(rest) > 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	c.out = appendFrame(c.out, frameResult, end.appendBody)
	return c.flush()
}

// openState makes the handle of this connection.
func (c *workerConn) openState(ctx context.Context, f *function, codec Codec, argument []byte) error {
	c.w.mu.Lock()
	room := c.state == nil && c.w.handles < c.w.cfg.MaxHandles
	if room {
		c.w.handles++
	}
	c.w.mu.Unlock()
	if !room {
		c.w.stats.handlesRefused.Add(1)
		return Busy("too many handles are open")
	}
	value, err := f.open(ctx, codec, argument)
	if err != nil || value == nil {
		c.w.mu.Lock()
		c.w.handles--
		c.w.mu.Unlock()
		if err == nil {
			err = errors.New("the module made no state")
		}
		return err
	}
	c.state, c.module = value, f.module
	return nil
}

// guard runs f; a panic in it is an error.
func (c *workerConn) guard(f func() error) (err error) {
	defer func() {
		if x := recover(); x != nil {
			c.w.stats.panics.Add(1)
			c.w.log.Error("a function panicked", "panic", x, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", x)
		}
	}()
	return f()
}

func (c *workerConn) failed(run *execution, err error) failure {
	x := failureOf(run.ctx, err)
	x.call = run.number
	if x.code == failFunction {
		c.w.stats.failures.Add(1)
	}
	return x
}

// finish sends the last frame of a call.
func (c *workerConn) finish(run *execution, k frameKind, body func([]byte) []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	run.answered = true
	c.out = appendFrame(c.out[:0], k, body)
	return c.flush()
}

func (c *workerConn) refuse(x failure) error { return c.sendFrame(frameError, x.appendBody) }

// sendTime bounds how long a client may leave a frame unread.
const sendTime = time.Minute

// sendFrame sends one frame.
func (c *workerConn) sendFrame(k frameKind, body func([]byte) []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.out = appendFrame(c.out[:0], k, body)
	return c.flush()
}

// flush sends out. The mutex is held.
func (c *workerConn) flush() error {
	c.c.SetWriteDeadline(time.Now().Add(sendTime))
	_, err := c.c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// A sumWriter sends a stream and takes its digest.
type sumWriter struct {
	c   *workerConn
	sum hash.Hash
	err error
}

func (s *sumWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && s.err == nil {
		part := b[:min(len(b), maxData)]
		s.sum.Write(part)
		s.err = s.c.sendFrame(frameData, func(out []byte) []byte { return append(out, part...) })
		if s.err == nil {
			n += len(part)
			b = b[len(part):]
		}
	}
	return n, s.err
}
