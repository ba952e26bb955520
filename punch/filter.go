package punch

import (
	"fmt"
	"net/netip"
	"slices"
)

// A Filter decides to which remote addresses connectivity checks may go. A
// peer names these addresses, so without a filter it could make us send into
// our own network or at a third party.
//
// Public unicast addresses pass. A private address passes only if it lies in
// one of our own prefixes or both peers show the same outside address. No
// other special-purpose address gets a packet (RFC 6890 and its registries).
// The zero value is the strictest.
type Filter struct {
	// Own returns the prefixes of this computer's interfaces; nil means none.
	// [InterfacePrefixes] fits.
	Own func() []netip.Prefix
	// Gateways returns the addresses of our routers, which never get a check;
	// nil means none. [DefaultGateways] fits.
	Gateways func() []netip.Addr
	// Deny lists prefixes that never get a check, such as the overlay's own.
	Deny []netip.Prefix
	// Allow lists prefixes that are treated as public whatever they are.
	// Simulations and test networks name their outside addresses here, which
	// are often documentation prefixes (RFC 5737).
	Allow []netip.Prefix
}

// privatePrefixes may be reached under conditions.
var privatePrefixes = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10", // RFC 6598
	"fc00::/7",      // RFC 4193
)

// specialPrefixes are never reached.
var specialPrefixes = prefixes(
	"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24",
	"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", // documentation
	"192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24",
	"198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	// Metadata and platform services of clouds that live in otherwise
	// ordinary ranges.
	"168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128",
)

// globalUnicast6 is the only IPv6 range in which public addresses exist
// (RFC 4291, section 2.4, and the IANA registry).
var globalUnicast6 = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		list[i] = netip.MustParsePrefix(s)
	}
	return list
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// A FilterError is a remote transport address that gets no packet, and why.
type FilterError struct {
	Addr netip.AddrPort
	Why  string
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("punch: no packet to %v: %s", e.Addr, e.Why)
}

// leastPort is the lowest port that a candidate may name: services of third
// parties live below.
const leastPort = 1024

// Check returns nil if checks may be sent to remote, and a [*FilterError]
// otherwise. sameOutside says whether both peers show the same outside
// address. private tells whether remote counts against the limit on private
// addresses.
func (f *Filter) Check(remote netip.AddrPort, sameOutside bool) (private bool, err error) {
	refuse := func(why string) (bool, error) { return false, &FilterError{Addr: remote, Why: why} }
	a := remote.Addr()
	if !a.IsValid() {
		return refuse("no address")
	}
	if a.Zone() != "" {
		return refuse("address with a zone")
	}
	// An IPv4 address written as IPv6 is judged as what it is.
	a = a.Unmap()
	switch {
	case remote.Port() < leastPort:
		return refuse("port below 1024")
	case within(f.Deny, a):
		return refuse("denied prefix")
	case f.Gateways != nil && slices.Contains(f.Gateways(), a):
		return refuse("a gateway's own address")
	case within(f.Allow, a):
		return false, nil
	case within(specialPrefixes, a):
		return refuse("special-purpose address")
	case within(privatePrefixes, a):
		if sameOutside || f.Own != nil && within(f.Own(), a) {
			return true, nil
		}
		return refuse("private address of another network")
	case a.Is6() && !globalUnicast6.Contains(a):
		return refuse("special-purpose address")
	default:
		return false, nil
	}
}
