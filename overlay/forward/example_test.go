package forward_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/forward"
)

// A local port that leads to a member's web server, as grid forward does.
func ExampleStreams() {
	ctx := context.Background()
	node, err := overlay.Start(ctx, overlay.Config{Dir: "/home/anna/.local/state/web"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	f := forward.Streams{Listener: ln, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return node.DialAccepted(ctx, "tcp", "bob.lab.grid:80")
	}}
	log.Fatal(f.Serve(ctx))
}

// Join passes the end of one direction on, and the other goes on.
func ExampleJoin() {
	client, a := net.Pipe()
	b, server := net.Pipe()
	go forward.Join(a, b)
	go func() {
		fmt.Fprint(client, "hello")
		client.Close()
	}()
	text, err := io.ReadAll(server)
	fmt.Println(string(text), err)
	// Output:
	// hello <nil>
}
