package overlay

import (
	"net"
	"sync"
	"syscall"
)

const (
	// backlog is how many connections wait for Accept; more are refused.
	backlog = 128
	// Ports given out for port zero, those of RFC 6335, section 6.
	firstFreePort = 0xc000
)

// A listener takes the connections to one port.
type listener struct {
	node    *Node
	addr    Addr
	pending chan *conn
	closed  chan struct{}
	once    sync.Once
	mu      sync.Mutex // held while a connection is offered, and by Close
}

// Listen takes connections to one port: address is ":7000"; port zero picks a
// free one. Ports belong to this process; one that is taken is
// syscall.EADDRINUSE.
func (n *Node) Listen(network, address string) (net.Listener, error) {
	if err := checkNetwork(network); err != nil {
		return nil, err
	}
	port, err := parseListen(address, n.PeerID())
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	if port == portControl {
		for p := firstFreePort; p <= 0xffff && port == 0; p++ {
			if n.listeners[uint16(p)] == nil {
				port = uint16(p)
			}
		}
	}
	l := &listener{
		node:    n,
		addr:    Addr{Peer: n.PeerID(), Port: port},
		pending: make(chan *conn, backlog),
		closed:  make(chan struct{}),
	}
	if port == portControl || n.listeners[port] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: syscall.EADDRINUSE}
	}
	n.listeners[port] = l
	return l, nil
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.pending:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

// offer hands c over and reports whether there was room. A peer that awaits it
// is told before.
func (l *listener) offer(c *conn, awaited bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if isClosed(l.closed) || len(l.pending) == cap(l.pending) {
		return false
	}
	if awaited {
		// An error is that of the stream, which its user meets as well.
		_, _ = c.stream.Write([]byte{taken})
	}
	l.pending <- c
	return true
}

// Close stops listening. Connections that nobody has accepted are refused.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.node.mu.Lock()
		delete(l.node.listeners, l.addr.Port)
		l.node.mu.Unlock()
		l.mu.Lock()
		close(l.closed)
		l.mu.Unlock()
		for {
			select {
			case c := <-l.pending:
				c.refuse(resetRefused)
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// refuse resets a connection that was never handed out.
func (c *conn) refuse(code uint64) {
	c.closeOnce.Do(func() {
		c.stream.Reset(code)
		c.a.streamClosed()
	})
}
