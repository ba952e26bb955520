package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/xtaci/kcp-go/v5"
	"github.com/xtaci/smux"
)

// The settings with which kcp-go was fastest on the links of compare: no
// forward error correction, no congestion control, fast retransmission after
// two skips, a clock of 10 ms.
const (
	kcpWindow = 1024 // packets
	kcpMTU    = 1400
	kcpBuffer = 4 << 20
)

// kcpBlock derives the shared key that kcp-go wants in place of a handshake.
func kcpBlock() (kcp.BlockCrypt, error) {
	secret := sha256.Sum256([]byte("ri2n-bench kcp"))
	return kcp.NewAESGCMCrypt(secret[:16])
}

func smuxConfig() *smux.Config {
	c := smux.DefaultConfig()
	c.Version = 2
	c.MaxFrameSize = 32 << 10
	c.MaxReceiveBuffer = 16 << 20
	c.MaxStreamBuffer = 8 << 20
	c.KeepAliveInterval = 15 * time.Second
	c.KeepAliveTimeout = time.Minute
	return c
}

func tuneKCP(s *kcp.UDPSession) {
	//lint:ignore SA1019 the default cuts each write into packets of its own, which is slower
	s.SetStreamMode(true)
	s.SetWriteDelay(false)
	s.SetNoDelay(1, 10, 2, 1)
	s.SetWindowSize(kcpWindow, kcpWindow)
	s.SetMtu(kcpMTU)
	s.SetACKNoDelay(false)
}

type kcpListener struct{ *kcp.Listener }

func listenKCP(_ context.Context, address string, _ identity) (listener, error) {
	block, err := kcpBlock()
	if err != nil {
		return nil, err
	}
	ln, err := kcp.ListenWithOptions(firstAddress(address), block, 0, 0)
	if err != nil {
		return nil, err
	}
	ln.SetReadBuffer(kcpBuffer)
	ln.SetWriteBuffer(kcpBuffer)
	return kcpListener{ln}, nil
}

func (l kcpListener) Accept(ctx context.Context) (conn, error) {
	stop := context.AfterFunc(ctx, func() { l.Listener.Close() })
	defer stop()
	s, err := l.Listener.AcceptKCP()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	tuneKCP(s)
	mux, err := smux.Server(s, smuxConfig())
	if err != nil {
		s.Close()
		return nil, err
	}
	return &kcpConn{mux: mux, accepted: true}, nil
}

// A kcpConn is a kcp-go session of its own with a smux stream for each
// direction, since a smux stream whose peer has ended writing cannot be written
// to. On the accepting side the streams are taken at the first Read.
type kcpConn struct {
	*smux.Stream // outgoing
	in           *smux.Stream
	mux          *smux.Session
	accepted     bool
}

// openKCP opens both streams: first the dialer's outgoing one.
func openKCP(mux *smux.Session) (*kcpConn, error) {
	out, err := mux.OpenStream()
	if err != nil {
		return nil, err
	}
	in, err := mux.OpenStream()
	if err != nil {
		return nil, err
	}
	return &kcpConn{Stream: out, in: in, mux: mux}, nil
}

// Read implements net.Conn for the one goroutine that serves the connection.
func (c *kcpConn) Read(b []byte) (int, error) {
	if c.in == nil {
		c.mux.SetDeadline(time.Now().Add(setupLimit))
		for _, stream := range []**smux.Stream{&c.in, &c.Stream} {
			accepted, err := c.mux.AcceptStream()
			if err != nil {
				return 0, fmt.Errorf("accept stream: %w", err)
			}
			*stream = accepted
		}
		c.mux.SetDeadline(time.Time{})
	}
	return c.in.Read(b)
}

// SetDeadline bounds reads and writes once there are streams.
func (c *kcpConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *kcpConn) SetReadDeadline(t time.Time) error {
	if c.in == nil {
		return nil
	}
	return c.in.SetReadDeadline(t)
}

func (c *kcpConn) SetWriteDeadline(t time.Time) error {
	if c.Stream == nil {
		return nil
	}
	return c.Stream.SetWriteDeadline(t)
}

// CloseWrite ends the outgoing stream; the other goes on.
func (c *kcpConn) CloseWrite() error { return c.Stream.CloseWrite() }

// Close ends the session. kcp-go tells nobody, so the accepting side gives the
// dialer time to read what is on its way.
func (c *kcpConn) Close() error {
	if c.accepted && c.in != nil {
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-c.mux.CloseChan():
		case <-timer.C:
		}
	}
	return c.mux.Close()
}

type kcpDialer struct {
	address string
	block   kcp.BlockCrypt
}

func newKCPDialer(_ context.Context, to target, _ identity) (dialer, error) {
	block, err := kcpBlock()
	if err != nil {
		return nil, err
	}
	return &kcpDialer{firstAddress(to.address), block}, nil
}

func (d *kcpDialer) Dial(context.Context) (conn, error) {
	s, err := kcp.DialWithOptions(d.address, d.block, 0, 0)
	if err != nil {
		return nil, err
	}
	tuneKCP(s)
	// What the system does not grant, it does not: as a user would have it.
	_ = errors.Join(s.SetReadBuffer(kcpBuffer), s.SetWriteBuffer(kcpBuffer))
	mux, err := smux.Client(s, smuxConfig())
	if err != nil {
		s.Close()
		return nil, err
	}
	c, err := openKCP(mux)
	if err != nil {
		mux.Close()
		return nil, err
	}
	return c, nil
}

func (d *kcpDialer) Close() error { return nil }
