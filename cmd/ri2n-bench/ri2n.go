package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

type ri2nListener struct {
	endpoint *ri2n.Endpoint
	addr     net.Addr
}

// A ri2nKind is ri2n with one congestion control and one policy.
type ri2nKind struct {
	congestion ri2n.Congestion
	policy     ri2n.Policy
}

func (k ri2nKind) listen(ctx context.Context, address string, key identity) (listener, error) {
	// A benchmark server is a sink that anybody may use, as its help says.
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{
		Identity:   key.ri2n,
		Authorize:  func(ri2n.PeerID) error { return nil },
		Congestion: k.congestion,
		Policy:     k.policy,
		Trace:      key.trace,
	})
	if err != nil {
		return nil, err
	}
	// One link for each address; all have the port of the first.
	var addr net.Addr
	for i, at := range strings.Split(address, ",") {
		if addr != nil {
			host, _, err := net.SplitHostPort(at)
			if err != nil {
				endpoint.Close()
				return nil, err
			}
			at = net.JoinHostPort(host, strconv.Itoa(addr.(*net.UDPAddr).Port))
		}
		pc, err := addLink(ctx, endpoint, i, at)
		if err != nil {
			endpoint.Close()
			return nil, err
		}
		if addr == nil {
			addr = pc.LocalAddr()
		}
	}
	return &ri2nListener{endpoint, addr}, nil
}

// addLink makes a UDP socket bound to address a link of the endpoint.
func addLink(ctx context.Context, endpoint *ri2n.Endpoint, i int, address string) (*ri2n.Link, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	link, err := endpoint.AddLink("link"+strconv.Itoa(i), pc)
	if err != nil {
		pc.Close()
		return nil, err
	}
	return link, nil
}

func (l *ri2nListener) Addr() net.Addr { return l.addr }
func (l *ri2nListener) Close() error   { return l.endpoint.Close() }

func (l *ri2nListener) Accept(ctx context.Context) (conn, error) {
	session, err := l.endpoint.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return &ri2nConn{session: session, accepted: true}, nil
}

// A ri2nConn is the only stream of a session of its own. On the accepting side
// the stream is taken at the first Read, as it is the dialer's to open.
type ri2nConn struct {
	*ri2n.Stream
	session  *ri2n.Session
	accepted bool
}

// Read implements net.Conn for the one goroutine that serves the connection.
func (c *ri2nConn) Read(b []byte) (int, error) {
	if c.Stream == nil {
		if err := c.acceptStream(); err != nil {
			return 0, err
		}
	}
	return c.Stream.Read(b)
}

func (c *ri2nConn) acceptStream() error {
	ctx, cancel := context.WithTimeout(context.Background(), setupLimit)
	defer cancel()
	stream, err := c.session.AcceptStream(ctx)
	if err != nil {
		return fmt.Errorf("accept stream: %w", err)
	}
	c.Stream = stream
	return nil
}

// SetDeadline bounds the wait for the stream as well: before there is one,
// setupLimit does.
func (c *ri2nConn) SetDeadline(t time.Time) error {
	if c.Stream == nil {
		return nil
	}
	return c.Stream.SetDeadline(t)
}

// comment says how many of several paths carried a twentieth of the bytes or
// more.
func (c *ri2nConn) comment() string {
	paths := c.session.Paths()
	var sum uint64
	for _, p := range paths {
		sum += p.BytesSent
	}
	used := 0
	for _, p := range paths {
		if p.BytesSent*20 >= sum {
			used++
		}
	}
	if len(paths) < 2 {
		return ""
	}
	return fmt.Sprintf("%d of %d paths carried data", used, len(paths))
}

// Close ends stream and session. The accepting side gives the dialer time to
// read what is still on its way and to close first.
func (c *ri2nConn) Close() error {
	if c.Stream != nil {
		c.Stream.Close()
		if c.accepted {
			timer := time.NewTimer(lingerLimit)
			defer timer.Stop()
			select {
			case <-c.session.Done():
			case <-timer.C:
			}
		}
	}
	return c.session.Close()
}

type ri2nDialer struct {
	endpoint *ri2n.Endpoint
	remotes  []ri2n.Remote // the first is dialed, the others are added as paths
	peer     ri2n.PeerID
}

func (k ri2nKind) dialer(ctx context.Context, to target, key identity) (dialer, error) {
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{Identity: key.ri2n, Congestion: k.congestion, Policy: k.policy, Trace: key.trace})
	if err != nil {
		return nil, err
	}
	d := &ri2nDialer{endpoint: endpoint, peer: to.peer}
	for i, at := range strings.Split(to.address, ",") {
		addr, err := net.ResolveUDPAddr("udp", at)
		if err != nil {
			endpoint.Close()
			return nil, err
		}
		local, err := localAddressFor(addr)
		if err != nil {
			endpoint.Close()
			return nil, err
		}
		link, err := addLink(ctx, endpoint, i, net.JoinHostPort(local.String(), "0"))
		if err != nil {
			endpoint.Close()
			return nil, err
		}
		to4in6 := addr.AddrPort()
		remote := netip.AddrPortFrom(to4in6.Addr().Unmap(), to4in6.Port())
		d.remotes = append(d.remotes, ri2n.Remote{Link: link, Addr: remote})
	}
	return d, nil
}

// localAddressFor returns the address that packets to addr leave from. No
// packet is sent to find out.
func localAddressFor(addr *net.UDPAddr) (net.IP, error) {
	c, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP, nil
}

func (d *ri2nDialer) Dial(ctx context.Context) (conn, error) {
	session, err := d.endpoint.Dial(ctx, d.peer, d.remotes[0])
	if err != nil {
		return nil, err
	}
	for _, r := range d.remotes[1:] {
		if _, err := session.AddPath(ctx, r); err != nil {
			session.Close()
			return nil, fmt.Errorf("add path to %v: %w", r, err)
		}
	}
	stream, err := session.OpenStream(ctx)
	if err != nil {
		session.Close()
		return nil, err
	}
	return &ri2nConn{Stream: stream, session: session}, nil
}

func (d *ri2nDialer) Close() error { return d.endpoint.Close() }
