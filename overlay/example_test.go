package overlay_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
)

// A node that serves one port to the peers on the allow list in its directory.
func ExampleNode_Listen() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{
		Dir:        "/var/lib/echo",
		Rendezvous: "rendezvous.example.net:3478#u6yz2vf7mi7i2e4zhlg6wx3y54m7srtdp4rp4k2cv5pk27jzprva",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	ln, err := node.Listen("tcp", ":7000")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// A dial begins on the relay; the connection moves to a direct path by itself.
func ExampleNode_DialContext() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/instantgrid"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	if err := node.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	conn, err := node.DialContext(ctx, "tcp", "d5ap4ctczsvfinobcdl6l4mbrmzukeg2xgjva4cbllyb4u4c7vna:7000")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	for _, peer := range node.Status().Peers {
		fmt.Println(peer.Path.Kind, peer.Path.Reason)
	}
}

// The zero Config is a node that nobody can reach and that accepts nobody.
func ExampleStart() {
	node, err := overlay.Start(context.Background(), overlay.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	_, err = node.DialContext(context.Background(), "tcp", "d5ap4ctczsvfinobcdl6l4mbrmzukeg2xgjva4cbllyb4u4c7vna:7000")
	var op *net.OpError
	fmt.Printf("%T\n", err)
	if e, ok := err.(*net.OpError); ok {
		op = e
		fmt.Println(op.Err.(overlay.Explained).Cause())
	}
	// Output:
	// *net.OpError
	// no rendezvous is configured, and no address of the peer is known
}
