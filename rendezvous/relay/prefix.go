package relay

import "net/netip"

// Prefixes that one subscriber commonly holds: a rate for each address alone
// would be no limit at all for whoever owns a network.
const (
	prefixBits4 = 24
	prefixBits6 = 56
)

// PrefixOf returns the network of addr that shares one allowance.
func PrefixOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := prefixBits6
	if addr.Is4() {
		bits = prefixBits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero address: all such share one slot
	}
	return p
}
