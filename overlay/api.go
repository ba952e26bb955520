package overlay

// The public face as first agreed; bodies move to files of their own.

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

var errStub = errors.New("overlay: stub")

// Config configures a Node. The zero value is a node with a new identity that
// nobody can reach and that accepts nobody.
type Config struct {
	// Dir holds the node's state (key, allow list, remembered addresses),
	// 0700 with files 0600. Empty: nothing is stored and Identity or a fresh
	// key is used.
	Dir      string
	Identity *ri2n.Identity
	// Rendezvous is HOST:PORT#PEERID. Empty: from Dir, else none.
	Rendezvous string
	// Allow lists the peers that may connect to us, besides Dir's allow file
	// and holders of one-time tokens. Empty: nobody.
	Allow []ri2n.PeerID
	// Links are the sockets to use, one per local network attachment. Empty:
	// one UDP socket on ListenPort (zero: any) on all addresses... of the default route.
	Links      []LinkConfig
	ListenPort uint16
	// Resolve looks up the rendezvous's host name. Nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Path    PathPolicy
	Logger  *slog.Logger // nil: silent
}

type LinkConfig struct {
	Name string
	Conn net.PacketConn
	// OwnPrefixes are the prefixes of this attachment (punch's address filter).
	OwnPrefixes []netip.Prefix
}

// PathPolicy restricts which paths are used.
type PathPolicy int

const (
	PathAny PathPolicy = iota
	PathRelayOnly
	PathDirectOnly
)

type Node struct{}

// Start starts a node. It returns once the sockets are open; registration at
// the rendezvous goes on in the background (see Node.Ready).
func Start(ctx context.Context, cfg Config) (*Node, error) { return nil, errStub }

func (n *Node) PeerID() ri2n.PeerID { return ri2n.PeerID{} }

// Ready waits until the node is registered at its rendezvous and knows its
// outside addresses.
func (n *Node) Ready(ctx context.Context) error { return errStub }

// DialContext connects to "PEERID:PORT" (network "tcp"). It returns at once
// when a session exists, else after one relay round trip; a refusal by the
// port's owner arrives from the first Read or Write as ECONNREFUSED.
func (n *Node) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, errStub
}

// Listen takes connections to one port: address ":7000".
func (n *Node) Listen(network, address string) (net.Listener, error) { return nil, errStub }

// Session returns the state of the session with peer, opening it if there is none.
func (n *Node) Connect(ctx context.Context, peer ri2n.PeerID) (*Peer, error) { return nil, errStub }

// Allow admits peer from now on (and stores it when the node has a Dir).
func (n *Node) Allow(peer ri2n.PeerID) error { return errStub }

// Invite makes a one-time token (security.md, section 1, rule 10) valid for ttl:
// its text, and a handle that tells who used it.
func (n *Node) Invite(ctx context.Context, ttl time.Duration) (*Invitation, error) {
	return nil, errStub
}

type Invitation struct{ Token string }

func (i *Invitation) Wait(ctx context.Context) (ri2n.PeerID, error) { return ri2n.PeerID{}, errStub }
func (i *Invitation) Close() error                                  { return nil }

// Redeem uses a one-time token: it shows kAdmit at the token's rendezvous,
// connects to its maker and proves kPeer on the first stream.
func (n *Node) Redeem(ctx context.Context, token string) (*Peer, error) { return nil, errStub }

// A Peer is a node that we have a session with.
type Peer struct{}

func (p *Peer) ID() ri2n.PeerID                                         { return ri2n.PeerID{} }
func (p *Peer) Dial(ctx context.Context, port uint16) (net.Conn, error) { return nil, errStub }

// Ping measures one round trip of the session on the path that sends now.
func (p *Peer) Ping(ctx context.Context) (time.Duration, PathStatus, error) {
	return 0, PathStatus{}, errStub
}

// WaitDirect returns when the session sends on a direct path, or with the
// reason (a *NotDirectError) when that will not happen soon.
func (p *Peer) WaitDirect(ctx context.Context) (PathStatus, error) { return PathStatus{}, errStub }
func (p *Peer) Status() PeerStatus                                 { return PeerStatus{} }

// PeerOf returns the verified peer behind a connection of this package.
func PeerOf(c net.Conn) (ri2n.PeerID, bool) { return ri2n.PeerID{}, false }

// Status is a snapshot; it encodes as JSON as it is.
type Status struct {
	PeerID     ri2n.PeerID      `json:"peer_id"`
	Rendezvous RendezvousStatus `json:"rendezvous"`
	Links      []LinkStatus     `json:"links"`
	Peers      []PeerStatus     `json:"peers"`
}

type RendezvousStatus struct {
	Address    string        `json:"address,omitempty"`
	Registered bool          `json:"registered"`
	RTT        time.Duration `json:"rtt_ns,omitempty"`
	Error      string        `json:"error,omitempty"`
}

type LinkStatus struct {
	Name     string         `json:"name"`
	Local    netip.AddrPort `json:"local"`
	Outside  netip.AddrPort `json:"outside,omitzero"`
	Behavior string         `json:"behavior,omitempty"`
}

type PeerStatus struct {
	ID            ri2n.PeerID  `json:"id"`
	Since         time.Time    `json:"since"`
	Path          PathStatus   `json:"path"` // the one that sends
	Paths         []PathStatus `json:"paths"`
	BytesSent     uint64       `json:"bytes_sent"`
	BytesReceived uint64       `json:"bytes_received"`
}

// PathStatus describes a path. Kind is "direct", "relay" or "peer-relay"; what is not
// direct has a Reason from punch's closed list, with Advice.
type PathStatus struct {
	Kind   string         `json:"kind"`
	Link   string         `json:"link"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	State  string         `json:"state"`
	RTT    time.Duration  `json:"rtt_ns"`
	MTU    int            `json:"mtu"`
	Reason string         `json:"reason,omitempty"`
	Advice string         `json:"advice,omitempty"`
}

func (n *Node) Status() Status { return Status{} }

// Events delivers what happens (peer connected, path changed, rendezvous lost
// ...) until ctx ends; the channel is bounded and drops the oldest.
func (n *Node) Events(ctx context.Context) <-chan Event { return nil }

type Event struct {
	Time   time.Time   `json:"time"`
	Kind   string      `json:"kind"` // "rendezvous-up", "rendezvous-down", "peer-up", "peer-down", "path", ...
	Peer   ri2n.PeerID `json:"peer,omitzero"`
	Path   *PathStatus `json:"path,omitempty"`
	Detail string      `json:"detail,omitempty"`
}

func (n *Node) Close() error { return nil }
