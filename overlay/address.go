package overlay

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An Addr is one end of a connection: a peer and a port. Its text form is
// PEERID:PORT. It implements [net.Addr].
type Addr struct {
	Peer ri2n.PeerID
	Port uint16
}

// Network returns "tcp": what a dialer of this package is asked for.
func (a Addr) Network() string { return "tcp" }

func (a Addr) String() string { return a.Peer.String() + ":" + strconv.Itoa(int(a.Port)) }

// ParseAddr decodes PEERID:PORT. The error is an [*AddressError].
func ParseAddr(s string) (Addr, error) {
	bad := func(problem string) (Addr, error) { return Addr{}, &AddressError{Text: s, Problem: problem} }
	who, where, found := strings.Cut(s, ":")
	if !found {
		return bad("it has no :PORT")
	}
	peer, err := ri2n.ParsePeerID(who)
	if err != nil {
		return bad("the part before the colon is not a peer ID of 52 letters and digits")
	}
	port, err := parsePort(where)
	if err != nil {
		return bad(err.Error())
	}
	return Addr{Peer: peer, Port: port}, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, errors.New("the port " + strconv.Quote(text) + " is not a number from 1 to 65535")
	}
	return uint16(port), nil
}

// parseListen decodes ":PORT"; port zero asks for a free one.
func parseListen(s string, self ri2n.PeerID) (uint16, error) {
	bad := func(problem string) (uint16, error) { return 0, &AddressError{Text: s, Problem: problem} }
	who, where, found := strings.Cut(s, ":")
	if !found {
		return bad("it has no :PORT")
	}
	if who != "" && who != self.String() {
		return bad("a node listens on its own ports only")
	}
	port, err := strconv.ParseUint(where, 10, 16)
	if err != nil {
		return bad("the port " + strconv.Quote(where) + " is not a number from 0 to 65535")
	}
	return uint16(port), nil
}

// checkNetwork accepts what programs written for TCP ask for.
func checkNetwork(network string) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return nil
	}
	return net.UnknownNetworkError(network)
}

// An AddressError is a text that is no address of this package.
type AddressError struct {
	Text    string
	Problem string
}

func (e *AddressError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the text.
func (e *AddressError) Object() string { return "address " + strconv.Quote(e.Text) }

// Cause says what is wrong with it.
func (e *AddressError) Cause() string { return e.Problem }

// Next says how it should be written.
func (e *AddressError) Next() string {
	return "write PEERID:PORT; grid id prints the peer ID of a computer"
}

// addrPortOf returns the transport address in a, unmapped from IPv6, or the
// zero AddrPort.
func addrPortOf(a net.Addr) netip.AddrPort {
	if u, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
