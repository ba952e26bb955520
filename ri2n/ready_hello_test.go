package ri2n

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// helloOf returns what the ClientHello of h, not dialed with yet, says.
func helloOf(t *testing.T, h *handshake) string {
	t.Helper()
	if len(h.spaces[0].out) == 0 {
		t.Fatal("a handshake without a ClientHello was ready")
	}
	return string(h.spaces[0].out)
}

// TestReadyHello: a dial leaves a ClientHello for the next one, which uses it
// up, and which is forgotten if there is none.
func TestReadyHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		seen := make(map[string]bool)
		for i := range 3 {
			ready := s.a.ready.h
			client, server := s.connect()
			exchange(t, client, server, 100)
			synctest.Wait()
			next := s.a.ready.h
			if next == nil || next == ready {
				t.Fatalf("dial %d left no ClientHello of its own for the next", i)
			}
			if ready != nil && client.Peer() != s.b.PeerID() {
				t.Errorf("dial %d with a ClientHello made ahead reached %s", i, client.Peer())
			}
			if hello := helloOf(t, next); seen[hello] {
				t.Errorf("dial %d left a ClientHello that was there before", i)
			} else {
				seen[hello] = true
			}
			client.Close()
		}
		if s.b.ready.h != nil {
			t.Error("an endpoint that never dialed keeps a ClientHello")
		}
		time.Sleep(readyFor + time.Second)
		synctest.Wait()
		if s.a.ready.h != nil {
			t.Errorf("the ClientHello is still kept after %v", readyFor)
		}
		client, server := s.connect()
		exchange(t, client, server, 100)
		client.Close()
	})
}

// TestReadyHelloTime: a handshake's time runs from the dial, not from when its
// ClientHello was made.
func TestReadyHelloTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, _ := s.connect()
		client.Close()
		time.Sleep(readyFor - time.Second)
		if s.a.ready.h == nil {
			t.Fatal("no ClientHello is ready")
		}
		begun := time.Now()
		_, err := s.a.Dial(t.Context(), s.a.PeerID(), Remote{Link: s.la, Addr: linkAddr(s.lb)}) // b is another
		if !errors.Is(err, ErrHandshakeTimeout) {
			t.Fatalf("Dial = %v, want a time-out", err)
		}
		if got := time.Since(begun); got < s.a.cfg.HandshakeTimeout {
			t.Errorf("the dial gave up after %v, want %v", got, s.a.cfg.HandshakeTimeout)
		}
	})
}

// TestReadyHelloEndsWithEndpoint: Close leaves no goroutine of crypto/tls, and
// none is made afterwards.
func TestReadyHelloEndsWithEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, _ := s.connect()
		client.Close()
		synctest.Wait()
		var h *handshake
		if h = s.a.ready.h; h == nil {
			t.Fatal("no ClientHello is ready")
		}
		before := runtime.NumGoroutine()
		s.a.Close()
		synctest.Wait()
		if s.a.ready.h != nil || h.tls != nil {
			t.Error("the ClientHello is kept after Close")
		}
		if got := runtime.NumGoroutine(); got >= before {
			t.Errorf("%d goroutines after Close, %d before", got, before)
		}
		if s.a.prepareHello(); s.a.ready.making {
			t.Error("a ClientHello is made after Close")
		}
		if _, err := s.a.Dial(context.Background(), s.b.PeerID(), s.toB()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Dial after Close = %v, want net.ErrClosed", err)
		}
	})
}

// TestReadyHelloIsFresh: no two dials share a key share.
func TestReadyHelloIsFresh(t *testing.T) {
	e := newTestEndpoint(t)
	one, err := e.makeHello()
	if err != nil {
		t.Fatal(err)
	}
	defer one.release()
	other, err := e.makeHello()
	if err != nil {
		t.Fatal(err)
	}
	defer other.release()
	if helloOf(t, one) == helloOf(t, other) || one.scid == other.scid || one.dcid == other.dcid {
		t.Error("two handshakes begin alike")
	}
	if len(e.routes.long) != 0 {
		t.Error("a handshake that nobody dials with has connection IDs")
	}
}
