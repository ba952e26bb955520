package main

import (
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// uplinkDelay is the one-way delay of a home's uplink. With the rendezvous in
// the core at 0 ms, direct and relayed round trips are both four of it: 40 ms
// (docs/architecture.md).
const uplinkDelay = 10 * time.Millisecond

// Names of the hosts of a cell, and by convention of every scenario that
// netsim runs.
const (
	rendezvousHost = "rendezvous"
	hostA          = "a"
	hostB          = "b"
)

// A cell is one pair of NATs.
type cell struct {
	A, B netsim.NAT
	// long says that names tell the allocation of ports, as in
	// "EIM/APDF/random": it is one of 27 types, and not of nine.
	long bool
}

func (c cell) String() string { return c.nameOf(c.A) + " - " + c.nameOf(c.B) }

// nameOf returns the name of a NAT's type.
func (c cell) nameOf(n netsim.NAT) string {
	if c.long {
		return n.Type().String() + "/" + n.Allocation.String()
	}
	return n.Type().String()
}

// scenario puts a host behind each of the two NATs, and a rendezvous between
// them.
func (c cell) scenario(seed uint64) netsim.Scenario {
	uplink := netsim.Delay(uplinkDelay)
	return netsim.Scenario{
		Name: c.String(),
		Seed: seed,
		NATs: []netsim.NATNode{
			{Name: "home-a", Uplink: uplink, NAT: c.A},
			{Name: "home-b", Uplink: uplink, NAT: c.B},
		},
		Hosts: []netsim.HostNode{
			{Name: rendezvousHost},
			{Name: rendezvousHost + "-2", Of: rendezvousHost},
			{Name: hostA, Parent: "home-a"},
			{Name: hostB, Parent: "home-b"},
		},
	}
}

// transfer is what is done in the cell.
func (c cell) transfer(seed uint64, bytes int64) transfer {
	return transfer{
		Scenario:   c.scenario(seed),
		Rendezvous: rendezvousHost,
		From:       hostA,
		To:         hostB,
		Bytes:      bytes,
	}
}

// expected reports whether the pair should become direct: by the rule of
// netsim.DirectPossible, or since a port can be found. Beside a fixed port the
// other side's is told beforehand or met by chance; of two that depend on the
// destination, both must be told beforehand.
func (c cell) expected() bool {
	fixed := func(n netsim.NAT) bool { return n.Mapping == netsim.EndpointIndependent }
	told := func(n netsim.NAT) bool { return n.Allocation != netsim.Random }
	return netsim.DirectPossible(c.A.Type(), c.B.Type()) || fixed(c.A) || fixed(c.B) || told(c.A) && told(c.B)
}

// cells returns the unordered pairs of all NAT types that the back end can
// make. The kernel's own connection tracking, as in home routers that run
// Linux, makes EIM/APDF with kept ports: unless an allocation is asked for, the
// kernel gets that one. A nil allocation means random otherwise.
func cells(b backend, allocation *netsim.Allocation) []cell {
	var nats []netsim.NAT
	for _, t := range netsim.NATTypes() {
		n := t.NAT()
		n.Allocation = netsim.Random
		switch {
		case allocation != nil:
			n.Allocation = *allocation
		case b == namespaces && n.Mapping == netsim.EndpointIndependent && n.Filtering == netsim.AddressAndPortDependent:
			n.Allocation = netsim.Preserving
		}
		if b == sim || kernel.Supports(n) == nil {
			nats = append(nats, n)
		}
	}
	return pairs(nats, false)
}

// crossTraffic is how many mappings a second the neighbors behind a NAT with
// contiguous ports make: a guess, some people who browse.
const crossTraffic = 1

// allCells returns the unordered pairs of the 27 NAT types that the back end
// can make: three kinds each of mapping, filtering and allocation (the
// classification of Roverso, El-Ansary and Haridi, NATCracker, 2009).
func allCells(b backend) []cell {
	var nats []netsim.NAT
	for _, t := range netsim.NATTypes() {
		for a := netsim.Preserving; a <= netsim.Random; a++ {
			n := t.NAT()
			n.Allocation = a
			if a == netsim.Sequential && b == sim {
				n.CrossTraffic = crossTraffic
			}
			if b == sim || kernel.Supports(n) == nil {
				nats = append(nats, n)
			}
		}
	}
	return pairs(nats, true)
}

// pairs returns every unordered pair, each type with itself as well.
func pairs(nats []netsim.NAT, long bool) []cell {
	var all []cell
	for i, a := range nats {
		for _, b := range nats[i:] {
			all = append(all, cell{a, b, long})
		}
	}
	return all
}

// findCell returns the cell of two types by their names, in either order; the
// order given is kept.
func findCell(all []cell, a, b string) (cell, error) {
	for _, c := range all {
		switch nameA, nameB := c.nameOf(c.A), c.nameOf(c.B); {
		case nameA == a && nameB == b:
			return c, nil
		case nameA == b && nameB == a:
			return cell{c.B, c.A, c.long}, nil
		}
	}
	return cell{}, fmt.Errorf("this back end cannot make the pair %s - %s", a, b)
}
