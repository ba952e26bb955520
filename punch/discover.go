package punch

import (
	"context"
	"errors"
	"net/netip"
	"slices"
)

const (
	// discoverTries is how often a server is asked for its alternate address.
	discoverTries = 4
	// filterTries is how often a request is sent whose answer a NAT may
	// filter.
	filterTries = 3
)

// filtering asks a server to answer from elsewhere (RFC 5780, section 4.4).
func (m *Mux) filtering(ctx context.Context, server, other netip.AddrPort) Dependence {
	otherPort := netip.AddrPortFrom(server.Addr(), other.Port())
	_, err := m.transact(ctx, server, other, changeAddress|changePort, filterTries)
	if err == nil {
		return EndpointIndependent
	}
	if errors.Is(err, ErrNoAnswer) {
		_, err = m.transact(ctx, server, otherPort, changePort, filterTries)
	}
	switch {
	case err == nil:
		return AddressDependent
	case errors.Is(err, ErrNoAnswer):
		return AddressAndPortDependent
	default:
		return Unknown
	}
}

// Discover measures the behavior of the network before the socket (RFC 5780):
// mapping from what the servers see, and filtering where a server offers an
// alternate address; otherwise filtering stays unknown. It takes up to four
// seconds when answers are filtered. Run it on a socket that talks to nobody
// else at the servers' addresses, or earlier traffic hides filters.
func (m *Mux) Discover(ctx context.Context, host []netip.AddrPort, servers []netip.AddrPort) (Behavior, []Observation) {
	// Filtering first: the mapping tests open filters toward the alternate
	// address (RFC 5780, section 4.4).
	filtering := Unknown
	for _, s := range servers {
		first, err := m.transact(ctx, s, s, changeNothing, discoverTries)
		if err != nil || !first.other.IsValid() || first.other.Addr() == s.Addr() {
			continue
		}
		// The server names an address of its own choice. It gets no packet
		// that a peer's candidate would not get.
		if _, err := m.filter.Check(first.other, false); err != nil {
			continue
		}
		otherPort := netip.AddrPortFrom(s.Addr(), first.other.Port())
		filtering = m.filtering(ctx, s, first.other)
		// The alternate address and the server's own with the alternate port
		// tell all three mappings apart.
		for _, a := range []netip.AddrPort{otherPort, first.other} {
			if !slices.Contains(servers, a) {
				servers = append(slices.Clip(servers), a)
			}
		}
		break
	}
	seen, _ := m.observe(ctx, servers)
	b := Classify(m.base(host, seen), seen)
	b.Filtering = filtering
	return b, seen
}
