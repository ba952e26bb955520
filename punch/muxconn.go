package punch

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxInbound is how many datagrams wait for one agent; further ones are
// dropped. An agent reads at once, unless it has not begun yet.
const maxInbound = 64

// A gate decides for one attempt what may come in and go out. Its methods are
// called from the mux's reader and from the agent, and must not block.
type gate interface {
	// admit looks at a message that found the attempt: a request with its
	// ufrag, or a response to its request from where that was sent. b is the
	// whole message and is not kept.
	admit(h stunHeader, b []byte, from netip.AddrPort) bool
	// mayCheck reports whether one more check may go to an address.
	mayCheck(to netip.AddrPort) bool
}

// A muxConn is the net.PacketConn that an agent sees for one address family.
type muxConn struct {
	mux   *Mux
	peer  string // pacing is per peer
	local netip.AddrPort
	gate  gate

	inbound chan datagram
	closed  chan struct{}
	once    sync.Once
}

type datagram struct {
	bytes []byte
	from  netip.AddrPort
}

func newMuxConn(m *Mux, peer string, local netip.AddrPort, g gate) *muxConn {
	return &muxConn{
		mux:     m,
		peer:    peer,
		local:   local,
		gate:    g,
		inbound: make(chan datagram, maxInbound),
		closed:  make(chan struct{}),
	}
}

// deliver queues a copy of b for the agent, if the gate admits it.
func (c *muxConn) deliver(h stunHeader, b []byte, from netip.AddrPort) {
	if !c.gate.admit(h, b, from) {
		c.mux.counters.refused.Add(1)
		return
	}
	select {
	case c.inbound <- datagram{append([]byte(nil), b...), from}:
	default:
		c.mux.counters.queueFull.Add(1)
	}
}

// ReadFromAddrPort implements ice.AddrPortReaderWriter.
func (c *muxConn) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.inbound:
		return copy(b, d.bytes), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

// WriteToAddrPort implements ice.AddrPortReaderWriter. Requests are paced;
// answers leave at once while the budget lasts.
func (c *muxConn) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, io.ErrClosedPipe // pion/ice tells it from a failed send
	default:
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	h, err := parseSTUN(b)
	if err != nil {
		return 0, err // data never passes here
	}
	if h.class == classRequest {
		if !c.gate.mayCheck(to) {
			c.mux.counters.filtered.Add(1)
			return len(b), nil
		}
		return len(b), c.mux.sendCheck(c, h.id, append([]byte(nil), b...), to)
	}
	if c.mux.pace.budget.take(time.Now()) > 0 {
		c.mux.counters.overBudget.Add(1)
		return len(b), nil
	}
	return len(b), c.mux.send(b, to)
}

// ReadFrom implements net.PacketConn.
func (c *muxConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo implements net.PacketConn.
func (c *muxConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addrPortOf(addr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	return c.WriteToAddrPort(b, to)
}

// shut ends reads and writes.
func (c *muxConn) shut() { c.once.Do(func() { close(c.closed) }) }

// Close implements net.PacketConn. The socket stays open.
func (c *muxConn) Close() error {
	c.shut()
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *muxConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// SetDeadline implements net.PacketConn. An agent sets one only to end its
// reads before it closes the conn, which ends them too.
func (c *muxConn) SetDeadline(time.Time) error      { return nil }
func (c *muxConn) SetReadDeadline(time.Time) error  { return nil }
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }
