package overlay

import (
	"io"
	"testing"
	"time"
)

// The figure of architecture.md: the first byte can be written after one relay
// round trip, reaches the peer at 1.5, and its echo returns at 2.
func TestFirstByteAfterOneRelayRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a, b := r.pair(nil)
		ln, err := b.Listen("tcp", ":7000")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		time.Sleep(time.Second) // the rendezvous sessions are quiet
		start := time.Now()
		arrived := make(chan time.Duration, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			var first [1]byte
			io.ReadFull(c, first[:])
			arrived <- time.Since(start)
			c.Write(first[:])
			io.Copy(c, c)
		}()
		c := dial(t, a, b.PeerID(), 7000)
		defer c.Close()
		within(t, "first byte can be written", time.Since(start), 40*time.Millisecond)
		says(t, c, "x")
		within(t, "first byte arrives", <-arrived, 60*time.Millisecond)
		within(t, "echo", time.Since(start), 80*time.Millisecond)
		p, _ := a.Connect(t.Context(), b.PeerID())
		st, err := p.WaitDirect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("direct after %v: %+v", time.Since(start), st)
		says(t, c, "y")
	})
}

// within compares a virtual time with a number of round trips; pacers between
// the two ends may add a few packets' worth.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+time.Millisecond {
		t.Errorf("%s after %v, want %v and at most 1ms of pacing", what, got, want)
	}
}
