package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Two homes with two uplinks each, on the kernel's sockets and NATs: both
// uplinks are used, the stream outlives the cut of one, which comes back, and
// an uplink that its computer loses comes back as well.
func TestTwoUplinksInTheKernel(t *testing.T) {
	access := netsim.Link{Delay: 5 * time.Millisecond, Rate: 50e6}
	nat := netsim.NAT{Mapping: netsim.EndpointIndependent, Filtering: netsim.AddressAndPortDependent}
	sc := netsim.Scenario{Seed: 1, Hosts: []netsim.HostNode{{Name: "rendezvous"}}}
	names := [2][2]string{{"a1", "a2"}, {"b1", "b2"}}
	for _, home := range names {
		for _, name := range home {
			sc.NATs = append(sc.NATs, netsim.NATNode{Name: "nat-" + name, Uplink: access, NAT: nat})
			sc.Hosts = append(sc.Hosts, netsim.HostNode{Name: name, Parent: "nat-" + name})
		}
	}
	network, err := kernel.Start(sc)
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()

	public := network.Host("rendezvous")
	listen := func(port uint16) []net.PacketConn { return []net.PacketConn{listenPacket(t, public, port)} }
	s, err := server.New(server.Config{Identity: identity(t, serverIdentity), Listen: listen(3478), Alternate: listen(3479), Mode: server.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := rendezvous.Address{Host: public.Addr().String(), Port: 3478, Peer: identity(t, serverIdentity).PeerID()}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var nodes [2]*Node
	var sources [2]*fakeUplinks
	var uplinks [2][]Uplink
	for i, home := range names {
		for j, name := range home {
			uplinks[i] = append(uplinks[i], uplinkOf([]string{"eth0", "wlan0"}[j], network.Host(name)))
		}
		sources[i] = newFakeUplinks(uplinks[i]...)
		nodes[i], err = Start(ctx, Config{
			Identity: identity(t, i+1), Rendezvous: at.String(), Uplinks: sources[i].watch,
			Allow: []ri2n.PeerID{identity(t, 2-i).PeerID()},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer nodes[i].Close()
		if err := nodes[i].Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	a, b := nodes[0], nodes[1]
	x, c := sendFile(t, a, b, 40<<20) // 4 s over both
	defer c.Close()
	both := []string{"eth0", "wlan0"}
	waitLinks(t, a, 10*time.Second, both...)
	waitLinks(t, b, 10*time.Second, both...)
	x.await(4 << 20)

	// The line is cut somewhere, and mended.
	dead := access
	dead.Cut = true
	if err := network.SetUplink("nat-a2", dead); err != nil {
		t.Fatal(err)
	}
	waitLinks(t, a, 10*time.Second, "eth0")
	x.await(8 << 20)
	if err := network.SetUplink("nat-a2", access); err != nil {
		t.Fatal(err)
	}
	waitLinks(t, a, 20*time.Second, both...)

	// The computer loses the other uplink and finds it again.
	before := linkOf(a, "eth0")
	sources[0].set(uplinks[0][1])
	waitLinks(t, a, 10*time.Second, "wlan0")
	x.await(12 << 20)
	sources[0].set(uplinks[0]...)
	waitLinks(t, a, 10*time.Second, both...)
	if after := linkOf(a, "eth0"); after == before {
		t.Errorf("eth0 is still %v", after)
	}
	t.Logf("longest pause %v", x.finish())
}

// linkOf returns the transport address of a link of n.
func linkOf(n *Node, name string) netip.AddrPort {
	for _, l := range n.Status().Links {
		if l.Name == name {
			return l.Local
		}
	}
	return netip.AddrPort{}
}
