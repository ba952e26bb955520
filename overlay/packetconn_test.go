package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
)

// socket opens a socket for packets of n.
func socket(t *testing.T, n *Node, address string) net.PacketConn {
	t.Helper()
	pc, err := n.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// packetEcho answers each packet with itself.
func packetEcho(t *testing.T, n *Node, address string) net.PacketConn {
	pc := socket(t, n, address)
	go func() {
		b := make([]byte, MaxPacketSize)
		for {
			k, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:k], from)
		}
	}()
	return pc
}

// answered expects b back from the other end.
func answered(t *testing.T, pc net.PacketConn, to net.Addr, b []byte) {
	t.Helper()
	if _, err := pc.WriteTo(b, to); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, MaxPacketSize+1)
	pc.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := pc.ReadFrom(got)
	if err != nil || !bytes.Equal(got[:n], b) {
		t.Fatalf("answer = %d bytes, %v; want %d", n, err, len(b))
	}
	if _, ok := from.(PacketAddr); !ok || from.Network() != "udp" {
		t.Errorf("answer from %T %v", from, from)
	}
}

// A first packet makes the session and does not wait for it; what comes while it
// is made follows, as far as the queue holds it.
func TestPacketsMakeTheirSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		to := PacketAddr{Addr{b.PeerID(), 9000}}
		server, client := socket(t, b, ":9000"), socket(t, a, ":0")
		start := time.Now()
		for i := range maxWaiting + 6 {
			if _, err := fmt.Fprintf(writerTo{client, to}, "packet %d", i); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("writing without a session took %v", d)
		}
		buf := make([]byte, 100)
		// The session's own queue may give up what it cannot send within 50 ms,
		// and its paths change meanwhile, so that some overtake others.
		arrived, seen := 0, make(map[int]bool)
		for ; arrived < maxWaiting; arrived++ {
			server.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				break
			}
			var i int
			if _, err := fmt.Sscanf(string(buf[:n]), "packet %d", &i); err != nil || i < 6 || seen[i] || arrived == 0 && i != 6 {
				t.Fatalf("packet %q as number %d, %v", buf[:n], arrived, err)
			}
			seen[i] = true
			if from.(PacketAddr).Peer != a.PeerID() {
				t.Errorf("from %v", from)
			}
		}
		if arrived < 10 {
			t.Errorf("%d packets arrived", arrived)
		}
		if n := a.Status().Counters.PacketsUnsent; n != 6 {
			t.Errorf("%d packets unsent, want 6", n)
		}
		// B's answer is let in though nobody on A's side opened a port to b.
		echoed := packetEcho(t, b, ":9001")
		answered(t, client, echoed.LocalAddr(), []byte("hello"))
		// And directly.
		settle(t, a, b)
		for _, size := range []int{0, 1, 900, 1200, 1350, MaxPacketSize} {
			answered(t, client, echoed.LocalAddr(), bytes.Repeat([]byte{byte(size)}, size))
		}
	})
}

// settle waits until the session has moved to its direct path: datagrams that
// are on their way meanwhile may be lost.
func settle(t *testing.T, a, b *Node) {
	t.Helper()
	waitDirect(t, a, b)
	time.Sleep(time.Second)
}

type writerTo struct {
	pc net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.pc.WriteTo(b, w.to) }

// On the relay datagrams are small: a packet goes in two halves.
func TestLargePacketsOnTheRelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, symmetric, symmetric)
		a, b := r.pair(func(c *Config) { c.Path = PathRelayOnly })
		packetEcho(t, b, ":9000")
		c, err := a.DialContext(t.Context(), "udp", Addr{b.PeerID(), 9000}.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, MaxPacketSize)
		for size := range MaxPacketSize + 1 {
			if size%50 != 0 {
				continue
			}
			want := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := c.Write(want); err != nil {
				t.Fatal(size, err)
			}
			c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("%d bytes came back as %d, %v", size, n, err)
			}
		}
		halved := a.Status().Counters.PacketsHalved
		if halved == 0 || halved > 12 {
			t.Errorf("%d packets went in halves, want the largest of 31", halved)
		}
		_, err = c.Write(make([]byte, MaxPacketSize+1))
		var size *PacketSizeError
		if !errors.Is(err, syscall.EMSGSIZE) || !errors.As(err, &size) || a.Status().Counters.PacketsTooLarge != 1 {
			t.Errorf("a packet that is too large: %v", err)
		}
	})
}

// The policy of ports holds for packets; who may not, or meets nobody, is told.
func TestPacketsArePoliced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 2})
		aliceDir, bobDir := g.join(g.hostA, 2, "alice", token), g.join(g.hostB, 3, "bob", token)
		writePolicy(t, bobDir, "rules:\n  - names: [alice]\n    ports: [\"9000-9001\"]\n")
		alice, bob := g.startIn(g.hostA, 2, aliceDir), g.startIn(g.hostB, 3, bobDir)
		g.ready(alice, bob)
		packetEcho(t, bob, ":9000")
		packetEcho(t, bob, ":9002")
		// By name, in one socket and in a connected one.
		answered(t, socket(t, alice, ":0"), NameAddr("bob.lab.grid:9000"), []byte("by name"))
		for _, tt := range []struct {
			port, cause string
			err         error
		}{
			{"9001", "connection refused: no program listens on port 9001 there", syscall.ECONNREFUSED},
			{"9002", "connection refused: its policy does not open port 9002 to us", syscall.ECONNREFUSED},
		} {
			c, err := alice.DialContext(t.Context(), "udp", "bob:"+tt.port)
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("anybody?"))
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, err = c.Read(make([]byte, 9))
			var port *PortError
			if !errors.Is(err, tt.err) || !errors.As(err, &port) || port.Cause() != tt.cause {
				t.Errorf("port %s: %v", tt.port, err)
			}
			c.Close()
		}
		// Bob's own policy says nothing of alice's ports.
		c := socket(t, bob, ":0")
		socket(t, alice, ":9000")
		c.WriteTo([]byte("let me in"), NameAddr("alice:9000"))
		time.Sleep(time.Second)
		if n := alice.Status().Counters.PortsRefused; n != 1 {
			t.Errorf("alice refused %d packets, want 1", n)
		}
		if n := bob.Status().Counters; n.PacketsRefused != 1 || n.PortsRefused != 1 {
			t.Errorf("bob refused %d packets and %d ports, want 1 and 1", n.PacketsRefused, n.PortsRefused)
		}
		// A flood is answered a few times a second.
		settle(t, alice, bob)
		x, err := alice.DialContext(t.Context(), "udp", "bob:9002")
		if err != nil {
			t.Fatal(err)
		}
		before := bob.Status().Counters.PacketsSent
		refused := 0 // a refusal is the error of the next write, which sends nothing
		for range 100 {
			if _, err := x.Write([]byte("x")); errors.Is(err, syscall.ECONNREFUSED) {
				refused++
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		if n := int(bob.Status().Counters.PortsRefused) - 1; n != 100-refused || refused == 0 || refused > refusalRate {
			t.Errorf("%d packets of a flood arrived, and %d were answered", n, refused)
		}
		if alice.Status().Counters.PacketsReceived > 2 || bob.Status().Counters.PacketsSent != before {
			t.Error("refusals count as packets")
		}
	})
}

// Packets for somebody who cannot be reached end with an error on a connected
// socket, and dial at most once a second.
func TestPacketsToNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		c, err := a.DialContext(t.Context(), "udp", Addr{b.PeerID(), 9000}.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		settle(t, a, b)
		b.Close()
		time.Sleep(time.Second)
		before := a.Status().Counters.Dials
		var failed error
		for range 100 {
			if _, err := c.Write([]byte("hello?")); err != nil {
				failed = err
			}
			time.Sleep(50 * time.Millisecond)
		}
		if !errors.Is(failed, syscall.EHOSTUNREACH) && !errors.Is(failed, syscall.ETIMEDOUT) {
			t.Errorf("a peer that is gone: %v", failed)
		}
		if dials := a.Status().Counters.Dials - before; dials > 6 {
			t.Errorf("%d dials in 5 s", dials)
		}
		for _, address := range []string{Addr{identity(t, 77).PeerID(), 1}.String(), Addr{b.PeerID(), 1}.String()} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, err = a.DialContext(ctx, "udp", address)
			cancel()
			if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("dial of nobody: %v", err)
			}
		}
	})
}

// A peer that is being dialed holds up nobody else's packets.
func TestPacketsPassAPeerThatIsDialed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		echoed, client := packetEcho(t, b, ":9000"), socket(t, a, ":0")
		answered(t, client, echoed.LocalAddr(), []byte("first"))
		settle(t, a, b)
		nobody := PacketAddr{Addr{identity(t, 77).PeerID(), 1}}
		if _, err := client.WriteTo([]byte("anybody?"), nobody); err != nil {
			t.Fatal(err)
		}
		client.WriteTo([]byte("second"), echoed.LocalAddr())
		if n := a.packets.isPending.Load(); n != 1 {
			t.Errorf("packets wait for %d peers, want 1", n)
		}
		time.Sleep(30 * time.Second)
		if n := a.packets.isPending.Load(); n != 0 {
			t.Errorf("packets wait for %d peers for ever", n)
		}
	})
}

func TestPacketSockets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		pc := socket(t, a, ":9000")
		if _, err := a.ListenPacket("udp", ":9000"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that is taken: %v", err)
		}
		if _, err := a.ListenPacket("tcp", ":9001"); err == nil {
			t.Error("packets on tcp")
		}
		// A port of connections is another one.
		ln, err := a.Listen("tcp", ":9000")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		for _, to := range []net.Addr{nil, PacketAddr{}, PacketAddr{Addr{a.PeerID(), 1}}, PacketAddr{Addr{b.PeerID(), 0}}, NameAddr("bob:1"), NameAddr("x")} {
			if _, err := pc.WriteTo([]byte("x"), to); err == nil {
				t.Errorf("a packet was sent to %v", to)
			}
		}
		// Deadlines, set before and during a read.
		for _, wait := range []time.Duration{-time.Second, 100 * time.Millisecond} {
			start := time.Now()
			pc.SetReadDeadline(start.Add(wait))
			if _, _, err := pc.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != max(wait, 0) {
				t.Errorf("read with a deadline of %v: %v after %v", wait, err, time.Since(start))
			}
		}
		pc.SetReadDeadline(time.Time{})
		blocked := make(chan error)
		go func() {
			_, _, err := pc.ReadFrom(make([]byte, 1))
			blocked <- err
		}()
		time.Sleep(time.Second)
		pc.SetDeadline(time.Now())
		if err := <-blocked; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a blocked read: %v", err)
		}
		if _, err := pc.WriteTo([]byte("x"), PacketAddr{Addr{b.PeerID(), 1}}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write after its deadline: %v", err)
		}
		pc.SetDeadline(time.Time{})
		go func() {
			_, _, err := pc.ReadFrom(make([]byte, 1))
			blocked <- err
		}()
		time.Sleep(time.Second)
		pc.Close()
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read of a closed socket: %v", err)
		}
		if err := pc.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		if _, err := pc.WriteTo([]byte("x"), PacketAddr{Addr{b.PeerID(), 1}}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write on a closed socket: %v", err)
		}
		// A slow program: what comes on top is dropped and counted.
		slow := socket(t, b, ":9000")
		c, err := a.DialContext(t.Context(), "udp", slow.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		if peer, ok := PeerOf(c); !ok || peer != b.PeerID() {
			t.Errorf("PeerOf = %v, %v", peer, ok)
		}
		settle(t, a, b)
		for range packetInbox + 20 {
			c.Write([]byte("x"))
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := b.Status().Counters; n.PacketsReceived != packetInbox || n.PacketsOverflowed != 20 {
			t.Errorf("%d packets wait and %d were dropped", n.PacketsReceived, n.PacketsOverflowed)
		}
		// An answer comes from the other end of a connected socket alone.
		stray := socket(t, b, ":9001")
		stray.WriteTo([]byte("stray"), c.LocalAddr())
		slow.WriteTo([]byte("answer"), c.LocalAddr())
		c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 10)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		a.Close()
		if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after the node has ended: %v", err)
		}
		if _, err := a.ListenPacket("udp", ":0"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listen after the node has ended: %v", err)
		}
	})
}

// A socket awaits answers from a bounded number of addresses.
func TestCorrespondentsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newRig(t, 1, restricted, restricted).start(netsim.New(t, 2).Host(), 1, nil)
		c := socket(t, n, ":0").(*packetConn)
		addr := func(i int) Addr { return Addr{identity(t, i%200).PeerID(), uint16(1 + i/200)} }
		for i := range maxCorrespondents + 1 {
			c.awaits(time.Now(), addr(i))
			time.Sleep(time.Microsecond)
		}
		if c.expects(time.Now(), addr(0)) || !c.expects(time.Now(), addr(1)) || len(c.correspondents) != maxCorrespondents {
			t.Errorf("%d correspondents; the oldest is still one: %v", len(c.correspondents), c.expects(time.Now(), addr(0)))
		}
		time.Sleep(answerTime)
		if c.expects(time.Now(), addr(1)) {
			t.Error("an answer is awaited for ever")
		}
		c.awaits(time.Now(), addr(0))
		if len(c.correspondents) != 1 {
			t.Errorf("%d correspondents are left", len(c.correspondents))
		}
	})
}

// A packet of a peer that restarted, and one after a peer's restart.
func TestPacketsSurviveARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		packetEcho(t, b, ":9000")
		c := socket(t, a, ":0")
		answered(t, c, PacketAddr{Addr{b.PeerID(), 9000}}, []byte("before"))
		r.homeB.Reboot()
		b.endpoint.Close() // as a crash: nobody is told
		b.Close()
		again := r.start(r.homeB.Host(), 2, func(c *Config) { c.Allow = append(c.Allow, a.PeerID()) })
		r.ready(again)
		packetEcho(t, again, ":9000")
		buf := make([]byte, 10)
		for end := time.Now().Add(time.Minute); ; {
			c.WriteTo([]byte("after"), PacketAddr{Addr{b.PeerID(), 9000}})
			c.SetReadDeadline(time.Now().Add(time.Second))
			if n, _, err := c.ReadFrom(buf); err == nil && string(buf[:n]) == "after" {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no packet arrives after a restart")
			}
		}
	})
}

// What refuses a connection is the dial's error when the dial waits for that.
func TestWaitAccept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(func(c *Config) { c.WaitAccept = true })
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, a, b.PeerID(), 7000) // nobody has called Accept yet
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// A server that speaks first, and nothing of the answer in its bytes.
		go io.WriteString(server, "220 hello\n")
		buf := make([]byte, 20)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "220 hello\n" {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		settle(t, a, b)
		for _, tt := range []struct {
			name    string
			prepare func()
			port    uint16
		}{
			{"nobody listens", func() {}, 7001},
			{"the backlog is full", func() {
				for range backlog {
					dial(t, a, b.PeerID(), 7000)
				}
			}, 7000},
			{"the listener was closed", func() { ln.Close() }, 7000},
		} {
			tt.prepare()
			start := time.Now()
			_, err := a.DialContext(t.Context(), "tcp", Addr{b.PeerID(), tt.port}.String())
			var op *net.OpError
			if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
				t.Errorf("%s: %v", tt.name, err)
			}
			if d := time.Since(start); d > 50*time.Millisecond {
				t.Errorf("%s: told after %v", tt.name, d)
			}
		}
		// A context that ends meanwhile.
		r.cut.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", Addr{b.PeerID(), 7001}.String()); !errors.Is(err, syscall.ETIMEDOUT) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a dial without an answer: %v", err)
		}
	})
}

// An older peer does not answer; a dial that would wait goes on without.
func TestWaitAcceptOfAnOlderPeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		echo(t, b, ":7000")
		c := dial(t, a, b.PeerID(), 7000)
		says(t, c, "first")
		session := a.peerByID(b.PeerID()).best()
		session.mu.Lock()
		session.answers = false // as one without the capability
		session.mu.Unlock()
		x, err := a.DialAccepted(t.Context(), "tcp", Addr{b.PeerID(), 7000}.String())
		if err != nil {
			t.Fatal(err)
		}
		says(t, x, "second")
	})
}

func TestCopyThroughConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			var all bytes.Buffer
			if _, err := io.Copy(&all, c); err != nil { // WriteTo
				t.Error(err)
			}
			got <- all.Bytes()
		}()
		c := dial(t, a, b.PeerID(), 7000)
		want := make([]byte, 3<<20+17)
		for i := range want {
			want[i] = byte(i >> 7)
		}
		// Blocks of all sizes, small, growing and large.
		n, err := io.Copy(c, &uneven{b: want}) // ReadFrom
		if err != nil || n != int64(len(want)) {
			t.Fatal(n, err)
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		if !bytes.Equal(<-got, want) {
			t.Error("other bytes arrived")
		}
		if s := a.peerByID(b.PeerID()).Status(); s.BytesSent != uint64(len(want)) {
			t.Errorf("%d bytes counted", s.BytesSent)
		}
		if s := b.peerByID(a.PeerID()).Status(); s.BytesReceived != uint64(len(want)) {
			t.Errorf("%d bytes counted at the receiver", s.BytesReceived)
		}
		// A reader that fails, and a writer that does.
		d := dial(t, a, b.PeerID(), 7000)
		if _, err := io.Copy(d, io.MultiReader(bytes.NewReader(want[:100]), failing{})); err != io.ErrUnexpectedEOF {
			t.Errorf("copy of a reader that fails: %v", err)
		}
		d.Close()
		if _, err := io.Copy(d, bytes.NewReader(want)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("copy into a closed connection: %v", err)
		}
		if _, err := io.Copy(io.Discard, d); !errors.Is(err, net.ErrClosed) {
			t.Errorf("copy from a closed connection: %v", err)
		}
	})
}

// uneven hands b out in pieces of many sizes.
type uneven struct {
	b []byte
	n int
}

func (u *uneven) Read(b []byte) (int, error) {
	if len(u.b) == 0 {
		return 0, io.EOF
	}
	u.n = u.n*3%100_003 + 1
	n := copy(b[:min(len(b), max(1, u.n*4%len(b)+u.n%2*len(b)))], u.b)
	u.b = u.b[n:]
	runtime.Gosched()
	return n, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
