package kernel

import (
	"maps"
	"sync/atomic"
	"time"
)

// RFC 791, section 3.1.
const (
	ipv4HeaderSize        = 20
	ipv4SourceOffset      = 12
	ipv4DestinationOffset = 16
)

// A core is the Internet in the middle: it knows the pipe toward each address.
type core struct {
	pool   *packetPool
	routes map[[4]byte]*pipe // not changed once packets flow

	blocked        atomic.Pointer[map[way]bool] // replaced, never changed
	noRoute, drops atomic.Uint64
}

// A way is a source and a destination on the core, as they stand in a packet.
type way [ipv4HeaderSize - ipv4SourceOffset]byte

func newCore(pool *packetPool) *core {
	c := &core{pool: pool, routes: make(map[[4]byte]*pipe)}
	c.blocked.Store(new(map[way]bool))
	return c
}

// route passes on a packet that has come up a link. It has a whole header.
func (c *core) route(p *packet, at time.Time) {
	if blocked := *c.blocked.Load(); len(blocked) > 0 && blocked[way(p.data[ipv4SourceOffset:])] {
		c.drops.Add(1)
		c.pool.put(p)
		return
	}
	down := c.routes[[4]byte(p.data[ipv4DestinationOffset:])]
	if down == nil {
		c.noRoute.Add(1)
		c.pool.put(p)
		return
	}
	down.send(p, at)
}

// setBlocked changes whether packets pass between two addresses. Calls must
// not overlap.
func (c *core) setBlocked(a, b [4]byte, blocked bool) {
	next := maps.Clone(*c.blocked.Load())
	if next == nil {
		next = make(map[way]bool)
	}
	for _, w := range []way{way(append(a[:], b[:]...)), way(append(b[:], a[:]...))} {
		if blocked {
			next[w] = true
		} else {
			delete(next, w)
		}
	}
	c.blocked.Store(&next)
}
