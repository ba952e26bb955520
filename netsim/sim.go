package netsim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Sim is a running simulated network. Its clock is that of package time:
// virtual inside a bubble of testing/synctest, real outside of one. In a bubble
// it must be started and closed inside.
//
// All methods may be called from several goroutines.
type Sim struct {
	start time.Time
	wake  chan struct{} // capacity 1: the driver is to look at armed
	done  chan struct{} // closed by Close
	ended chan struct{} // closed by the driver

	mu     sync.Mutex
	core   *core
	armed  time.Duration // when the driver will wake by itself
	closed bool
}

var _ Network = (*Sim)(nil)

// An Option changes how Start runs a scenario.
type Option func(*Sim)

// WithTrace calls f for every step of every packet, one call at a time. f must
// not call back into the network, and must not keep the payload.
func WithTrace(f func(TraceEvent)) Option {
	return func(s *Sim) { s.core.trace = traceTo(f) }
}

// Start runs sc in process. The caller closes it.
func Start(sc Scenario, opts ...Option) (*Sim, error) {
	c := newCore(sc.Seed)
	if err := c.load(sc); err != nil {
		return nil, err
	}
	s := &Sim{
		start: time.Now(),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		ended: make(chan struct{}),
		core:  c,
		armed: forever,
	}
	for _, o := range opts {
		o(s)
	}
	go s.drive()
	return s, nil
}

// drive sleeps until the next event, again and again.
func (s *Sim) drive() {
	defer close(s.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.mu.Lock()
		now := s.advance()
		at, ok := s.core.queue.next()
		s.armed = forever
		if ok {
			s.armed = at
		}
		s.mu.Unlock()
		// An idle network arms nothing, so that a bubble whose goroutines all
		// wait is reported as a deadlock.
		if ok {
			timer.Reset(at - now)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.done:
			return
		}
	}
}

// advance brings the core to the present, with the lock held.
func (s *Sim) advance() time.Duration {
	now := time.Since(s.start)
	s.core.run(now)
	return now
}

// inject sends p from a host now. It reports false if p is known to be too
// large for its way.
func (s *Sim) inject(from *node, p *packet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		p.free()
		return true
	}
	s.advance()
	sent := s.core.inject(from, p)
	s.rearm()
	return sent
}

// rearm has the driver wake for the earliest event, with the lock held.
func (s *Sim) rearm() {
	if at, ok := s.core.queue.next(); ok && at < s.armed {
		s.armed = at
		select {
		case s.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Host returns the host of that name, nil if there is none.
func (s *Sim) Host(name string) Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.core.byName[name]; n != nil && n.sockets != nil {
		return &simHost{s, n}
	}
	return nil
}

// Gateway returns the NAT of that name, nil if there is none.
func (s *Sim) Gateway(name string) *Gateway {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.core.byName[name]; n != nil && n.nat != nil {
		return &Gateway{s, n}
	}
	return nil
}

// Reboot makes a NAT forget all mappings.
func (s *Sim) Reboot(nat string) error {
	g := s.Gateway(nat)
	if g == nil {
		return fmt.Errorf("netsim: no NAT %q", nat)
	}
	g.Reboot()
	return nil
}

// Uplink returns the link between a node and its parent as it was last set.
func (s *Sim) Uplink(node string) (Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.core.byName[node]
	if n == nil {
		return Link{}, fmt.Errorf("netsim: no node %q", node)
	}
	return n.uplink, nil
}

// SetUplink changes the link between a node and its parent. Packets that are
// under way arrive as they would have.
func (s *Sim) SetUplink(node string, l Link) error {
	if err := l.validate("uplink", node); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.core.byName[node]
	if n == nil {
		return fmt.Errorf("netsim: no node %q", node)
	}
	s.advance()
	n.setUplink(l)
	return nil
}

// Apply does what e says, now; At, Every and Times are not used.
func (s *Sim) Apply(e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	return s.core.apply(e)
}

// Stats counts packets since the start.
func (s *Sim) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	return s.core.statistics()
}

// Drops returns what was dropped, by place and then by cause. Whatever never
// happened is left out.
func (s *Sim) Drops() []Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	return s.core.drops()
}

// Close ends the network: sockets return net.ErrClosed. It may be called
// twice, and returns when the driver has ended.
func (s *Sim) Close() error {
	s.mu.Lock()
	var open []*conn
	if !s.closed {
		s.closed = true
		close(s.done)
		for _, n := range s.core.nodes {
			for _, c := range n.sockets {
				open = append(open, c.(*conn))
			}
			clear(n.sockets)
		}
	}
	s.mu.Unlock()
	for _, c := range open {
		c.shut()
	}
	<-s.ended
	return nil
}

func (s *Sim) unbind(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.node.sockets[c.local.Port()] == socket(c) {
		delete(c.node.sockets, c.local.Port())
	}
}

// A simHost is one host of a Sim.
type simHost struct {
	sim  *Sim
	node *node
}

func (h *simHost) Name() string { return h.node.name }

// Addr returns the present address, which Renumber changes.
func (h *simHost) Addr() netip.Addr { return h.sim.addrOf(h.node) }

func (s *Sim) addrOf(n *node) netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n.addr
}

// ListenPacket binds a UDP socket; port zero picks one from 49152 on. A port
// that is taken gives syscall.EADDRINUSE in a *net.OpError.
func (h *simHost) ListenPacket(ctx context.Context, port uint16) (net.PacketConn, error) {
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Addr(), port))
	if err := ctx.Err(); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: addr, Err: err}
	}
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	if h.sim.closed {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: addr, Err: net.ErrClosed}
	}
	c := newConn(h.sim, h.node)
	port, ok := h.node.bind(port, c)
	if !ok {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: addr, Err: syscall.EADDRINUSE}
	}
	c.bound(port)
	return c, nil
}

// A Gateway is one NAT of a Sim, to look at and to disturb.
type Gateway struct {
	sim  *Sim
	node *node
}

func (g *Gateway) Name() string         { return g.node.name }
func (g *Gateway) Addr() netip.Addr     { return g.sim.addrOf(g.node) } // on its parent's network
func (g *Gateway) Inside() netip.Prefix { return g.node.subnet }        // the network behind it

// Mappings returns how many mappings are alive.
func (g *Gateway) Mappings() int {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	g.node.nat.expire(g.sim.advance())
	return len(g.node.nat.byOutside)
}

// Expired returns how many mappings have ended since they were idle for a
// lifetime.
func (g *Gateway) Expired() uint64 {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	g.node.nat.expire(g.sim.advance())
	return g.node.nat.expired
}

// Remap moves every mapping to another outside port, and returns how many
// moved.
func (g *Gateway) Remap() int {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	return g.node.nat.remap(g.sim.advance())
}

// Reboot makes the NAT forget all mappings; these do not count as expired.
func (g *Gateway) Reboot() {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	g.sim.advance()
	g.node.nat.reboot()
}
