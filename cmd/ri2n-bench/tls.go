package main

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/instantgrid/instantgrid/ri2n"
)

// tlsConfig has both sides prove a key and keeps session tickets out, so that
// every connection pays for a whole handshake, as every ri2n session does.
func tlsConfig(key identity) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{key.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"ri2n-bench/1"},
		// The key is checked by VerifyConnection; there is no authority to ask.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := peerOf(state)
			return err
		},
	}
}

// A tlsConn is a TLS connection that can drop what is still to be sent.
type tlsConn struct {
	*tls.Conn
	tcp *net.TCPConn
}

// abort is that of tcpConn.
func (c tlsConn) abort() { c.tcp.SetLinger(0) }

type tlsListener struct {
	net.Listener
	config *tls.Config
}

func listenTLS(ctx context.Context, address string, key identity) (listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", firstAddress(address))
	if err != nil {
		return nil, err
	}
	return &tlsListener{ln, tlsConfig(key)}, nil
}

// Accept returns a connection before its handshake, which happens at the first
// Read, under the deadline that serve sets.
func (l *tlsListener) Accept(ctx context.Context) (conn, error) {
	c, err := acceptTCP(ctx, l.Listener)
	if err != nil {
		return nil, err
	}
	return tlsConn{tls.Server(c, l.config), c}, nil
}

type tlsDialer struct {
	address string
	config  *tls.Config
}

func newTLSDialer(ctx context.Context, to target, key identity) (dialer, error) {
	return &tlsDialer{firstAddress(to.address), verifyPeer(tlsConfig(key), to.peer)}, nil
}

// verifyPeer makes config refuse a server that proves another key than want's.
func verifyPeer(config *tls.Config, want ri2n.PeerID) *tls.Config {
	config.VerifyConnection = func(state tls.ConnectionState) error {
		got, err := peerOf(state)
		if err == nil && got != want {
			err = &wrongPeerError{want, got}
		}
		return err
	}
	return config
}

func (d *tlsDialer) Dial(ctx context.Context) (conn, error) {
	c, err := (&tls.Dialer{Config: d.config}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	tc := c.(*tls.Conn)
	return tlsConn{tc, tc.NetConn().(*net.TCPConn)}, nil
}

func (d *tlsDialer) Close() error { return nil }
