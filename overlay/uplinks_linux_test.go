package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

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

// childPlan is the environment variable that makes this test's binary the
// computer of TestThisComputersUplinks: rendezvous, then peer.
const childPlan = "INSTANTGRID_TEST_UPLINKS"

// TestUplinksChild is a node with nothing configured but the rendezvous. It
// writes a stream until its standard input ends.
func TestUplinksChild(t *testing.T) {
	plan := strings.Fields(os.Getenv(childPlan))
	if len(plan) != 2 {
		t.Skip("runs as a child of TestThisComputersUplinks")
	}
	peer, err := ri2n.ParsePeerID(plan[1])
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), Config{Identity: identity(t, 1), Rendezvous: plan[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	c := dial(t, n, peer, 7000)
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	for chunk := pattern(0); ; chunk = pattern(chunk[len(chunk)-1] + 1) {
		select {
		case <-stop:
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c)
			return
		default:
		}
		if _, err := c.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
}

// pattern returns 64 KiB of bytes that count from first on.
func pattern(first byte) []byte {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// A computer with two interfaces uses both without being told to, goes on when
// one is set down, and uses it again when it is up.
func TestThisComputersUplinks(t *testing.T) {
	slow := netsim.Link{Delay: 5 * time.Millisecond, Rate: 30e6}
	pair, err := kernel.StartPair(1, slow, slow)
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listen := func(i int, port uint16) (pc net.PacketConn) {
		t.Helper()
		err := pair.Host(1).Do(func() (err error) {
			pc, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(pair.Addr(1, i), port)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return pc
	}
	s, err := server.New(server.Config{Identity: identity(t, serverIdentity), Listen: []net.PacketConn{listen(0, 3478)}, Mode: server.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := rendezvous.Address{Host: pair.Addr(1, 0).String(), Port: 3478, Peer: identity(t, serverIdentity).PeerID()}.String()
	cfg := Config{Identity: identity(t, 2), Rendezvous: at, Allow: []ri2n.PeerID{identity(t, 1).PeerID()}}
	for i := range 2 {
		prefix, _ := pair.Addr(0, i).Prefix(24)
		cfg.Links = append(cfg.Links, LinkConfig{Name: kernel.PairDevice(i), Conn: listen(i, 0), OwnPrefixes: []netip.Prefix{prefix}})
	}
	b, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	ln, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	wrong := make(chan error, 1)
	var received atomic.Int64
	go func() {
		c, err := ln.Accept()
		if err != nil {
			wrong <- err
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for next := byte(0); ; {
			n, err := c.Read(buf)
			for _, x := range buf[:n] {
				if x != next {
					wrong <- fmt.Errorf("%d came where %d was sent", x, next)
					return
				}
				next++
			}
			received.Add(int64(n))
			if err != nil {
				if err == io.EOF {
					err = nil
				}
				wrong <- err
				return
			}
		}
	}()

	// The pair's addresses are those of point-to-point devices; make them ones
	// of networks, in which private addresses are tried.
	err = pair.Host(0).Do(func() error {
		for i := range 2 {
			l, err := netlink.LinkByName(kernel.PairDevice(i))
			if err != nil {
				return err
			}
			old, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, a := range old {
				if err := netlink.AddrDel(l, &a); err != nil {
					return err
				}
			}
			fresh := &netlink.Addr{IPNet: &net.IPNet{IP: pair.Addr(0, i).AsSlice(), Mask: net.CIDRMask(24, 32)}}
			if err := netlink.AddrAdd(l, fresh); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	child := pair.Host(0).Command(ctx, os.Args[0], "-test.run=^TestUplinksChild$", "-test.v")
	child.Env = append(os.Environ(), childPlan+"="+at+" "+b.PeerID().String())
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("child: %s", &said)
		}
	}()
	set := func(change func(netlink.Link) error) {
		t.Helper()
		err := pair.Host(0).Do(func() error {
			l, err := netlink.LinkByName(kernel.PairDevice(0))
			if err != nil {
				return err
			}
			return change(l)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first, second := kernel.PairDevice(0), kernel.PairDevice(1)
	waitLinks(t, b, 10*time.Second, first, second)
	set(netlink.LinkSetDown)
	waitLinks(t, b, 10*time.Second, second)
	time.Sleep(300 * time.Millisecond)
	set(netlink.LinkSetUp)
	waitLinks(t, b, 15*time.Second, first, second)
	time.Sleep(300 * time.Millisecond)
	stdin.Close()
	if err := <-wrong; err != nil {
		t.Error(err)
	}
	t.Logf("%d bytes", received.Load())
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}
