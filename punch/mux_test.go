package punch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPacer(t *testing.T) {
	now := time.Unix(0, 0)
	conn, other := new(muxConn), new(muxConn)
	to := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{5, 0, 0, 1}), port)
	}
	p := pacer{budget: NewBudget(), peers: make(map[string]*peerQueue)}

	if leaves, _ := p.submit(now, "x", outgoing{conn: conn, to: to(1)}); !leaves {
		t.Error("the first check waits")
	}
	if leaves, _ := p.submit(now, "y", outgoing{conn: other, to: to(1)}); !leaves {
		t.Error("another peer's check waits")
	}
	for port := uint16(1); port <= 3; port++ {
		if leaves, _ := p.submit(now, "x", outgoing{conn: conn, to: to(port)}); leaves {
			t.Error("a second check leaves at once")
		}
	}
	p.submit(now, "x", outgoing{conn: conn, to: to(2), bytes: []byte("newer")})
	if n := len(p.peers["x"].waiting); n != 3 {
		t.Errorf("%d checks wait, want one for each destination", n)
	}
	if _, ok, wait := p.next(now); ok || wait != checkSpacing {
		t.Errorf("next = %v after %v, want to wait %v", ok, wait, checkSpacing)
	}
	now = now.Add(checkSpacing)
	if o, ok, _ := p.next(now); !ok || o.to != to(1) {
		t.Errorf("next = %v %v, want the oldest", o.to, ok)
	}
	now = now.Add(checkSpacing)
	if o, ok, _ := p.next(now); !ok || string(o.bytes) != "newer" {
		t.Errorf("next = %v %v, want the newer check", o.to, ok)
	}
	p.forget(conn)
	now = now.Add(checkSpacing)
	if _, ok, _ := p.next(now); ok {
		t.Error("a forgotten check leaves")
	}
	if len(p.peers) != 0 {
		t.Errorf("%d rested queues are kept", len(p.peers))
	}

	// Bounded, oldest first.
	var dropped int
	for port := range uint16(2 * maxQueued) {
		_, d := p.submit(now, "x", outgoing{conn: conn, to: to(port)})
		dropped += d
	}
	if n := len(p.peers["x"].waiting); n != maxQueued || dropped != maxQueued-1 {
		t.Errorf("%d checks wait and %d were dropped, want %d and %d", n, dropped, maxQueued, maxQueued-1)
	}
}

func TestBudget(t *testing.T) {
	b, now, taken := NewBudget(), time.Unix(0, 0), 0
	for range 10 * budgetBurst {
		if b.take(now) == 0 {
			taken++
		}
	}
	if taken != budgetBurst {
		t.Errorf("burst = %d, want %d", taken, budgetBurst)
	}
	for range 100000 {
		now = now.Add(10 * time.Microsecond)
		if b.take(now) == 0 {
			taken++
		}
	}
	if taken < 1000 || taken > 1000+budgetBurst+1 {
		t.Errorf("%d packets in a second, want 1000 and a burst", taken)
	}
	if wait := b.take(now); wait > 2*budgetSpacing || b.take(now.Add(wait)) != 0 {
		t.Errorf("wait of %v does not suffice", wait)
	}
}

func TestTransactionTable(t *testing.T) {
	table := transactionTable{entries: make(map[transactionID]transaction)}
	now := time.Unix(0, 0)
	id := func(n int) (id transactionID) {
		copy(id[:], fmt.Sprintf("%012d", n))
		return id
	}
	for n := range 2 * maxTransactions {
		if evicted := table.add(now, id(n), transaction{}); evicted != (n >= maxTransactions) {
			t.Fatalf("entry %d: evicted = %v", n, evicted)
		}
	}
	if n := len(table.entries); n != maxTransactions {
		t.Errorf("%d entries, want %d", n, maxTransactions)
	}
	if _, ok := table.find(now, id(0)); ok {
		t.Error("the oldest entry is still there")
	}
	if _, ok := table.find(now.Add(transactionLifetime-1), id(2*maxTransactions-1)); !ok {
		t.Error("an entry expires early")
	}
	now = now.Add(transactionLifetime)
	if _, ok := table.find(now, id(2*maxTransactions-1)); ok {
		t.Error("an entry outlives its lifetime")
	}
	table.add(now, id(0), transaction{})
	if n := len(table.entries); n != 1 {
		t.Errorf("%d entries after all expired, want 1", n)
	}
}

// scriptedServer answers the n-th Binding request as answer says.
func scriptedServer(t *testing.T, h netsim.Host, answer func(n int, pc net.PacketConn, m *stun.Message, from net.Addr)) netip.AddrPort {
	pc := listen(t, h, 3478)
	go func() {
		buf := make([]byte, 2048)
		for n := 1; ; n++ {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			m := &stun.Message{Raw: append([]byte(nil), buf[:size]...)}
			if err := m.Decode(); err != nil {
				t.Errorf("request %d: %v", n, err)
				return
			}
			answer(n, pc, m, from)
		}
	}()
	return netip.AddrPortFrom(h.Addr(), 3478)
}

func success(t *testing.T, id transactionID, mapped string) []byte {
	m := netip.MustParseAddrPort(mapped)
	return buildSTUN(t, stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: m.Addr().AsSlice(), Port: int(m.Port())})
}

func TestBind(t *testing.T) {
	const mapped = "9.0.0.1:5000"
	for _, tt := range []struct {
		name   string
		answer func(n int, pc, elsewhere net.PacketConn, m *stun.Message, from net.Addr)
		after  time.Duration
		err    string // part of the error; empty: success
	}{
		{"at once", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			pc.WriteTo(success(t, m.TransactionID, mapped), from)
		}, 20 * time.Millisecond, ""},
		{"to the second request", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			if n == 2 {
				pc.WriteTo(success(t, m.TransactionID, mapped), from)
			}
		}, 220 * time.Millisecond, ""},
		{"to the third request", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			if n == 3 {
				pc.WriteTo(success(t, m.TransactionID, mapped), from)
			}
		}, 720 * time.Millisecond, ""},
		{"never", func(int, net.PacketConn, net.PacketConn, *stun.Message, net.Addr) {},
			23700 * time.Millisecond, "no answer"},
		{"wrong transaction ID, then right", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			id := m.TransactionID
			if n == 1 {
				id[0] ^= 1
			}
			pc.WriteTo(success(t, id, mapped), from)
		}, 220 * time.Millisecond, ""},
		{"from elsewhere, then right", func(n int, pc, elsewhere net.PacketConn, m *stun.Message, from net.Addr) {
			if n == 1 {
				pc = elsewhere
			}
			pc.WriteTo(success(t, m.TransactionID, mapped), from)
		}, 220 * time.Millisecond, ""},
		{"garbage and answers twice", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			pc.WriteTo([]byte("garbage"), from)
			pc.WriteTo(success(t, m.TransactionID, mapped), from)
			pc.WriteTo(success(t, m.TransactionID, "9.0.0.2:5000"), from)
		}, 20 * time.Millisecond, ""},
		{"bogus address", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			pc.WriteTo(success(t, m.TransactionID, "0.0.0.0:5000"), from)
		}, 20 * time.Millisecond, "nobody can have"},
		{"no address", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			pc.WriteTo(buildSTUN(t, stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess), from)
		}, 20 * time.Millisecond, "without XOR-MAPPED-ADDRESS"},
		{"error response", func(n int, pc, _ net.PacketConn, m *stun.Message, from net.Addr) {
			pc.WriteTo(buildSTUN(t, stun.NewTransactionIDSetter(m.TransactionID), stun.BindingError, stun.CodeServerError), from)
		}, 20 * time.Millisecond, "error 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				server, client := world.Host(), world.Host(netsim.Delay(10*time.Millisecond))
				elsewhere := listen(t, server, 3479)
				addr := scriptedServer(t, server, func(n int, pc net.PacketConn, m *stun.Message, from net.Addr) {
					tt.answer(n, pc, elsewhere, m, from)
				})
				m, err := NewMux(listen(t, client, 0), MuxConfig{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				start := time.Now()
				got, err := m.Bind(t.Context(), addr)
				if took := time.Since(start); took != tt.after {
					t.Errorf("took %v, want %v", took, tt.after)
				}
				if tt.err == "" && (err != nil || got != netip.MustParseAddrPort(mapped)) {
					t.Errorf("got %v, %v, want %v", got, err, mapped)
				}
				if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				if tt.name == "never" && !errors.Is(err, ErrNoAnswer) {
					t.Errorf("error %v is not ErrNoAnswer", err)
				}
			})
		})
	}
}

func TestBindEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 1)
		m, err := NewMux(listen(t, world.Host(), 0), MuxConfig{})
		if err != nil {
			t.Fatal(err)
		}
		nobody := netip.MustParseAddrPort("5.9.9.9:3478")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Bind(ctx, nobody); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
		time.AfterFunc(time.Second, func() { m.Close() })
		if _, err := m.Bind(t.Context(), nobody); !errors.Is(err, net.ErrClosed) {
			t.Errorf("while the mux closes: %v", err)
		}
		if _, err := m.Bind(t.Context(), nobody); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// TestBindOnLoopback runs the client on a real socket.
func TestBindOnLoopback(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no loopback socket: %v", err)
	}
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		n, from, err := server.ReadFrom(buf)
		if err != nil {
			return
		}
		if m, err := decodeSTUN(buf[:n]); err == nil {
			server.WriteTo(success(t, m.TransactionID, from.String()), from)
		}
	}()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMux(pc, MuxConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	got, err := m.Bind(t.Context(), server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil || got != m.LocalAddr() {
		t.Errorf("got %v, %v, want %v", got, err, m.LocalAddr())
	}
	<-done
}

// serveDiscovery is a server of RFC 5780 with the addresses of two hosts.
func serveDiscovery(t *testing.T, x, y netsim.Host) netip.AddrPort {
	t.Helper()
	sockets := map[netip.AddrPort]net.PacketConn{}
	var order []netip.AddrPort
	for _, h := range []netsim.Host{x, y} {
		for _, port := range []uint16{3478, 3479} {
			a := netip.AddrPortFrom(h.Addr(), port)
			sockets[a] = listen(t, h, port)
			order = append(order, a)
		}
	}
	flip := func(a netip.AddrPort, change byte) netip.AddrPort {
		host, port := a.Addr(), a.Port()
		if change&byte(changeAddress) != 0 {
			if host == x.Addr() {
				host = y.Addr()
			} else {
				host = x.Addr()
			}
		}
		if change&byte(changePort) != 0 {
			port ^= 3478 ^ 3479
		}
		return netip.AddrPortFrom(host, port)
	}
	for _, a := range order {
		pc := sockets[a]
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				m, err := decodeSTUN(buf[:n])
				if err != nil {
					continue
				}
				origin := a
				if change, err := m.Get(stun.AttrChangeRequest); err == nil && len(change) == 4 {
					origin = flip(a, change[3])
				}
				other := flip(a, byte(changeAddress|changePort))
				addr := from.(*net.UDPAddr)
				sockets[origin].WriteTo(buildSTUN(t, stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
					&stun.XORMappedAddress{IP: addr.IP, Port: addr.Port},
					&stun.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())}), from)
			}
		}()
	}
	return order[0]
}

// TestDiscover tells all nine types apart with a server of two addresses.
func TestDiscover(t *testing.T) {
	for _, nat := range netsim.NATTypes() {
		t.Run(nat.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				server := serveDiscovery(t, world.Host(), world.Host())
				home := world.NAT(randomNAT(nat), netsim.Delay(10*time.Millisecond))
				m, err := NewMux(listen(t, home.Host(), 0), MuxConfig{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				got, observed := m.Discover(t.Context(), nil, []netip.AddrPort{server})
				if want := behaviorOf(nat); got.Mapping != want.Mapping || got.Filtering != want.Filtering {
					t.Errorf("got %v, want %v (%v)", got, want, observed)
				}
				if got.Translated != Yes || got.UDPBlocked != No {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

// TestDiscoverDistrusts: a server can neither make us send where a peer could
// not, nor pass for a permissive filter by ignoring CHANGE-REQUEST.
func TestDiscoverDistrusts(t *testing.T) {
	for _, tt := range []struct {
		name, other string
	}{
		{"alternate address inside our network", "192.168.1.1:8080"},
		{"CHANGE-REQUEST ignored", "5.200.200.1:3479"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				other := netip.MustParseAddrPort(tt.other)
				server := scriptedServer(t, world.Host(), func(_ int, pc net.PacketConn, m *stun.Message, from net.Addr) {
					addr := from.(*net.UDPAddr)
					pc.WriteTo(buildSTUN(t, stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
						&stun.XORMappedAddress{IP: addr.IP, Port: addr.Port},
						&stun.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())}), from)
				})
				home := world.NAT(open, netsim.Delay(10*time.Millisecond))
				m, err := NewMux(listen(t, home.Host(), 0), MuxConfig{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				got, seen := m.Discover(ctx, nil, []netip.AddrPort{server})
				if got.Filtering != Unknown {
					t.Errorf("filtering %v, want unknown", got.Filtering)
				}
				for _, o := range seen {
					if other.Addr().IsPrivate() && o.Server == other {
						t.Errorf("asked %v", o.Server)
					}
				}
			})
		})
	}
}
