package mpi

// AnySource and AnyTag match every source and every tag.
const (
	AnySource = -1
	AnyTag    = -1
)

// MaxTag is the largest tag (MPI_TAG_UB).
const MaxTag = 1<<31 - 1

// A pattern says which messages a receive takes. Source is a rank of the
// world, or AnySource.
type pattern struct {
	context uint64
	source  int32
	tag     int32
}

func (p pattern) matches(a *arrival) bool {
	return p.context == a.context && (p.source == AnySource || p.source == a.source) && (p.tag == AnyTag || p.tag == a.tag)
}

// An arrival is a message that no receive has taken yet.
type arrival struct {
	context uint64
	source  int32
	tag     int32
	check   uint32
	size    uint64 // bytes of the message

	data []byte   // an eager message
	id   uint64   // an RTS from another rank: at its sender, not zero
	rts  bool     // an RTS, or a large message to oneself
	self *Request // the send, of a large message to oneself
	cost int64    // credit of the sender

	inContext, inSource links[arrival]
	queued              bool
}

// links are the neighbours of an element in one list.
type links[T any] struct{ prev, next *T }

// A list is a doubly linked list through the links that at returns.
type list[T any] struct{ first, last *T }

func (l *list[T]) push(e *T, at func(*T) *links[T]) {
	k := at(e)
	k.prev, k.next = l.last, nil
	if l.last == nil {
		l.first = e
	} else {
		at(l.last).next = e
	}
	l.last = e
}

func (l *list[T]) remove(e *T, at func(*T) *links[T]) {
	k := at(e)
	if k.prev == nil {
		l.first = k.next
	} else {
		at(k.prev).next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		at(k.next).prev = k.prev
	}
	k.prev, k.next = nil, nil
}

func inContext(a *arrival) *links[arrival] { return &a.inContext }
func inSource(a *arrival) *links[arrival]  { return &a.inSource }
func inPosted(r *Request) *links[Request]  { return &r.inPosted }

// A matcher pairs receives with messages as MPI 4.1, section 3.5 demands: a
// message goes to the receive that was posted first among those it matches, a
// receive takes the message that came first from a source among those it
// matches. It knows nothing of time or networks.
type matcher struct {
	contexts  map[uint64]*queues
	announced map[announcement]*arrival // RTS that are queued
	order     uint64                    // of the next receive
}

// An announcement names an RTS: its sender in the world and the id there.
type announcement struct {
	source int32
	id     uint64
}

// queues are those of one context.
type queues struct {
	posted     map[int32]*list[Request] // by source, AnySource included
	unexpected map[int32]*list[arrival] // by source
	all        list[arrival]
	waiting    int  // receives and arrivals
	pinned     bool // belongs to a communicator: stays when empty
}

func (m *matcher) queues(context uint64) *queues {
	q := m.contexts[context]
	if q == nil {
		q = &queues{posted: make(map[int32]*list[Request]), unexpected: make(map[int32]*list[arrival])}
		if m.contexts == nil {
			m.contexts = make(map[uint64]*queues)
		}
		m.contexts[context] = q
	}
	return q
}

func (m *matcher) pin(context uint64) { m.queues(context).pinned = true }

// unpin forgets a context and returns the arrivals that nobody will take.
func (m *matcher) unpin(context uint64) (left []*arrival) {
	q := m.contexts[context]
	if q == nil {
		return nil
	}
	for a := q.all.first; a != nil; a = a.inContext.next {
		left = append(left, a)
	}
	for _, a := range left {
		m.drop(a)
	}
	q.pinned = false
	m.tidy(context, q)
	return left
}

func (m *matcher) tidy(context uint64, q *queues) {
	if q.waiting == 0 && !q.pinned {
		delete(m.contexts, context)
	}
}

// take removes and returns the message that a receive with this pattern gets,
// or nil.
func (m *matcher) take(p pattern) *arrival {
	a := m.peek(p)
	if a != nil {
		m.drop(a)
	}
	return a
}

// peek returns the message that a receive with this pattern gets, or nil.
func (m *matcher) peek(p pattern) *arrival {
	q := m.contexts[p.context]
	if q == nil {
		return nil
	}
	if p.source == AnySource {
		for a := q.all.first; a != nil; a = a.inContext.next {
			if p.matches(a) {
				return a
			}
		}
		return nil
	}
	if l := q.unexpected[p.source]; l != nil {
		for a := l.first; a != nil; a = a.inSource.next {
			if p.matches(a) {
				return a
			}
		}
	}
	return nil
}

// drop removes a queued message.
func (m *matcher) drop(a *arrival) {
	q := m.contexts[a.context]
	q.all.remove(a, inContext)
	q.unexpected[a.source].remove(a, inSource)
	q.waiting--
	a.queued = false
	if a.id != 0 {
		delete(m.announced, announcement{a.source, a.id})
	}
	m.tidy(a.context, q)
}

// post queues a receive for which take has found nothing.
func (m *matcher) post(r *Request) {
	q := m.queues(r.want.context)
	l := q.posted[r.want.source]
	if l == nil {
		l = new(list[Request])
		q.posted[r.want.source] = l
	}
	l.push(r, inPosted)
	q.waiting++
	r.posted, r.order = true, m.order
	m.order++
}

// unpost removes a queued receive.
func (m *matcher) unpost(r *Request) {
	q := m.contexts[r.want.context]
	q.posted[r.want.source].remove(r, inPosted)
	q.waiting--
	r.posted = false
	m.tidy(r.want.context, q)
}

// claim removes and returns the receive that gets a, or nil.
func (m *matcher) claim(a *arrival) *Request {
	q := m.contexts[a.context]
	if q == nil {
		return nil
	}
	var best *Request
	for _, source := range [2]int32{a.source, AnySource} {
		l := q.posted[source]
		if l == nil {
			continue
		}
		for r := l.first; r != nil; r = r.inPosted.next {
			if r.want.matches(a) {
				if best == nil || r.order < best.order {
					best = r
				}
				break
			}
		}
	}
	if best != nil {
		m.unpost(best)
	}
	return best
}

// queue keeps a message that claim has found no receive for.
func (m *matcher) queue(a *arrival) {
	q := m.queues(a.context)
	l := q.unexpected[a.source]
	if l == nil {
		l = new(list[arrival])
		q.unexpected[a.source] = l
	}
	q.all.push(a, inContext)
	l.push(a, inSource)
	q.waiting++
	a.queued = true
	if a.id != 0 {
		if m.announced == nil {
			m.announced = make(map[announcement]*arrival)
		}
		m.announced[announcement{a.source, a.id}] = a
	}
}

// rts returns the queued RTS of this id, or nil. It takes the same time however many
// messages wait.
func (m *matcher) rts(source int, id uint64) *arrival {
	return m.announced[announcement{int32(source), id}]
}

// each calls f for the queued messages of a context. f may drop the one it is
// called for.
func (m *matcher) each(context uint64, f func(*arrival)) {
	q := m.contexts[context]
	if q == nil {
		return
	}
	for a := q.all.first; a != nil; {
		next := a.inContext.next
		f(a)
		a = next
	}
}
