package mpi

import (
	"context"
	"fmt"
	"sync"
)

// sendMode is one of MPI 4.1, section 3.4.
type sendMode uint8

const (
	standard sendMode = iota
	synchronous
	buffered
	ready
)

func (m sendMode) name(call string) string {
	return [...]string{standard: "", synchronous: "S", buffered: "B", ready: "R"}[m] + call
}

// checkRank says whether a rank of c can be sent to.
func (c *Comm) checkRank(op string, rank int) error {
	if rank < 0 || rank >= len(c.group) {
		return &Error{Class: ErrRank, Op: op, Rank: rank, Err: fmt.Errorf("mpi: the communicator has %d ranks", len(c.group))}
	}
	return nil
}

func checkTag(op string, tag int) error {
	if tag < 0 || tag > MaxTag {
		return fault(ErrTag, op, fmt.Errorf("tag %d", tag))
	}
	return nil
}

// start begins a send of this mode. p.mu is held.
func (c *Comm) start(mode sendMode, op string, buf []byte, dest, tag int) (*Request, error) {
	if err := c.usable(op); err != nil {
		return nil, err
	}
	if err := c.checkRank(op, dest); err != nil {
		return nil, err
	}
	if err := checkTag(op, tag); err != nil {
		return nil, err
	}
	p := c.p
	r := p.newRequest(c, op, kindSend)
	r.buf, r.tag, r.context, r.rendezvous = buf, int32(tag), c.context|contextPoint, mode == synchronous
	if mode == buffered {
		return r, p.startBuffered(r, &p.peers[c.group[dest]])
	}
	p.startSend(r, &p.peers[c.group[dest]])
	return r, nil
}

// startBuffered sends a copy of r's message, and completes r.
func (p *Process) startBuffered(r *Request, pr *peer) error {
	if p.buffered+len(r.buf) > p.cfg.BufferBytes {
		p.counters.BufferRefused++
		err := r.fault(ErrBuffer, -1, fmt.Errorf("%d bytes of %d are in use", p.buffered, p.cfg.BufferBytes))
		r.complete(err)
		return err
	}
	held := p.newRequest(r.comm, r.op, kindSend)
	held.buf = append([]byte(nil), r.buf...)
	held.tag, held.context, held.kept = r.tag, r.context, true
	n := len(held.buf)
	p.buffered += n
	held.whenDone = func() { p.buffered -= n }
	p.startSend(held, pr)
	if held.done && held.err != nil {
		err := held.err
		r.complete(err)
		return err
	}
	r.complete(nil)
	return nil
}

// receive begins a receive. p.mu is held.
func (c *Comm) receive(op string, buf []byte, source, tag int) (*Request, error) {
	want, err := c.pattern(op, source, tag)
	if err != nil {
		return nil, err
	}
	r := c.p.newRequest(c, op, kindReceive)
	r.buf, r.want = buf, want
	return r, nil
}

// pattern checks what a receive or a probe asks for. p.mu is held.
func (c *Comm) pattern(op string, source, tag int) (pattern, error) {
	if err := c.usable(op); err != nil {
		return pattern{}, err
	}
	want := pattern{context: c.context | contextPoint, source: AnySource, tag: AnyTag}
	if source != AnySource {
		if err := c.checkRank(op, source); err != nil {
			return pattern{}, err
		}
		want.source = int32(c.group[source])
	}
	if tag != AnyTag {
		if err := checkTag(op, tag); err != nil {
			return pattern{}, err
		}
		want.tag = int32(tag)
	}
	return want, nil
}

// send does a blocking send.
func (c *Comm) send(ctx context.Context, mode sendMode, buf []byte, dest, tag int) error {
	p := c.p
	p.mu.Lock()
	r, err := c.start(mode, mode.name("Send"), buf, dest, tag)
	if err == nil {
		_, err = p.finish(ctx, r)
		p.recycle(r)
	}
	p.mu.Unlock()
	return c.handled(err)
}

// isend does a send that does not wait.
func (c *Comm) isend(mode sendMode, buf []byte, dest, tag int) (*Request, error) {
	c.p.mu.Lock()
	r, err := c.start(mode, "I"+mode.name("send"), buf, dest, tag)
	if r != nil {
		r.kept = true
	}
	c.p.mu.Unlock()
	return r, c.handled(err)
}

// Send sends buf to the process of rank dest and returns when buf may be used
// again (MPI 4.1, section 3.4, standard mode): at once while the receiver has room, 1 MiB
// for each sender, and no message longer than EagerLimit; otherwise when it
// receives.
//
// Messages from one sender are received in the order sent as far as tags
// allow (section 3.5). When ctx ends first, dest may or may not have received the
// message. It returns ErrProcFailed when dest is gone, and ErrRevoked.
func (c *Comm) Send(ctx context.Context, buf []byte, dest, tag int) error {
	return c.send(ctx, standard, buf, dest, tag)
}

// Ssend is Send in synchronous mode: it returns when dest has begun to receive.
func (c *Comm) Ssend(ctx context.Context, buf []byte, dest, tag int) error {
	return c.send(ctx, synchronous, buf, dest, tag)
}

// Bsend is Send in buffered mode: it copies buf and never waits. It returns
// ErrBuffer when Config.BufferBytes are in use.
func (c *Comm) Bsend(ctx context.Context, buf []byte, dest, tag int) error {
	return c.send(ctx, buffered, buf, dest, tag)
}

// Rsend is Send in ready mode: dest receives already. It does what Send does.
func (c *Comm) Rsend(ctx context.Context, buf []byte, dest, tag int) error {
	return c.send(ctx, ready, buf, dest, tag)
}

// Isend is Send that does not wait for room or receiver. buf is the request's
// until it is complete. A small message may be written before Isend returns.
func (c *Comm) Isend(buf []byte, dest, tag int) (*Request, error) {
	return c.isend(standard, buf, dest, tag)
}

// Issend is Ssend that does not wait.
func (c *Comm) Issend(buf []byte, dest, tag int) (*Request, error) {
	return c.isend(synchronous, buf, dest, tag)
}

// Ibsend is Bsend, with a request that is complete.
func (c *Comm) Ibsend(buf []byte, dest, tag int) (*Request, error) {
	return c.isend(buffered, buf, dest, tag)
}

// Irsend is Rsend that does not wait.
func (c *Comm) Irsend(buf []byte, dest, tag int) (*Request, error) {
	return c.isend(ready, buf, dest, tag)
}

// Recv receives a message into buf. Source may be AnySource, tag AnyTag. A
// message longer than buf fills it and gives ErrTruncate.
//
// When ctx ends while the message is coming, it is lost. A failure of source
// gives ErrProcFailed, and with AnySource that of any rank does until AckFailed;
// messages that came whole before the failure are received.
func (c *Comm) Recv(ctx context.Context, buf []byte, source, tag int) (Status, error) {
	st, err := c.recv(ctx, buf, source, tag)
	return st, c.handled(err)
}

func (c *Comm) recv(ctx context.Context, buf []byte, source, tag int) (Status, error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := c.receive("Recv", buf, source, tag)
	if err != nil {
		return Status{}, err
	}
	r.blocking = true
	p.startReceive(r)
	st, err := p.finish(ctx, r)
	p.recycle(r)
	return st, err
}

// Irecv begins to receive into buf, which is the request's until it is complete.
// With AnySource, a failure of any rank makes Wait return ErrProcFailedPending;
// after AckFailed it may be called again.
func (c *Comm) Irecv(buf []byte, source, tag int) (*Request, error) {
	c.p.mu.Lock()
	r, err := c.receive("Irecv", buf, source, tag)
	if err == nil {
		r.kept = true
		c.p.startReceive(r)
	}
	c.p.mu.Unlock()
	return r, c.handled(err)
}

// Sendrecv sends and receives at once. The buffers do not overlap.
func (c *Comm) Sendrecv(ctx context.Context, send []byte, dest, sendTag int, recv []byte, source, recvTag int) (Status, error) {
	p := c.p
	p.mu.Lock()
	st, err := func() (Status, error) {
		in, err := c.receive("Sendrecv", recv, source, recvTag)
		if err != nil {
			return Status{}, err
		}
		in.blocking = true
		p.startReceive(in)
		out, err := c.start(standard, "Sendrecv", send, dest, sendTag)
		if err != nil {
			p.giveUp(in, err)
			p.await(context.Background(), in)
			p.recycle(in)
			return Status{}, err
		}
		_, err = p.finish(ctx, out)
		if err != nil {
			p.giveUp(in, err)
		}
		st, inErr := p.finish(ctx, in)
		p.recycle(out)
		p.recycle(in)
		if err == nil {
			err = inErr
		}
		return st, err
	}()
	p.mu.Unlock()
	return st, c.handled(err)
}

// SendrecvReplace is Sendrecv with one buffer for both.
func (c *Comm) SendrecvReplace(ctx context.Context, buf []byte, dest, sendTag, source, recvTag int) (Status, error) {
	out := append([]byte(nil), buf...)
	return c.Sendrecv(ctx, out, dest, sendTag, buf, source, recvTag)
}

// probe waits for a message, and takes it if kind is kindMprobe.
func (c *Comm) probe(ctx context.Context, op string, kind requestKind, source, tag int) (*arrival, Status, error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	a, st, err := c.look(op, kind, source, tag)
	if a != nil || err != nil {
		return a, st, err
	}
	want, _ := c.pattern(op, source, tag)
	r := p.newRequest(c, op, kind)
	r.want, r.blocking, r.kept = want, true, true
	if s := want.source; s != AnySource && p.peers[s].gone != nil {
		r.complete(r.fault(ErrProcFailed, int(s), p.peers[s].gone))
	} else {
		p.probes = append(p.probes, r)
	}
	st, err = p.finish(ctx, r)
	return r.found, st, err
}

// look finds a message that is there, and takes it if kind is kindMprobe. p.mu is held.
func (c *Comm) look(op string, kind requestKind, source, tag int) (*arrival, Status, error) {
	want, err := c.pattern(op, source, tag)
	if err != nil {
		return nil, Status{}, err
	}
	a := c.p.match.peek(want)
	if a == nil {
		return nil, Status{}, nil
	}
	if kind == kindMprobe {
		c.p.match.drop(a)
	}
	return a, Status{Source: c.rankOf(int(a.source)), Tag: int(a.tag), Bytes: int(a.size)}, nil
}

// Probe waits until a message can be received and tells what Recv would.
func (c *Comm) Probe(ctx context.Context, source, tag int) (Status, error) {
	_, st, err := c.probe(ctx, "Probe", kindProbe, source, tag)
	return st, c.handled(err)
}

// Iprobe is Probe that does not wait. When nothing is found it gives the error
// that Probe would wait no longer for.
func (c *Comm) Iprobe(source, tag int) (found bool, st Status, err error) {
	c.p.mu.Lock()
	a, st, err := c.look("Iprobe", kindProbe, source, tag)
	if a == nil && err == nil {
		err = c.noneComes("Iprobe", source)
	}
	c.p.mu.Unlock()
	return a != nil, st, c.handled(err)
}

// noneComes says why a probe finds nothing however long it waits, or nil. p.mu is held.
func (c *Comm) noneComes(op string, source int) error {
	if source == AnySource {
		if f := c.unacknowledged(); f >= 0 {
			return &Error{Class: ErrProcFailed, Op: op, Rank: f, Err: c.p.peers[c.group[f]].gone}
		}
		return nil
	}
	if gone := c.p.peers[c.group[source]].gone; gone != nil {
		return &Error{Class: ErrProcFailed, Op: op, Rank: source, Err: gone}
	}
	return nil
}

// A Message is one that Mprobe has taken: nobody else receives it.
type Message struct {
	c  *Comm
	mu sync.Mutex
	a  *arrival
}

// Mprobe waits for a message and takes it (MPI 4.1, section 3.8.2). Its bytes
// come with Recv of the Message.
func (c *Comm) Mprobe(ctx context.Context, source, tag int) (*Message, Status, error) {
	a, st, err := c.probe(ctx, "Mprobe", kindMprobe, source, tag)
	if err != nil {
		return nil, st, c.handled(err)
	}
	return &Message{c: c, a: a}, st, nil
}

// Improbe is Mprobe that does not wait: the Message is nil when there is none.
func (c *Comm) Improbe(source, tag int) (*Message, Status, error) {
	c.p.mu.Lock()
	a, st, err := c.look("Improbe", kindMprobe, source, tag)
	if a == nil && err == nil {
		err = c.noneComes("Improbe", source)
	}
	c.p.mu.Unlock()
	if a == nil {
		return nil, st, c.handled(err)
	}
	return &Message{c: c, a: a}, st, nil
}

// Irecv begins to receive the message (MPI_Imrecv). A message is received once.
func (m *Message) Irecv(buf []byte) (*Request, error) {
	m.mu.Lock()
	a := m.a
	m.a = nil
	m.mu.Unlock()
	if a == nil {
		return nil, m.c.handled(fault(ErrRequest, "Mrecv", nil))
	}
	p := m.c.p
	p.mu.Lock()
	r := p.newRequest(m.c, "Mrecv", kindReceive)
	r.buf, r.kept = buf, true
	r.want = pattern{context: a.context, source: a.source, tag: a.tag}
	p.take(r, a)
	p.mu.Unlock()
	return r, nil
}

// Recv receives the message (MPI_Mrecv).
func (m *Message) Recv(ctx context.Context, buf []byte) (Status, error) {
	r, err := m.Irecv(buf)
	if err != nil {
		return Status{}, err
	}
	return r.finish(ctx)
}

// finish waits for a request as a blocking call does.
func (r *Request) finish(ctx context.Context) (Status, error) {
	r.p.mu.Lock()
	st, err := r.p.finish(ctx, r)
	r.p.mu.Unlock()
	return st, r.handled(err)
}

// A Persistent is a call that is made again and again with the same arguments
// (MPI 4.1, section 3.9).
type Persistent struct {
	start func() (*Request, error)
}

// SendInit prepares Isend, SsendInit Issend, RecvInit Irecv.
func (c *Comm) SendInit(buf []byte, dest, tag int) *Persistent {
	return &Persistent{func() (*Request, error) { return c.Isend(buf, dest, tag) }}
}

// SsendInit prepares Issend.
func (c *Comm) SsendInit(buf []byte, dest, tag int) *Persistent {
	return &Persistent{func() (*Request, error) { return c.Issend(buf, dest, tag) }}
}

// RecvInit prepares Irecv.
func (c *Comm) RecvInit(buf []byte, source, tag int) *Persistent {
	return &Persistent{func() (*Request, error) { return c.Irecv(buf, source, tag) }}
}

// Prepare makes a persistent call of any that returns a request: a typed one, or
// a collective one, which all ranks start in the same order.
func Prepare(start func() (*Request, error)) *Persistent { return &Persistent{start} }

// Start begins the call. The one before has ended.
func (t *Persistent) Start() (*Request, error) { return t.start() }

// StartAll starts several. It stops at the first error.
func StartAll(calls ...*Persistent) ([]*Request, error) {
	requests := make([]*Request, 0, len(calls))
	for _, t := range calls {
		r, err := t.Start()
		if err != nil {
			return requests, err
		}
		requests = append(requests, r)
	}
	return requests, nil
}
