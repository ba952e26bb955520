package overlay_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// twoNodes starts a rendezvous on this computer and two nodes, the second of
// which accepts the first. In a grid they would be members, and named.
func twoNodes() (client, host *overlay.Node, stop func()) {
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	key := func(n byte) *ri2n.Identity {
		id, err := ri2n.IdentityFromSeed(append(make([]byte, 31), n))
		must(err)
		return id
	}
	socket := func() net.PacketConn {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		must(err)
		return pc
	}
	listen := socket()
	s, err := server.New(server.Config{Identity: key(1), Listen: []net.PacketConn{listen}, Mode: server.Open})
	must(err)
	address := rendezvous.Address{Host: "127.0.0.1", Port: uint16(listen.LocalAddr().(*net.UDPAddr).Port), Peer: key(1).PeerID()}
	start := func(n byte, allow ...ri2n.PeerID) *overlay.Node {
		node, err := overlay.Start(context.Background(), overlay.Config{
			Identity: key(n), Rendezvous: address.String(), Allow: allow,
			Links: []overlay.LinkConfig{{Conn: socket()}},
		})
		must(err)
		must(node.Ready(context.Background()))
		return node
	}
	client = start(2)
	host = start(3, client.PeerID())
	return client, host, func() {
		client.Close()
		host.Close()
		s.Close()
	}
}

// An HTTP server on a node, and a client whose transport dials by peer or name.
// Both speak HTTP/1.1 and HTTP/2: the sessions are encrypted, so that TLS above
// them is not needed.
func Example_http() {
	client, host, stop := twoNodes()
	defer stop()

	ln, err := host.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s", r.Proto)
	}), Protocols: new(http.Protocols)}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetUnencryptedHTTP2(true)
	go web.Serve(ln)
	defer web.Close()

	for _, http2 := range []bool{false, true} {
		transport := &http.Transport{DialContext: client.DialContext, Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!http2)
		transport.Protocols.SetUnencryptedHTTP2(http2)
		res, err := (&http.Client{Transport: transport}).Get("http://" + host.PeerID().String() + "/")
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		transport.CloseIdleConnections()
		fmt.Println(string(body), err)
	}
	// Output:
	// hello over HTTP/1.1 <nil>
	// hello over HTTP/2.0 <nil>
}

// A gRPC server on a node, and a client. PeerOf names the verified peer behind a
// connection.
func Example_grpc() {
	client, host, stop := twoNodes()
	defer stop()

	ln, err := host.Listen("tcp", ":50051")
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go s.Serve(ln)
	defer s.Stop()

	conn, err := grpc.NewClient("passthrough:///"+host.PeerID().String()+":50051",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the session below is encrypted
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return client.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), new(grpc_health_v1.HealthCheckRequest))
	fmt.Println(answer.GetStatus(), err)
	// Output:
	// SERVING <nil>
}

// Packets, as over UDP.
func ExampleNode_ListenPacket() {
	client, host, stop := twoNodes()
	defer stop()

	pc, err := host.ListenPacket("udp", ":9000")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		b := make([]byte, overlay.MaxPacketSize)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("you sent "), b[:n]...), from)
		}
	}()
	conn, err := client.DialContext(context.Background(), "udp", host.PeerID().String()+":9000")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "a packet")
	b := make([]byte, overlay.MaxPacketSize)
	n, err := conn.Read(b)
	fmt.Println(string(b[:n]), err)
	// Output:
	// you sent a packet <nil>
}
