package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// TestMPIOverTheOverlay holds the overlay's sockets to the rules of MPI: six
// nodes, one rank on each.
func TestMPIOverTheOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("opens real sockets")
	}
	t.Parallel()
	const nodes = 6
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	identity := func() *ri2n.Identity {
		id, err := ri2n.NewIdentity(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	own, public := identity(), listen()
	port := public.LocalAddr().(*net.UDPAddr).Port
	s, err := server.New(server.Config{Identity: own, Listen: []net.PacketConn{public}, Mode: server.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	address := rendezvous.Address{Host: "127.0.0.1", Port: uint16(port), Peer: own.PeerID()}.String()
	ids := make([]*ri2n.Identity, nodes)
	allow := make([]ri2n.PeerID, nodes)
	for i := range ids {
		ids[i] = identity()
		allow[i] = ids[i].PeerID()
	}
	all := make([]*overlay.Node, nodes)
	for i := range all {
		n, err := overlay.Start(ctx, overlay.Config{Identity: ids[i], Rendezvous: address, Allow: allow, Links: []overlay.LinkConfig{{Name: "lo", Conn: listen()}}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		if err := n.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		all[i] = n
	}
	next := 7100
	mpitest.Conform(t, func(t testing.TB, n int) []mpi.Endpoint {
		next++
		port := next
		return mpitest.Mesh(t, n, func(rank int) net.Listener {
			ln, err := all[rank].Listen("tcp", fmt.Sprint(":", port))
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}, func(ctx context.Context, from, to int) (net.Conn, error) {
			return all[from].DialContext(ctx, "tcp", fmt.Sprintf("%v:%d", allow[to], port))
		})
	})
}
