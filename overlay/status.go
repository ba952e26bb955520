package overlay

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Status is a snapshot of a node; it encodes as JSON as it is.
type Status struct {
	PeerID     ri2n.PeerID      `json:"peer_id"`
	Rendezvous RendezvousStatus `json:"rendezvous"`
	Links      []LinkStatus     `json:"links"`
	Peers      []PeerStatus     `json:"peers"`             // with a session, by peer ID
	Grid       *GridStatus      `json:"grid,omitempty"`    // nil: the node belongs to none
	Relay      *RelayStatus     `json:"relay,omitempty"`   // nil: the node belongs to no grid
	Routing    *RoutingStatus   `json:"routing,omitempty"` // nil: the node takes no part in it
	LAN        *LANStatus       `json:"lan,omitempty"`     // nil: the node is silent on local networks
	Counters   Counters         `json:"counters"`
}

// RendezvousStatus says how the node stands with its own rendezvous.
type RendezvousStatus struct {
	Address    string        `json:"address,omitempty"` // HOST:PORT#PEERID
	Registered bool          `json:"registered"`
	RTT        time.Duration `json:"rtt_ns,omitempty"`
	Error      string        `json:"error,omitempty"` // of the last attempt, while not registered

	// ClockOffset is by how much the rendezvous's clock is ahead of this
	// computer's, to within a second and a round trip.
	ClockOffset time.Duration `json:"clock_offset_ns,omitempty"`
}

// LinkStatus describes one of the node's sockets.
type LinkStatus struct {
	Name     string         `json:"name"`
	Local    netip.AddrPort `json:"local"`
	Outside  netip.AddrPort `json:"outside,omitzero"`   // as the rendezvous sees it
	Behavior string         `json:"behavior,omitempty"` // of the NAT before it, in the words of RFC 4787
	Mapping  *MappingStatus `json:"mapping,omitempty"`  // nil: no router was asked for a port
}

// PeerStatus describes the session with one peer.
type PeerStatus struct {
	ID            ri2n.PeerID  `json:"id"`
	Name          string       `json:"name,omitempty"` // of a member of the node's grid
	Since         time.Time    `json:"since"`          // of the session
	Path          PathStatus   `json:"path"`           // the one that sends
	Paths         []PathStatus `json:"paths"`
	BytesSent     uint64       `json:"bytes_sent"` // on connections of this package, since Start
	BytesReceived uint64       `json:"bytes_received"`
}

// Kinds of path.
const (
	KindDirect    = "direct"
	KindRelay     = "relay"      // through the rendezvous
	KindPeerRelay = "peer-relay" // through another member
)

// PathStatus describes a path; what is not direct has a Reason from punch's
// closed list, with Advice.
type PathStatus struct {
	Kind   string         `json:"kind"`
	Relay  *RelayedBy     `json:"relay,omitempty"` // nil unless Kind is "peer-relay"
	Link   string         `json:"link"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	State  string         `json:"state"`
	RTT    time.Duration  `json:"rtt_ns"`
	MTU    int            `json:"mtu"` // bytes of UDP payload
	Reason string         `json:"reason,omitempty"`
	Advice string         `json:"advice,omitempty"`

	// What has gone over it, in bytes of UDP payload, and the packets lost.
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	PacketsLost   uint64 `json:"packets_lost"`
}

// RelayedBy names the member that a path leads through.
type RelayedBy struct {
	Peer ri2n.PeerID `json:"peer"`
	Name string      `json:"name,omitempty"` // empty: not known as a member any more
}

// RelayStatus says what the node relays for others, and which members relay for
// it.
type RelayStatus struct {
	Serves   bool         `json:"serves"`  // for other members
	Members  int          `json:"members"` // registered with us now
	Channels int          `json:"channels"`
	Bytes    uint64       `json:"bytes"` // relayed since Start
	Dropped  uint64       `json:"datagrams_dropped"`
	With     []RelayedBy  `json:"with"` // the relays that we are registered with
	Peers    []RelayedFor `json:"peers,omitempty"`
}

// RelayedFor is what the node has relayed for one member.
type RelayedFor struct {
	Peer     ri2n.PeerID `json:"peer"`
	Channels int         `json:"channels"`
	Bytes    uint64      `json:"bytes"`             // that it sent
	Dropped  uint64      `json:"datagrams_dropped"` // of those it sent
}

// Status returns a snapshot.
func (n *Node) Status() Status {
	s := Status{
		PeerID:   n.PeerID(),
		Links:    n.links.status(),
		Peers:    []PeerStatus{},
		Grid:     n.grid.status(time.Now()),
		Relay:    n.relayStatus(),
		Counters: n.countersNow(),
	}
	if n.router != nil {
		s.Routing = n.router.seen.Load()
	}
	s.LAN = n.lanStatus()
	n.mu.Lock()
	home := n.home
	n.mu.Unlock()
	if home != nil {
		s.Rendezvous = rendezvousStatus(home.Status())
	}
	n.eachPeer(func(p *Peer) {
		if p.best() != nil {
			s.Peers = append(s.Peers, p.Status())
		}
	})
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return s
}

func rendezvousStatus(st rendezvous.Status) RendezvousStatus {
	s := RendezvousStatus{Address: st.Server.String(), Registered: st.Registered, RTT: st.RTT, ClockOffset: st.ClockOffset}
	if !st.Registered {
		s.RTT = 0
		if st.LastError != nil {
			s.Error = st.LastError.Error()
		}
	}
	return s
}

// stunServers returns the addresses that answer Bindings.
func (n *Node) stunServers() []netip.AddrPort {
	n.mu.Lock()
	clients := make([]*rendezvous.Client, 0, len(n.clients))
	for _, c := range n.clients {
		clients = append(clients, c)
	}
	n.mu.Unlock()
	var list []netip.AddrPort
	for _, c := range clients {
		for _, s := range c.Status().STUN {
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	return list
}

// pathStatus describes the path that sends.
func (a *association) pathStatus() PathStatus {
	s, _ := a.pathStatuses()
	return s
}

// pathStatuses describes all paths of a session, and the one that counts: the
// TLS client's choice. The other side shows the same kind of path, though
// never a direct one that it has not proven itself.
func (a *association) pathStatuses() (counts PathStatus, all []PathStatus) {
	a.paths.mu.Lock()
	why := a.paths.why
	a.paths.mu.Unlock()
	paths := a.session.Paths()
	var direct, relay, sending *ri2n.PathInfo
	for i := range paths {
		p := &paths[i]
		usable := p.State == ri2n.PathActive || p.State == ri2n.PathStandby
		switch {
		case p.Carrier:
			if relay == nil || p.Sending {
				relay = p
			}
		case p.Sending || usable && direct == nil:
			if p.State != ri2n.PathProbing {
				direct = p
			}
		}
		if p.Sending {
			sending = p
		}
	}
	reason := why
	chosen := relay
	if why == punch.Direct && direct != nil {
		chosen = direct
	} else if why == punch.Direct {
		reason = punch.Connecting
	}
	if chosen == nil {
		chosen = sending
	}
	if chosen != nil && !chosen.Carrier {
		reason = punch.Direct
	}
	for _, p := range paths {
		s := a.node.describe(p, reason)
		if chosen != nil && p.ID == chosen.ID {
			counts = s
		}
		all = append(all, s)
	}
	if chosen == nil {
		counts = PathStatus{Kind: KindRelay, State: ri2n.PathClosed.String(), Reason: string(punch.Connecting), Advice: punch.Connecting.Advice()}
	}
	return counts, all
}

// describe spells one path. A relay beside a direct path is the backup and
// needs no reason.
func (n *Node) describe(p ri2n.PathInfo, reason punch.Reason) PathStatus {
	s := PathStatus{
		Kind: KindDirect, Link: p.Link, Remote: p.Remote,
		State: p.State.String(), RTT: p.RTT, MTU: p.MTU,
		BytesSent: p.BytesSent, BytesReceived: p.BytesReceived, PacketsLost: p.PacketsLost,
	}
	if p.Carrier {
		s.Kind = KindRelay
		if id, member := relayOf(p.Link); member {
			s.Kind, s.Link, s.Relay = KindPeerRelay, KindPeerRelay, n.relayedBy(id)
		}
		s.Remote = netip.AddrPort{}
		s.Reason, s.Advice = string(reason), reason.Advice()
	}
	return s
}
