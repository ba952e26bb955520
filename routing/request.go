package routing

import "time"

// A Service names a protocol on top of routing: who asks and who answers. The
// numbers are in docs/routing-protocol.md, section 6.
type Service uint8

// A Handler serves one Service. A nil function refuses.
type Handler struct {
	// Ask answers a request that from sent straight to this node. An error
	// refuses the request with ReasonInvalid. body is the message's; it may be
	// kept, and must not be changed. The answer has at most MaxPayload bytes.
	Ask func(now time.Time, from *Member, body []byte) (answer []byte, err error)

	// Deliver takes a message that was routed to a key to which this node is
	// nearest, once.
	Deliver func(now time.Time, d Delivery)
}

// Handle makes h serve s from now on.
func (n *Node) Handle(s Service, h Handler) {
	if n.services == nil {
		n.services = make(map[Service]Handler)
	}
	n.services[s] = h
}

// Ask sends a request of service s to the member to and calls done once, with
// the answer or with [ErrTimeout], [ErrUnreachable], [ErrBusy] or a [*RefusedError]. It is sent
// again once when there is no answer after HedgeAfter, so the member may serve
// it twice. body must not be changed afterwards, and has at most [MaxPayload]
// bytes; more panics.
func (n *Node) Ask(now time.Time, to *Member, s Service, body []byte, done func(now time.Time, answer []byte, err error)) {
	if len(body) > MaxPayload {
		panic("routing: a request is at most MaxPayload bytes")
	}
	err := n.request(now, to, &message{kind: kindAsk, service: s, payload: body}, func(now time.Time, m *message, err error) {
		if err == nil && m.kind != kindAnswer {
			n.counters.Lies++
			err = ErrTimeout
		}
		if err != nil {
			done(now, nil, err)
			return
		}
		done(now, m.payload, nil)
	})
	if err != nil {
		done(now, nil, err)
	}
}

// asked serves a request.
func (n *Node) asked(now time.Time, from *Member, m *message) {
	h := n.services[m.service]
	if h.Ask == nil {
		n.refuse(from, m.request, ReasonService)
		return
	}
	answer, err := h.Ask(now, from, m.payload)
	if err != nil {
		n.refuse(from, m.request, ReasonInvalid)
		return
	}
	if len(answer) > MaxPayload {
		panic("routing: an answer is at most MaxPayload bytes")
	}
	n.send(from, &message{kind: kindAnswer, request: m.request, payload: answer})
}

// A request waits for an answer.
type request struct {
	id   uint64
	to   *Member
	m    *message // to send again after HedgeAfter; nil: nothing
	sent time.Time
	done func(now time.Time, m *message, err error) // nil once it was called
	slow func(now time.Time)                        // called once after HedgeAfter; may be nil
}

// requests are those under way. All wait for the same time, so the order in
// which they were sent is that of their deadlines.
type requests struct {
	waiting map[uint64]*request
	queue   []*request // in the order sent; those done are still in it
	hedged  int        // how many of the queue's front are slow, which was dealt with
}

// deadline returns when the next of them becomes slow or times out.
func (r *requests) deadline(hedge, timeout time.Duration) (d time.Time) {
	r.trim()
	if len(r.queue) > 0 {
		d = r.queue[0].sent.Add(timeout)
	}
	for r.hedged < len(r.queue) && r.queue[r.hedged].done == nil {
		r.hedged++
	}
	if r.hedged < len(r.queue) {
		d = earliest(d, r.queue[r.hedged].sent.Add(hedge))
	}
	return d
}

// trim drops those from the front that are done.
func (r *requests) trim() {
	i := 0
	for i < len(r.queue) && r.queue[i].done == nil {
		r.queue[i] = nil
		i++
	}
	if r.queue = r.queue[i:]; len(r.queue) == 0 {
		r.queue = nil
	}
	r.hedged = max(0, r.hedged-i)
}

// request sends m, to which it gives a number, and calls done once with the
// answer or an error, unless it returns [ErrBusy] itself.
func (n *Node) request(now time.Time, to *Member, m *message, done func(now time.Time, m *message, err error)) error {
	_, err := n.requestSlow(now, to, m, done, nil)
	return err
}

// requestSlow does the same and calls slow once when HedgeAfter has passed
// without an answer. m is kept.
func (n *Node) requestSlow(now time.Time, to *Member, m *message, done func(time.Time, *message, error), slow func(time.Time)) (*request, error) {
	r := &n.requests
	if len(r.waiting) >= n.cfg.MaxRequests {
		n.counters.RequestsBusy++
		return nil, ErrBusy
	}
	q := &request{id: n.rand.Uint64(), to: to, sent: now, done: done, slow: slow}
	if m.kind != kindRoute { // which goes elsewhere instead
		q.m = m
	}
	if r.waiting == nil {
		r.waiting = make(map[uint64]*request)
	}
	for r.waiting[q.id] != nil {
		q.id++
	}
	r.waiting[q.id] = q
	r.queue = append(r.queue, q)
	m.request = q.id
	n.send(to, m)
	return q, nil
}

// finish ends q.
func (n *Node) finish(now time.Time, q *request, m *message, err error) {
	done := q.done
	q.done, q.slow, q.m = nil, nil, nil
	delete(n.requests.waiting, q.id)
	if len(n.requests.waiting) == 0 {
		n.requests.waiting = nil // an idle node holds no map
	}
	done(now, m, err)
}

// answered takes an answer of from.
func (n *Node) answered(now time.Time, from *Member, m *message) {
	q := n.requests.waiting[m.request]
	if q == nil || q.to.Peer != from.Peer {
		n.counters.Unexpected++
		return
	}
	if m.kind == kindRefuse {
		n.finish(now, q, nil, &RefusedError{from.Peer, m.reason})
		return
	}
	n.finish(now, q, m, nil)
}

// expire ends requests without an answer.
func (n *Node) expire(now time.Time) {
	r := &n.requests
	for {
		r.trim()
		if len(r.queue) == 0 || now.Before(r.queue[0].sent.Add(n.cfg.RequestTimeout)) {
			break
		}
		q := r.queue[0]
		n.counters.Timeouts++
		if n.table.failed(now, q.to) {
			n.counters.Evicted++
			n.lost(now, q.to)
		}
		n.finish(now, q, nil, ErrTimeout)
	}
	for r.hedged < len(r.queue) && !now.Before(r.queue[r.hedged].sent.Add(n.cfg.HedgeAfter)) {
		q := r.queue[r.hedged]
		r.hedged++
		if q.m != nil {
			n.send(q.to, q.m)
		}
		if q.slow != nil {
			q.slow(now)
		}
	}
}

// Unreachable says that nothing can be sent to peer now, so that nobody waits
// for its answers in vain: its requests end with [ErrUnreachable], and its
// contact counts as one that has not answered.
func (n *Node) Unreachable(now time.Time, peer PeerID) {
	var ended []*request
	for _, q := range n.requests.queue {
		if q.done != nil && q.to.Peer == peer {
			ended = append(ended, q)
		}
	}
	for i, q := range ended {
		if q.done == nil {
			continue // ended by what an earlier one brought about
		}
		if i == 0 && n.table.failed(now, q.to) {
			n.counters.Evicted++
			n.lost(now, q.to)
		}
		n.counters.Unreachable++
		n.finish(now, q, nil, ErrUnreachable)
	}
}
