package netsim

import (
	"net/netip"
	"time"
)

// A packetTooBig is the answer of a link to a packet above its MTU (ICMP type 3, code
// 4, RFC 1191). It travels as a packet whose source and destination are those
// of the packet that it quotes, exchanged: routers find the way back with them,
// as NATs do with the quoted header (RFC 5508, section 4).

// tooBig tells the sender of a packet that met d.
func (c *core) tooBig(d *direction, src, dst netip.AddrPort) {
	p := newPacket(dst, src, nil)
	p.tooBig = d.link.MTU
	n := d.node
	switch {
	case !d.up:
		c.route(n.parent, p)
	case n.nat != nil:
		c.translateIn(n, p, p.src)
	default:
		c.toSocket(n, p)
	}
}

// A learnedMTU is what a host knows of the way to an address.
type learnedMTU struct {
	mtu   int
	until time.Duration
}

// mtuLifetime is how long a host keeps what it was told, as Linux does.
const mtuLifetime = 10 * time.Minute

// learn takes a packetTooBig at its destination.
func (n *node) learn(now time.Duration, p *packet) {
	if n.mtus == nil {
		n.mtus = make(map[netip.Addr]learnedMTU)
	}
	n.mtus[p.src.Addr()] = learnedMTU{p.tooBig, now + mtuLifetime}
}

// exceeds reports whether the host knows that p is too large for its way.
func (n *node) exceeds(now time.Duration, p *packet) bool {
	known, ok := n.mtus[p.dst.Addr()]
	return ok && now < known.until && p.size() > known.mtu
}
