package discovery_test

import (
	"fmt"
	"net/netip"

	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A node announces itself on this computer's networks and lists whom it hears.
func Example() {
	wire, err := discovery.System(func(string) bool { return false })
	if err != nil {
		fmt.Println(err)
		return
	}
	f := discovery.Start(discovery.Config{
		Self: discovery.Self{
			Grid: membership.GridID{1}, Peer: ri2n.PeerID{2}, Name: "alice",
			Port: func(netip.Addr) uint16 { return 41641 },
		},
		Wire: wire,
	})
	defer f.Close()
	f.SetState(discovery.Worker)
	<-f.Changed()
	for _, h := range f.Heard() {
		fmt.Println(h.Name, h.State, h.Addr)
	}
}
