package portmap

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// ListenAnnouncements opens a socket that hears what routers tell everybody on
// the network of a local address: it is in the group 224.0.0.1 on port 5350,
// which others may use too.
func ListenAnnouncements(local netip.Addr) (net.PacketConn, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr().Unmap() == local
		}) {
			return net.ListenMulticastUDP("udp4", &i, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 1), Port: announcePort})
		}
	}
	return nil, fmt.Errorf("portmap: no interface has the address %v", local)
}
