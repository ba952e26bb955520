package kernel

import (
	"fmt"

	"github.com/instantgrid/instantgrid/netsim"
)

// Supports reports whether a NAT can be made of nftables rules; if not, the
// error wraps ErrUnsupported and gives the reason.
//
// Connection tracking, as Linux home routers use it, makes two types. With a
// source NAT that keeps ports, a mapping is endpoint-independent (as long as
// no two insiders use one port toward one remote) and filtering address and
// port-dependent. With random ports, both are address and port-dependent.
func Supports(n netsim.NAT) error {
	_, err := methodOf(n)
	return err
}

// A method is a way to make a NAT of nftables rules.
type method int

const (
	methodTracked       method = iota // connection tracking, ports kept
	methodTrackedRandom               // connection tracking, a random port for each flow
)

func methodOf(n netsim.NAT) (method, error) {
	const (
		eim  = netsim.EndpointIndependent
		apdm = netsim.AddressAndPortDependent
		apdf = netsim.AddressAndPortDependent
	)
	unsupported := func(reason string) error {
		return fmt.Errorf("kernel: NAT with %s: %w", reason, ErrUnsupported)
	}
	switch {
	case n.Hairpinning:
		return 0, unsupported("hairpinning: the rules of this back end do not loop packets back")
	case n.Allocation == netsim.Sequential:
		return 0, unsupported("sequential ports: Linux keeps ports or draws them at random")
	case n.Mapping == eim && n.Filtering == apdf && n.Allocation == netsim.Preserving:
		return methodTracked, nil
	case n.Mapping == apdm && n.Filtering == apdf && n.Allocation == netsim.Random:
		return methodTrackedRandom, nil
	case n.Mapping != eim && n.Allocation == netsim.Preserving:
		return 0, unsupported("kept ports and a mapping that depends on the destination: Linux that keeps a port keeps it for all destinations")
	default:
		return 0, unsupported("this mapping and filtering: connection tracking filters by address and port")
	}
}
