package mpi

import (
	"errors"
	"slices"
)

// A peer is what we know of another rank. The Process's mutex guards it.
type peer struct {
	rank int
	gone error // why it is not there any more; nil while it is

	// sending
	writing   bool // somebody is: others leave their frames to it
	lastWord  bool // it is gone, and to be told so
	control   []controlFrame
	envelopes []*Request // messages that are to be announced or sent, in order
	sending   []*Request // those whose data was asked for
	asked     map[uint64]*Request
	nextID    uint64
	credit    int64 // bytes that the peer still has room for
	head      [HeaderLen]byte

	// receiving
	held     int64 // bytes of credit that the peer has used
	owed     int64 // bytes of it to give back
	early    int   // of its frames in Process.early
	incoming map[uint64]*Request
	current  current
}

// A controlFrame needs no credit and waits behind nothing but its kind.
type controlFrame struct {
	header
	body []byte
}

// An outFrame is what is being written.
type outFrame struct {
	header
	body []byte
	req  *Request
}

// waits reports whether there is something to write.
func (pr *peer) waits() bool {
	return pr.lastWord || pr.gone == nil && (len(pr.control) > 0 || pr.owed >= creditQuantum || len(pr.sending) > 0 ||
		len(pr.envelopes) > 0 && pr.credit >= pr.envelopes[0].cost())
}

// urgent reports whether there are control frames to write.
func (pr *peer) urgent() bool { return pr.lastWord || pr.gone == nil && len(pr.control) > 0 }

// clear forgets what was to be written to a peer that is gone.
func (pr *peer) clear() {
	pr.control, pr.envelopes, pr.sending, pr.asked = nil, nil, nil, nil
	pr.owed = 0
}

// cost is what announcing r takes of the credit.
func (r *Request) cost() int64 {
	if r.rendezvous {
		return envelopeCost
	}
	return envelopeCost + int64(len(r.buf))
}

// next returns the frame to write now: control first, then messages as far as
// there is credit, then a part of one long message, in turn.
func (pr *peer) next() (f outFrame, ok bool) {
	if !pr.waits() {
		return f, false
	}
	if pr.lastWord {
		pr.lastWord = false
		return outFrame{header: header{kind: frameDead, id: uint64(pr.rank)}}, true
	}
	if len(pr.control) > 0 {
		c := pr.control[0]
		pr.control = pop(pr.control)
		return outFrame{header: c.header, body: c.body}, true
	}
	if pr.owed >= creditQuantum {
		f.header = header{kind: frameCredit, size: uint64(pr.owed)}
		pr.held -= pr.owed
		pr.owed = 0
		return f, true
	}
	if len(pr.envelopes) > 0 && pr.credit >= pr.envelopes[0].cost() {
		r := pr.envelopes[0]
		pr.envelopes = pop(pr.envelopes)
		pr.credit -= r.cost()
		f.req = r
		f.header = header{kind: frameEager, tag: r.tag, check: r.check, context: r.context, size: uint64(len(r.buf))}
		if r.rendezvous {
			pr.nextID++
			r.id = pr.nextID
			if pr.asked == nil {
				pr.asked = make(map[uint64]*Request)
			}
			pr.asked[r.id] = r
			f.kind, f.id = frameRTS, r.id
		} else {
			f.body = r.buf
		}
		return f, true
	}
	r := pr.sending[0]
	pr.sending = pop(pr.sending)
	n := min(r.limit-r.moved, dataChunk)
	f.header = header{kind: frameData, id: r.id, size: uint64(r.moved)}
	f.body, f.req = r.buf[r.moved:r.moved+n], r
	return f, true
}

// pop removes the first element and keeps the room of a short queue.
func pop[T any](s []T) []T {
	var zero T
	if len(s) <= 8 {
		copy(s, s[1:])
		s[len(s)-1] = zero
		return s[:len(s)-1]
	}
	s[0] = zero
	return s[1:]
}

// flush writes for the caller: until own, which may be nil, has left the queue
// and no control frame waits. What else there is goes on by itself. p.mu is held
// on entry and on return, and not while a frame is written.
func (p *Process) flush(pr *peer, own *Request) {
	if pr.writing || !pr.waits() {
		return
	}
	pr.writing = true
	for p.writeOne(pr) {
		if (own == nil || !own.queued) && !pr.urgent() {
			break
		}
	}
	pr.writing = false
	p.kick(pr)
}

// kick has a goroutine write what waits. p.mu is held.
func (p *Process) kick(pr *peer) {
	if pr.writing {
		return
	}
	if !pr.waits() || p.closed != nil {
		p.idle.Broadcast()
		return
	}
	pr.writing = true
	p.wg.Go(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for p.writeOne(pr) {
		}
		pr.writing = false
		p.idle.Broadcast()
	})
}

// writeOne writes the next frame and reports whether there was one. p.mu is held
// on entry and on return.
func (p *Process) writeOne(pr *peer) bool {
	f, ok := pr.next()
	if !ok {
		return false
	}
	putHeader(pr.head[:], f.header)
	if f.req != nil {
		f.req.busy = true
	}
	p.mu.Unlock()
	err := p.ep.Send(pr.rank, pr.head[:], f.body)
	p.mu.Lock()
	if f.req != nil {
		p.written(pr, f, err)
	}
	if err != nil {
		p.rankFailed(pr.rank, err)
		p.ep.Drop(pr.rank) // no last word comes through
	}
	return err == nil
}

// written takes note that a frame of a message has left, or not. p.mu is held.
func (p *Process) written(pr *peer, f outFrame, err error) {
	r := f.req
	r.busy, r.queued = false, false
	switch {
	case r.discard != nil: // given up meanwhile
		p.retract(pr, r)
		r.complete(r.discard)
	case err != nil:
		cause := pr.gone
		if cause == nil {
			cause = err
		}
		r.kept = true
		r.complete(r.fault(ErrProcFailed, pr.rank, cause))
	case pr.gone != nil:
		r.kept = true
		r.complete(r.fault(ErrProcFailed, pr.rank, pr.gone))
	case f.kind == frameEager:
		p.counters.Eager++
		r.complete(nil)
	case f.kind == frameRTS:
		p.counters.Rendezvous++
		if r.limit >= 0 { // the answer has overtaken us
			p.cleared(pr, r)
		}
	case f.kind == frameData:
		r.moved += len(f.body)
		if r.moved < r.limit {
			pr.sending = append(pr.sending, r)
			return
		}
		delete(pr.asked, r.id)
		r.complete(nil)
	}
}

// cleared sends the data of a message that the receiver asked for. p.mu is held.
func (p *Process) cleared(pr *peer, r *Request) {
	if r.limit == 0 {
		delete(pr.asked, r.id)
		r.complete(nil)
		return
	}
	pr.sending = append(pr.sending, r)
	p.kick(pr)
}

// retract tells the receiver of an announced message that no data will come.
func (p *Process) retract(pr *peer, r *Request) {
	if r.id == 0 {
		return
	}
	delete(pr.asked, r.id)
	p.control(pr, header{kind: frameWithdraw, id: r.id}, nil)
}

// withdraw ends a send with err. p.mu is held.
func (p *Process) withdraw(r *Request, err error) {
	r.kept = true
	pr := r.to
	if r.busy {
		r.discard = err
		if err == nil {
			r.discard = errors.New("mpi: cancelled")
		}
		return
	}
	if r.found != nil { // a large message to oneself
		if r.found.queued {
			p.match.drop(r.found)
		}
	} else if i := slices.Index(pr.envelopes, r); i >= 0 {
		pr.envelopes = slices.Delete(pr.envelopes, i, i+1)
	} else {
		if i := slices.Index(pr.sending, r); i >= 0 {
			pr.sending = slices.Delete(pr.sending, i, i+1)
		}
		p.retract(pr, r)
	}
	r.complete(err)
}

// startSend sends r's message. p.mu is held on entry and on return.
func (p *Process) startSend(r *Request, pr *peer) {
	r.to, r.limit = pr, -1
	if len(r.buf) > EagerLimit {
		r.rendezvous = true
	}
	if pr.rank == p.rank {
		p.sendSelf(r)
		return
	}
	if pr.gone != nil {
		r.complete(r.fault(ErrProcFailed, pr.rank, pr.gone))
		return
	}
	r.queued = true
	if len(pr.envelopes) > 0 || pr.credit < r.cost() {
		p.counters.CreditWaits++
	}
	pr.envelopes = append(pr.envelopes, r)
	p.flush(pr, r)
}

// sendSelf brings a message to this rank itself. A long one, and one that must
// know that it was received, stays in the caller's buffer until it is.
func (p *Process) sendSelf(r *Request) {
	a := &arrival{context: r.context, source: int32(p.rank), tag: r.tag, check: r.check, size: uint64(len(r.buf))}
	pr := &p.peers[p.rank]
	if q := p.match.claim(a); q != nil {
		q.deliver(p.rank, a.tag, a.check, r.buf)
		r.complete(nil)
		return
	}
	if cost := envelopeCost + int64(len(r.buf)); !r.rendezvous && pr.held+cost <= window {
		pr.held += cost
		a.cost, a.data = cost, append([]byte(nil), r.buf...)
		p.enqueue(a)
		r.complete(nil)
		return
	}
	a.rts, a.self, r.found = true, r, a
	p.enqueue(a)
}
