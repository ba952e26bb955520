package overlay

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity number n, the same in each run.
func identity(t testing.TB, n int) *ri2n.Identity {
	t.Helper()
	seed := sha256.Sum256(fmt.Append(nil, "overlay test ", n))
	id, err := ri2n.IdentityFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const serverIdentity = 1000

func listenPacket(t testing.TB, h netsim.Host, port uint16) net.PacketConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// A rig is a simulated Internet with a rendezvous and two homes, a and b, each
// 10 ms from the core: 40 ms of round trip between them, direct or relayed.
type rig struct {
	t            *testing.T
	world        *netsim.World
	public       netsim.Host
	mode         server.Mode
	members      []ri2n.PeerID
	server       *server.Server
	homeA, homeB *netsim.Home
	hostA, hostB netsim.Host
	cut          atomic.Bool  // nothing passes between the homes directly
	open         []netip.Addr // hosts that this is not about, besides the rendezvous
}

var (
	restricted = netsim.NAT{Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}
	symmetric  = netsim.NAT{Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}
	access     = netsim.Delay(10 * time.Millisecond)
)

func newRig(t *testing.T, seed uint64, a, b netsim.NAT) *rig {
	t.Helper()
	r := &rig{t: t, world: netsim.New(t, seed), mode: server.Open}
	r.public = r.world.Host()
	r.homeA, r.homeB = r.world.NAT(a, access), r.world.NAT(b, access)
	r.hostA, r.hostB = r.homeA.Host(), r.homeB.Host()
	r.startServer()
	return r
}

func (r *rig) startServer() {
	r.t.Helper()
	s, err := server.New(server.Config{
		Identity:  identity(r.t, serverIdentity),
		Listen:    []net.PacketConn{listenPacket(r.t, r.public, 3478)},
		Alternate: []net.PacketConn{listenPacket(r.t, r.public, 3479)},
		Mode:      r.mode,
		Members:   r.members,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
	r.t.Cleanup(func() { s.Close() })
}

func (r *rig) address() string {
	return rendezvous.Address{Host: r.public.Addr().String(), Port: 3478, Peer: identity(r.t, serverIdentity).PeerID()}.String()
}

// start runs node number on a host.
func (r *rig) start(h netsim.Host, number int, change func(*Config)) *Node {
	r.t.Helper()
	cfg := Config{
		Identity:   identity(r.t, number),
		Rendezvous: r.address(),
		Links: []LinkConfig{{
			Name:        "eth0",
			Conn:        cuttable{listenPacket(r.t, h, 0).(udpConn), r},
			OwnPrefixes: []netip.Prefix{netip.PrefixFrom(h.Addr(), 24).Masked()},
		}},
	}
	if change != nil {
		change(&cfg)
	}
	n, err := Start(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { n.Close() })
	return n
}

// pair starts a node in each home; b accepts a.
func (r *rig) pair(change func(*Config)) (a, b *Node) {
	r.t.Helper()
	a = r.start(r.hostA, 1, change)
	b = r.start(r.hostB, 2, func(c *Config) {
		c.Allow = []ri2n.PeerID{identity(r.t, 1).PeerID()}
		if change != nil {
			change(c)
		}
	})
	r.ready(a, b)
	return a, b
}

func (r *rig) ready(nodes ...*Node) {
	r.t.Helper()
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
		if err := n.Ready(ctx); err != nil {
			r.t.Fatal(err)
		}
		cancel()
	}
}

// echo serves a port that returns what it gets.
func echo(t testing.TB, n *Node, port string) {
	t.Helper()
	ln, err := n.Listen("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// dial connects from n to a port of peer.
func dial(t testing.TB, n *Node, peer ri2n.PeerID, port uint16) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", Addr{peer, port}.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says sends text and expects it back.
func says(t testing.TB, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != text {
		t.Fatalf("echo = %q, want %q", got, text)
	}
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// A cuttable socket loses what it sends to anybody but the rendezvous, and the
// rig's open hosts, while its rig's direct paths are cut.
type cuttable struct {
	udpConn
	r *rig
}

type udpConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

func (c cuttable) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if c.r.cut.Load() && to.Addr() != c.r.public.Addr() {
		from := addrPortOf(c.LocalAddr()).Addr()
		if !slices.Contains(c.r.open, to.Addr()) && !slices.Contains(c.r.open, from) {
			return len(b), nil
		}
	}
	return c.udpConn.WriteToUDPAddrPort(b, to)
}
