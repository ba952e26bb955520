package netsim

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A conn is a UDP socket of a simulated host: a net.PacketConn that also has
// the ReadFromUDPAddrPort and WriteToUDPAddrPort of a net.UDPConn.
type conn struct {
	sim   *Sim
	node  *node
	local netip.AddrPort
	addr  *net.UDPAddr // local, for LocalAddr and errors

	mu            sync.Mutex
	readable      sync.Cond
	queue         packetRing
	queued        int // bytes in queue, with overhead
	limit         int // of queued
	closed        bool
	readDeadline  deadline
	writeDeadline time.Time
}

// receiveBuffer is what a socket holds for a slow reader, in bytes: a
// generous SO_RCVBUF. packetOverhead is what each datagram takes besides its
// payload, so that empty ones are bounded, too.
const (
	receiveBuffer  = 4 << 20
	packetOverhead = 128
)

func newConn(s *Sim, n *node) *conn {
	c := &conn{sim: s, node: n, limit: receiveBuffer}
	c.readable.L = &c.mu
	c.readDeadline.c = c
	return c
}

// bound tells c its port.
func (c *conn) bound(port uint16) {
	c.local = netip.AddrPortFrom(c.node.addr, port)
	c.addr = net.UDPAddrFromAddrPort(c.local)
}

// deliver is called by the core, under the lock of the Sim.
func (c *conn) deliver(p *packet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	need := len(p.payload) + packetOverhead
	if c.closed || c.queued+need > c.limit {
		return false
	}
	c.queued += need
	c.queue.push(p)
	c.readable.Signal()
	return true
}

// ReadFrom reads one datagram. What does not fit in b is lost, as with a
// kernel's socket. The address is a *net.UDPAddr.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation.
func (c *conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	c.mu.Lock()
	for {
		var err error
		switch {
		case c.closed:
			err = net.ErrClosed
		case c.readDeadline.passed:
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			c.mu.Unlock()
			return 0, netip.AddrPort{}, &net.OpError{Op: "read", Net: "udp", Source: c.addr, Err: err}
		}
		if c.queue.length > 0 {
			break
		}
		c.readable.Wait()
	}
	p := c.queue.pop()
	c.queued -= len(p.payload) + packetOverhead
	if c.queue.length > 0 {
		c.readable.Signal() // another reader may be waiting
	}
	c.mu.Unlock()
	n, from := copy(b, p.payload), p.src
	p.free()
	return n, from, nil
}

// WriteTo sends one datagram. It never blocks, and returns nil where the
// network drops the datagram; a datagram that is known to be too large for its
// way gives syscall.EMSGSIZE. addr is a *net.UDPAddr. b is copied.
func (c *conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok || to == nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.addr, Addr: addr, Err: syscall.EINVAL}
	}
	return c.WriteToUDPAddrPort(b, to.AddrPort())
}

// WriteToUDPAddrPort is WriteTo without an allocation.
func (c *conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if err := c.checkWrite(len(b), to); err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.addr,
			Addr: net.UDPAddrFromAddrPort(to), Err: err}
	}
	if !c.sim.inject(c.node, newPacket(c.local, to, b)) {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.addr,
			Addr: net.UDPAddrFromAddrPort(to), Err: syscall.EMSGSIZE}
	}
	return len(b), nil
}

func (c *conn) checkWrite(size int, to netip.AddrPort) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case !c.writeDeadline.IsZero() && !time.Now().Before(c.writeDeadline):
		return os.ErrDeadlineExceeded
	case size > maxPayload:
		return syscall.EMSGSIZE
	case !to.IsValid() || to.Port() == 0:
		return syscall.EINVAL
	case !to.Addr().Is4():
		return syscall.ENETUNREACH
	}
	return nil
}

// Close frees the port. Blocked and later calls return net.ErrClosed.
func (c *conn) Close() error {
	if !c.shut() {
		return &net.OpError{Op: "close", Net: "udp", Source: c.addr, Err: net.ErrClosed}
	}
	c.sim.unbind(c)
	return nil
}

// shut wakes every reader and reports whether the socket was open.
func (c *conn) shut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.closed = true
	c.readDeadline.set(time.Time{})
	for c.queue.length > 0 {
		c.queue.pop().free()
	}
	c.queued = 0
	c.readable.Broadcast()
	return true
}

// LocalAddr returns the address at the time of binding.
func (c *conn) LocalAddr() net.Addr { return c.addr }

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.setError()
	}
	c.readDeadline.set(t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.setError()
	}
	c.writeDeadline = t
	return nil
}

// SetReadBuffer sets how many bytes wait for a slow reader, 128 for each
// datagram included.
func (c *conn) SetReadBuffer(bytes int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.setError()
	}
	if bytes <= 0 {
		return &net.OpError{Op: "set", Net: "udp", Source: c.addr, Err: errors.New("buffer size is not positive")}
	}
	c.limit = bytes
	return nil
}

// SetWriteBuffer does nothing: what is written is on the link at once.
func (c *conn) SetWriteBuffer(int) error { return nil }

func (c *conn) setError() error {
	return &net.OpError{Op: "set", Net: "udp", Source: c.addr, Err: net.ErrClosed}
}

// A deadline wakes the readers of its conn when it passes. The conn's mutex
// guards it.
type deadline struct {
	c      *conn
	passed bool
	timer  *time.Timer // nil: none was ever needed
	until  time.Time   // zero: none
}

// set replaces the deadline; the zero time means none.
func (d *deadline) set(t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.until = t
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	switch {
	case wait <= 0:
		d.passed = true
		d.c.readable.Broadcast()
	case d.timer == nil:
		d.timer = time.AfterFunc(wait, d.fire)
	default:
		d.timer.Reset(wait)
	}
}

// fire runs when the timer ends; the deadline may have moved meanwhile.
func (d *deadline) fire() {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	if d.until.IsZero() {
		return
	}
	if wait := time.Until(d.until); wait > 0 {
		d.timer.Reset(wait)
		return
	}
	d.passed = true
	d.c.readable.Broadcast()
}

// A packetRing is a queue of packets.
type packetRing struct {
	slots         []*packet // power of two
	front, length int
}

func (r *packetRing) push(p *packet) {
	if r.length == len(r.slots) {
		bigger := make([]*packet, max(16, 2*len(r.slots)))
		n := copy(bigger, r.slots[r.front:])
		copy(bigger[n:], r.slots[:r.front])
		r.slots, r.front = bigger, 0
	}
	r.slots[(r.front+r.length)&(len(r.slots)-1)] = p
	r.length++
}

func (r *packetRing) pop() *packet {
	p := r.slots[r.front]
	r.slots[r.front] = nil
	r.front = (r.front + 1) & (len(r.slots) - 1)
	r.length--
	return p
}
