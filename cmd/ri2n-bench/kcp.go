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

// A kcpConn is the only smux stream of a kcp-go session of its own. On the
// accepting side the stream is taken at the first Read.
type kcpConn struct {
	*smux.Stream
	mux      *smux.Session
	accepted bool
}

// Read implements net.Conn for the one goroutine that serves the connection.
func (c *kcpConn) Read(b []byte) (int, error) {
	if c.Stream == nil {
		c.mux.SetDeadline(time.Now().Add(setupLimit))
		stream, err := c.mux.AcceptStream()
		if err != nil {
			return 0, fmt.Errorf("accept stream: %w", err)
		}
		c.mux.SetDeadline(time.Time{})
		c.Stream = stream
	}
	return c.Stream.Read(b)
}

// SetDeadline bounds reads and writes once there is a stream.
func (c *kcpConn) SetDeadline(t time.Time) error {
	if c.Stream == nil {
		return nil
	}
	return c.Stream.SetDeadline(t)
}

// Close ends the session. kcp-go tells nobody, so the accepting side gives the
// dialer time to read what is on its way.
func (c *kcpConn) Close() error {
	if c.accepted && c.Stream != nil {
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
	stream, err := mux.OpenStream()
	if err != nil {
		mux.Close()
		return nil, err
	}
	return &kcpConn{Stream: stream, mux: mux}, nil
}

func (d *kcpDialer) Close() error { return nil }
