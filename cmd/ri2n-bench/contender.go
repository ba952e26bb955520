package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A contender is one transport that can be measured. Those that prove a key
// have both ends prove an Ed25519 key, so that they pay for the same handshake.
type contender struct {
	name    string
	about   string
	network string // "tcp" or "udp": what its port is taken from
	proves  bool   // its dialer refuses a server with another key
	// listen takes one address, or several on different links, separated by
	// commas. Whoever cannot use several links takes the first.
	listen func(ctx context.Context, address string, key identity) (listener, error)
	dialer func(ctx context.Context, to target, key identity) (dialer, error)
}

// contenders are measured in this order. ri2n comes first, as the ratios are
// those of the first to each of the others.
var contenders = append([]contender{
	{"ri2n", "this project's transport with its default congestion control, BBR", "udp", true, ri2nKind{}.listen, ri2nKind{}.dialer},
	{"ri2n-cubic", "the same with CUBIC in place of BBR", "udp", true, withCUBIC.listen, withCUBIC.dialer},
	{"ri2n-redundant", "the same as ri2n with all data on two paths", "udp", true, onTwoPaths.listen, onTwoPaths.dialer},
	{"tls", "TLS 1.3 over kernel TCP", "tcp", true, listenTLS, newTLSDialer},
	{"quic", "quic-go", "udp", true, listenQUIC, newQUICDialer},
	{"kcp", "kcp-go with AES-GCM and smux", "udp", false, listenKCP, newKCPDialer},
	{"tcp", "kernel TCP as the system sets it up, usually CUBIC, not encrypted", "tcp", false, tcpKind{}.listen, tcpKind{}.dialer},
	{"tcp-bbr", "kernel TCP with BBR, not encrypted", "tcp", false, tcpKind{congestion: "bbr"}.listen, tcpKind{congestion: "bbr"}.dialer},
	{"tcp-cubic", "kernel TCP with CUBIC, not encrypted", "tcp", false, tcpKind{congestion: "cubic"}.listen, tcpKind{congestion: "cubic"}.dialer},
	{"mptcp", "kernel Multipath TCP, not encrypted", "tcp", false, tcpKind{multipath: true}.listen, tcpKind{multipath: true}.dialer},
}, rawContenders()...)

var (
	withCUBIC  = ri2nKind{congestion: ri2n.CongestionCUBIC}
	onTwoPaths = ri2nKind{policy: ri2n.PolicyRedundant(2)}
)

// defaultContenders are those of local, server and client.
const defaultContenders = "ri2n,tls"

// A conn is one reliable stream of a contender.
type conn interface {
	net.Conn
	CloseWrite() error
}

// A listener accepts connections until it is closed.
type listener interface {
	Addr() net.Addr
	Accept(ctx context.Context) (conn, error)
	Close() error
}

// A dialer opens connections to one target, each with a handshake of its own.
type dialer interface {
	Dial(ctx context.Context) (conn, error)
	Close() error
}

// contendersNamed resolves a comma-separated list.
func contendersNamed(list string) ([]contender, error) {
	var chosen []contender
	for name := range strings.SplitSeq(list, ",") {
		c, ok := contenderNamed(strings.TrimSpace(name))
		if !ok {
			return nil, cli.Usagef("--contenders "+list, "ri2n-bench compare --contenders "+defaultContenders,
				"there is no contender %q; there are %s", name, contenderNames())
		}
		chosen = append(chosen, c)
	}
	return chosen, nil
}

func contenderNamed(name string) (contender, bool) {
	for _, c := range contenders {
		if c.name == name {
			return c, true
		}
	}
	return contender{}, false
}

func contenderNames() string {
	names := make([]string, len(contenders))
	for i, c := range contenders {
		names[i] = c.name
	}
	return strings.Join(names, ",")
}

// firstAddress returns the first of addresses separated by commas.
func firstAddress(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return first
}

// A target is where a server listens and the key that it proves, written
// HOST:PORT#PEERID, or HOST:PORT,HOST:PORT#PEERID where several links lead to
// it.
type target struct {
	address string
	peer    ri2n.PeerID
}

func (t target) String() string { return t.address + "#" + t.peer.String() }

func parseTarget(s string) (target, error) {
	address, id, ok := strings.Cut(s, "#")
	if !ok {
		return target{}, cli.Usagef(s, "ri2n-bench client HOST:PORT#PEERID, as ri2n-bench server prints it", "there is no #PEERID at its end")
	}
	for at := range strings.SplitSeq(address, ",") {
		if _, _, err := net.SplitHostPort(at); err != nil {
			return target{}, cli.Usagef(s, "ri2n-bench client HOST:PORT#PEERID, as ri2n-bench server prints it", "%v", err)
		}
	}
	peer, err := ri2n.ParsePeerID(id)
	if err != nil {
		return target{}, cli.Usagef(s, "ri2n-bench client HOST:PORT#PEERID, as ri2n-bench server prints it", "%v", err)
	}
	return target{address, peer}, nil
}

// wrongPeerError reports that somebody else than the expected server answered.
type wrongPeerError struct{ want, got ri2n.PeerID }

func (e *wrongPeerError) Error() string {
	return fmt.Sprintf("peer ID is %v, want %v", e.got, e.want)
}
