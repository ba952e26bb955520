package portmap_test

import (
	"fmt"
	"log"
	"net"
	"net/netip"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/punch/portmap"
)

// A socket on all addresses has a port of the default router's sent on to it
// until Close.
func Example() {
	pc, err := net.ListenUDP("udp4", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	changed := make(chan struct{}, 1)
	c, err := portmap.Start(portmap.Config{
		Route: func() (gateway netip.Addr, local netip.AddrPort) {
			gateway, from := punch.Router(netip.IPv4Unspecified())
			return gateway, netip.AddrPortFrom(from, port)
		},
		Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	<-changed
	fmt.Println("others reach the socket at", c.Outside())
}
