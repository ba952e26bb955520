package ri2n

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// A memoryNet joins packet connections in memory, so that what a test measures
// is the transport and not the kernel. A full queue drops.
type memoryNet struct {
	mu    sync.Mutex
	conns map[netip.AddrPort]*memoryConn
}

type memoryConn struct {
	net   *memoryNet
	addr  netip.AddrPort
	queue chan memoryDatagram
	done  chan struct{}
	once  sync.Once
}

type memoryDatagram struct {
	b    []byte
	from netip.AddrPort
}

func newMemoryNet() *memoryNet { return &memoryNet{conns: make(map[netip.AddrPort]*memoryConn)} }

// link makes a connection of the network a link of e. Its queue holds 4096
// datagrams.
func (n *memoryNet) link(t testing.TB, e *Endpoint) *Link {
	t.Helper()
	n.mu.Lock()
	host := byte(len(n.conns) + 1)
	c := &memoryConn{
		net:   n,
		addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 7000),
		queue: make(chan memoryDatagram, 4096),
		done:  make(chan struct{}),
	}
	n.conns[c.addr] = c
	n.mu.Unlock()
	l, err := e.AddLink("memory", c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (c *memoryConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.queue:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

func (c *memoryConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.net.mu.Lock()
	peer := c.net.conns[addrPortOf(to)]
	c.net.mu.Unlock()
	if peer != nil {
		select {
		case peer.queue <- memoryDatagram{append([]byte(nil), b...), c.addr}:
		default:
		}
	}
	return len(b), nil
}

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.addr) }
func (c *memoryConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
