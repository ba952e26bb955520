package kernel

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A pipe is one direction of a link. It delays, shapes, loses, repeats and
// reorders packets and hands each to next when its time has come: on its own
// goroutine, or on the caller of send where nothing delays the packet.
type pipe struct {
	next func(p *packet, at time.Time) // owns p; at is when p was due, not later than now
	pool *packetPool

	wake    chan struct{} // holds one token
	closing chan struct{}
	done    chan struct{}

	counters counters

	mu      sync.Mutex
	link    netsim.Link
	rng     *rand.Rand
	bad     bool      // the state of link.Burst
	free    time.Time // when the last accepted byte leaves the rate limiter
	last    time.Time // when the last packet in order is due
	busy    bool      // run is handing over packets that were due
	waiting schedule
	seq     uint64
}

// maxWaiting bounds the packets that one pipe holds: about a second of small
// packets at the fastest this back end carries. More are dropped and counted.
const maxWaiting = 1 << 16

const defaultMTU = 1500

// newPipe returns a running pipe; the caller ends it with close.
func newPipe(link netsim.Link, seed1, seed2 uint64, pool *packetPool, next func(*packet, time.Time)) *pipe {
	p := &pipe{
		next:    next,
		pool:    pool,
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		link:    link,
		rng:     rand.New(rand.NewPCG(seed1, seed2)),
	}
	go p.run()
	return p
}

// close drops all packets held and returns when the goroutine has ended. No
// send may follow.
func (p *pipe) close() {
	close(p.closing)
	<-p.done
}

// set changes the link for packets sent from now on. Packets on their way
// arrive as they would have, unless the link is cut.
func (p *pipe) set(link netsim.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = link
	p.free, p.last = time.Time{}, time.Time{}
	if !link.Cut {
		return
	}
	for len(p.waiting) > 0 {
		p.counters.cut.Add(1)
		p.pool.put(p.waiting.pop().packet)
	}
}

// send takes over pkt, which entered the link at time at.
func (p *pipe) send(pkt *packet, at time.Time) {
	p.mu.Lock()
	if !p.admit(pkt) {
		p.mu.Unlock()
		p.pool.put(pkt)
		return
	}
	var twin *packet
	if p.chance(p.link.Duplicate) {
		twin = p.pool.clone(pkt)
	}
	due, ok := p.due(len(pkt.data), at)
	if !ok {
		p.mu.Unlock()
		p.counters.overflow.Add(1)
		p.pool.put(pkt)
		p.pool.put(twin)
		return
	}
	if twin == nil && len(p.waiting) == 0 && !p.busy && !due.After(at) {
		p.mu.Unlock()
		p.counters.passed.Add(1)
		p.next(pkt, due)
		return
	}
	first := p.hold(pkt, due)
	if twin != nil {
		p.counters.duplicated.Add(1)
		first = p.hold(twin, due) || first
	}
	p.mu.Unlock()
	if first {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// admit reports whether pkt survives the link, and counts why it does not.
func (p *pipe) admit(pkt *packet) bool {
	l := &p.link
	mtu := l.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	switch {
	case l.Cut:
		p.counters.cut.Add(1)
	case len(pkt.data) > mtu:
		p.counters.tooBig.Add(1)
	case p.lost():
		p.counters.lost.Add(1)
	default:
		return true
	}
	return false
}

// lost draws independent loss and, packet by packet, the two-state loss of
// Gilbert and Elliott: the state changes first, then loses.
func (p *pipe) lost() bool {
	lost := p.chance(p.link.Loss)
	if b := p.link.Burst; b != nil {
		if p.bad {
			p.bad = !p.chance(b.BadToGood)
		} else {
			p.bad = p.chance(b.GoodToBad)
		}
		rate := b.LossGood
		if p.bad {
			rate = b.LossBad
		}
		lost = p.chance(rate) || lost
	}
	return lost
}

func (p *pipe) chance(share float64) bool {
	return share > 0 && p.rng.Float64() < share
}

// due returns when a packet of size bytes that entered at time at leaves the
// link, and false where the queue is full.
func (p *pipe) due(size int, at time.Time) (time.Time, bool) {
	l := &p.link
	if len(p.waiting) >= maxWaiting {
		return time.Time{}, false
	}
	if l.Rate > 0 {
		start := at
		if p.free.After(at) {
			start = p.free
			queue := 100 * time.Millisecond
			if l.Queue > 0 {
				queue = transmission(l.Queue, l.Rate)
			}
			if start.Sub(at)+transmission(size, l.Rate) > queue {
				return time.Time{}, false
			}
		}
		p.free = start.Add(transmission(size, l.Rate))
		at = p.free
	}
	at = at.Add(l.Delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(p.rng.Int64N(int64(l.Jitter))))
	}
	if p.chance(l.Reorder) {
		return at, true
	}
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	return at, true
}

// transmission returns how long size bytes take at rate bits per second.
func transmission(size int, rate int64) time.Duration {
	return time.Duration(float64(size) * 8 / float64(rate) * float64(time.Second))
}

// hold keeps pkt until due and reports whether it is now the first to leave.
func (p *pipe) hold(pkt *packet, due time.Time) bool {
	p.seq++
	p.waiting.push(held{due, p.seq, pkt})
	return p.waiting[0].seq == p.seq
}

// run hands over the packets that are due, until close.
func (p *pipe) run() {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch []held
	for {
		now := time.Now()
		wait := time.Hour
		p.mu.Lock()
		batch = batch[:0]
		for len(p.waiting) > 0 {
			if d := p.waiting[0].due.Sub(now); d > 0 {
				wait = d
				break
			}
			batch = append(batch, p.waiting.pop())
		}
		p.busy = len(batch) > 0
		p.mu.Unlock()
		if len(batch) > 0 {
			p.counters.passed.Add(uint64(len(batch)))
			for i, h := range batch {
				p.next(h.packet, h.due)
				batch[i].packet = nil
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.closing:
			return
		}
	}
}

// Counters says what one direction of a link did with its packets.
type Counters struct {
	Passed     uint64
	Duplicated uint64 // sent twice; the second is in Passed, too
	Lost       uint64 // by Loss or Burst
	Overflow   uint64 // tail drops
	TooBig     uint64 // larger than MTU
	Cut        uint64 // while the link was cut
}

type counters struct {
	passed, duplicated, lost, overflow, tooBig, cut atomic.Uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Passed:     c.passed.Load(),
		Duplicated: c.duplicated.Load(),
		Lost:       c.lost.Load(),
		Overflow:   c.overflow.Load(),
		TooBig:     c.tooBig.Load(),
		Cut:        c.cut.Load(),
	}
}
