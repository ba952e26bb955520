package punch

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// checkSpacing is Ta, the least time between two checks to one peer
	// (RFC 8445, section 14.2).
	checkSpacing = 5 * time.Millisecond
	// maxQueued is how many checks wait for one peer; the oldest is dropped.
	maxQueued = 64

	// A Budget's rate and burst: 1000 packets a second keep a thousand peers'
	// worth of retries below 1 Mbit/s; the burst covers the answers of one
	// scheduling hiccup (a guess).
	budgetSpacing = time.Millisecond
	budgetBurst   = 50
)

// A Budget limits the packets that all muxes of a node send together, to 1000
// a second. It is safe for concurrent use.
type Budget struct {
	mu sync.Mutex
	// due is the theoretical arrival time of the generic cell rate algorithm.
	due time.Time

	sockets  socketCount // of searches
	searches searchCounters
}

// NewBudget returns a full budget.
func NewBudget() *Budget { return new(Budget) }

// take takes one packet, or returns how long to wait for it.
func (b *Budget) take(now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	due := b.due
	if due.Before(now) {
		due = now
	}
	if ahead := due.Sub(now) - budgetBurst*budgetSpacing; ahead >= 0 {
		return ahead + budgetSpacing
	}
	b.due = due.Add(budgetSpacing)
	return 0
}

// An outgoing is one check on its way to the socket.
type outgoing struct {
	conn  *muxConn
	to    netip.AddrPort
	bytes []byte
}

// A pacer spaces the checks to each peer. It is a state machine: the mux owns
// it and tells it the time.
type pacer struct {
	budget *Budget
	peers  map[string]*peerQueue
}

type peerQueue struct {
	next    time.Time // earliest departure of the next check
	waiting []outgoing
}

// submit returns whether o may leave at now; otherwise it waits in the queue.
// Of the checks that one conn has for one destination only the newest waits.
func (p *pacer) submit(now time.Time, peer string, o outgoing) (leaves bool, dropped int) {
	q := p.peers[peer]
	if q == nil {
		q = new(peerQueue)
		p.peers[peer] = q
	}
	if len(q.waiting) == 0 && !now.Before(q.next) && p.budget.take(now) == 0 {
		q.next = now.Add(checkSpacing)
		return true, 0
	}
	for i := range q.waiting {
		if q.waiting[i].conn == o.conn && q.waiting[i].to == o.to {
			q.waiting[i] = o
			return false, 0
		}
	}
	if len(q.waiting) == maxQueued {
		q.waiting = append(q.waiting[:0], q.waiting[1:]...)
		dropped = 1
	}
	q.waiting = append(q.waiting, o)
	return false, dropped
}

// next returns a waiting check that may leave at now. Without one, wait is
// the time until it makes sense to ask again, or zero if nothing waits.
// Queues that are empty and rested are forgotten.
func (p *pacer) next(now time.Time) (o outgoing, ok bool, wait time.Duration) {
	later := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = d
		}
	}
	for peer, q := range p.peers {
		switch rest := q.next.Sub(now); {
		case len(q.waiting) == 0 && rest <= 0:
			delete(p.peers, peer)
		case len(q.waiting) == 0:
		case rest > 0:
			later(rest)
		default:
			if d := p.budget.take(now); d > 0 {
				later(d)
				continue
			}
			o = q.waiting[0]
			q.waiting = append(q.waiting[:0], q.waiting[1:]...)
			q.next = now.Add(checkSpacing)
			return o, true, 0
		}
	}
	return outgoing{}, false, wait
}

// forget drops what conn has waiting.
func (p *pacer) forget(conn *muxConn) {
	for _, q := range p.peers {
		kept := q.waiting[:0]
		for _, o := range q.waiting {
			if o.conn != conn {
				kept = append(kept, o)
			}
		}
		clear(q.waiting[len(kept):])
		q.waiting = kept
	}
}
