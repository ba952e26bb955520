package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// quicConfig gives quic-go room for a fast or long link, as its documentation
// advises, and the same keepalive as the others.
func quicConfig() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow:     8 << 20,
		MaxStreamReceiveWindow:         64 << 20,
		InitialConnectionReceiveWindow: 12 << 20,
		MaxConnectionReceiveWindow:     96 << 20,
		MaxIdleTimeout:                 time.Minute,
		KeepAlivePeriod:                15 * time.Second,
	}
}

type quicListener struct{ *quic.Listener }

func listenQUIC(_ context.Context, address string, key identity) (listener, error) {
	ln, err := quic.ListenAddr(firstAddress(address), tlsConfig(key), quicConfig())
	if err != nil {
		return nil, err
	}
	return quicListener{ln}, nil
}

func (l quicListener) Accept(ctx context.Context) (conn, error) {
	c, err := l.Listener.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return &quicConn{session: c, accepted: true}, nil
}

// A quicConn is the only stream of a connection of its own. On the accepting
// side the stream is taken at the first Read, as it is the dialer's to open.
type quicConn struct {
	*quic.Stream
	session  *quic.Conn
	accepted bool
}

// Read implements net.Conn for the one goroutine that serves the connection.
func (c *quicConn) Read(b []byte) (int, error) {
	if c.Stream == nil {
		ctx, cancel := context.WithTimeout(context.Background(), setupLimit)
		defer cancel()
		stream, err := c.session.AcceptStream(ctx)
		if err != nil {
			return 0, fmt.Errorf("accept stream: %w", err)
		}
		c.Stream = stream
	}
	return c.Stream.Read(b)
}

// SetDeadline bounds the wait for the stream as well: before there is one,
// setupLimit does.
func (c *quicConn) SetDeadline(t time.Time) error {
	if c.Stream == nil {
		return nil
	}
	return c.Stream.SetDeadline(t)
}

// CloseWrite ends the outgoing direction: what quic-go calls Close.
func (c *quicConn) CloseWrite() error { return c.Stream.Close() }

// Close ends the connection. The accepting side gives the dialer time to read
// what is still on its way and to close first.
func (c *quicConn) Close() error {
	if c.accepted && c.Stream != nil {
		timer := time.NewTimer(lingerLimit)
		defer timer.Stop()
		select {
		case <-c.session.Context().Done():
		case <-timer.C:
		}
	}
	return c.session.CloseWithError(0, "")
}

type quicDialer struct {
	to  target
	key identity
}

func newQUICDialer(_ context.Context, to target, key identity) (dialer, error) {
	return &quicDialer{to, key}, nil
}

func (d *quicDialer) Dial(ctx context.Context) (conn, error) {
	session, err := quic.DialAddr(ctx, firstAddress(d.to.address), verifyPeer(tlsConfig(d.key), d.to.peer), quicConfig())
	if err != nil {
		return nil, err
	}
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		session.CloseWithError(0, "")
		return nil, err
	}
	return &quicConn{Stream: stream, session: session}, nil
}

func (d *quicDialer) Close() error { return nil }

func (c *quicConn) LocalAddr() net.Addr  { return c.session.LocalAddr() }
func (c *quicConn) RemoteAddr() net.Addr { return c.session.RemoteAddr() }
