package socks_test

import (
	"context"
	"log"
	"net"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/socks"
)

// A SOCKS5 proxy into the grid, as grid proxy runs it. With Outside left nil,
// members are all that it leads to.
func ExampleServer() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/proxy"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:1080") // who reaches it acts in the node's name
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(socks.NewServer(socks.Config{Grid: node}).Serve(ctx, ln))
}
