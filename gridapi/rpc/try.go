package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A try is one attempt at a call, on a connection of its own.
type try struct {
	client *Client
	remote *remote
	call   *pending
	number uint64

	// Guarded by the client's mutex.
	result *spool
	class  string // the digest of the results that count as equal to this one
	err    error  // of the function

	mu      sync.Mutex // guards what follows
	conn    *clientConn
	stopped bool
}

// stop ends the attempt: its result is of no use. It does not wait.
func (t *try) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	if t.conn != nil {
		t.conn.close()
	}
}

// hold makes conn the connection to close when the attempt is stopped.
func (t *try) hold(conn *clientConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		conn.close()
		return false
	}
	t.conn = conn
	return true
}

// release takes the connection back from stop, and reports whether it is still
// open.
func (t *try) release() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn = nil
	return !t.stopped
}

// run carries the attempt out and tells the plan how it ended.
func (t *try) run() {
	conn, err := t.connect()
	if err != nil {
		t.broken(err)
		return
	}
	answer, err := t.exchange(conn)
	if err != nil {
		conn.close()
		t.broken(err)
		return
	}
	switch h := t.call.handle; {
	case !t.release():
	case h != nil && answer.failed == nil:
		h.conn, h.worker = conn, t.remote.address
	case (h == nil || h.conn == nil) && conn.idle():
		t.remote.give(conn)
	case h == nil:
		conn.close()
	}
	t.ended(answer)
}

// connect returns a connection with the call's argument on its way. An idle
// connection that the worker has closed meanwhile is replaced.
func (t *try) connect() (*clientConn, error) {
	if h := t.call.handle; h != nil && h.conn != nil {
		if !t.hold(h.conn) {
			return nil, errStopped
		}
		return h.conn, t.send(h.conn)
	}
	for {
		ctx, cancel := context.WithTimeout(t.remote.ctx, dialTime)
		conn, fresh, err := t.remote.take(ctx, t.call.spec.once)
		cancel()
		if err != nil {
			return nil, err
		}
		if !t.hold(conn) {
			return nil, errStopped
		}
		err = t.send(conn)
		if err == nil && !fresh {
			_, err = conn.r.Peek(1)
		}
		if err == nil || fresh || t.isStopped() {
			return conn, err
		}
		conn.close()
	}
}

var errStopped = errors.New("rpc: the attempt was stopped")

// send writes the call and its argument.
func (t *try) send(conn *clientConn) error {
	p := t.call
	conn.last++
	x := call{number: conn.last, codec: p.codec.Name(), function: p.spec.function, signature: p.signature}
	if p.source != nil {
		x.flags, x.codec = callStream, ""
	}
	if deadline, ok := p.ctx.Deadline(); ok {
		x.timeout = uint32(max(1, min(time.Until(deadline).Milliseconds(), 1<<32-1)))
	}
	conn.out = appendFrame(conn.out, frameCall, x.appendBody)
	source := p.source
	if source == nil && len(p.argument) > maxData {
		source = Bytes(p.argument)
	}
	if source == nil {
		conn.out = append(appendFrameHeader(conn.out, frameData, len(p.argument)), p.argument...)
		conn.out = appendFrame(conn.out, frameEnd, nil)
		return conn.flush()
	}
	if err := conn.flush(); err != nil {
		return err
	}
	// The worker may refuse before it has read everything, so its answer is
	// read at the same time.
	sent := make(chan struct{})
	conn.sent = sent
	t.client.running.Go(func() {
		defer close(sent)
		if err := copyFrames(conn, source); err != nil {
			conn.close()
		}
	})
	return nil
}

// copyFrames sends a stream.
func copyFrames(conn *clientConn, source Source) error {
	r, err := source.Open()
	if err != nil {
		return fmt.Errorf("rpc: open the argument: %w", err)
	}
	defer r.Close()
	buf := make([]byte, frameHeaderLen+maxData)
	for {
		n, err := io.ReadFull(r, buf[frameHeaderLen:])
		if n > 0 {
			appendFrameHeader(buf[:0], frameData, n)
			if _, err := conn.c.Write(buf[:frameHeaderLen+n]); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			_, err := conn.c.Write(appendFrame(nil, frameEnd, nil))
			return err
		default:
			return fmt.Errorf("rpc: read the argument: %w", err)
		}
	}
}

// An answer is how an attempt ended on the worker.
type answer struct {
	result *spool
	digest string
	failed *failure
}

// exchange reads what the worker answers.
func (t *try) exchange(conn *clientConn) (a answer, err error) {
	out := newSpool(t.client.cfg.SpoolDir)
	sum := sha256.New()
	defer func() {
		if a.result == nil {
			out.Close()
		}
	}()
	for {
		k, n, err := readHeader(conn.r)
		if err != nil {
			return a, err
		}
		if k == frameData {
			if most := t.mostBytes(); out.size+int64(n) > most {
				t.client.resultsTooLarge.Add(1)
				return a, fmt.Errorf("%w: a result of more than %d bytes", errMalformed, most)
			}
			t.heard()
			b, err := conn.r.Peek(n) // the buffer holds the largest
			if err != nil {
				return a, err
			}
			sum.Write(b)
			out.Write(b) // which keeps its error
			conn.r.Discard(n)
			continue
		}
		if k == frameWelcome {
			if _, err := conn.readWelcome(n); err != nil {
				return a, err
			}
			continue
		}
		b, err := readBody(conn.r, n)
		if err != nil {
			return a, err
		}
		switch k {
		case frameBeat:
			x, err := parseBeat(b)
			if err != nil {
				return a, err
			}
			t.heard()
			t.call.progress.Store(uint32(x.progress))
		case frameResult:
			x, err := parseResult(b)
			switch {
			case err != nil:
				return a, err
			case x.call != conn.last:
				return a, fmt.Errorf("%w: the result of another call", errMalformed)
			case [32]byte(sum.Sum(nil)) != x.digest:
				return a, fmt.Errorf("%w: a result that differs from its digest", errMalformed)
			case out.err != nil:
				return a, out.err
			}
			return answer{result: out, digest: string(x.digest[:])}, nil
		case frameError:
			x, err := parseFailure(b)
			if err != nil {
				return a, err
			}
			if x.call != conn.last {
				return a, fmt.Errorf("%w: of the connection, or of another call: %.200s", errMalformed, x.message)
			}
			return answer{failed: &x}, nil
		default:
			return a, fmt.Errorf("%w: frame %#x from a worker", errMalformed, byte(k))
		}
	}
}

// mostBytes returns the bound of the result.
func (t *try) mostBytes() int64 {
	if t.call.source != nil {
		return t.client.cfg.MaxStream
	}
	return t.client.cfg.MaxResult
}

// heard notes that the worker is alive.
func (t *try) heard() {
	c := t.client
	c.mu.Lock()
	c.plan.beat(time.Now(), t.remote.address)
	c.mu.Unlock()
}

// ended tells the plan what the worker answered.
func (t *try) ended(a answer) {
	c := t.client
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.plan.running[t.number] == nil {
		a.result.Close() // another attempt was faster
		return
	}
	if a.failed == nil {
		if t.call.equal != nil {
			a.digest = t.call.classOf(t.number, a)
		}
		t.result = a.result
		c.plan.finished(now, t.number, a.digest)
		c.carry()
		return
	}
	x := *a.failed
	f, id := t.call.spec.function, t.call.spec.id
	switch x.code {
	case failBusy, failUnknown, failAborted:
		c.emit(Event{Kind: EventReturned, Worker: t.remote.address, Call: t.call.spec.id, Detail: x.message})
		pause := time.Duration(x.pause) * time.Millisecond
		if x.code == failUnknown {
			pause = busyPause
		}
		c.plan.returned(now, t.number, x.message, min(max(pause, 10*time.Millisecond), time.Minute))
	case failType, failTooLarge:
		t.err = &ArgumentError{Function: f, Call: id, Worker: t.remote.address, Problem: x.message}
		c.plan.finished(now, t.number, "type: "+x.message)
	case failHandle:
		t.err = &HandleLostError{Function: f, Worker: t.remote.address, Reason: x.message}
		c.plan.finished(now, t.number, "handle: "+x.message)
	default:
		t.err = &FunctionError{Function: f, Call: id, Worker: t.remote.address, Message: x.message}
		c.plan.finished(now, t.number, "error: "+x.message)
	}
	c.carry()
}

// broken tells the plan that the connection is lost. If that is since the
// worker is gone, the call counts among what it had.
func (t *try) broken(err error) {
	c := t.client
	c.mu.Lock()
	gone := t.remote.gone
	c.mu.Unlock()
	if gone != nil && !t.isStopped() {
		timer := time.NewTimer(doubtTime)
		select {
		case <-gone:
		case <-timer.C:
		case <-c.ctx.Done():
		}
		timer.Stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.isStopped() || gone == nil {
		t.remote.broken++
	}
	c.plan.broke(time.Now(), t.number, err.Error())
	c.carry()
}

func (t *try) isStopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped
}
