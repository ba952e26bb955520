package main

import (
	"context"
	"crypto/tls"
	"net"
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

type tlsListener struct {
	net.Listener
	config *tls.Config
}

func listenTLS(ctx context.Context, address string, key identity) (listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &tlsListener{ln, tlsConfig(key)}, nil
}

// Accept returns a connection before its handshake, which happens at the first
// Read, under the deadline that serve sets.
func (l *tlsListener) Accept(ctx context.Context) (conn, error) {
	stop := context.AfterFunc(ctx, func() { l.Listener.Close() })
	defer stop()
	c, err := l.Listener.Accept()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return tls.Server(c, l.config), nil
}

type tlsDialer struct {
	address string
	config  *tls.Config
}

func newTLSDialer(ctx context.Context, to target, key identity) (dialer, error) {
	config := tlsConfig(key)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		got, err := peerOf(state)
		if err == nil && got != to.peer {
			err = &wrongPeerError{to.peer, got}
		}
		return err
	}
	return &tlsDialer{to.address, config}, nil
}

func (d *tlsDialer) Dial(ctx context.Context) (conn, error) {
	c, err := (&tls.Dialer{Config: d.config}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func (d *tlsDialer) Close() error { return nil }
