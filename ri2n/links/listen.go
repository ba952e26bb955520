package links

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Listen opens a UDP socket whose packets leave through the interface of a,
// from its address; port zero means any. Where the system cannot bind a socket
// to an interface, or does not let this user, the address alone decides, and
// the routing table may send packets another way.
func Listen(ctx context.Context, a Address, port uint16) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { bindToInterface(fd, a.Interface) })
	}}
	network := "udp4"
	if a.Addr().Is6() {
		network = "udp6"
	}
	pc, err := lc.ListenPacket(ctx, network, netip.AddrPortFrom(a.Addr(), port).String())
	if err != nil {
		return nil, fmt.Errorf("links: open socket on %v: %w", a, err)
	}
	return pc, nil
}
