package overlay

import (
	"net/netip"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// KnownMembers returns the members of the node's grid that are known now, by
// name, and asks nobody; [Node.Members] does.
func (n *Node) KnownMembers() []MemberStatus { return n.grid.listMembers(time.Now()) }

// GridName returns the name of the node's grid, empty if it belongs to none.
func (n *Node) GridName() string { return n.grid.name() }

// Locate reports whether a host that a program wants to reach is one of a grid,
// and returns what [Node.DialContext] takes for it: a peer ID stays, names end in
// .grid, have one label, or end in the name of the node's own grid, and an
// address is that of a member.
func (n *Node) Locate(host string) (name string, ours bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return n.grid.locate(time.Now(), ip.Unmap())
	}
	bare := strings.TrimSuffix(host, ".grid")
	if id, err := ri2n.ParsePeerID(bare); err == nil {
		return id.String(), true
	}
	if _, grid, found := strings.Cut(bare, "."); bare == host && found && grid != n.grid.name() {
		return "", false
	}
	return host, host != "" && host != "localhost"
}

// Known returns the peer of a name, as Resolve does, if it is known now, and asks
// nobody.
func (n *Node) Known(name string) (id ri2n.PeerID, known bool) {
	if id, err := ri2n.ParsePeerID(name); err == nil {
		return id, true
	}
	label, err := n.grid.label(name)
	if err != nil {
		return id, false
	}
	return n.grid.lookup(time.Now(), label)
}

// name returns the grid's name, empty without one.
func (t *gridTable) name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info == nil {
		return ""
	}
	return t.info.Name
}

// locate finds the member with an address. An address that the grid could give
// is one of it, also while nobody has it.
func (t *gridTable) locate(now time.Time, ip netip.Addr) (name string, ours bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info == nil {
		return "", false
	}
	id := t.info.ID()
	for _, k := range t.members {
		if (k.member.Address == ip || id.Address6(k.member.Peer) == ip) && t.validLocked(k.member, now) {
			return k.member.Name, true
		}
	}
	if t.me != nil && (t.me.Address == ip || id.Address6(t.me.Peer) == ip) {
		return t.me.Name, true
	}
	return ip.String(), t.info.Network.Contains(ip) || prefix6(id).Contains(ip)
}

// prefix6 is the network of the grid's IPv6 addresses.
func prefix6(id membership.GridID) netip.Prefix {
	return netip.PrefixFrom(id.Address6(ri2n.PeerID{}), 48).Masked()
}
