package overlay

import (
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// keepAddressesLocked notes the addresses of a member. An IPv4 address, which
// the ledger hands out, stays whose it is until that membership ends, as a name
// does: without a ledger two may have the same. The IPv6 address is the peer ID's.
func (t *gridTable) keepAddressesLocked(m *membership.Member, now time.Time) {
	for _, a := range []netip.Addr{m.Address, t.info.ID().Address6(m.Peer)} {
		if !a.IsValid() {
			continue
		}
		if holder, taken := t.addresses[a]; taken && holder != m.Peer {
			if k := t.members[holder]; k != nil && t.validLocked(k.member, now) {
				if a == m.Address {
					m.Address = netip.Addr{} // it has none here
				}
				continue
			}
		}
		t.addresses[a] = m.Peer
	}
}

// forgetAddressesLocked is called before a member goes or changes.
func (t *gridTable) forgetAddressesLocked(peer ri2n.PeerID) {
	k := t.members[peer]
	if k == nil {
		return
	}
	for _, a := range []netip.Addr{k.member.Address, t.info.ID().Address6(peer)} {
		if t.addresses[a] == peer {
			delete(t.addresses, a)
		}
	}
}

// memberAt returns the member that has an address at now, nil if none does.
func (t *gridTable) memberAt(now time.Time, a netip.Addr) *membership.Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, found := t.addresses[a]
	if !found {
		return nil
	}
	if k := t.members[id]; k != nil && t.validLocked(k.member, now) {
		return k.member
	}
	return nil
}

// ipAddresses returns the addresses of a peer that is a member at now.
func (t *gridTable) ipAddresses(now time.Time, peer ri2n.PeerID) (IPMember, bool) {
	m := t.memberOf(now, peer)
	if m == nil {
		return IPMember{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x := IPMember{Peer: peer, Address6: t.info.ID().Address6(peer)}
	if t.addresses[m.Address] == peer {
		x.Address = m.Address
	}
	return x, true
}

// ownIP returns our own addresses and the grid's networks.
func (t *gridTable) ownIP() (IPNetwork, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info == nil || t.own == nil {
		return IPNetwork{}, errNoGrid
	}
	if t.me == nil {
		return IPNetwork{}, t.why
	}
	six := t.info.ID().Address6(t.self)
	return IPNetwork{
		Self:    IPMember{Peer: t.self, Address: t.me.Address, Address6: six},
		Prefix:  t.info.Network,
		Prefix6: netip.PrefixFrom(six, 48).Masked(),
	}, nil
}

// prefixes returns the grid's networks, none without a grid.
func (t *gridTable) prefixes() []netip.Prefix {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info == nil {
		return nil
	}
	return []netip.Prefix{t.info.Network, netip.PrefixFrom(t.info.ID().Address6(t.self), 48).Masked()}
}
