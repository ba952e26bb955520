package netsim

import (
	"fmt"
	"net/netip"
)

// An addressPlan gives nodes their addresses, in the order in which they are
// added, so that both back ends of one scenario use the same ones.
//
// Public addresses come from 5.0.0.0/8, ordinary global unicast space, and not
// from the ranges for documentation (RFC 5737) or benchmarks (RFC 2544): code
// under test refuses special addresses (RFC 6890), and should. Nothing sent to
// them leaves the simulated network. Every public node has a /24 of its own.
type addressPlan struct {
	public  int                  // public nodes so far
	inside  map[netip.Prefix]int // NATs that have the network
	hosts   map[string]int       // nodes so far on the network behind a NAT, by the NAT's name
	subnets map[string]netip.Prefix
}

func newAddressPlan() *addressPlan {
	return &addressPlan{
		inside:  make(map[netip.Prefix]int),
		hosts:   make(map[string]int),
		subnets: make(map[string]netip.Prefix),
	}
}

// attach returns the address of the next node on the network behind parent, or
// on the core where parent is empty.
func (p *addressPlan) attach(parent string) (netip.Addr, error) {
	if parent == "" {
		if p.public >= 250*250 {
			return netip.Addr{}, fmt.Errorf("netsim: more than %d public nodes", 250*250)
		}
		n := p.public
		p.public++
		return netip.AddrFrom4([4]byte{5, byte(1 + n/250), byte(1 + n%250), 10}), nil
	}
	subnet, ok := p.subnets[parent]
	if !ok {
		return netip.Addr{}, fmt.Errorf("netsim: no NAT %q", parent)
	}
	n := p.hosts[parent] + 2 // .1 is the NAT itself
	room := 1<<(32-subnet.Bits()) - 2
	if n > room {
		return netip.Addr{}, fmt.Errorf("netsim: network %v behind %q is full", subnet, parent)
	}
	p.hosts[parent]++
	return nthAddr(subnet, n), nil
}

// network returns the network behind the NAT of that name. The NAT's own
// address on it is the first one.
func (p *addressPlan) network(nat string, stated netip.Prefix) (netip.Prefix, error) {
	subnet := stated.Masked()
	for n := 1; !stated.IsValid(); n++ {
		if n > 250*250 {
			return netip.Prefix{}, fmt.Errorf("netsim: no network left for NAT %q", nat)
		}
		base := [4]byte{192, 168, byte(n), 0}
		if n > 250 {
			base = [4]byte{10, byte(n / 250), byte(n % 250), 0}
		}
		subnet = netip.PrefixFrom(netip.AddrFrom4(base), 24)
		if p.inside[subnet] == 0 {
			break
		}
	}
	p.inside[subnet]++
	p.subnets[nat] = subnet
	return subnet, nil
}

// nthAddr returns the n-th address of an IPv4 prefix.
func nthAddr(p netip.Prefix, n int) netip.Addr {
	a := p.Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// A NodeAddress is what the address plan gives to one node.
type NodeAddress struct {
	Addr   netip.Addr   // on the parent's network
	Inside netip.Prefix // of a NAT: the network behind it; its own address there is the first
}

// Addresses returns the address of each node of the scenario, by name; both
// back ends use these. NATs come before hosts and parents before children,
// else nodes are in the order of the description. The error is that of
// Validate, or says which network is full.
func (sc Scenario) Addresses() (map[string]NodeAddress, error) {
	if err := sc.Validate(); err != nil {
		return nil, err
	}
	plan := newAddressPlan()
	out := make(map[string]NodeAddress, len(sc.NATs)+len(sc.Hosts))
	nats, err := sc.natsParentsFirst()
	if err != nil {
		return nil, err
	}
	for _, n := range nats {
		addr, err := plan.attach(n.Parent)
		if err != nil {
			return nil, err
		}
		inside, err := plan.network(n.Name, n.Inside)
		if err != nil {
			return nil, err
		}
		out[n.Name] = NodeAddress{Addr: addr, Inside: inside}
	}
	for _, h := range sc.Hosts {
		addr, err := plan.attach(h.Parent)
		if err != nil {
			return nil, err
		}
		out[h.Name] = NodeAddress{Addr: addr}
	}
	return out, nil
}
