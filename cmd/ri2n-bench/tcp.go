package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// A tcpKind is one way to use the kernel's TCP.
type tcpKind struct {
	congestion string // name of the congestion control; empty: the system's
	multipath  bool   // Multipath TCP (RFC 8684)
}

// A tcpConn is a TCP connection whose Close drops what is still to be sent.
type tcpConn struct{ *net.TCPConn }

// abort drops what has been written and not sent, so that a measurement does
// not go on sending after its end.
func (c tcpConn) abort() { c.SetLinger(0) }

// control selects the congestion control before the socket is used.
func (k tcpKind) control(_, _ string, raw syscall.RawConn) error {
	if k.congestion == "" {
		return nil
	}
	var failed error
	err := raw.Control(func(fd uintptr) { failed = setCongestion(fd, k.congestion) })
	if failed != nil {
		return fmt.Errorf("this system has no TCP congestion control %q: %w", k.congestion, failed)
	}
	return err
}

type tcpListener struct{ net.Listener }

func (k tcpKind) listen(ctx context.Context, address string, _ identity) (listener, error) {
	at := firstAddress(address)
	if k.multipath && strings.Contains(address, ",") {
		// Further subflows arrive at other addresses of this host.
		_, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		at = net.JoinHostPort("0.0.0.0", port)
	}
	lc := net.ListenConfig{Control: k.control}
	lc.SetMultipathTCP(k.multipath)
	ln, err := lc.Listen(ctx, "tcp4", at)
	if err != nil {
		return nil, err
	}
	return &tcpListener{ln}, nil
}

func (l *tcpListener) Accept(ctx context.Context) (conn, error) {
	c, err := acceptTCP(ctx, l.Listener)
	if err != nil {
		return nil, err
	}
	return tcpConn{c}, nil
}

// acceptTCP accepts until ctx ends, which closes ln.
func acceptTCP(ctx context.Context, ln net.Listener) (*net.TCPConn, error) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	c, err := ln.Accept()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// errNoMultipath reports a connection that fell back to plain TCP.
var errNoMultipath = errors.New("the kernel fell back to plain TCP: it has no Multipath TCP or net.mptcp.enabled is 0")

type tcpDialer struct {
	kind    tcpKind
	address string
	dialer  net.Dialer
}

func (k tcpKind) dialer(_ context.Context, to target, _ identity) (dialer, error) {
	d := &tcpDialer{kind: k, address: firstAddress(to.address), dialer: net.Dialer{Control: k.control}}
	d.dialer.SetMultipathTCP(k.multipath)
	return d, nil
}

func (d *tcpDialer) Dial(ctx context.Context) (conn, error) {
	c, err := d.dialer.DialContext(ctx, "tcp4", d.address)
	if err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	if d.kind.multipath {
		if is, err := tc.MultipathTCP(); err != nil || !is {
			tc.Close()
			return nil, errNoMultipath
		}
	}
	return tcpConn{tc}, nil
}

func (d *tcpDialer) Close() error { return nil }
