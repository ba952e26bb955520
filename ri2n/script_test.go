package ri2n

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A scriptedConn is a socket whose outgoing datagrams a test drops, changes,
// repeats or holds back, one by one, and looks at afterwards.
type scriptedConn struct {
	net.PacketConn

	mu    sync.Mutex // guards what follows
	rule  func(n int, b []byte, to netip.AddrPort) []delivery
	sent  int // datagrams that the endpoint wanted to send
	wires []wire
}

// A delivery is one datagram that leaves in place of the endpoint's.
type delivery struct {
	after time.Duration
	data  []byte
}

// A wire is a datagram as it left.
type wire struct {
	at   time.Time
	to   netip.AddrPort
	data []byte
}

// as sends b unchanged.
func as(b []byte) []delivery { return []delivery{{0, b}} }

func (c *scriptedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.sent
	c.sent++
	out := as(b)
	if c.rule != nil {
		out = c.rule(n, bytes.Clone(b), addrPortOf(to))
	}
	for _, d := range out {
		data := bytes.Clone(d.data)
		send := func() { c.PacketConn.WriteTo(data, to) }
		c.wires = append(c.wires, wire{time.Now().Add(d.after), addrPortOf(to), data})
		if d.after > 0 {
			time.AfterFunc(d.after, send)
			continue
		}
		send()
	}
	return len(b), nil
}

// setRule replaces the rule; nil lets everything pass.
func (c *scriptedConn) setRule(rule func(n int, b []byte, to netip.AddrPort) []delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rule, c.sent = rule, 0
}

// captured returns what has left so far.
func (c *scriptedConn) captured() []wire {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]wire(nil), c.wires...)
}

func (c *scriptedConn) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wires = nil
}

// dropAll is a rule.
func dropAll(int, []byte, netip.AddrPort) []delivery { return nil }

// A stage is two endpoints on public hosts, each behind a scripted socket, 10
// ms apart each way unless uplinks are given.
type stage struct {
	t      testing.TB
	world  *netsim.World
	a, b   *Endpoint
	la, lb *Link
	ca, cb *scriptedConn
	hosts  [2]string
}

func newStage(t testing.TB, edit ...func(*Config)) *stage {
	t.Helper()
	s := &stage{t: t, world: netsim.New(t, 1)}
	ha, hb := s.world.Host(netsim.Delay(5*time.Millisecond)), s.world.Host(netsim.Delay(5*time.Millisecond))
	s.hosts = [2]string{ha.Name(), hb.Name()}
	s.a, s.b = newTestEndpoint(t, edit...), newTestEndpoint(t, edit...)
	s.la, s.ca = s.link(s.a, ha, 7000)
	s.lb, s.cb = s.link(s.b, hb, 7000)
	return s
}

// link gives e a scripted socket on h.
func (s *stage) link(e *Endpoint, h netsim.Host, port uint16) (*Link, *scriptedConn) {
	s.t.Helper()
	pc, err := h.ListenPacket(s.t.Context(), port)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &scriptedConn{PacketConn: pc}
	l, err := e.AddLink(h.Name(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return l, c
}

// toB is where a reaches b.
func (s *stage) toB() Remote { return Remote{Link: s.la, Addr: linkAddr(s.lb)} }

func (s *stage) connect() (client, server *Session) {
	s.t.Helper()
	return connectSessions(s.t, s.a, s.b, s.toB())
}

// stranger returns a raw socket of a third host.
func (s *stage) stranger(port uint16) net.PacketConn {
	s.t.Helper()
	pc, err := s.world.Host(netsim.Delay(5*time.Millisecond)).ListenPacket(s.t.Context(), port)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { pc.Close() })
	return pc
}

// drainSocket collects what arrives at pc within d.
func drainSocket(t testing.TB, pc net.PacketConn, d time.Duration) (datagrams [][]byte) {
	t.Helper()
	pc.SetReadDeadline(time.Now().Add(d))
	buf := make([]byte, 64<<10)
	for {
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			return datagrams
		}
		datagrams = append(datagrams, bytes.Clone(buf[:n]))
	}
}

// wantNoHandshakeState fails unless e has forgotten every handshake, once they
// have timed out and their tombstones are gone.
func wantNoHandshakeState(t testing.TB, e *Endpoint) {
	t.Helper()
	time.Sleep(e.cfg.HandshakeTimeout + tombstone + time.Second)
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.halfOpen.count != 0 || len(e.halfOpen.tuples) != 0 {
		t.Errorf("half-open handshakes = %d with %d transport addresses, want none", e.halfOpen.count, len(e.halfOpen.tuples))
	}
	e.routes.mu.RLock()
	defer e.routes.mu.RUnlock()
	if n := len(e.routes.long); n != 0 {
		t.Errorf("connection IDs of handshakes = %d, want 0", n)
	}
	if len(e.sessions) == 0 {
		if n := len(e.routes.short); n != 0 {
			t.Errorf("connection IDs of sessions = %d without a session, want 0", n)
		}
		if n := len(e.routes.resets); n != 0 {
			t.Errorf("reset tokens = %d without a session, want 0", n)
		}
		e.timers.mu.Lock()
		defer e.timers.mu.Unlock()
		if n := len(e.timers.armed); n != 0 {
			t.Errorf("timers armed = %d without a session, want 0", n)
		}
	}
}

// exchange sends n bytes each way over a fresh stream.
func exchange(t testing.TB, client, server *Session, n int) {
	t.Helper()
	a, b := streamPair(t, client, server)
	transfer(t, a, b, n)
	transfer(t, b, a, n)
	a.Close()
	b.Close()
}

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }
