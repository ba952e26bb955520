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
	last    time.Time // when the last packet that keeps order is due
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

// set changes the link under way. What was sent before arrives as it would
// have.
func (p *pipe) set(link netsim.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = link
	if link.Burst == nil {
		p.bad = false
	}
}

// send takes over pkt, which entered the link at time at.
func (p *pipe) send(pkt *packet, at time.Time) {
	p.mu.Lock()
	leaves, ok := p.admit(len(pkt.data), at)
	if !ok {
		p.mu.Unlock()
		p.pool.put(pkt)
		return
	}
	var twin *packet
	if p.chance(p.link.Duplicate) {
		twin = p.pool.clone(pkt)
		p.counters.duplicated.Add(1)
	}
	due := p.travel(leaves)
	if twin == nil && len(p.waiting) == 0 && !p.busy && !due.After(at) {
		p.mu.Unlock()
		p.counters.passed.Add(1)
		p.counters.bytes.Add(uint64(len(pkt.data)))
		p.next(pkt, due)
		return
	}
	first := p.hold(pkt, due)
	if twin != nil {
		first = p.hold(twin, p.travel(leaves)) || first
	}
	p.mu.Unlock()
	if first {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// admit returns when a packet of size bytes that enters at time at has left
// the queue, or counts why the link drops it and returns false. Queue and loss
// come in the order of the simulator: what is lost has taken its time.
func (p *pipe) admit(size int, at time.Time) (leaves time.Time, ok bool) {
	l := &p.link
	switch {
	case l.Cut:
		p.counters.cut.Add(1)
		return at, false
	case size > mtuOf(l):
		p.counters.tooBig.Add(1)
		return at, false
	case len(p.waiting) >= maxWaiting:
		p.counters.overflow.Add(1)
		return at, false
	}
	if l.Rate > 0 {
		if p.free.After(at) {
			if p.free.Sub(at)+transmission(size, l.Rate) > transmission(queueOf(l), l.Rate) {
				p.counters.overflow.Add(1)
				return at, false
			}
			at = p.free
		}
		at = at.Add(transmission(size, l.Rate))
		p.free = at
	}
	if p.lost() {
		p.counters.lost.Add(1)
		return at, false
	}
	return at, true
}

func mtuOf(l *netsim.Link) int {
	if l.MTU == 0 {
		return defaultMTU
	}
	return l.MTU
}

// queueOf returns the bytes that may wait for the rate.
func queueOf(l *netsim.Link) int {
	if l.Queue == 0 {
		return max(int(l.Rate/80), 2*mtuOf(l)) // 100 ms
	}
	return l.Queue
}

// lost draws the two-state loss of Gilbert and Elliott, where the state
// changes first and then loses, and independent loss.
func (p *pipe) lost() bool {
	if b := p.link.Burst; b != nil {
		change := b.GoodToBad
		if p.bad {
			change = b.BadToGood
		}
		if p.chance(change) {
			p.bad = !p.bad
		}
		loss := b.LossGood
		if p.bad {
			loss = b.LossBad
		}
		if p.chance(loss) {
			return true
		}
	}
	return p.chance(p.link.Loss)
}

func (p *pipe) chance(share float64) bool {
	return share > 0 && p.rng.Float64() < share
}

// travel returns when a packet that has left the queue arrives.
func (p *pipe) travel(leaves time.Time) time.Time {
	l := &p.link
	at := leaves.Add(l.Delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(p.rng.Int64N(int64(l.Jitter))))
	}
	if p.chance(l.Reorder) {
		return at
	}
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	return at
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
				p.counters.bytes.Add(uint64(len(h.packet.data)))
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
	Bytes      uint64 // of the packets that passed, with their IP headers
	Duplicated uint64 // sent twice; the second is in Passed, too
	Lost       uint64 // by Loss or Burst
	Overflow   uint64 // tail drops
	TooBig     uint64 // larger than MTU
	Cut        uint64 // while the link was cut
}

type counters struct {
	passed, bytes, duplicated, lost, overflow, tooBig, cut atomic.Uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Passed:     c.passed.Load(),
		Bytes:      c.bytes.Load(),
		Duplicated: c.duplicated.Load(),
		Lost:       c.lost.Load(),
		Overflow:   c.overflow.Load(),
		TooBig:     c.tooBig.Load(),
		Cut:        c.cut.Load(),
	}
}
