package resolver_test

import (
	"context"
	"log"
	"net"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/resolver"
)

// A DNS server for the names of the grid that passes other names on.
func ExampleServer() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/dns"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	pc, err := net.ListenPacket("udp", "127.0.0.1:5300")
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:5300")
	if err != nil {
		log.Fatal(err)
	}
	s := resolver.NewServer(resolver.Config{Grid: node, Upstream: []string{"192.0.2.53:53"}})
	log.Fatal(s.Serve(ctx, pc, ln))
}
