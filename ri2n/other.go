package ri2n

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// maxOtherQueue bounds the datagrams that wait for a reader of Link.Other.
const maxOtherQueue = 256

// otherConn is the net.PacketConn of the datagrams on a link's socket that
// are not RI2N.
type otherConn struct {
	link   *Link
	ready  chan struct{} // capacity 1: the queue has become non-empty
	closed chan struct{}
	rd     deadline

	mu    sync.Mutex // guards queue
	queue []otherDatagram
	shut  bool
}

type otherDatagram struct {
	data []byte
	from netip.AddrPort
}

func newOtherConn(l *Link) *otherConn {
	return &otherConn{link: l, ready: make(chan struct{}, 1), closed: make(chan struct{})}
}

// push queues a copy of b; when the queue is full the oldest goes.
func (c *otherConn) push(b []byte, from netip.AddrPort) {
	data := append([]byte(nil), b...)
	c.mu.Lock()
	if c.shut {
		c.mu.Unlock()
		return
	}
	if len(c.queue) == maxOtherQueue {
		c.queue[0] = otherDatagram{}
		c.queue = c.queue[1:]
		c.link.endpoint.counters.otherDatagramsDropped.Add(1)
	}
	c.queue = append(c.queue, otherDatagram{data, from})
	c.mu.Unlock()
	c.signal()
}

func (c *otherConn) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *otherConn) pop() (otherDatagram, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return otherDatagram{}, false
	}
	d := c.queue[0]
	c.queue[0] = otherDatagram{}
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.queue = nil
	} else {
		c.signal()
	}
	return d, true
}

// ReadFromUDPAddrPort is ReadFrom without an allocated address.
func (c *otherConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		if c.rd.expired() {
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		}
		if d, ok := c.pop(); ok {
			return copy(b, d.data), d.from, nil
		}
		select {
		case <-c.ready:
		case <-c.rd.wait():
		case <-c.closed:
			return 0, netip.AddrPort{}, net.ErrClosed
		}
	}
}

func (c *otherConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteToUDPAddrPort is WriteTo without an allocated address.
func (c *otherConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if len(b) == 0 || isSessionPacket(b[0]) {
		return 0, fmt.Errorf("ri2n: a datagram beside RI2N must not begin with bit 6 set")
	}
	if isClosed(c.closed) {
		return 0, net.ErrClosed
	}
	if err := c.link.socket.write(b, len(b), to, false); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *otherConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	return c.WriteToUDPAddrPort(b, addrPortOf(addr))
}

// Close ends reads and writes of this view; the link's socket stays open.
func (c *otherConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shut {
		c.shut = true
		c.queue = nil
		close(c.closed)
	}
	return nil
}

func (c *otherConn) LocalAddr() net.Addr { return c.link.LocalAddr() }

func (c *otherConn) SetDeadline(t time.Time) error {
	c.rd.set(t)
	return nil
}

func (c *otherConn) SetReadDeadline(t time.Time) error {
	c.rd.set(t)
	return nil
}

// SetWriteDeadline does nothing: writes do not block.
func (c *otherConn) SetWriteDeadline(time.Time) error { return nil }
