package ri2n

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"testing"
	"time"
)

// newTestEndpoint returns an endpoint that accepts everybody.
func newTestEndpoint(t testing.TB, edit ...func(*Config)) *Endpoint {
	t.Helper()
	id, err := NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Identity: id, Authorize: func(PeerID) error { return nil }}
	for _, f := range edit {
		f(&cfg)
	}
	e, err := NewEndpoint(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// addLoopback gives e a UDP socket on the loopback interface.
func addLoopback(t testing.TB, e *Endpoint) *Link {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.AddLink("lo", pc)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func linkAddr(l *Link) netip.AddrPort { return addrPortOf(l.LocalAddr()) }

// connectSessions dials from a to b and returns both ends.
func connectSessions(t testing.TB, a, b *Endpoint, candidates ...Remote) (client, server *Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := a.Dial(ctx, b.PeerID(), candidates...)
	if err != nil {
		t.Fatal(err)
	}
	server, err = b.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// loopbackPair returns a session between two endpoints on loopback.
func loopbackPair(t testing.TB) (client, server *Session) {
	t.Helper()
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	la, lb := addLoopback(t, a), addLoopback(t, b)
	return connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
}

// streamPair opens a stream and makes the peer know of it.
func streamPair(t testing.TB, client, server *Session) (a, b *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	a, err := client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	b, err = server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var first [1]byte
	if _, err := b.Read(first[:]); err != nil {
		t.Fatal(err)
	}
	return a, b
}
