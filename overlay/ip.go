package overlay

import (
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An IPMember is a member of the grid as the host of its IP addresses.
type IPMember struct {
	Peer     ri2n.PeerID
	Address  netip.Addr // IPv4, of the ledger; invalid where somebody else holds it
	Address6 netip.Addr
}

// Has reports whether a is one of the member's addresses.
func (m IPMember) Has(a netip.Addr) bool { return a == m.Address6 || a.IsValid() && a == m.Address }

// An IPNetwork is what a node's IP interface in its grid is like.
type IPNetwork struct {
	Self            IPMember
	Prefix, Prefix6 netip.Prefix // of the grid
}

// An IPHandler takes what members send of kind IP (docs/overlay-protocol.md,
// section 10).
type IPHandler interface {
	// HandleIP takes the datagrams that have come in one go. The content of
	// each follows the first IPRoom bytes of its buffer. The handler may
	// change the buffers and keeps none of them. It must not block, and is
	// called by several goroutines, one for each session.
	HandleIP(from IPMember, buffers [][]byte)
}

// IPRoom is how many bytes a received buffer has before its content.
const IPRoom = ri2n.DatagramRoom + 1

// IPNetwork returns our addresses in the grid. It fails for a node that is no
// member now.
func (n *Node) IPNetwork() (IPNetwork, error) { return n.grid.ownIP() }

// HandleIP makes h the taker of IP datagrams; nil: they are refused. Only
// members' are handed on, and h decides what passes.
func (n *Node) HandleIP(h IPHandler) {
	if h == nil {
		n.ip.Store(nil)
		return
	}
	n.ip.Store(&h)
}

// MemberAt returns the member that has an IP address.
func (n *Node) MemberAt(a netip.Addr) (IPMember, bool) {
	now := time.Now()
	m := n.grid.memberAt(now, a)
	if m == nil {
		return IPMember{}, false
	}
	return n.grid.ipAddresses(now, m.Peer)
}

// MayOpen reports whether a peer may connect to a port of ours, by any
// protocol. Port 0 stands for ICMP echo.
func (n *Node) MayOpen(peer ri2n.PeerID, port uint16) bool { return n.mayOpen(peer, port) }

// An IPSession is a session that IP datagrams may be sent on.
type IPSession struct{ a *association }

// IPSession returns a session with a peer that there is now. [Node.Connect]
// makes one.
func (n *Node) IPSession(peer ri2n.PeerID) (*IPSession, bool) {
	n.mu.Lock()
	p := n.peers[peer]
	n.mu.Unlock()
	if p == nil {
		return nil, false
	}
	a := p.best()
	if a == nil || !a.isProven() {
		return nil, false
	}
	return &IPSession{a}, true
}

// Usable reports whether the session is still the one to use and may carry
// packets on the path that it has.
func (s *IPSession) Usable() bool {
	if s.a.session.Err() != nil || s.a.silent.Load() {
		return false
	}
	return s.a.paths.policy() != PathDirectOnly || s.a.pathStatus().Kind == KindDirect
}

// MaxContent is the size in bytes of the largest content that Send takes now.
func (s *IPSession) MaxContent() int { return s.a.session.MaxDatagramSize() - 1 }

// Send queues datagrams of one flow, whose content follows the first byte of
// each; that byte is for Send. It returns how many it took, those before the
// first that is too large.
func (s *IPSession) Send(flow uint32, list [][]byte) (int, error) {
	for _, b := range list {
		b[0] = byte(datagramIP)
	}
	s.a.packetBatches.Add(1)
	n, err := s.a.session.SendDatagrams(uint64(datagramIP)<<32|uint64(flow), list)
	return n, err
}
