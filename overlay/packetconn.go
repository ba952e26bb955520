package overlay

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/pion/transport/v5/deadline"
)

const (
	// packetInbox bounds the packets that wait for ReadFrom of one socket, at
	// most 384 KiB; what comes on top is dropped, as by a kernel.
	packetInbox = 256
	// maxCorrespondents bounds the addresses that one socket awaits answers
	// from, and answerTime is how long: RFC 4787, REQ-5, asks a NAT for two
	// minutes and recommends five.
	maxCorrespondents = 4096
	answerTime        = 5 * time.Minute
)

// A PacketAddr is one end of packets: a peer and a port. Its text form is
// PEERID:PORT. It implements [net.Addr].
type PacketAddr struct{ Addr }

// Network returns "udp".
func (PacketAddr) Network() string { return "udp" }

// A NameAddr is "NAME:PORT" or "PEERID:PORT" as an address to send packets to.
type NameAddr string

// Network returns "udp".
func (NameAddr) Network() string { return "udp" }

func (a NameAddr) String() string { return string(a) }

// A packetConn is a socket for packets, bound to a port of the node. It is
// both a net.PacketConn and a net.Conn, as a *net.UDPConn is.
type packetConn struct {
	node   *Node
	local  PacketAddr
	remote PacketAddr // zero: not connected

	inbox    chan arrivedPacket
	failures chan error // of a connected socket: what the next call returns
	closed   chan struct{}
	once     sync.Once
	rd, wd   *deadline.Deadline

	mu             sync.Mutex // guards what follows
	correspondents map[Addr]time.Time
}

type arrivedPacket struct {
	payload []byte
	from    PacketAddr
}

// ListenPacket opens a socket for packets of up to [MaxPacketSize] bytes on a
// port (network "udp"): address is ":9000"; port zero picks a free one. Ports of
// packets are others than those of connections; one that is taken is
// syscall.EADDRINUSE.
//
// Packets may be lost, and overtake each other, as those of UDP; they are
// encrypted, and the peer of ReadFrom's address, a [PacketAddr], is verified.
// WriteTo takes a [PacketAddr], an [Addr], or a [NameAddr], and never waits:
// without a session with the peer one is made while the packets wait in a short
// queue. A socket gets what the node's policy lets in, and for some minutes
// answers from where it has sent to.
func (n *Node) ListenPacket(network, address string) (net.PacketConn, error) {
	if err := checkPacketNetwork(network); err != nil {
		return nil, err
	}
	port, err := parseListen(address, n.PeerID())
	if err != nil {
		return nil, err
	}
	return n.listenPacket(port, PacketAddr{})
}

func checkPacketNetwork(network string) error {
	switch network {
	case "udp", "udp4", "udp6":
		return nil
	}
	return net.UnknownNetworkError(network)
}

// listenPacket binds a socket; port zero picks one.
func (n *Node) listenPacket(port uint16, remote PacketAddr) (*packetConn, error) {
	c := &packetConn{
		node:     n,
		local:    PacketAddr{Addr{n.PeerID(), port}},
		remote:   remote,
		inbox:    make(chan arrivedPacket, packetInbox),
		failures: make(chan error, 1),
		closed:   make(chan struct{}),
		rd:       deadline.New(),
		wd:       deadline.New(),
	}
	if err := n.packets.bind(c); err != nil {
		return nil, err
	}
	return c, nil
}

// dialPacket returns a socket connected to a port of a peer, with a session.
func (n *Node) dialPacket(ctx context.Context, to Addr) (net.Conn, error) {
	if _, err := n.peerByID(to.Peer).connect(ctx); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Source: PacketAddr{Addr{Peer: n.PeerID()}}, Addr: PacketAddr{to}, Err: withNumber(err)}
	}
	return n.listenPacket(0, PacketAddr{to})
}

func (c *packetConn) connected() bool { return c.remote.Port != 0 }

// expects reports whether a packet from there is let in without the policy: the
// socket has sent there.
func (c *packetConn) expects(now time.Time, from Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.correspondents[from]
	return known && now.Sub(last) < answerTime
}

// awaits notes that the socket sends there.
func (c *packetConn) awaits(now time.Time, to Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.correspondents[to]; !known && len(c.correspondents) >= maxCorrespondents {
		oldest, at := to, now
		for a, t := range c.correspondents {
			if now.Sub(t) >= answerTime {
				delete(c.correspondents, a)
			} else if t.Before(at) {
				oldest, at = a, t
			}
		}
		if len(c.correspondents) >= maxCorrespondents {
			delete(c.correspondents, oldest)
			c.node.counters.correspondentsForgotten.Add(1)
		}
	}
	if c.correspondents == nil {
		c.correspondents = make(map[Addr]time.Time)
	}
	c.correspondents[to] = now
}

// deliver queues a packet for ReadFrom.
func (c *packetConn) deliver(p arrivedPacket) {
	select {
	case c.inbox <- p:
		c.node.counters.packetsReceived.Add(1)
	default:
		c.node.counters.packetsOverflowed.Add(1)
	}
}

// fail has the next call of a connected socket return err, as the kernel does
// with what ICMP tells.
func (c *packetConn) fail(err error) {
	if c.connected() {
		select {
		case c.failures <- err:
		default:
		}
	}
}

func (c *packetConn) err(op string, to net.Addr, err error) error {
	if to == nil && c.connected() {
		to = c.remote
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.local, Addr: to, Err: err}
}

// ReadFrom returns the next packet. What does not fit into b is lost.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, nil, err
	}
	return n, from, nil
}

// Read is ReadFrom of a connected socket.
func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.read(b)
	return n, err
}

func (c *packetConn) read(b []byte) (int, PacketAddr, error) {
	expired := c.rd.Done()
	// Neither a closed socket nor one whose time is over has packets left.
	select {
	case <-c.closed:
		return 0, PacketAddr{}, c.err("read", nil, net.ErrClosed)
	case <-expired:
		return 0, PacketAddr{}, c.err("read", nil, errTimeout)
	default:
	}
	for {
		select {
		case p := <-c.inbox:
			return copy(b, p.payload), p.from, nil
		case err := <-c.failures:
			return 0, PacketAddr{}, c.err("read", nil, err)
		case <-c.closed:
			return 0, PacketAddr{}, c.err("read", nil, net.ErrClosed)
		case <-expired:
			// SetReadDeadline may have moved it meanwhile.
			if expired = c.rd.Done(); isClosed(expired) {
				return 0, PacketAddr{}, c.err("read", nil, errTimeout)
			}
		}
	}
}

// WriteTo sends b; see [Node.ListenPacket].
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.connected() {
		return 0, c.err("write", to, net.ErrWriteToConnected)
	}
	var name string
	var addr Addr
	switch to := to.(type) {
	case PacketAddr:
		addr = to.Addr
	case Addr:
		addr = to
	case nil:
		return 0, c.err("write", nil, &AddressError{Problem: "none is given"})
	default:
		var err error
		if addr, err = ParseAddr(to.String()); err == nil {
			break
		}
		host, port, found := strings.Cut(to.String(), ":")
		if !found || !c.node.grid.member() {
			return 0, c.err("write", to, err)
		}
		if addr.Port, err = parsePort(port); err != nil {
			return 0, c.err("write", to, &AddressError{Text: to.String(), Problem: err.Error()})
		}
		label, err := c.node.grid.label(host)
		if err != nil {
			return 0, c.err("write", to, withNumber(err))
		}
		if id, found := c.node.grid.lookup(time.Now(), label); found {
			addr.Peer = id
		} else {
			name = label
		}
	}
	return c.write(b, addr, name, to)
}

// Write is WriteTo of a connected socket.
func (c *packetConn) Write(b []byte) (int, error) {
	if !c.connected() {
		return 0, c.err("write", nil, syscall.EDESTADDRREQ)
	}
	select {
	case err := <-c.failures:
		return 0, c.err("write", nil, err)
	default:
	}
	return c.write(b, c.remote.Addr, "", c.remote)
}

// write sends b to a port of a peer, or of the member of that name who is yet
// to be found.
func (c *packetConn) write(b []byte, to Addr, name string, shown net.Addr) (int, error) {
	switch {
	case isClosed(c.closed):
		return 0, c.err("write", shown, net.ErrClosed)
	case isClosed(c.wd.Done()):
		return 0, c.err("write", shown, errTimeout)
	case to.Port == 0:
		return 0, c.err("write", shown, &AddressError{Text: shown.String(), Problem: "port 0 is no destination"})
	case to.Peer == c.node.PeerID():
		return 0, c.err("write", shown, &AddressError{Text: shown.String(), Problem: "it is our own"})
	case name == "" && to.Peer.IsZero():
		return 0, c.err("write", shown, &AddressError{Text: shown.String(), Problem: "it names no peer"})
	case len(b) > MaxPacketSize:
		c.node.counters.packetsTooLarge.Add(1)
		return 0, c.err("write", shown, &PacketSizeError{Size: len(b)})
	}
	if err := c.node.packets.send(c, to, name, b); err != nil {
		return 0, c.err("write", shown, err)
	}
	return len(b), nil
}

// Close gives the port back. What waits to be read is lost.
func (c *packetConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.node.packets.release(c)
		close(c.closed)
		err = nil
	})
	if err != nil {
		return c.err("close", nil, err)
	}
	return nil
}

func (c *packetConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns nil for a socket that is not connected.
func (c *packetConn) RemoteAddr() net.Addr {
	if !c.connected() {
		return nil
	}
	return c.remote
}

func (c *packetConn) SetDeadline(t time.Time) error {
	c.rd.Set(t)
	return c.SetWriteDeadline(t)
}

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.rd.Set(t)
	return nil
}

// SetWriteDeadline makes writes fail from t on. They never wait.
func (c *packetConn) SetWriteDeadline(t time.Time) error {
	c.wd.Set(t)
	return nil
}

// A PacketSizeError is a packet larger than MaxPacketSize. It is
// syscall.EMSGSIZE for errors.Is.
type PacketSizeError struct{ Size int }

func (e *PacketSizeError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *PacketSizeError) Unwrap() error { return syscall.EMSGSIZE }

// Object shows the size.
func (e *PacketSizeError) Object() string { return fmt.Sprintf("packet of %d bytes", e.Size) }

// Cause names the limit.
func (e *PacketSizeError) Cause() string { return fmt.Sprintf("at most %d fit", MaxPacketSize) }

// Next says what to do.
func (e *PacketSizeError) Next() string { return "send smaller packets, or use a connection (tcp)" }

// packetRefusal makes the error of a refusal by the peer.
func packetRefusal(peer ri2n.PeerID, p packet) error {
	return &PortError{Peer: peer, Port: p.from, Code: uint64(p.code)}
}

var _ interface {
	net.PacketConn
	net.Conn
} = (*packetConn)(nil)
