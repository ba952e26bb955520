package mpi

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"
)

// collectives is the part of a communicator that keeps its collective calls.
// They are numbered; the number is the tag of their messages.
type collectives struct {
	next     int32 // number of the next call
	active   map[int32]*collective
	recent   [recentCalls]recentCall // those that ended, by number
	aborted  map[int32]error         // calls that failed elsewhere before they began here
	expected map[int32]uint32        // signatures that others wait with, of calls that have not begun here
	broken   error                   // calls did not fit: said by the next one
}

const (
	recentCalls = 64
	maxAhead    = 1024 // calls that others may have begun before us

	// checkAfter is how long a call waits before it asks whether the others are
	// in the same one. A guess: long for a call, short for a person.
	checkAfter = time.Second
)

type recentCall struct {
	number int32
	check  uint32
	failed bool
}

// A collective is one collective call of this process.
type collective struct {
	c     *Comm
	ctx   context.Context
	name  string
	tag   int32
	check uint32

	// p.mu guards the rest
	err     error // why it fails
	failing bool  // err came from another rank, which tells everybody itself
}

// sign returns the signature of a collective call: what all ranks must agree on.
// It is not zero, the signature of messages from point to point.
func sign(kind string, root int, more ...any) uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, kind, " ", root)
	for _, m := range more {
		fmt.Fprint(h, " ", m)
	}
	return h.Sum32() | 1
}

// open begins a collective call. p.mu is held.
func (c *Comm) open(ctx context.Context, name string, check uint32) (*collective, error) {
	if err := c.usable(name); err != nil {
		return nil, err
	}
	x := &collective{c: c, ctx: ctx, name: name, tag: c.next, check: check}
	c.next++
	if c.next < 0 {
		c.next = 0
	}
	if c.active == nil {
		c.active = make(map[int32]*collective)
	}
	c.active[x.tag] = x
	if err := c.broken; err != nil {
		c.broken = nil
		x.err = &Error{Class: ErrMismatch, Op: name, Rank: -1, Err: err}
	}
	if err := c.aborted[x.tag]; err != nil {
		delete(c.aborted, x.tag)
		x.err, x.failing = err, true
	}
	if want, ok := c.expected[x.tag]; ok {
		delete(c.expected, x.tag)
		if want != check && x.err == nil {
			x.err = fault(ErrMismatch, name, nil)
		}
	}
	if len(c.failed) > 0 && x.err == nil {
		f := c.failed[0]
		x.err = &Error{Class: ErrProcFailed, Op: name, Rank: f, Err: c.p.peers[c.group[f]].gone}
	}
	c.p.match.each(c.context|contextCollective, func(a *arrival) {
		if a.tag == x.tag && a.check != check && x.err == nil {
			x.err = &Error{Class: ErrMismatch, Op: name, Rank: c.rankOf(int(a.source))}
		}
	})
	return x, nil
}

// run carries the call out: body, and what the end of it needs.
func (x *collective) run(body func(*collective) error) error {
	c, p := x.c, x.c.p
	p.mu.Lock()
	err := x.err
	p.mu.Unlock()
	if err == nil {
		ask := time.AfterFunc(checkAfter, x.ask)
		err = body(x)
		ask.Stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if x.err != nil {
		err = x.err // what others know is the cause of what we saw
	}
	var e *Error
	if errors.As(err, &e) && (e.Class == ErrTruncate || e.Class == ErrCount) {
		p.counters.Mismatches++
	}
	delete(c.active, x.tag)
	c.recent[x.tag%recentCalls] = recentCall{x.tag, x.check, err != nil}
	if err != nil && !x.failing {
		x.spread(err)
	}
	p.match.each(c.context|contextCollective, func(a *arrival) {
		if a.tag == x.tag {
			if err == nil && a.check != x.check {
				c.misfit(fmt.Errorf("mpi: a message of another call than %s", x.name))
			}
			p.match.drop(a)
			p.discard(a)
		}
	})
	return err
}

// collect is a blocking collective call.
func (c *Comm) collect(ctx context.Context, name string, check uint32, body func(*collective) error) error {
	c.p.mu.Lock()
	x, err := c.open(ctx, name, check)
	c.p.mu.Unlock()
	if err == nil {
		err = x.run(body)
	}
	return c.handled(err)
}

// icollect is a collective call that does not wait: a goroutine carries it out.
// after runs when it has succeeded; it may be nil.
func (c *Comm) icollect(name string, check uint32, body func(*collective) error, after func() error) (*Request, error) {
	p := c.p
	p.mu.Lock()
	x, err := c.open(context.Background(), name, check)
	if err != nil {
		p.mu.Unlock()
		return nil, c.handled(err)
	}
	r := p.newRequest(c, name, kindCollective)
	r.kept, r.decode = true, after
	p.mu.Unlock()
	go func() {
		err := x.run(body)
		p.mu.Lock()
		r.complete(err)
		p.mu.Unlock()
	}()
	return r, nil
}

// fail ends the call with err, here. p.mu is held.
func (x *collective) fail(err error) {
	if x.err != nil {
		return
	}
	x.err = err
	p := x.c.p
	h, tell := x.abortHeader(err)
	for _, r := range p.alive() {
		if r.coll != x {
			continue
		}
		if tell && r.kind == kindSend && r.id != 0 {
			p.control(r.to, h, nil) // the cause comes before the withdrawal
		}
		p.giveUp(r, err)
	}
}

// spread tells all members that the call failed. p.mu is held.
func (x *collective) spread(err error) {
	if h, tell := x.abortHeader(err); tell {
		x.c.p.broadcast(x.c, h)
	}
}

// abortHeader is what tells others that the call failed; tell is false if they learn of
// it in another way.
func (x *collective) abortHeader(err error) (h header, tell bool) {
	class, rank := classOf(err), x.c.rank
	var e *Error
	if errors.As(err, &e) && e.Rank >= 0 {
		rank = e.Rank
	}
	h = header{kind: frameAbort, context: x.c.context, tag: x.tag, check: uint32(class), id: uint64(rank)}
	return h, class != ErrClosed && class != ErrFenced && class != ErrRevoked
}

// ask tells the others which call this one is, since it takes long.
func (x *collective) ask() {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if x.c.active[x.tag] == x {
		p.broadcast(x.c, header{kind: frameCheck, context: x.c.context, tag: x.tag, check: x.check})
	}
}

// over reports whether a call has ended here, and how. p.mu is held.
func (c *Comm) over(number int32) (over bool, was recentCall) {
	if d := number - c.next; d >= 0 || d < -(1<<30) {
		return false, was
	}
	if c.active[number] != nil {
		return false, was
	}
	was = c.recent[number%recentCalls]
	return true, was
}

// wanted says whether a message may be received: one of a collective call that
// has ended is not, and one of a call that differs from ours ends it. p.mu is
// held.
func (p *Process) wanted(a *arrival) bool {
	if p.freed[a.context&^contextClass] {
		p.counters.Stray++
		return false
	}
	if a.context&contextClass != contextCollective {
		return true
	}
	c := p.comms[a.context&^contextClass]
	if c == nil {
		return true // not made yet
	}
	if over, was := c.over(a.tag); over {
		p.counters.Stray++
		if was.number == a.tag && !was.failed && was.check != 0 {
			c.misfit(fmt.Errorf("mpi: rank %d sent what call %d did not wait for", c.rankOf(int(a.source)), a.tag))
		}
		return false
	}
	if x := c.active[a.tag]; x != nil && x.check != a.check {
		p.counters.Mismatches++
		x.fail(&Error{Class: ErrMismatch, Op: x.name, Rank: c.rankOf(int(a.source))})
		return false
	}
	return true
}

// misfit takes note that a call which has ended here did not fit the others':
// the one that waits says so, or the next. p.mu is held.
func (c *Comm) misfit(err error) {
	c.p.counters.Mismatches++
	if len(c.active) == 0 {
		c.broken = err
		return
	}
	for _, x := range c.active {
		x.fail(&Error{Class: ErrMismatch, Op: x.name, Rank: -1, Err: err})
	}
}

// frame takes a frame that concerns c as a whole. p.mu is held.
func (c *Comm) frame(from int, h header, body []byte) error {
	rank := c.rankOf(from)
	if rank < 0 {
		return fmt.Errorf("%w: rank %d is not in this communicator", errMalformed, from)
	}
	switch h.kind {
	case frameRevoke:
		c.revoke()
	case frameAbort:
		return c.abort(rank, h)
	case frameCheck:
		return c.compare(rank, h)
	case frameAgree:
		return c.agreeFrame(rank, h, body)
	}
	return nil
}

// abort takes note that a call failed elsewhere.
func (c *Comm) abort(from int, h header) error {
	class := Class(h.check)
	if class < ErrBuffer || class > ErrClosed || h.id >= uint64(len(c.group)) {
		return fmt.Errorf("%w: error %d of rank %d", errMalformed, h.check, h.id)
	}
	if over, was := c.over(h.tag); over {
		if (class == ErrMismatch || class == ErrCount) && was.number == h.tag && !was.failed {
			c.misfit(fmt.Errorf("mpi: rank %d made another call than we as number %d", from, h.tag))
		}
		return nil
	}
	name := "a collective call"
	x := c.active[h.tag]
	if x != nil {
		name = x.name
	}
	err := &Error{Class: class, Op: name, Rank: int(h.id), Err: fmt.Errorf("mpi: rank %d says so", from)}
	if x != nil {
		if x.err == nil {
			x.failing = true
			x.fail(err)
		}
		return nil
	}
	if len(c.aborted) >= maxAhead {
		return fmt.Errorf("%w: call %d has failed, and so many before it", errMalformed, h.tag)
	}
	if c.aborted == nil {
		c.aborted = make(map[int32]error)
	}
	if c.aborted[h.tag] == nil {
		c.aborted[h.tag] = err
	}
	return nil
}

// compare takes note of what call another rank waits in.
func (c *Comm) compare(from int, h header) error {
	if over, was := c.over(h.tag); over {
		if was.number == h.tag && was.check != h.check {
			c.p.control(&c.p.peers[c.group[from]], header{kind: frameAbort, context: c.context, tag: h.tag, check: uint32(ErrMismatch), id: uint64(c.rank)}, nil)
		}
		return nil
	}
	if x := c.active[h.tag]; x != nil {
		if x.check != h.check {
			c.p.counters.Mismatches++
			x.fail(&Error{Class: ErrMismatch, Op: x.name, Rank: from})
		}
		return nil
	}
	if c.expected == nil {
		c.expected = make(map[int32]uint32)
	}
	if len(c.expected) < maxAhead {
		c.expected[h.tag] = h.check
	}
	return nil
}

// The moves of a collective call. Ranks are those of the communicator.

// begin starts a part of the call. p.mu is held.
func (x *collective) begin(kind requestKind) (*Request, error) {
	if x.err != nil {
		return nil, x.err
	}
	if err := x.c.usable(x.name); err != nil {
		return nil, err
	}
	r := x.c.p.newRequest(x.c, x.name, kind)
	r.coll, r.check, r.blocking = x, x.check, true
	return r, nil
}

func (x *collective) isend(to int, b []byte) (*Request, error) {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	return x.isendLocked(to, b)
}

func (x *collective) isendLocked(to int, b []byte) (*Request, error) {
	r, err := x.begin(kindSend)
	if err != nil {
		return nil, err
	}
	r.buf, r.tag, r.context = b, x.tag, x.c.context|contextCollective
	x.c.p.startSend(r, &x.c.p.peers[x.c.group[to]])
	return r, nil
}

func (x *collective) irecv(from int, b []byte) (*Request, error) {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	return x.irecvLocked(from, b)
}

func (x *collective) irecvLocked(from int, b []byte) (*Request, error) {
	r, err := x.begin(kindReceive)
	if err != nil {
		return nil, err
	}
	r.buf = b
	r.want = pattern{context: x.c.context | contextCollective, source: int32(x.c.group[from]), tag: x.tag}
	x.c.p.startReceive(r)
	return r, nil
}

// waitLocked ends a part. p.mu is held.
func (x *collective) waitLocked(r *Request) error {
	if r == nil {
		return nil
	}
	p := x.c.p
	receive, want, from := r.kind == kindReceive, len(r.buf), r.want.source
	st, err := p.finish(x.ctx, r)
	p.recycle(r)
	if err == nil && receive && st.Bytes != want {
		err = &Error{Class: ErrCount, Op: x.name, Rank: x.c.rankOf(int(from)), Err: fmt.Errorf("%d bytes came, and %d were expected", st.Bytes, want)}
	}
	return err
}

// wait ends several parts; all of them, whatever the first error.
func (x *collective) wait(requests ...*Request) error {
	x.c.p.mu.Lock()
	defer x.c.p.mu.Unlock()
	var first error
	for _, r := range requests {
		if err := x.waitLocked(r); err != nil && first == nil {
			first = err
			x.fail(err)
		}
	}
	return first
}

func (x *collective) send(to int, b []byte) error {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := x.isendLocked(to, b)
	if err != nil {
		return err
	}
	return x.waitLocked(r)
}

func (x *collective) recv(from int, b []byte) error {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := x.irecvLocked(from, b)
	if err != nil {
		return err
	}
	return x.waitLocked(r)
}

// sendrecv sends to one rank and receives from another at the same time.
func (x *collective) sendrecv(to int, out []byte, from int, in []byte) error {
	p := x.c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := x.irecvLocked(from, in)
	if err != nil {
		return err
	}
	s, err := x.isendLocked(to, out)
	if err != nil {
		p.giveUp(r, err)
		x.waitLocked(r)
		return err
	}
	err = x.waitLocked(s)
	if err != nil {
		p.giveUp(r, err)
	}
	if e := x.waitLocked(r); err == nil {
		err = e
	}
	return err
}
