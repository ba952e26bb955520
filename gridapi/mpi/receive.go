package mpi

import (
	"errors"
	"fmt"
	"slices"
)

// receiver is the Process as its endpoint sees it.
type receiver struct{ p *Process }

// current is the frame whose body a peer's connection is being read into.
type current struct {
	kind frameKind
	req  *Request // whose buffer it is; nil if a is to be queued
	a    *arrival
	data []byte // where it goes, unless to the buffer of req
}

func (t receiver) Frame(from int, head, body []byte) error {
	h, err := parseHeader(head)
	if err != nil {
		return t.violation(from, err)
	}
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := &p.peers[from]
	if pr.gone != nil {
		return nil
	}
	if h.kind == frameEager || h.kind == frameData {
		var dst []byte
		if dst, err = p.begin(pr, h, len(body)); err == nil {
			copy(dst, body)
			p.end(pr)
		}
	} else {
		err = p.frame(pr, h, body)
	}
	if err != nil {
		p.counters.Violations++
		return err
	}
	return nil
}

func (t receiver) Begin(from int, head []byte, n int) ([]byte, error) {
	h, err := parseHeader(head)
	if err != nil {
		return nil, t.violation(from, err)
	}
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := &p.peers[from]
	if h.kind != frameEager && h.kind != frameData || n > MaxFrame {
		p.counters.Violations++
		return nil, fmt.Errorf("%w: frame %d of %d bytes", errMalformed, h.kind, n)
	}
	if pr.gone != nil {
		pr.current = current{data: make([]byte, n)}
		return pr.current.data, nil
	}
	dst, err := p.begin(pr, h, n)
	if err != nil {
		p.counters.Violations++
	}
	return dst, err
}

func (t receiver) End(from int) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.p.end(&t.p.peers[from])
}

func (t receiver) Lost(from int, err error) {
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := &p.peers[from]
	p.rankFailed(from, err)
	if r := pr.current.req; r != nil && !r.done {
		r.busy = false
		if r.discard == nil {
			r.discard = r.fault(ErrProcFailed, from, pr.gone)
		}
		r.kept = true
		r.complete(r.discard)
	}
	pr.current = current{}
}

func (t receiver) violation(from int, err error) error {
	t.p.mu.Lock()
	t.p.counters.Violations++
	t.p.mu.Unlock()
	return err
}

// begin takes a frame with data of a message and returns where it goes: n bytes.
// p.mu is held.
func (p *Process) begin(pr *peer, h header, n int) ([]byte, error) {
	if h.kind == frameData {
		r := pr.incoming[h.id]
		if r == nil || n == 0 || int(h.size) != r.moved || n > r.limit-r.moved {
			return nil, fmt.Errorf("%w: %d bytes at %d of message %d, which was not asked for", errMalformed, n, h.size, h.id)
		}
		pr.current = current{kind: frameData, req: r}
		r.busy, r.id = true, h.id
		r.moved += n
		if r.discard != nil {
			return make([]byte, n), nil
		}
		return r.buf[r.moved-n : r.moved], nil
	}
	if h.size != uint64(n) || n > EagerLimit {
		return nil, fmt.Errorf("%w: %d bytes of data for %d", errMalformed, n, h.size)
	}
	a := &arrival{context: h.context, source: int32(pr.rank), tag: h.tag, check: h.check, size: h.size, cost: envelopeCost + int64(n)}
	if err := pr.charge(a.cost); err != nil {
		return nil, err
	}
	if !p.wanted(a) {
		p.release(a)
		pr.current = current{kind: frameEager, data: make([]byte, n)}
		return pr.current.data, nil
	}
	if r := p.match.claim(a); r != nil {
		p.release(a)
		r.from, r.busy = pr.rank, true
		pr.current = current{kind: frameEager, req: r, a: a}
		if n <= len(r.buf) {
			return r.buf[:n], nil
		}
		pr.current.data = make([]byte, n)
		return pr.current.data, nil
	}
	a.data = make([]byte, n)
	pr.current = current{kind: frameEager, a: a}
	return a.data, nil
}

// end takes note that the body is there. p.mu is held.
func (p *Process) end(pr *peer) {
	c := pr.current
	pr.current = current{}
	r := c.req
	switch {
	case r == nil && c.a == nil: // thrown away
	case r == nil: // a receive may have been posted meanwhile
		if !p.wanted(c.a) {
			p.release(c.a)
		} else if r := p.match.claim(c.a); r != nil {
			p.release(c.a)
			r.deliver(pr.rank, c.a.tag, c.a.check, c.a.data)
		} else {
			p.enqueue(c.a)
		}
	case c.kind == frameEager:
		r.busy = false
		if r.discard != nil {
			r.complete(r.discard)
			return
		}
		if c.data != nil {
			copy(r.buf, c.data)
		}
		r.received(pr.rank, c.a.tag, c.a.check, int(c.a.size))
	default:
		r.busy = false
		whole := r.moved == r.limit
		if whole {
			delete(pr.incoming, r.id)
		}
		switch {
		case r.done: // given up before
		case r.discard != nil:
			r.complete(r.discard)
		case whole:
			r.received(pr.rank, int32(r.status.Tag), r.check, r.status.Bytes)
		}
	}
}

// charge counts what a message takes up of the peer's window.
func (pr *peer) charge(cost int64) error {
	if pr.held+cost > window {
		return fmt.Errorf("%w: a message beyond the window", errMalformed)
	}
	pr.held += cost
	return nil
}

// release gives back what a message took up. p.mu is held.
func (p *Process) release(a *arrival) {
	pr := &p.peers[a.source]
	if pr.rank == p.rank {
		pr.held -= a.cost
		return
	}
	if pr.gone == nil {
		pr.owed += a.cost
		if pr.owed >= creditQuantum {
			p.kick(pr)
		}
	}
}

// deliver completes a receive with a whole message.
func (r *Request) deliver(from int, tag int32, check uint32, data []byte) {
	copy(r.buf, data)
	r.received(from, tag, check, len(data))
}

// received completes a receive whose buffer is filled.
func (r *Request) received(from int, tag int32, check uint32, size int) {
	r.from = from
	r.status = Status{Source: r.comm.rankOf(from), Tag: int(tag), Bytes: size}
	var err error
	if r.check != check && r.coll != nil {
		err = r.fault(ErrMismatch, from, nil)
	} else if size > len(r.buf) {
		err = r.fault(ErrTruncate, from, fmt.Errorf("%d bytes for a buffer of %d", size, len(r.buf)))
	}
	r.complete(err)
}

// enqueue keeps a message that no receive waits for. p.mu is held.
func (p *Process) enqueue(a *arrival) {
	p.counters.Unexpected++
	for _, r := range p.probes {
		if !r.want.matches(a) {
			continue
		}
		p.dropProbe(r)
		r.found = a
		r.from = int(a.source)
		r.status = Status{Source: r.comm.rankOf(r.from), Tag: int(a.tag), Bytes: int(a.size)}
		r.complete(nil)
		if r.kind == kindMprobe {
			return
		}
	}
	p.match.queue(a)
}

// dropProbe forgets a probe. The list is a new one: enqueue walks the old.
func (p *Process) dropProbe(r *Request) {
	if i := slices.Index(p.probes, r); i >= 0 {
		p.probes = slices.Concat(p.probes[:i], p.probes[i+1:])
	}
}

// startReceive takes a message that is there, or waits for one. p.mu is held on
// entry and on return.
func (p *Process) startReceive(r *Request) {
	if a := p.match.take(r.want); a != nil {
		p.take(r, a)
		return
	}
	if s := r.want.source; s != AnySource && p.peers[s].gone != nil {
		r.complete(r.fault(ErrProcFailed, int(s), p.peers[s].gone))
		return
	}
	p.match.post(r)
}

// take has r receive a, which is no longer queued. p.mu is held.
func (p *Process) take(r *Request, a *arrival) {
	pr := &p.peers[a.source]
	switch {
	case a.self != nil:
		r.deliver(p.rank, a.tag, a.check, a.self.buf)
		a.self.complete(nil)
	case !a.rts:
		p.release(a)
		r.deliver(int(a.source), a.tag, a.check, a.data)
	default:
		p.release(a)
		p.ask(pr, r, a)
		p.flush(pr, nil)
	}
}

// ask lets the data of an announced message come. p.mu is held.
func (p *Process) ask(pr *peer, r *Request, a *arrival) {
	r.from = pr.rank
	if pr.gone != nil {
		r.complete(r.fault(ErrProcFailed, pr.rank, pr.gone))
		return
	}
	if pr.incoming[a.id] != nil {
		err := fmt.Errorf("%w: message %d is announced twice", errMalformed, a.id)
		r.complete(r.fault(ErrProcFailed, pr.rank, err))
		p.counters.Violations++
		p.rankFailed(pr.rank, err)
		return
	}
	r.status = Status{Source: r.comm.rankOf(pr.rank), Tag: int(a.tag), Bytes: int(a.size)}
	want := len(r.buf)
	if a.size < uint64(want) {
		want = int(a.size)
	}
	if r.coll != nil && r.check != a.check {
		want = 0
	}
	r.limit, r.moved, r.id = want, 0, a.id
	pr.control = append(pr.control, controlFrame{header: header{kind: frameCTS, id: a.id, size: uint64(want)}})
	if want == 0 {
		r.received(pr.rank, a.tag, a.check, int(a.size))
		return
	}
	if r.check != a.check {
		r.check = a.check
	}
	if pr.incoming == nil {
		pr.incoming = make(map[uint64]*Request)
	}
	pr.incoming[a.id] = r
	r.kept = true // data may come for it after it was given up
}

// frame takes a control frame or an RTS. p.mu is held.
func (p *Process) frame(pr *peer, h header, body []byte) error {
	if len(body) > 0 && h.kind != frameAgree {
		return fmt.Errorf("%w: a body of %d bytes", errMalformed, len(body))
	}
	switch h.kind {
	case frameRTS:
		a := &arrival{context: h.context, source: int32(pr.rank), tag: h.tag, check: h.check, size: h.size, id: h.id, rts: true, cost: envelopeCost}
		if h.id == 0 || pr.incoming[h.id] != nil || p.match.rts(pr.rank, h.id) != nil {
			return fmt.Errorf("%w: message %d is announced twice", errMalformed, h.id)
		}
		if err := pr.charge(a.cost); err != nil {
			return err
		}
		if !p.wanted(a) {
			p.release(a)
			pr.control = append(pr.control, controlFrame{header: header{kind: frameCTS, id: a.id}})
			p.kick(pr)
		} else if r := p.match.claim(a); r != nil {
			p.release(a)
			p.ask(pr, r, a)
			p.kick(pr)
		} else {
			p.enqueue(a)
		}
	case frameCTS:
		r := pr.asked[h.id]
		if r == nil { // withdrawn, and the receiver may have taken it by then
			p.control(pr, header{kind: frameWithdraw, id: h.id}, nil)
			return nil
		}
		if r.limit >= 0 || h.size > uint64(len(r.buf)) {
			return fmt.Errorf("%w: %d bytes of message %d are asked for", errMalformed, h.size, h.id)
		}
		r.limit = int(h.size)
		if !r.busy {
			p.cleared(pr, r)
		}
	case frameCredit:
		if h.size > window || pr.credit+int64(h.size) > window {
			return fmt.Errorf("%w: credit of %d bytes", errMalformed, h.size)
		}
		pr.credit += int64(h.size)
		p.kick(pr)
	case frameWithdraw:
		p.withdrawn(pr, h.id)
	case frameDead:
		if h.id >= uint64(p.size) {
			return fmt.Errorf("%w: rank %d is dead", errMalformed, h.id)
		}
		if int(h.id) == p.rank {
			p.fenced()
			return nil
		}
		p.rankFailed(int(h.id), fmt.Errorf("mpi: rank %d says so", pr.rank))
	case frameBye:
		p.rankFailed(pr.rank, errLeft)
	case frameAbort, frameRevoke, frameAgree, frameCheck:
		c := p.comms[h.context]
		if c == nil {
			if p.freed[h.context] {
				return nil
			}
			if pr.early >= maxEarly {
				p.counters.Overflows++
				return errors.New("mpi: too many frames of unknown communicators")
			}
			pr.early++
			p.early = append(p.early, earlyFrame{pr.rank, h, slices.Clone(body)})
			return nil
		}
		return c.frame(pr.rank, h, body)
	default:
		return fmt.Errorf("%w: frame %d", errMalformed, h.kind)
	}
	return nil
}

// withdrawn takes note that a message's data will not come. p.mu is held.
func (p *Process) withdrawn(pr *peer, id uint64) {
	if r := pr.incoming[id]; r != nil {
		delete(pr.incoming, id)
		if !r.done && r.discard == nil {
			r.complete(r.fault(ErrOther, pr.rank, errors.New("mpi: the sender gave up")))
		}
		return
	}
	if a := p.match.rts(pr.rank, id); a != nil {
		p.match.drop(a)
		p.release(a)
	}
}
