package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits; none of these tests is about speed.
const patience = 20 * time.Second

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// run serves until the test ends.
func run(t *testing.T, serve func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Serve: %v", err)
				}
			case <-time.After(patience):
				t.Error("Serve does not end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func streamsTo(t *testing.T, target net.Addr, change func(*Streams)) (*Streams, net.Addr) {
	t.Helper()
	s := &Streams{Listener: listen(t), Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", target.String())
	}}
	if change != nil {
		change(s)
	}
	run(t, s.Serve)
	return s, s.Listener.Addr()
}

func dial(t *testing.T, to net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// A request whose end is told by the end of the direction, answered behind it.
func TestStreamsKeepHalfClosedConnections(t *testing.T) {
	server := listen(t)
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(b))
	}()
	s, at := streamsTo(t, server.Addr(), nil)
	c := dial(t, at)
	c.Write(make([]byte, 1<<20))
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "1048576 bytes" {
		t.Errorf("answer %q, %v", got, err)
	}
	for end := time.Now().Add(patience); s.Counters.Open.Load() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if n := &s.Counters; n.Taken.Load() != 1 || n.Sent.Load() != 1<<20 || n.Received.Load() != 13 {
		t.Errorf("%d connections, %d bytes sent, %d received", n.Taken.Load(), n.Sent.Load(), n.Received.Load())
	}
}

// What was cut off does not look like an end.
func TestStreamsPassFailuresOn(t *testing.T) {
	server := listen(t)
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("half of it"))
		time.Sleep(50 * time.Millisecond) // arrived, and no longer dropped by a reset
		giveUp(c)
	}()
	_, at := streamsTo(t, server.Addr(), nil)
	c := dial(t, at)
	if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v; want a reset", got, err)
	}
}

func TestStreamsToNobody(t *testing.T) {
	s, at := streamsTo(t, nil, func(s *Streams) {
		s.Dial = func(context.Context, net.Conn) (net.Conn, error) { return nil, syscall.EHOSTUNREACH }
	})
	c, err := net.Dial("tcp", at.String())
	if err == nil {
		defer c.Close()
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v; want a reset", err)
	}
	if s.Counters.Failed.Load() != 1 {
		t.Errorf("%d failed", s.Counters.Failed.Load())
	}
}

// More than the limit wait their turn.
func TestStreamsAreBounded(t *testing.T) {
	server := listen(t)
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	s, at := streamsTo(t, server.Addr(), func(s *Streams) { s.Max = 2 })
	says := func(c *net.TCPConn) error {
		var b [1]byte
		c.Write([]byte("x"))
		_, err := c.Read(b[:])
		return err
	}
	first, second, third := dial(t, at), dial(t, at), dial(t, at)
	if err := errors.Join(says(first), says(second)); err != nil {
		t.Fatal(err)
	}
	third.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if says(third) == nil {
		t.Error("a third connection was served")
	}
	if n := s.Counters.Open.Load(); n != 2 {
		t.Errorf("%d are open", n)
	}
	first.Close()
	third.SetDeadline(time.Now().Add(patience))
	var b [1]byte
	if _, err := third.Read(b[:]); err != nil {
		t.Errorf("the third connection, after the first has ended: %v", err)
	}
}

func packetEcho(t *testing.T) net.Addr {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte(from.String()+" "), b[:n]...), from)
		}
	}()
	return pc.LocalAddr()
}

func TestPackets(t *testing.T) {
	target := packetEcho(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Packets{Conn: pc, Max: 2, Idle: 300 * time.Millisecond, Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", target.String())
	}}
	run(t, p.Serve)
	ask := func(c net.Conn) string {
		t.Helper()
		buf := make([]byte, 2000)
		for range 100 { // packets may be lost
			c.Write([]byte("hello"))
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := c.Read(buf); err == nil {
				return string(buf[:n])
			}
		}
		return ""
	}
	client := func() net.Conn {
		c, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b := client(), client()
	fromA, fromB := ask(a), ask(b)
	if fromA == "" || fromB == "" || fromA == fromB {
		t.Fatalf("answers %q and %q: each source has a socket of its own", fromA, fromB)
	}
	// A third source finds no room until one has been idle.
	third := client()
	third.Write([]byte("hello"))
	for end := time.Now().Add(patience); p.Counters.Taken.Load() == 2 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		third.Write([]byte("hello"))
	}
	if n := &p.Counters; n.Taken.Load() != 3 || n.Dropped.Load() == 0 || n.Open.Load() > 2 {
		t.Errorf("%d sources taken, %d packets dropped, %d open", n.Taken.Load(), n.Dropped.Load(), n.Open.Load())
	}
}

// A source that cannot be served is tried again with its next packet.
func TestPacketsToNobody(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Packets{Conn: pc, Dial: func(context.Context, net.Addr) (net.Conn, error) { return nil, syscall.EHOSTUNREACH }}
	stop := run(t, p.Serve)
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for end := time.Now().Add(patience); p.Counters.Failed.Load() < 2 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c.Write(bytes.Repeat([]byte("x"), 10))
	}
	if p.Counters.Failed.Load() < 2 {
		t.Error("the dial was not tried again")
	}
	stop()
	if n := p.Counters.Open.Load(); n != 0 {
		t.Errorf("%d sources are left", n)
	}
}
