package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A conn is a stream of a session as a net.Conn with CloseWrite.
type conn struct {
	stream        *ri2n.Stream
	a             *association
	local, remote Addr
	closeOnce     sync.Once
	abort         atomic.Bool // Close gives the connection up
}

func newConn(a *association, st *ri2n.Stream, local, remote uint16) *conn {
	return &conn{
		stream: st,
		a:      a,
		local:  Addr{Peer: a.node.PeerID(), Port: local},
		remote: Addr{Peer: a.peer.id, Port: remote},
	}
}

// ephemeral returns the port that the dialing side of a stream shows.
func ephemeral(st *ri2n.Stream) uint16 { return uint16(0xc000 + st.ID()/4%0x4000) }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	c.a.peer.received.Add(uint64(n))
	return n, c.explain("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.stream.Write(b)
	c.a.peer.sent.Add(uint64(n))
	return n, c.explain("write", err)
}

// awaitTaken waits until the peer has taken the stream.
func (c *conn) awaitTaken(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.stream.SetReadDeadline(time.Unix(1, 0)) })
	var b [1]byte
	_, err := io.ReadFull(c.stream, b[:])
	if !stop() {
		return c.a.peer.explain(ctx.Err())
	}
	switch {
	case err == nil && b[0] == taken:
		return nil
	case err == nil, err == io.EOF:
		return &PortError{Peer: c.remote.Peer, Port: c.remote.Port, Code: resetHeader}
	}
	return c.cause(err)
}

// explain turns the peer's refusal of the port into an error that is
// syscall.ECONNREFUSED, and names both ends as package net does.
func (c *conn) explain(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: c.cause(err)}
}

// cause is explain without the names of both ends.
func (c *conn) cause(err error) error {
	var reset *ri2n.StreamError
	switch {
	case errors.As(err, &reset):
		switch reset.Code {
		case resetRefused, resetBusy, resetHeader, resetPolicy:
			return &PortError{Peer: c.remote.Peer, Port: c.remote.Port, Code: reset.Code}
		case resetIndirect:
			return c.a.notDirect(err)
		}
		return syscall.ECONNRESET
	case errors.Is(err, net.ErrClosed), isTimeout(err):
		return err
	}
	return withNumber(c.a.peer.explain(err))
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() && !errors.Is(err, ri2n.ErrIdleTimeout)
}

// CloseWrite ends the outgoing direction; reading goes on.
func (c *conn) CloseWrite() error { return c.stream.CloseWrite() }

func (c *conn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		err = nil
		if c.abort.Load() {
			c.stream.Reset(resetAborted)
		} else {
			err = c.stream.Close()
		}
		c.a.streamClosed()
	})
	if err != nil {
		return &net.OpError{Op: "close", Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
	}
	return nil
}

// SetLinger with zero makes Close give the connection up: what is on its way is
// dropped, and the peer's calls return ECONNRESET. With any other number Close
// delivers what was written, as it does without.
func (c *conn) SetLinger(seconds int) error {
	c.abort.Store(seconds == 0)
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.remote }
func (c *conn) SetDeadline(t time.Time) error      { return c.stream.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.stream.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// PeerOf returns the verified peer behind a connection of this package.
func PeerOf(c net.Conn) (ri2n.PeerID, bool) {
	switch c := c.(type) {
	case *conn:
		return c.remote.Peer, true
	case *packetConn:
		return c.remote.Peer, c.connected()
	}
	return ri2n.PeerID{}, false
}

// A PortError is a port of a peer that takes no connection. It is
// syscall.ECONNREFUSED for errors.Is.
type PortError struct {
	Peer ri2n.PeerID
	Port uint16
	Code uint64 // as the peer sent it
}

func (e *PortError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *PortError) Unwrap() error { return syscall.ECONNREFUSED }

// Policy reports whether the peer's policy closes the port to us.
func (e *PortError) Policy() bool { return e.Code == resetPolicy }

// Object names peer and port.
func (e *PortError) Object() string { return Addr{e.Peer, e.Port}.String() }

// Cause says why.
func (e *PortError) Cause() string {
	switch e.Code {
	case resetBusy:
		return "connection refused: more connections wait there than its program takes"
	case resetPolicy:
		return "connection refused: its policy does not open port " + strconv.Itoa(int(e.Port)) + " to us"
	case resetHeader:
		return "connection refused: the peer does not understand the request"
	}
	return "connection refused: no program listens on port " + strconv.Itoa(int(e.Port)) + " there"
}

// Next says what to do.
func (e *PortError) Next() string {
	switch e.Code {
	case resetBusy:
		return "try again in a moment"
	case resetPolicy:
		return "add a rule for this port to the file policy.yaml there (docs/membership.md), or allow this peer: grid up --allow PEERID"
	case resetHeader:
		return "compare the versions of both sides: grid version"
	}
	return fmt.Sprintf("start the program that serves port %d on that computer", e.Port)
}
