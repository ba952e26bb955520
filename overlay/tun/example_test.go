package tun_test

import (
	"context"
	"fmt"
	"log"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/tun"
)

// A network interface with the node's addresses in its grid, as grid up --tun
// makes it. It takes root, and vanishes with the process.
func ExampleStart() {
	node, err := overlay.Start(context.Background(), overlay.Config{Dir: "/var/lib/instantgrid"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	iface, err := tun.Start(tun.Config{Node: node})
	if err != nil {
		log.Fatal(err)
	}
	defer iface.Close()
	s := iface.Status()
	fmt.Println(s.Device, s.Address, s.Address6)
}
