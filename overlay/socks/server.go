package socks

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/overlay/forward"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxClients is the default of Config.Max.
	maxClients = 4096
	// requestTime is how long a client may take to say what it wants.
	requestTime = 10 * time.Second
	// dialTime bounds a dial.
	dialTime = 20 * time.Second
	// refusalTime is how long a client may take to read a refusal.
	refusalTime = 2 * time.Second
)

// A Grid is what a proxy needs of the overlay; *overlay.Node is one.
type Grid interface {
	// DialAccepted connects, and returns when the peer has taken the connection.
	DialAccepted(ctx context.Context, network, address string) (net.Conn, error)
	// ListenPacket opens a socket for packets.
	ListenPacket(network, address string) (net.PacketConn, error)
	// Locate reports whether a host is one of the grid, and how it is dialed.
	Locate(host string) (name string, ours bool)
	// Known returns the peer of a name if that is known already.
	Known(name string) (peer ri2n.PeerID, known bool)
}

// Config configures a [Server]. Grid must be set.
type Config struct {
	Grid Grid

	// Outside dials what is outside the grid, on networks "tcp" and "udp". Nil:
	// that is refused.
	Outside func(ctx context.Context, network, address string) (net.Conn, error)

	// Max bounds the clients at once; others wait to be accepted. Zero means
	// 4096.
	Max int

	// Logger is told what was refused, and why. Nil: nobody.
	Logger *slog.Logger
}

// A Server is a SOCKS5 proxy.
type Server struct {
	cfg      Config
	log      *slog.Logger
	Counters Counters
}

// NewServer returns a server.
func NewServer(cfg Config) *Server {
	if cfg.Max == 0 {
		cfg.Max = maxClients
	}
	s := &Server{cfg: cfg, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// An OutsideError is a host outside the grid that a client asked for.
type OutsideError struct{ Target string }

func (e *OutsideError) Error() string { return "socks: " + e.Object() + ": " + e.Cause() }

// Object names the host and port.
func (e *OutsideError) Object() string { return e.Target }

// Cause says why it is refused.
func (e *OutsideError) Cause() string {
	return "it is outside the grid, and this proxy leads to members alone"
}

// Next says what to do.
func (e *OutsideError) Next() string {
	return "use NAME.GRID.grid and let the proxy resolve it (socks5h://), or start it with --allow-outside"
}

// Serve serves clients until ctx ends or ln is closed, which it does itself.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	places := make(chan struct{}, s.cfg.Max)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			<-places
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.log.Warn("client not accepted", "err", err)
			select {
			case <-time.After(50 * time.Millisecond): // too many open files
				continue
			case <-ctx.Done():
				return nil
			}
		}
		running.Go(func() {
			defer func() { <-places }()
			s.Counters.Open.Add(1)
			defer s.Counters.Open.Add(-1)
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			s.serve(ctx, c)
		})
	}
}

// serve serves one client.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	c.SetDeadline(time.Now().Add(requestTime))
	if err := readGreeting(c); err != nil {
		if errors.Is(err, errNoMethod) {
			c.Write([]byte{version, noMethod})
		}
		s.complain(c, err)
		return
	}
	if _, err := c.Write([]byte{version, noAuth}); err != nil {
		return
	}
	command, to, err := readRequest(c)
	switch {
	case errors.Is(err, errAddress):
		s.complain(c, err)
		s.answer(c, noAddressType)
		return
	case err != nil:
		s.complain(c, err)
		return
	}
	c.SetDeadline(time.Time{})
	switch command {
	case cmdConnect:
		s.connect(ctx, c, to)
	case cmdUDP:
		s.associate(ctx, c)
	default:
		s.Counters.Unsupported.Add(1)
		s.answer(c, noCommand)
	}
}

// complain counts a client that made no sense.
func (s *Server) complain(c net.Conn, err error) {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		s.Counters.Slow.Add(1)
	case errors.Is(err, errVersion), errors.Is(err, errNoMethod), errors.Is(err, errAddress):
		s.Counters.Malformed.Add(1)
		s.log.Warn("client refused", "client", c.RemoteAddr(), "err", err)
	}
}

// answer sends a refusal and ends the client's connection in order.
func (s *Server) answer(c net.Conn, code reply) {
	c.SetDeadline(time.Now().Add(refusalTime))
	if _, err := c.Write(appendReply(nil, code, netip.AddrPort{})); err != nil {
		return
	}
	if w, ok := c.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		// What the client has sent meanwhile would turn our close into a reset,
		// and the reset could overtake the answer.
		var sink [512]byte
		for range 64 {
			if _, err := c.Read(sink[:]); err != nil {
				return
			}
		}
	}
}

// connect serves CONNECT.
func (s *Server) connect(ctx context.Context, c net.Conn, to target) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	d, err := s.dial(dialing, "tcp", to)
	cancel()
	if err != nil {
		s.refuse(ctx, c, to, err)
		s.answer(c, replyFor(err))
		return
	}
	defer d.Close()
	if _, err := c.Write(appendReply(nil, succeeded, netip.AddrPort{})); err != nil {
		return
	}
	s.Counters.Connected.Add(1)
	stop := context.AfterFunc(ctx, func() { d.Close() })
	defer stop()
	sent, received := forward.Join(c, d)
	s.Counters.Sent.Add(uint64(sent))
	s.Counters.Received.Add(uint64(received))
}

// refuse counts what was not dialed, and says so.
func (s *Server) refuse(ctx context.Context, c net.Conn, to target, err error) {
	var outside *OutsideError
	if errors.As(err, &outside) {
		s.Counters.Outside.Add(1)
	} else {
		s.Counters.Failed.Add(1)
	}
	if ctx.Err() == nil {
		s.log.Warn("connection refused", "client", c.RemoteAddr(), "to", to.String(), "err", err)
	}
}

func (s *Server) dial(ctx context.Context, network string, to target) (net.Conn, error) {
	if name, ours := s.cfg.Grid.Locate(to.host); ours {
		return s.cfg.Grid.DialAccepted(ctx, network, target{name, to.port}.String())
	}
	if s.cfg.Outside == nil {
		return nil, &OutsideError{to.String()}
	}
	return s.cfg.Outside(ctx, network, to.String())
}

// replyFor returns the code for a dial's error.
func replyFor(err error) reply {
	var outside *OutsideError
	switch {
	case errors.As(err, &outside):
		return notAllowed
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ENETUNREACH):
		return netUnreachable
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded):
		return ttlExpired
	case errors.Is(err, syscall.EHOSTUNREACH):
		return hostUnreach
	}
	return failed
}
