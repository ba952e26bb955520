package netsim

import (
	"time"
)

// A direction is one way over a link: toward the parent or toward the node.
type direction struct {
	place string // for drops: "home-a up"
	link  Link
	node  *node
	up    bool // toward the parent

	busyUntil time.Duration // when the last accepted byte will have left the queue
	carry     int64         // of the division that gave busyUntil, in bit-nanoseconds
	lastIn    time.Duration // arrival of the last packet that keeps order
	inFlight  int           // packets in the event queue
	bad       bool          // Gilbert-Elliott state
	drops     [causes]uint64
}

// set changes the link under way. What was sent before arrives as it would
// have; a packet that waits for an old rate counts as long in time, not in
// bytes, toward the new queue.
func (d *direction) set(l Link) {
	if !d.up && l.Down != nil {
		l = *l.Down
	}
	l.Down = nil
	if l.MTU == 0 {
		l.MTU = 1500
	}
	if l.Rate > 0 && l.Queue == 0 {
		l.Queue = max(int(l.Rate/80), 2*l.MTU) // 100 ms
	}
	if l.Burst == nil {
		d.bad = false
	}
	d.link = l
}

// send moves p over the link; p arrives now or through the event queue.
func (c *core) send(d *direction, p *packet) {
	l := &d.link
	size := p.size()
	switch {
	case l.Cut:
		c.drop(p, &d.drops, d.place, DropCut)
		return
	case size > l.MTU:
		src, dst, tell := p.src, p.dst, l.TooBig && p.tooBig == 0
		c.drop(p, &d.drops, d.place, DropMTU)
		if tell {
			c.tooBig(d, src, dst)
		}
		return
	case !d.queue(c.now, size):
		c.drop(p, &d.drops, d.place, DropQueue)
		return
	case c.lost(d):
		c.drop(p, &d.drops, d.place, DropLoss)
		return
	}
	var twin *packet
	if l.Duplicate > 0 && c.rng.Float64() < l.Duplicate {
		twin = newPacket(p.src, p.dst, p.payload)
		twin.tooBig = p.tooBig
	}
	c.travel(d, p)
	if twin != nil {
		c.travel(d, twin)
	}
}

// queue lets size bytes wait for the rate and reports whether there was room.
// A packet that finds the line idle is always accepted.
func (d *direction) queue(now time.Duration, size int) bool {
	rate := d.link.Rate
	if rate == 0 {
		return true
	}
	if d.busyUntil <= now {
		d.busyUntil, d.carry = now, 0
	} else if waiting := float64(d.busyUntil-now) * float64(rate) / 8e9; int(waiting)+size > d.link.Queue {
		return false
	}
	// At most 65535 * 8e9 + 1e12, which fits in 64 bits. The remainder is
	// kept, so that the rate is exact over any number of packets.
	work := int64(size)*8*int64(time.Second) + d.carry
	d.busyUntil += time.Duration(work / rate)
	d.carry = work % rate
	return true
}

// lost decides whether the line loses the next packet.
func (c *core) lost(d *direction) bool {
	l := &d.link
	if b := l.Burst; b != nil {
		change, loss := b.GoodToBad, b.LossGood
		if d.bad {
			change = b.BadToGood
		}
		if c.rng.Float64() < change {
			d.bad = !d.bad
		}
		if d.bad {
			loss = b.LossBad
		}
		if loss > 0 && c.rng.Float64() < loss {
			return true
		}
	}
	return l.Loss > 0 && c.rng.Float64() < l.Loss
}

// travel brings p to the far end after the time on the line.
func (c *core) travel(d *direction, p *packet) {
	l := &d.link
	at := c.now + l.Delay
	if l.Rate > 0 {
		at = d.busyUntil + l.Delay
	}
	if l.Jitter > 0 {
		at += time.Duration(c.rng.Int64N(int64(l.Jitter)))
	}
	if l.Reorder == 0 || c.rng.Float64() >= l.Reorder {
		at = max(at, d.lastIn)
		d.lastIn = at
	}
	if at <= c.now && d.inFlight == 0 {
		c.arrive(d, p)
		return
	}
	d.inFlight++
	c.queue.push(event{at: at, dir: d, p: p})
}
