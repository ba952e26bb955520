package ri2n

// fifoKeep is the capacity, in items, that an empty fifo may keep, so that a
// queue that empties often does not allocate each time. It is a guess.
const fifoKeep = 8

// A fifo is a queue in a ring that grows as needed. The zero value is empty and
// ready. An empty fifo keeps room for at most fifoKeep items, unless asked to
// keep more.
type fifo[T any] struct {
	ring  []T // length zero or a power of two
	head  int // index in ring of the oldest item
	count int
}

func (q *fifo[T]) len() int { return q.count }

// at returns the i-th item counted from the oldest. The pointer is valid until
// the next push or pop.
func (q *fifo[T]) at(i int) *T { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *fifo[T]) push(v T) {
	if q.count == len(q.ring) {
		q.grow()
	}
	q.count++
	*q.at(q.count - 1) = v
}

// pop removes and returns the oldest item. The fifo must not be empty.
func (q *fifo[T]) pop() T { return q.popKeeping(fifoKeep) }

// popKeeping is pop for a queue that keeps room for keep items when it is
// empty, until rest: one that fills and empties many times a second.
func (q *fifo[T]) popKeeping(keep int) T {
	var zero T
	p := q.at(0)
	v := *p
	*p = zero
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.count--
	if q.count == 0 {
		q.head = 0
		if len(q.ring) > keep {
			q.ring = nil
		}
	}
	return v
}

// rest gives back the memory of an empty fifo.
func (q *fifo[T]) rest() {
	if q.count == 0 {
		q.ring, q.head = nil, 0
	}
}

func (q *fifo[T]) grow() {
	bigger := make([]T, max(2, 2*len(q.ring)))
	for i := range q.count {
		bigger[i] = *q.at(i)
	}
	q.ring, q.head = bigger, 0
}
