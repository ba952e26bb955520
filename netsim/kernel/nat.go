package kernel

import (
	"fmt"

	"github.com/instantgrid/instantgrid/netsim"
)

// Supports reports whether a NAT can be made of nftables rules; if not, the
// error wraps ErrUnsupported and gives the reason.
//
// Two types are made by connection tracking, as in the home routers that run
// Linux: kept ports, where mapping is endpoint-independent (as long as no two
// insiders use one port toward one remote) and filtering address and
// port-dependent; and random ports, where both are address and
// port-dependent. In these, inbound packets always refresh the mapping, and a
// lifetime counts in whole seconds, rounded up.
//
// All other types, and these with hairpinning, are rules without connection tracking, which keep a table
// of mappings and one of remotes: any mapping, filtering and allocation.
// ICMP errors do not pass these inward. Two random mappings may, with the
// probability of chance twice in a row, share a port; the second then
// receives nothing.
//
// In either kind TCP is not looped back and is tracked by connection, with kept or random ports.
func Supports(n netsim.NAT) error {
	unsupported := func(reason string) error {
		return fmt.Errorf("kernel: NAT with %s: %w", reason, ErrUnsupported)
	}
	plain := netsim.NAT{
		Mapping: n.Mapping, Filtering: n.Filtering, Allocation: n.Allocation,
		Lifetime: n.Lifetime, InboundRefresh: n.InboundRefresh, Hairpinning: n.Hairpinning,
	}
	switch {
	case n != plain:
		return unsupported("more than mapping, filtering, allocation, lifetime, inbound refresh and hairpinning")
	case n.InboundRefresh && !tracked(n) && n.Filtering < n.Mapping:
		return unsupported("inbound refresh and a filter weaker than the mapping: " +
			"a packet from a stranger does not tell which mapping to refresh")
	}
	return nil
}

// SupportsScenario reports whether each part of a scenario can be made here;
// if not, the error wraps ErrUnsupported and gives the reason.
func SupportsScenario(sc netsim.Scenario) error {
	tells := func(l netsim.Link) bool { return l.TooBig || l.Down != nil && l.Down.TooBig }
	for _, n := range sc.NATs {
		if err := Supports(n.NAT); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if tells(n.Uplink) {
			return fmt.Errorf("kernel: %s: link that answers packets that are too big: %w", n.Name, ErrUnsupported)
		}
	}
	for _, h := range sc.Hosts {
		if tells(h.Uplink) {
			return fmt.Errorf("kernel: %s: link that answers packets that are too big: %w", h.Name, ErrUnsupported)
		}
	}
	if len(sc.Events) > 0 {
		return fmt.Errorf("kernel: scenario with events: %w", ErrUnsupported)
	}
	return nil
}

// tracked reports whether connection tracking makes the NAT.
func tracked(n netsim.NAT) bool {
	const dependent = netsim.AddressAndPortDependent
	switch {
	case n.Filtering != dependent, n.Hairpinning:
		return false
	case n.Mapping == netsim.EndpointIndependent:
		return n.Allocation == netsim.Preserving
	case n.Mapping == dependent:
		return n.Allocation == netsim.Random
	}
	return false
}
