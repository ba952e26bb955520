package mpi

import (
	"context"
	"errors"
)

// A Status tells what a receive has taken (MPI_Status).
type Status struct {
	Source    int // in the communicator
	Tag       int
	Bytes     int // of the message; what did not fit the buffer included
	Cancelled bool
}

type requestKind uint8

const (
	kindSend requestKind = iota
	kindReceive
	kindProbe  // Probe: leaves the message
	kindMprobe // Mprobe: takes it
	kindCollective
	kindAgree
)

// A Request is an operation that goes on while its caller does something else.
// Its buffer belongs to it until Wait or Test say that it is complete. Its
// methods may be called from several goroutines; Wait and Test of one
// request from one at a time.
type Request struct {
	p    *Process
	comm *Comm
	coll *collective // that it is a part of
	op   string
	kind requestKind

	// the Process's mutex guards the rest
	inLive   links[Request]
	inPosted links[Request]
	done     bool
	busy     bool // the endpoint reads or writes buf: nobody else may complete it
	status   Status
	err      error
	waiter   chan struct{} // of a goroutine that waits; has room for one
	whenDone func()        // releases what it held
	decode   func() error  // copies buf to what the caller gave

	buf   []byte
	check uint32
	kept  bool // not to be used again: somebody may still look at it

	// a send
	to         *peer
	tag        int32
	context    uint64
	rendezvous bool   // asks first, whatever the size
	id         uint64 // of the RTS
	queued     bool   // not written yet
	limit      int    // bytes that the receiver wants, or that we do
	moved      int    // bytes that went

	// a receive
	want     pattern
	order    uint64
	posted   bool  // in the matcher
	blocking bool  // a failure ends it, rather than wait for the caller's opinion
	from     int   // world rank of the sender, once matched
	discard  error // given up: data that comes is thrown away
	found    *arrival
}

func inLive(r *Request) *links[Request] { return &r.inLive }

// receives reports whether r takes or finds messages.
func (r *Request) receives() bool {
	return r.kind == kindReceive || r.kind == kindProbe || r.kind == kindMprobe
}

// newRequest returns a request that is alive. p.mu is held.
func (p *Process) newRequest(c *Comm, op string, kind requestKind) *Request {
	var r *Request
	if n := len(p.spare); n > 0 {
		r = p.spare[n-1]
		p.spare = p.spare[:n-1]
	} else {
		r = new(Request)
	}
	r.p, r.comm, r.op, r.kind, r.from = p, c, op, kind, -1
	r.status = Status{Source: AnySource, Tag: AnyTag}
	p.live.push(r, inLive)
	return r
}

// maxSpare bounds what is kept for later calls.
const maxSpare = 64

// recycle takes back a request that nobody else has seen. p.mu is held.
func (p *Process) recycle(r *Request) {
	if r.kept || !r.done || len(p.spare) >= maxSpare {
		return
	}
	w := r.waiter
	select {
	case <-w:
	default:
	}
	*r = Request{waiter: w}
	p.spare = append(p.spare, r)
}

// complete ends r. p.mu is held.
func (r *Request) complete(err error) {
	if r.done {
		panic("mpi: a request completes once")
	}
	r.p.live.remove(r, inLive)
	r.done, r.err = true, err
	if r.whenDone != nil {
		r.whenDone()
	}
	r.wake()
}

// wake has the goroutine that waits look again. p.mu is held.
func (r *Request) wake() {
	if r.waiter != nil {
		select {
		case r.waiter <- struct{}{}:
		default:
		}
	}
}

// fault returns an Error of this request's call that concerns a rank of the
// world, or nobody.
func (r *Request) fault(class Class, world int, err error) error {
	rank := -1
	if r.comm != nil && world >= 0 {
		rank = r.comm.rankOf(world)
	}
	return &Error{Class: class, Op: r.op, Rank: rank, Err: err}
}

// hold says why r cannot complete by itself: a receive from anybody, while a
// failure is not acknowledged (ULFM). p.mu is held.
func (r *Request) hold() error {
	if r.done || r.coll != nil || !r.receives() || r.want.source != AnySource || !(r.posted || r.kind != kindReceive) {
		return nil
	}
	if f := r.comm.unacknowledged(); f >= 0 {
		class := ErrProcFailedPending
		if r.blocking {
			class = ErrProcFailed
		}
		return &Error{Class: class, Op: r.op, Rank: f, Err: r.p.peers[r.comm.group[f]].gone}
	}
	return nil
}

// await blocks until r is complete, ctx ends or, for a receive from anybody, a
// process fails. It returns an error only if r is not complete. p.mu is held on
// entry and on return.
func (p *Process) await(ctx context.Context, r *Request) error {
	over := ctx.Done()
	for !r.done {
		if err := r.hold(); err != nil {
			if !r.blocking {
				return err
			}
			p.giveUp(r, err)
			continue
		}
		if r.waiter == nil {
			r.waiter = make(chan struct{}, 1)
		}
		wake := r.waiter
		p.mu.Unlock()
		if over == nil {
			<-wake
		} else {
			select {
			case <-wake:
			case <-over:
			}
		}
		p.mu.Lock()
		if over != nil && !r.done && ctx.Err() != nil {
			return r.fault(ErrPending, -1, context.Cause(ctx))
		}
	}
	return nil
}

// finish waits for a blocking call's request, and gives it up when ctx ends.
// p.mu is held.
func (p *Process) finish(ctx context.Context, r *Request) (Status, error) {
	if err := p.await(ctx, r); err != nil {
		var e *Error
		if errors.As(err, &e) && e.Class == ErrPending {
			e.Class = ErrOther
		}
		p.giveUp(r, err)
		p.await(context.Background(), r) // the endpoint may be at work on its buffer
	}
	return r.outcome()
}

// outcome returns what a complete request has come to. p.mu is held.
func (r *Request) outcome() (Status, error) {
	if r.decode != nil && r.err == nil {
		r.err = r.decode()
		r.decode = nil
	}
	return r.status, r.err
}

// giveUp ends r with err as soon as nobody is at work on its buffer. p.mu is held.
func (p *Process) giveUp(r *Request, err error) {
	if r.done || r.discard != nil {
		return
	}
	switch r.kind {
	case kindSend:
		p.withdraw(r, err)
	case kindReceive:
		if r.posted {
			p.match.unpost(r)
			r.complete(err)
			return
		}
		// Its sender has data under way: what still comes is thrown away.
		r.discard, r.kept = err, true
		if !r.busy {
			r.complete(err)
		}
	case kindProbe, kindMprobe:
		p.dropProbe(r)
		r.complete(err)
	case kindAgree:
		r.complete(err)
	case kindCollective: // its goroutine does, once its parts have ended
	}
}

// Wait blocks until the request is complete. Its error is that of the
// operation; when ctx ends first, or with ErrProcFailedPending, the request goes
// on, and Wait may be called again.
func (r *Request) Wait(ctx context.Context) (Status, error) {
	if r == nil {
		return Status{Source: AnySource, Tag: AnyTag}, nil
	}
	r.p.mu.Lock()
	if err := r.p.await(ctx, r); err != nil {
		r.p.mu.Unlock()
		return Status{}, r.handled(err)
	}
	st, err := r.outcome()
	r.p.mu.Unlock()
	return st, r.handled(err)
}

// handled shows err to the communicator's error handler.
func (r *Request) handled(err error) error {
	if err == nil || r.comm == nil {
		return err
	}
	return r.comm.handled(err)
}

// Test says whether the request is complete, and if so what Wait would.
func (r *Request) Test() (done bool, st Status, err error) {
	if r == nil {
		return true, Status{Source: AnySource, Tag: AnyTag}, nil
	}
	r.p.mu.Lock()
	if !r.done {
		err := r.hold()
		r.p.mu.Unlock()
		return false, Status{}, r.handled(err)
	}
	st, err = r.outcome()
	r.p.mu.Unlock()
	return true, st, r.handled(err)
}

// Cancel asks that the request end unless it is under way (MPI_Cancel). Wait
// then tells in the status whether it did. A collective call is not cancelled.
func (r *Request) Cancel() {
	if r == nil {
		return
	}
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.done:
	case r.kind == kindReceive && r.posted:
		p.match.unpost(r)
	case r.kind == kindSend && r.queued && !r.busy:
		p.withdraw(r, nil)
	default:
		return
	}
	if !r.done {
		r.complete(nil)
	}
	if r.err == nil && (r.receives() || r.kind == kindSend) && r.moved == 0 && r.from < 0 {
		r.status.Cancelled = true
	}
}

// WaitAll waits for all of the requests. Its error joins theirs.
func WaitAll(ctx context.Context, requests ...*Request) ([]Status, error) {
	statuses := make([]Status, len(requests))
	var errs []error
	for i, r := range requests {
		st, err := r.Wait(ctx)
		statuses[i] = st
		if err != nil {
			errs = append(errs, err)
		}
	}
	return statuses, errors.Join(errs...)
}

// WaitAny waits until one of the requests is complete, and returns its index.
// Requests that are nil are passed over; if all are, the index is negative. The
// requests belong to one process. When ctx ends first the index is negative and
// all of them go on.
func WaitAny(ctx context.Context, requests ...*Request) (int, Status, error) {
	var p *Process
	for _, r := range requests {
		if r != nil {
			p = r.p
		}
	}
	if p == nil {
		return -1, Status{Source: AnySource, Tag: AnyTag}, nil
	}
	wake := make(chan struct{}, 1)
	p.mu.Lock()
	defer func() {
		for _, r := range requests {
			if r != nil && r.waiter == wake {
				r.waiter = nil
			}
		}
		p.mu.Unlock()
	}()
	for {
		for i, r := range requests {
			if r == nil {
				continue
			}
			if r.done {
				st, err := r.outcome()
				return i, st, err
			}
			if err := r.hold(); err != nil {
				return i, Status{}, err
			}
			r.waiter = wake
		}
		p.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return -1, Status{}, fault(ErrPending, "WaitAny", context.Cause(ctx))
		}
	}
}

// WaitSome waits until at least one request is complete, and returns the indexes
// of all that are.
func WaitSome(ctx context.Context, requests ...*Request) ([]int, []Status, error) {
	if i, _, err := WaitAny(ctx, requests...); i < 0 {
		return nil, nil, err
	}
	return TestSome(requests...)
}

// TestAll says whether all requests are complete, and if so what WaitAll would.
func TestAll(requests ...*Request) (done bool, statuses []Status, err error) {
	for _, r := range requests {
		if done, _, err := r.peekDone(); !done {
			return false, nil, err
		}
	}
	statuses, err = WaitAll(context.Background(), requests...)
	return true, statuses, err
}

// peekDone says whether r is complete, and leaves its outcome alone.
func (r *Request) peekDone() (done bool, st Status, err error) {
	if r == nil {
		return true, st, nil
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	return r.done, st, r.hold()
}

// TestAny returns the index of a complete request, or a negative one.
func TestAny(requests ...*Request) (int, Status, error) {
	for i, r := range requests {
		if r == nil {
			continue
		}
		if done, st, err := r.Test(); done || err != nil {
			return i, st, err
		}
	}
	return -1, Status{}, nil
}

// TestSome returns the indexes of all complete requests.
func TestSome(requests ...*Request) (indexes []int, statuses []Status, err error) {
	var errs []error
	for i, r := range requests {
		if r == nil {
			continue
		}
		done, st, err := r.Test()
		if err != nil {
			errs = append(errs, err)
		}
		if done {
			indexes, statuses = append(indexes, i), append(statuses, st)
		}
	}
	return indexes, statuses, errors.Join(errs...)
}
