package netsim

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A pool is a range of outside ports of one outside address: all that the NAT
// has, or the block of one inside address.
type pool struct {
	addr        netip.Addr
	first, last int
	taken       int           // mappings with a port of the range
	next        int           // of sequential allocation
	since       time.Duration // when next was last brought up to date
}

type poolKey struct {
	addr netip.Addr
	// block is the first port of the block; zero: the whole range.
	block int
}

func (p *pool) holds(port int) bool { return p.first <= port && port <= p.last }

func (p *pool) size() int { return p.last - p.first + 1 }

// free records that a mapping ended. A nil pool keeps no account.
func (p *pool) free() {
	if p != nil {
		p.taken--
	}
}

// newInsider picks outside address and block of an inside address.
func (t *translator) newInsider() *insider {
	who := new(insider)
	if len(t.addresses) > 1 {
		who.address = t.rng.IntN(len(t.addresses))
	}
	if t.cfg.Block == 0 {
		return who
	}
	// Blocks are given in order, from a random one on; more subscribers than
	// blocks share.
	first, last := t.cfg.ports()
	blocks := (int(last-first) + 1) / t.cfg.Block
	at := t.rng.IntN(blocks)
	used := make(map[int]bool, len(t.insiders))
	for _, other := range t.insiders {
		used[other.block] = true
	}
	for range blocks {
		who.block = int(first) + at*t.cfg.Block
		if !used[who.block] {
			break
		}
		at = (at + 1) % blocks
	}
	return who
}

// poolOf returns the ports that a new mapping of who may have.
func (t *translator) poolOf(who *insider) *pool {
	address := who.address
	if t.cfg.Pooling == Arbitrary && len(t.addresses) > 1 {
		address = t.rng.IntN(len(t.addresses))
	}
	key := poolKey{t.addresses[address], who.block}
	p := t.pools[key]
	if p == nil {
		first, last := t.cfg.ports()
		p = &pool{addr: key.addr, first: int(first), last: int(last)}
		if t.cfg.Block > 0 {
			p.first, p.last = who.block, who.block+t.cfg.Block-1
		}
		if t.cfg.Allocation == Sequential {
			p.next = p.first + t.rng.IntN(p.size())
		}
		t.pools[key] = p
	}
	return p
}

// allocate picks a free outside port (RFC 4787, section 4.2).
func (t *translator) allocate(now time.Duration, who *insider, inside uint16) (netip.AddrPort, *pool, bool) {
	p := t.poolOf(who)
	outside := netip.AddrPortFrom(p.addr, inside)
	bounded := t.cfg.FirstPort != 0 || t.cfg.LastPort != 0 || t.cfg.Block != 0
	if t.cfg.Allocation == Preserving && t.byOutside[outside] == nil {
		switch {
		case p.holds(int(inside)):
			p.taken++
			return outside, p, true
		case !bounded:
			return outside, nil, true
		}
	}
	port, ok := uint16(0), false
	if t.cfg.Allocation == Sequential {
		port, ok = t.sequential(now, p)
	} else {
		port, ok = t.random(p)
	}
	if !ok {
		return netip.AddrPort{}, nil, false
	}
	p.taken++
	return netip.AddrPortFrom(p.addr, port), p, true
}

// random returns a free port of p.
func (t *translator) random(p *pool) (uint16, bool) {
	if p.taken >= p.size() {
		return 0, false
	}
	port := p.first + t.rng.IntN(p.size())
	for tries := 0; tries < 16 && t.used(p, port); tries++ {
		port = p.first + t.rng.IntN(p.size())
	}
	return t.from(p, port, 1)
}

// sequential returns the next free port of p, after the steps that the
// neighbors took meanwhile.
func (t *translator) sequential(now time.Duration, p *pool) (uint16, bool) {
	if p.taken >= p.size() {
		return 0, false
	}
	if t.cfg.CrossTraffic > 0 {
		steps := poisson(t.rng, t.cfg.CrossTraffic*(now-p.since).Seconds())
		p.since = now
		p.next = p.wrap(p.next + steps%p.size()*t.cfg.Delta)
	}
	port, ok := t.from(p, p.next, t.cfg.Delta)
	if ok {
		p.next = p.wrap(int(port) + t.cfg.Delta)
	}
	return port, ok
}

func (t *translator) used(p *pool, port int) bool {
	return t.byOutside[netip.AddrPortFrom(p.addr, uint16(port))] != nil
}

// from returns the first free port of p from port on, in steps; where the steps
// meet taken ones only, any.
func (t *translator) from(p *pool, port, step int) (uint16, bool) {
	for range p.size() {
		if !t.used(p, port) {
			return uint16(port), true
		}
		port = p.wrap(port + step)
	}
	if step != 1 {
		return t.from(p, port, 1)
	}
	return 0, false
}

// wrap returns port, or where it is beyond the range the port that is as far
// from the other end.
func (p *pool) wrap(port int) int {
	n := p.size()
	return p.first + ((port-p.first)%n+n)%n
}

// poisson draws from a Poisson distribution of the given mean: exactly for
// small ones, by the normal distribution for large ones.
func poisson(rng *rand.Rand, mean float64) int {
	if mean > 64 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*rng.NormFloat64())))
	}
	n, product := 0, rng.Float64()
	for limit := math.Exp(-mean); product > limit; n++ {
		product *= rng.Float64()
	}
	return n
}
