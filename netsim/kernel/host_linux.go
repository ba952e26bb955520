package kernel

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/instantgrid/instantgrid/netsim"
)

// A Host is a computer of a running network: a namespace with a loopback
// device and one uplink.
type Host struct {
	node *node

	mu      sync.Mutex
	closed  bool
	sockets []socket // that may still be open
	pruneAt int      // length of sockets at which closed ones are removed
}

var _ netsim.Host = (*Host)(nil)

// A socket is what the host opened and Network.Close closes.
type socket interface {
	io.Closer
	SyscallConn() (syscall.RawConn, error)
}

// Name returns the host's name in the scenario.
func (h *Host) Name() string { return h.node.name }

// Addr returns the host's address on its own network; behind a NAT it is a
// private one.
func (h *Host) Addr() netip.Addr { return h.node.address }

// Do runs f on a thread inside the host, for what the other methods do not
// offer: devices, system controls, sockets of other kinds. f must be short, as
// it holds up whatever else the host is asked for, and must not start a
// goroutine that relies on being inside.
func (h *Host) Do(f func() error) error { return h.node.ns.do(f) }

// ListenPacket binds a UDP socket on the host's address; port zero picks one.
// The connection is a *net.UDPConn on a real socket.
func (h *Host) ListenPacket(ctx context.Context, port uint16) (net.PacketConn, error) {
	var conn net.PacketConn
	err := h.node.ns.do(func() (err error) {
		var lc net.ListenConfig
		conn, err = lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(h.node.address, port).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kernel: %s: %w", h.node.name, err)
	}
	if err := h.keep(conn.(*net.UDPConn)); err != nil {
		return nil, err
	}
	return conn, nil
}

// Listen binds a TCP listener on the host's address; port zero picks one.
func (h *Host) Listen(ctx context.Context, port uint16) (net.Listener, error) {
	var l net.Listener
	err := h.node.ns.do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(ctx, "tcp4", netip.AddrPortFrom(h.node.address, port).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kernel: %s: %w", h.node.name, err)
	}
	if err := h.keep(l.(*net.TCPListener)); err != nil {
		return nil, err
	}
	return l, nil
}

// Dial opens a TCP connection to a transport address. It ends with
// net.ErrClosed when the network is closed.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-h.node.ns.closing:
			cancel(net.ErrClosed)
		case <-ctx.Done():
		}
	}()
	var conn net.Conn
	err := h.node.ns.doBlocking(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp4", to.String())
		return err
	})
	if err != nil {
		if context.Cause(ctx) == net.ErrClosed {
			err = net.ErrClosed
		}
		return nil, fmt.Errorf("kernel: %s: %w", h.node.name, err)
	}
	if err := h.keep(conn.(*net.TCPConn)); err != nil {
		return nil, err
	}
	return conn, nil
}

// keep remembers an open socket for closeSockets. Connections that a listener
// accepts are the caller's own.
func (h *Host) keep(s socket) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.Close()
		return net.ErrClosed
	}
	if len(h.sockets) >= h.pruneAt {
		open := h.sockets[:0]
		for _, s := range h.sockets {
			if isOpen(s) {
				open = append(open, s)
			}
		}
		clear(h.sockets[len(open):])
		h.sockets = open
		h.pruneAt = 2*len(open) + 16
	}
	h.sockets = append(h.sockets, s)
	return nil
}

func isOpen(s socket) bool {
	raw, err := s.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}

func (h *Host) closeSockets() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, s := range h.sockets {
		s.Close()
	}
	h.sockets = nil
}
