package punch

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// A planKind says what a side can tell of the outside ports of its mappings
// toward the peer.
type planKind uint8

const (
	// planNone: this side takes no part in the search.
	planNone planKind = iota
	// planFixed: one mapping for all destinations, that of the link's socket.
	planFixed
	// planListed: fresh sockets keep their ports.
	planListed
	// planStepped: the next mappings have ports a step apart.
	planStepped
	// planRandom: ports lie in a range.
	planRandom
	planKinds
)

// A plan is what one side tells the other about the search for a path through
// hard NATs. It is also its consent to be searched for at the address outside.
type plan struct {
	round   uint8
	kind    planKind
	outside netip.Addr
	ports   []uint16 // planFixed: one; planListed: of the sockets, in their order
	first   uint16   // planStepped: of the next mapping
	step    int16
	low     uint16 // planRandom
	high    uint16
}

const (
	// burstSockets is how many sockets a side opens whose ports can be told
	// beforehand, and burstTarget which of them the other side aims at: so many
	// mappings of neighbors may come between on both sides together.
	burstSockets = 20
	burstTarget  = 15
	// scanSteps is how many steps ahead of the last known port the fixed side
	// of a pair looks.
	scanSteps = 48
	// burstPasses is how often a short search repeats each packet.
	burstPasses = 3
	// maxGuesses and maxSpray bound the probes of a search among ports that
	// cannot be told: together with the checks before and after they stay below
	// 2048 for a connection. Of 64,512 ports, 256 sockets and 1536 guesses miss
	// each other twice in a thousand times.
	maxGuesses = 1536
	maxSpray   = 256
)

// A shot is one probe: from which socket, to which port of the peer's address.
type shot struct {
	socket int // mainSocket, or the number of a fresh one
	port   uint16
}

// mainSocket stands for the link's own socket.
const mainSocket = -1

// sockets returns how many fresh sockets the side with plan p opens toward one
// with plan q.
func (p plan) sockets(q plan) int {
	switch p.kind {
	case planListed:
		return len(p.ports)
	case planStepped:
		return burstSockets
	case planRandom:
		return spray(int(p.high) - int(p.low) + 1)
	}
	return 0
}

// spray returns how many sockets make a search over ports ports succeed: the
// fewest with which maxGuesses guesses miss once in a thousand times, but at
// most a quarter of the ports, since routers limit the mappings of a host.
func spray(ports int) int {
	n := 32
	for n < maxSpray && n*maxGuesses < 7*ports {
		n *= 2
	}
	for n > 8 && n > ports/4 {
		n /= 2
	}
	return n
}

// predictable reports whether the port of the i-th mapping can be told.
func (p plan) predictable() bool { return p.kind == planListed || p.kind == planStepped }

// port returns the port that the i-th mapping has if no neighbor's comes
// between.
func (p plan) port(i int) uint16 {
	if p.kind == planListed {
		return p.ports[i%len(p.ports)]
	}
	return stepPort(p.first, int(p.step), i)
}

// stepPort returns the port i steps from first, wrapped into the ports that a
// NAT uses.
func stepPort(first uint16, step, i int) uint16 {
	const n = 65536 - leastPort
	return uint16(leastPort + ((int(first)-leastPort+step*i)%n+n)%n)
}

// shots returns the probes of the side with plan local, in their order, or nil
// if the two plans give no search that can succeed.
//
// Where one side has a fixed port, the other opens mappings toward it and it
// guesses their ports. Where both sides' ports can be told up to a few steps,
// the controlling side fans out: all its sockets send to the port that the
// controlled side's mapping number burstTarget is expected at. The controlled
// side scans: its sockets send to the successive ports of the controlling
// side. If neighbors' mappings come between, x on one side and y on the other,
// then the scan's socket burstTarget-x has the port aimed at and has sent to
// the port of the fan's socket burstTarget-x-y.
func shots(local, remote plan, controlling bool, rng *rand.Rand) []shot {
	switch {
	case local.kind == planFixed && (remote.predictable() || remote.kind == planRandom):
		return guesses(remote, rng)
	case remote.kind == planFixed && (local.predictable() || local.kind == planRandom):
		var list []shot
		for i := range local.sockets(remote) {
			list = append(list, shot{i, remote.ports[0]})
		}
		if local.kind == planRandom {
			return list
		}
		return repeat(list)
	case local.predictable() && remote.predictable():
		var list []shot
		for i := range local.sockets(remote) {
			if controlling {
				list = append(list, shot{i, remote.port(burstTarget)})
			} else {
				list = append(list, shot{i, remote.port(i)})
			}
		}
		return repeat(list)
	}
	return nil
}

// repeat returns the list burstPasses times.
func repeat(list []shot) []shot {
	all := make([]shot, 0, burstPasses*len(list))
	for range burstPasses {
		all = append(all, list...)
	}
	return all
}

// guesses returns the probes of a fixed side toward plan p.
func guesses(p plan, rng *rand.Rand) (list []shot) {
	switch p.kind {
	case planListed:
		for _, port := range p.ports {
			list = append(list, shot{mainSocket, port})
		}
		return repeat(list)
	case planStepped:
		for i := range scanSteps {
			list = append(list, shot{mainSocket, stepPort(p.first, int(p.step), i)})
		}
		return repeat(list)
	}
	n := int(p.high) - int(p.low) + 1
	for _, i := range rng.Perm(n)[:min(n, maxGuesses)] {
		list = append(list, shot{mainSocket, uint16(int(p.low) + i)})
	}
	if n < maxGuesses/2 { // a block: time for a second look, against loss
		list = append(list, list...)
	}
	return list
}

// valid reports whether a plan of the peer can be used.
func (p plan) valid() bool {
	usable := func(port uint16) bool { return port >= leastPort }
	switch p.kind {
	case planNone:
		return true
	case planFixed:
		return len(p.ports) == 1 && usable(p.ports[0])
	case planListed:
		for _, port := range p.ports {
			if !usable(port) {
				return false
			}
		}
		return len(p.ports) > 0 && len(p.ports) <= burstSockets
	case planStepped:
		return usable(p.first) && p.step != 0 && p.step >= -maxPortStep && p.step <= maxPortStep
	case planRandom:
		return usable(p.low) && p.high >= p.low
	}
	return false
}

// appendPlan appends the encoding of p:
//
//	round(1) kind(1) address length(1): 0, 4 or 16, address
//	count(1) { port(2) } ... first(2) step(2) low(2) high(2)
func appendPlan(b []byte, p plan) []byte {
	addr := p.outside.AsSlice()
	b = append(b, p.round, byte(p.kind), byte(len(addr)))
	b = append(b, addr...)
	b = append(b, byte(len(p.ports)))
	for _, port := range p.ports {
		b = binary.BigEndian.AppendUint16(b, port)
	}
	b = binary.BigEndian.AppendUint16(b, p.first)
	b = binary.BigEndian.AppendUint16(b, uint16(p.step))
	b = binary.BigEndian.AppendUint16(b, p.low)
	return binary.BigEndian.AppendUint16(b, p.high)
}

// plan decodes a plan.
func (r *reader) plan() plan {
	p := plan{round: r.byte(), kind: planKind(r.byte())}
	n := int(r.byte())
	if n != 0 && n != 4 && n != 16 || (n == 0) != (p.kind == planNone) {
		r.bad = true
		return plan{}
	}
	p.outside, _ = netip.AddrFromSlice(r.take(n))
	if p.outside.Is4In6() {
		r.bad = true
	}
	count := int(r.byte())
	if count > burstSockets {
		r.bad = true
	}
	for range min(count, burstSockets) {
		p.ports = append(p.ports, r.uint16())
	}
	p.first = r.uint16()
	p.step = int16(r.uint16())
	p.low = r.uint16()
	p.high = r.uint16()
	if !p.valid() {
		r.bad = true
	}
	return p
}
