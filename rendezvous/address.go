package rendezvous

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/instantgrid/instantgrid/ri2n"
)

// DefaultPort is the UDP port of sessions and of STUN (RFC 8489, section 18.6).
const DefaultPort = 3478

// An Address says where a rendezvous is and who it must prove to be. Its text
// form is HOST:PORT#PEERID, as the server prints it at start. The zero value
// names no server.
type Address struct {
	Host string // a DNS name or an IP address, the latter without brackets
	Port uint16
	Peer ri2n.PeerID
}

// ParseAddress decodes HOST:PORT#PEERID. The error is an [*AddressError].
func ParseAddress(s string) (Address, error) {
	bad := func(problem string) (Address, error) {
		return Address{}, &AddressError{Text: s, Problem: problem}
	}
	where, who, found := strings.Cut(strings.TrimSpace(s), "#")
	if !found {
		return bad("it has no # with the server's peer ID after the port")
	}
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		return bad("the part before # is not HOST:PORT")
	}
	if problem := hostProblem(host); problem != "" {
		return bad(problem)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return bad("the port " + strconv.Quote(port) + " is not a number from 1 to 65535")
	}
	peer, err := ri2n.ParsePeerID(who)
	if err != nil {
		return bad("the part after # is not a peer ID of 52 letters and digits")
	}
	return Address{Host: host, Port: uint16(number), Peer: peer}, nil
}

// maxHost is the longest DNS name (RFC 1035, section 2.3.4), in bytes.
const maxHost = 253

// hostProblem says what is wrong with a host, or nothing. Letters, digits,
// hyphens, underscores and dots are let through as names.
func hostProblem(host string) string {
	if host == "" {
		return "the host is missing"
	}
	if len(host) > maxHost {
		return "the host is longer than 253 characters"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "the host has a zone, which means something on one computer only"
		}
		return ""
	}
	for _, c := range []byte(host) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "the host " + strconv.Quote(host) + " is neither a name nor an IP address"
		}
	}
	return ""
}

// IsZero reports whether a names no server.
func (a Address) IsZero() bool { return a == Address{} }

// HostPort returns HOST:PORT, with brackets where an IPv6 address needs them.
func (a Address) HostPort() string {
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// String returns HOST:PORT#PEERID, and nothing for the zero value.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return a.HostPort() + "#" + a.Peer.String()
}

// MarshalText implements [encoding.TextMarshaler].
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. Empty text is the zero
// Address.
func (a *Address) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*a = Address{}
		return nil
	}
	parsed, err := ParseAddress(string(b))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

// Set and Type make an Address a command-line flag.
func (a *Address) Set(s string) error { return a.UnmarshalText([]byte(s)) }

// Type names the flag's value in help texts.
func (a *Address) Type() string { return "HOST:PORT#PEERID" }
