package overlay

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/relay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// RelayConfig says what a node relays for other members of its grid. A node
// whose membership lacks the role relay relays nothing, whatever it says.
type RelayConfig struct {
	// Mode says for whom. Zero: for members.
	Mode RelayMode

	// Rate is how many bytes a second are relayed in all. While more are
	// offered, senders get equal shares. Zero: no limit.
	Rate int64

	// PeerRate is how many bytes a second are relayed for one sender. Zero: no
	// limit.
	PeerRate int64

	// DailyQuota is how many bytes are relayed for one sender within 24 h.
	// Zero: no limit.
	DailyQuota int64

	// Channels is how many channels there are in all, and ChannelsPerPeer how
	// many one member opens. Zero: 4096, and 64.
	Channels, ChannelsPerPeer int
}

// A RelayMode says for whom a node relays.
type RelayMode int

const (
	RelayMembers RelayMode = iota // for members, if the role says so
	RelayOff
)

// String returns "members" or "off".
func (m RelayMode) String() string {
	if m == RelayOff {
		return "off"
	}
	return "members"
}

// maxRelayed is how many members use one relay at a time, and maxRelayChannels
// how many channels they have.
const (
	maxRelayed       = 1024
	maxRelayChannels = 4096
)

// Directions of a relayed datagram: its first byte after the kind
// (docs/overlay-protocol.md, section 8).
const (
	toRelay   = 0
	fromRelay = 1

	relayHeaderLen = 2 // kind and direction
)

// A relayHost relays for other members. It exists on every node, and serves
// while the node has the role.
type relayHost struct {
	node  *Node
	relay *relay.Relay
}

func newRelayHost(n *Node) *relayHost {
	c := n.cfg.Relay
	if c.Channels <= 0 {
		c.Channels = maxRelayChannels
	}
	return &relayHost{node: n, relay: relay.New(relay.Config{
		Mode: relay.Chosen,
		Limits: relay.Limits{
			Registrations: maxRelayed, RegistrationsPerPrefix: maxRelayed,
			Channels: c.Channels, ChannelsPerPeer: c.ChannelsPerPeer,
			TotalRate: c.Rate, RelayRate: c.PeerRate, RelayQuota: c.DailyQuota,
		},
		Header: []byte{byte(datagramRelay), fromRelay},
		Logger: n.cfg.Logger,
	})}
}

// serves reports whether the node relays at now, and if not, why.
func (h *relayHost) serves() bool {
	if h.node.cfg.Relay.Mode == RelayOff {
		return false
	}
	h.node.grid.mu.Lock()
	defer h.node.grid.mu.Unlock()
	me := h.node.grid.me
	return me != nil && me.Roles.Has(membership.Relay)
}

// serve is the handler of the service relay: a member registers with us.
func (h *relayHost) serve(ctx context.Context, a *association, st *ri2n.Stream) {
	n := h.node
	switch {
	case !h.serves() || n.grid.memberOf(time.Now(), a.peer.id) == nil:
		n.counters.relaysRefused.Add(1)
		st.Reset(resetRefused)
		return
	case !a.peer.beginLeg():
		// It reaches us through another relay: no relay relays through one.
		n.counters.relaysNested.Add(1)
		st.Reset(resetBusy)
		return
	}
	defer a.peer.endLeg()
	s := &relayedSession{a: a, control: st, done: make(chan struct{})}
	end := context.AfterFunc(ctx, func() { s.CloseWithError(0, "") })
	defer end()
	h.relay.Serve(ctx, s)
}

// relayedBy names a relay.
func (n *Node) relayedBy(id ri2n.PeerID) *RelayedBy {
	r := &RelayedBy{Peer: id}
	if m := n.grid.memberOf(time.Now(), id); m != nil {
		r.Name = m.Name
	}
	return r
}

// relayStatus returns what is relayed, nil without a grid.
func (n *Node) relayStatus() *RelayStatus {
	if !n.grid.member() {
		return nil
	}
	v := n.relayHost.relay.Snapshot()
	s := &RelayStatus{Serves: n.relayHost.serves(), Members: v.Registered, Channels: v.Channels, Bytes: v.RelayedBytes, With: []RelayedBy{}}
	for _, d := range v.DatagramsDropped {
		s.Dropped += d
	}
	for _, u := range n.relayHost.relay.Peers() {
		s.Peers = append(s.Peers, RelayedFor{Peer: u.Peer, Channels: u.Channels, Bytes: u.Bytes, Dropped: u.Dropped})
	}
	for _, l := range n.legs.ready() {
		s.With = append(s.With, *n.relayedBy(l.relay.id))
	}
	return s
}

// takeRelayed takes a datagram that we are to relay, or that was relayed to us.
func (n *Node) takeRelayed(a *association, b []byte) {
	var deliver *func([]byte)
	if len(b) > 0 && b[0] == toRelay {
		deliver = a.relayed.Load()
	} else if len(b) > 0 && b[0] == fromRelay {
		deliver = a.relaying.Load()
	}
	if deliver == nil {
		n.counters.datagramsRefused.Add(1)
		return
	}
	(*deliver)(b[1:])
}

// A relayedSession is the part of an association that a member's registration
// with us uses: one stream, and the datagrams of one direction.
type relayedSession struct {
	a       *association
	control *ri2n.Stream
	done    chan struct{}
	once    sync.Once
}

var _ relay.Session = (*relayedSession)(nil)

func (s *relayedSession) Peer() ri2n.PeerID { return s.a.peer.id }

func (s *relayedSession) Remote() netip.AddrPort { return relay.OverRI2N(s.a.session).Remote() }

func (s *relayedSession) AcceptControl(context.Context) (net.Conn, error) { return s.control, nil }

// flowOfRelay keeps what we relay to a member apart from our own datagrams to
// it.
const flowOfRelay = 1 << 62

func (s *relayedSession) SendDatagram(flow uint64, b []byte) error {
	return s.a.session.SendDatagram(flow|flowOfRelay, b)
}

func (s *relayedSession) Datagrams(ctx context.Context, deliver func([]byte)) {
	receiveFrom(ctx, &s.a.relayed, s.done, deliver)
}

func (s *relayedSession) MaxDatagramSize() int  { return s.a.session.MaxDatagramSize() - relayHeaderLen }
func (s *relayedSession) Done() <-chan struct{} { return s.done }

// CloseWithError ends the registration, not the session.
func (s *relayedSession) CloseWithError(uint64, string) error {
	s.once.Do(func() {
		s.control.Close() // what was written still arrives
		close(s.done)
	})
	return nil
}

// receiveFrom has slot deliver to a registration until that ends. A newer one
// of the same session may have taken its place by then.
func receiveFrom(ctx context.Context, slot *atomic.Pointer[func([]byte)], done <-chan struct{}, deliver func([]byte)) {
	slot.Store(&deliver)
	select {
	case <-ctx.Done():
	case <-done:
	}
	slot.CompareAndSwap(&deliver, nil)
}
