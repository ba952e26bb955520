package overlay_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
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

// The member nearest to a key is found, and a message goes there: P2P-DVM starts
// the process of a rank that way.
func ExampleNode_Route() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/instantgrid"}) // a member of a grid
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	const spawn = overlay.FirstService
	stop, err := node.Handle(spawn, func(m overlay.Message) { fmt.Printf("%s wants %q here\n", m.From, m.Payload) })
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	job, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	key := overlay.ProcessKey(job, 3) // of rank 3
	nearest, err := node.Closest(ctx, key, 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("rank 3 will be started by", nearest[0].Name)
	if err := node.Route(ctx, key, spawn, []byte("start rank 3")); err != nil {
		log.Fatal(err)
	}
}

// A process says where it is, and talks to another process of its job, wherever
// that is.
func ExampleMailbox() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/instantgrid"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	_, job, err := ed25519.GenerateKey(rand.Reader) // in practice, the job's
	if err != nil {
		log.Fatal(err)
	}
	mail, err := node.OpenMailbox(ctx, overlay.MailboxConfig{Owner: job, Rank: 0})
	if err != nil {
		log.Fatal(err)
	}
	defer mail.Close()
	object, err := node.Objects().Create(ctx, job, overlay.Object{Rank: 0})
	if err != nil {
		log.Fatal(err)
	}
	lost, release, err := node.Objects().Hold(ctx, object)
	if err != nil {
		log.Fatal(err)
	}
	defer release()
	go func() {
		now := <-lost
		log.Printf("rank 0 runs on %s now", now.Holder)
		mail.Close()
	}()
	if err := mail.Send(ctx, 1, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	m, err := mail.Receive(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("rank %d: %s\n", m.From, m.Payload)
}

// What becomes of the other members.
func ExampleNode_Watch() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/instantgrid"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	events, err := node.Watch(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for e := range events {
		if e.State == overlay.MemberSuspected {
			fmt.Println(e.Name, "may be dead; it has 30 s to show that it is not")
		}
	}
}
