package main

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// TestFloodInitialsAreTaken: a flooder whose Initials were dropped for an
// error of its own would measure nothing.
func TestFloodInitialsAreTaken(t *testing.T) {
	key, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	e, err := ri2n.NewEndpoint(ri2n.Config{Identity: key.ri2n})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.AddLink("lo", server); err != nil {
		t.Fatal(err)
	}
	maker, err := newInitialMaker(key.ri2n.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(datagrams ...[]byte) {
		for _, b := range datagrams {
			if len(b) != floodSize {
				t.Errorf("a datagram has %d bytes, want %d", len(b), floodSize)
			}
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait := func(what string, done func(ri2n.Stats) bool) {
		t.Helper()
		for range 500 {
			if done(e.Stats()) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: %+v", what, e.Stats())
	}
	send(junkInitial())
	wait("junk", func(s ri2n.Stats) bool { return s.Mac1Failed == 1 })
	flight, err := maker.flight(77, nil)
	if err != nil {
		t.Fatal(err)
	}
	send(flight...)
	// The whole ClientHello was read, or nobody would have missed parameters.
	wait("flight", func(s ri2n.Stats) bool { return s.HandshakesStarted == 1 && s.HandshakesFailed == 1 })
	if s := e.Stats(); s.AuthenticationFailed != 0 || s.Malformed != 0 {
		t.Errorf("a flight was refused: %+v", s)
	}
}

func TestRetryToken(t *testing.T) {
	b := append([]byte{floodRetry}, make([]byte, 20)...)
	b[20] = 9
	b = append(b, 0, 3, 'a', 'b', 'c')
	b = append(b, make([]byte, floodMAC)...)
	scid, token, ok := retryToken(b)
	if !ok || scid != 9 || !bytes.Equal(token, []byte("abc")) {
		t.Errorf("token %q of %d, %v", token, scid, ok)
	}
	for i := range b {
		if _, _, ok := retryToken(b[:i]); ok {
			t.Errorf("a Retry of %d bytes was taken", i)
		}
	}
}
