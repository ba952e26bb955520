package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Node]. The zero value is a node with a new identity
// that nobody can reach and that accepts nobody.
type Config struct {
	// Dir holds the node's state (key, allow list, remembered addresses,
	// open invitations), 0700 with files 0600. It is made if it does not
	// exist. Empty: nothing is stored.
	Dir string

	// Identity is the node's key. Nil: the key in Dir, made at the first
	// start, or a fresh one where Dir is empty.
	Identity *ri2n.Identity

	// Rendezvous is HOST:PORT#PEERID. Empty: the first line of the file
	// rendezvous in Dir, else none.
	Rendezvous string

	// Allow lists the peers that may connect to us, besides those in Dir's
	// allow file and holders of one-time tokens. Empty: nobody.
	Allow []ri2n.PeerID

	// Policy is a file that says which members of the node's grid may connect
	// to which ports (docs/membership.md). It is read again when it changes.
	// Empty: policy.yaml in Dir. Without a file every port is closed to
	// members.
	Policy string

	// Links are the sockets to use, one for each local network attachment.
	// The node owns them from Start on, also when Start fails. Empty: those of
	// Uplinks.
	Links []LinkConfig

	// Uplinks reports attachments that come and go; the node has a socket on
	// each of the first four, besides Links. Nil, where Links is empty too:
	// this computer's, one for each interface with an IPv4 address, if it has
	// more than one when the node starts; otherwise one UDP socket on all IPv4
	// addresses, which goes where the routing table says and outlives changes
	// of the address. Tunnels and container networks do not count, and where
	// the way to the rendezvous leads through a tunnel or ends on this
	// computer, it is the one socket.
	Uplinks Uplinks

	// ListenPort is the UDP port of the sockets that the node opens on its
	// own. Zero: any.
	ListenPort uint16

	// Resolve looks up the rendezvous's host name. Nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// NoDiscovery keeps the node silent on local networks. Otherwise a member of
	// a grid announces itself there by multicast DNS, and hears others (package
	// discovery). A node without a grid never does, nor one whose Path is
	// PathRelayOnly, which hides its address.
	NoDiscovery bool

	// LAN opens multicast DNS. Nil: that of this computer's interfaces, where the
	// node opens its own sockets; otherwise none.
	LAN func() (discovery.Wire, error)

	// NoPortMapping keeps the node from asking routers for a port. Otherwise a node
	// behind a NAT asks its default router by PCP, NAT-PMP and UPnP-IGD to send
	// one outside port of each link on to it (package portmap); a node whose Path
	// is PathRelayOnly never does.
	NoPortMapping bool

	// Path restricts which paths are used. Zero: any.
	Path PathPolicy

	// Routing bounds the node's part in key-based routing, in which every
	// member of a grid takes part.
	Routing RoutingConfig

	// Relay says what the node relays for other members of its grid, if its
	// membership has the role relay. Zero: what is asked for.
	Relay RelayConfig
	// WaitAccept makes dials return when the peer has taken the connection, one
	// round trip later, so that a refusal is their error and not that of the
	// first Read or Write. False: they return at once. See [Node.DialAccepted].
	WaitAccept bool

	// Trace is asked for a tracer of each session, as ri2n.Config.Trace. Nil:
	// nothing is traced.
	Trace func(*ri2n.Session) ri2n.Tracer

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger

	// onRelayed takes channels toward us through members, for tests. Nil: the
	// node does.
	onRelayed func(via ri2n.PeerID, ch *rendezvous.Channel)
}

// A LinkConfig is one local network attachment.
type LinkConfig struct {
	// Name appears in status and errors. Empty: link1 and so on.
	Name string

	// Conn is the attachment's UDP socket.
	Conn net.PacketConn

	// Gateway returns the attachment's default router, which is asked for a port
	// if there is a NAT, and the attachment's address toward it. Nil: the system's
	// where Conn is a *net.UDPConn, otherwise none is asked.
	Gateway func() (gateway, from netip.Addr)

	// DialGateway opens a TCP connection to the router. Nil: the system's.
	DialGateway func(ctx context.Context, network, address string) (net.Conn, error)

	// OwnPrefixes are the prefixes of this attachment, in which private
	// addresses of peers are tried. Nil: those of this computer's interfaces
	// where Conn is a *net.UDPConn, otherwise none.
	OwnPrefixes []netip.Prefix

	// Listen opens another UDP socket on the attachment, on any port, which the
	// node owns: some NATs are only overcome with several. Nil: on the address of
	// Conn where that is a *net.UDPConn, otherwise none.
	Listen func() (net.PacketConn, error)
}

// A PathPolicy restricts which paths are used. The stricter one of both sides
// of a session holds.
type PathPolicy int

const (
	// PathAny begins on the relay and moves to a direct path.
	PathAny PathPolicy = iota
	// PathRelayOnly never sends to a peer directly, which hides our address
	// from it.
	PathRelayOnly
	// PathDirectOnly uses the relay to find a direct path, and for nothing
	// else: streams wait for the path, and end with it.
	PathDirectOnly
)

// String returns "any", "relay-only" or "direct-only".
func (p PathPolicy) String() string {
	switch p {
	case PathRelayOnly:
		return "relay-only"
	case PathDirectOnly:
		return "direct-only"
	}
	return "any"
}

// defaultLinks opens the one socket of a node that was given none.
func defaultLinks(port uint16) ([]LinkConfig, error) {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, &LinkError{Name: "UDP port " + strconv.Itoa(int(port)), Err: err}
	}
	return []LinkConfig{{Name: "udp", Conn: pc}}, nil
}

// A LinkError is a local socket that cannot be used.
type LinkError struct {
	Name string
	Err  error
}

func (e *LinkError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *LinkError) Unwrap() error { return e.Err }

// Object names the port or link.
func (e *LinkError) Object() string { return e.Name }

// Cause says why it cannot be used.
func (e *LinkError) Cause() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "another program has it"
	case errors.Is(e.Err, os.ErrPermission):
		return "this user may not use it"
	}
	return fmt.Sprint(e.Err)
}

// Next says what to do about it.
func (e *LinkError) Next() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "find that program (ss -ulpn), or choose another port"
	case errors.Is(e.Err, os.ErrPermission):
		return "choose a port above 1023"
	}
	return "check this computer's network: grid netcheck"
}
