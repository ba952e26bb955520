package netsim_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A udpConn is what sockets of a simulated host have beside net.PacketConn.
type udpConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

func listen(t testing.TB, h netsim.Host, port uint16) udpConn {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(udpConn)
}

func local(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func send(t testing.TB, from udpConn, to netip.AddrPort, text string) {
	t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram, which must arrive within a minute.
func receive(t testing.TB, c udpConn) (text string, from netip.AddrPort) {
	t.Helper()
	b := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

// nothing fails if a datagram arrives within d.
func nothing(t testing.TB, c udpConn, d time.Duration) {
	t.Helper()
	b := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	if n, from, err := c.ReadFromUDPAddrPort(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q from %v, error %v; want a deadline", b[:n], from, err)
	}
}

// echo sends text from a to b and back, and returns the address that b saw.
func echo(t testing.TB, a, b udpConn, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	send(t, a, to, "ping")
	got, seen := receive(t, b)
	if got != "ping" {
		t.Fatalf("request = %q, want ping", got)
	}
	send(t, b, seen, "pong")
	got, from := receive(t, a)
	if got != "pong" || from != to {
		t.Fatalf("answer = %q from %v, want pong from %v", got, from, to)
	}
	return seen
}

func TestBubbleEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		link := netsim.Link{Delay: 10 * time.Millisecond}
		home := world.NAT(netsim.NAT{
			Mapping:   netsim.AddressAndPortDependent,
			Filtering: netsim.AddressAndPortDependent,
			Lifetime:  30 * time.Second,
		}, link)
		a, b := listen(t, home.Host(), 5000), listen(t, world.Host(), 3478)

		start := time.Now()
		seen := echo(t, a, b, local(b))
		if got, want := time.Since(start), 20*time.Millisecond; got != want {
			t.Errorf("round trip = %v, want %v", got, want)
		}
		if want := netip.AddrPortFrom(home.Addr(), 5000); seen != want {
			t.Errorf("source seen = %v, want %v", seen, want)
		}

		time.Sleep(10 * time.Minute)

		if got := home.Expired(); got != 1 {
			t.Errorf("mappings expired = %d, want 1", got)
		}
		send(t, b, seen, "late")
		nothing(t, a, time.Second)
		echo(t, a, b, local(b))
	})
}

func TestRealTimeEcho(t *testing.T) {
	sc := netsim.Scenario{
		NATs: []netsim.NATNode{
			{Name: "home-a", Uplink: netsim.Link{Delay: time.Millisecond}},
			{Name: "home-b", Uplink: netsim.Link{Delay: time.Millisecond}},
		},
		Hosts: []netsim.HostNode{
			{Name: "a", Parent: "home-a"},
			{Name: "b", Parent: "home-b"},
			{Name: "public"},
		},
	}
	sim, err := netsim.Start(sc)
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	a, b := listen(t, sim.Host("a"), 5000), listen(t, sim.Host("b"), 5000)
	public := listen(t, sim.Host("public"), 3478)
	echo(t, a, public, local(public))
	seen := echo(t, b, public, local(public))
	start := time.Now()
	echo(t, a, b, seen)
	if got, least := time.Since(start), 4*time.Millisecond; got < least {
		t.Errorf("round trip = %v, want at least %v", got, least)
	}
}

func TestListenPacketErrors(t *testing.T) {
	sim, err := netsim.Start(netsim.Scenario{Hosts: []netsim.HostNode{{Name: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	a := sim.Host("a")
	first := listen(t, a, 5000)
	var op *net.OpError
	if _, err := a.ListenPacket(t.Context(), 5000); !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &op) {
		t.Errorf("second bind = %v, want EADDRINUSE in a *net.OpError", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := listen(t, a, 5000)
	if err := sim.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := again.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after the network closed = %v, want net.ErrClosed", err)
	}
	if _, err := a.ListenPacket(t.Context(), 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("bind after the network closed = %v, want net.ErrClosed", err)
	}
	if err := sim.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

// transfer moves count datagrams of 1200 bytes from a to b, with a window of
// 256 in flight.
func transfer(t testing.TB, a, b udpConn, count int) {
	const window = 256
	credit := make(chan struct{}, window)
	for range window {
		credit <- struct{}{}
	}
	go func() {
		payload := make([]byte, 1200)
		for range count {
			<-credit
			if _, err := a.WriteToUDPAddrPort(payload, local(b)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	buf := make([]byte, 2048)
	for range count {
		if _, _, err := b.ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
		credit <- struct{}{}
	}
}

func BenchmarkTransfer(b *testing.B) {
	for _, bb := range []struct {
		name  string
		delay time.Duration
	}{{"delay=0", 0}, {"delay=1ms", time.Millisecond}} {
		b.Run(bb.name, func(b *testing.B) {
			world := netsim.New(b, 1)
			home := world.NAT(netsim.NAT{}, netsim.Link{Delay: bb.delay})
			x, y := listen(b, home.Host(), 0), listen(b, world.Host(), 0)
			b.SetBytes(1200)
			b.ReportAllocs()
			b.ResetTimer()
			transfer(b, x, y, b.N)
		})
	}
}

func BenchmarkTransferInBubble(b *testing.B) {
	for _, bb := range []struct {
		name string
		link netsim.Link
	}{
		{"delay=0", netsim.Link{}},
		{"delay=1ms", netsim.Link{Delay: time.Millisecond}},
		{"rate=1G", netsim.Link{Delay: time.Millisecond, Rate: 1e9}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(1200)
			b.ReportAllocs()
			n := b.N
			inBubble(func() {
				sim, err := netsim.Start(netsim.Scenario{
					NATs:  []netsim.NATNode{{Name: "home", Uplink: bb.link}},
					Hosts: []netsim.HostNode{{Name: "x", Parent: "home"}, {Name: "y"}},
				})
				if err != nil {
					b.Fatal(err)
				}
				defer sim.Close()
				x, _ := sim.Host("x").ListenPacket(context.Background(), 0)
				y, _ := sim.Host("y").ListenPacket(context.Background(), 0)
				transfer(b, x.(udpConn), y.(udpConn), n)
			})
		})
	}
}

// inBubble runs f in a bubble of its own; synctest.Test takes tests only.
func inBubble(f func()) {
	ok := testing.RunTests(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "bubble", F: func(t *testing.T) {
			synctest.Test(t, func(*testing.T) { f() })
		}}})
	if !ok {
		panic("the bubble failed")
	}
}
