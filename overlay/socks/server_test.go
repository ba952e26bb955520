package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/proxy"

	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// A fakeGrid has one member, alice, who is this computer.
type fakeGrid struct {
	tcp, udp string // where her ports are
}

var alice = func() (id ri2n.PeerID) { id[0] = 7; return id }()

func (g *fakeGrid) DialAccepted(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: network, Err: err} }
	switch address {
	case "alice.lab.grid:80":
		return new(net.Dialer).DialContext(ctx, "tcp", g.tcp)
	case "alice.lab.grid:81":
		return fail(syscall.ECONNREFUSED)
	case "alice.lab.grid:82":
		return fail(syscall.ETIMEDOUT)
	}
	return fail(syscall.EHOSTUNREACH)
}

func (g *fakeGrid) ListenPacket(string, string) (net.PacketConn, error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	return fakePackets{pc, g}, err
}

// fakePackets reach alice's port 53 by name, and answers come from her peer ID.
type fakePackets struct {
	net.PacketConn
	g *fakeGrid
}

type textAddr string

func (textAddr) Network() string  { return "udp" }
func (a textAddr) String() string { return string(a) }

func (p fakePackets) WriteTo(b []byte, to net.Addr) (int, error) {
	if to.String() != "alice.lab.grid:53" {
		return 0, syscall.EHOSTUNREACH
	}
	a, err := net.ResolveUDPAddr("udp", p.g.udp)
	if err != nil {
		return 0, err
	}
	return p.PacketConn.WriteTo(b, a)
}

func (p fakePackets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, _, err := p.PacketConn.ReadFrom(b)
	return n, textAddr(alice.String() + ":53"), err
}

func (g *fakeGrid) Locate(host string) (string, bool) {
	return host, strings.HasSuffix(host, ".grid") || host == "100.90.0.2"
}

func (g *fakeGrid) Known(name string) (ri2n.PeerID, bool) { return alice, name == "alice.lab.grid" }

// serve runs a proxy and returns its address.
func serve(t *testing.T, change func(*Config)) (*Server, string) {
	t.Helper()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	}()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			packets.WriteTo(b[:n], from)
		}
	}()
	cfg := Config{Grid: &fakeGrid{echo.Addr().String(), packets.LocalAddr().String()}}
	if change != nil {
		change(&cfg)
	}
	s := NewServer(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
		echo.Close()
		packets.Close()
		conns.Wait()
	})
	return s, ln.Addr().String()
}

// through connects through the proxy, with a client of another author.
func through(at, to string) (net.Conn, error) {
	d, err := proxy.SOCKS5("tcp", at, nil, proxy.Direct)
	if err != nil {
		return nil, err
	}
	return d.Dial("tcp", to)
}

func TestConnect(t *testing.T) {
	s, at := serve(t, nil)
	c, err := through(at, "alice.lab.grid:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(c, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("echo %q, %v", got, err)
	}
	// Each failure has its code, by which a client says what is wrong.
	for to, want := range map[string]string{
		"alice.lab.grid:81": "connection refused",
		"alice.lab.grid:82": "TTL expired",
		"bob.lab.grid:80":   "host unreachable",
		"100.90.0.2:80":     "host unreachable",
		"example.org:80":    "connection not allowed by ruleset",
		"127.0.0.1:80":      "connection not allowed by ruleset",
		"[::1]:80":          "connection not allowed by ruleset",
	} {
		if _, err := through(at, to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", to, err, want)
		}
	}
	if n := &s.Counters; n.Outside.Load() != 3 || n.Failed.Load() != 4 || n.Connected.Load() != 1 {
		t.Errorf("outside %d, failed %d, connected %d", n.Outside.Load(), n.Failed.Load(), n.Connected.Load())
	}
}

func TestOutsideAllowed(t *testing.T) {
	_, at := serve(t, func(c *Config) {
		echo := c.Grid.(*fakeGrid).tcp
		c.Outside = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "example.org:80" {
				return nil, errors.New("another address")
			}
			return new(net.Dialer).DialContext(ctx, network, echo)
		}
	})
	c, err := through(at, "example.org:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// What is no SOCKS5 is refused and counted, and never kept.
func TestGarbage(t *testing.T) {
	s, at := serve(t, nil)
	for name, b := range map[string]string{
		"an HTTP request":     "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"SOCKS4":              "\x04\x01\x00\x50\x7f\x00\x00\x01user\x00",
		"no method of ours":   "\x05\x01\x02",
		"no method at all":    "\x05\x00",
		"another version":     "\x05\x01\x00\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
		"address type 9":      "\x05\x01\x00\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x50",
		"a name of no length": "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
		"a name with a space": "\x05\x01\x00\x05\x01\x00\x03\x03a b\x00\x50",
		"BIND":                "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
		"command 0":           "\x05\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50",
	} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, b)
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	if n := &s.Counters; n.Malformed.Load() != 8 || n.Unsupported.Load() != 2 || n.Connected.Load() != 0 {
		t.Errorf("malformed %d, unsupported %d, connected %d", n.Malformed.Load(), n.Unsupported.Load(), n.Connected.Load())
	}
	// A client that goes in the middle is nobody's fault.
	for i := range 10 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00"[:i+1])
		c.Close()
	}
}

// Thousand at once, all served, and few slow ones hold nobody up.
func TestThousandConnections(t *testing.T) {
	s, at := serve(t, nil)
	for range 20 {
		slow, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		slow.Write([]byte{version})
	}
	const connections = 1000
	conns := make(chan net.Conn, connections)
	var dialing sync.WaitGroup
	for range 20 {
		dialing.Go(func() {
			for range connections / 20 {
				c, err := through(at, "alice.lab.grid:80")
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				conns <- c
			}
		})
	}
	dialing.Wait()
	close(conns)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	t.Logf("%d connections: %d KiB of heap", connections, before.HeapInuse>>10)
	for c := range conns {
		c.SetDeadline(time.Now().Add(patience))
		var b [1]byte
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Error(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	if n := s.Counters.Connected.Load(); n != connections {
		t.Errorf("%d connected", n)
	}
}

// A client over the limit waits.
func TestClientsAreBounded(t *testing.T) {
	_, at := serve(t, func(c *Config) { c.Max = 1 })
	first, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	first.Write([]byte{version, 1})
	second, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.Write([]byte{version, 1, noAuth})
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var b [2]byte
	if n, _ := second.Read(b[:]); n > 0 {
		t.Error("a second client was served beside the one that is allowed")
	}
	first.Close()
	second.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(second, b[:]); err != nil {
		t.Errorf("the second client, after the first: %v", err)
	}
}

func TestAssociate(t *testing.T) {
	s, at := serve(t, nil)
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write([]byte{version, 1, noAuth})
	c.Write(request(cmdUDP, target{"0.0.0.0", 0}))
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(c, answer); err != nil || answer[3] != byte(succeeded) {
		t.Fatalf("answer %x, %v", answer, err)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), uint16(answer[10])<<8|uint16(answer[11]))
	client, err := net.Dial("udp", relay.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 2000)
	want := target{"alice.lab.grid", 53}
	got := ""
	for range 100 { // packets may be lost
		client.Write([]byte("garbage"))
		client.Write(appendPacket(nil, target{"example.org", 53}, []byte("outside")))
		client.Write(appendPacket(nil, want, []byte("question")))
		client.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := client.Read(buf)
		if err != nil {
			continue
		}
		from, payload, err := parsePacket(buf[:n])
		if err != nil || from != want {
			t.Fatalf("answer from %v, %v", from, err)
		}
		got = string(payload)
		break
	}
	if got != "question" {
		t.Errorf("answer %q", got)
	}
	// Another program of this computer is not the client.
	other, err := net.Dial("udp", relay.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	before := s.Counters.Dropped.Load()
	for end := time.Now().Add(patience); s.Counters.Dropped.Load() == before && time.Now().Before(end); time.Sleep(time.Millisecond) {
		other.Write(appendPacket(nil, want, []byte("mine")))
	}
	if n := &s.Counters; n.Outside.Load() == 0 || n.Malformed.Load() == 0 || n.Dropped.Load() == before {
		t.Errorf("outside %d, malformed %d, dropped %d", n.Outside.Load(), n.Malformed.Load(), n.Dropped.Load())
	}
	// It ends with the connection that asked for it.
	c.Close()
	for end := time.Now().Add(patience); s.Counters.Open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the association outlives its connection")
		}
	}
}
