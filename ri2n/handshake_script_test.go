package ri2n

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestHandshakeOverBadNetwork: each single fault of a handshake costs time and
// nothing else.
func TestHandshakeOverBadNetwork(t *testing.T) {
	only := func(n int, does func(b []byte) []delivery) func(int, []byte, netip.AddrPort) []delivery {
		return func(i int, b []byte, _ netip.AddrPort) []delivery {
			if i == n {
				return does(b)
			}
			return as(b)
		}
	}
	faults := []struct {
		name string
		does func(b []byte) []delivery
	}{
		{"lost", func([]byte) []delivery { return nil }},
		{"duplicated", func(b []byte) []delivery { return []delivery{{0, b}, {30 * time.Millisecond, b}} }},
		{"late", func(b []byte) []delivery { return []delivery{{35 * time.Millisecond, b}} }},
		{"corrupted", func(b []byte) []delivery { b[len(b)/2] ^= 1; return as(b) }},
		{"corrupted before the original", func(b []byte) []delivery {
			bad := append([]byte(nil), b...)
			bad[len(bad)-1] ^= 1
			return []delivery{{0, bad}, {time.Millisecond, b}}
		}},
		{"truncated", func(b []byte) []delivery { return as(b[:len(b)*3/4]) }},
	}
	for _, fault := range faults {
		for n := range 8 {
			for _, fromClient := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, packet %d, from client %v", fault.name, n, fromClient), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newStage(t)
						if fromClient {
							s.ca.setRule(only(n, fault.does))
						} else {
							s.cb.setRule(only(n, fault.does))
						}
						begun := time.Now()
						client, server := s.connect()
						exchange(t, client, server, 2000)
						if took := time.Since(begun); took > 1500*time.Millisecond {
							t.Errorf("dial and exchange took %v", took)
						}
						client.Close()
						wantLedgerKept(t, s)
					})
				})
			}
		}
	}
}

// wantLedgerKept fails if b, while a's address was unproven, sent more than
// three times what a had sent (RFC 9000, section 8.1). The address is proven
// by a's first Handshake packet.
func wantLedgerKept(t testing.TB, s *stage) {
	t.Helper()
	const oneWay = 10 * time.Millisecond
	proven := time.Time{}
	for _, w := range s.ca.captured() {
		for rest := w.data; len(rest) > 0 && isLongPacket(rest[0]); {
			hdr, _, after, err := parseLongHeader(rest)
			if err != nil {
				break
			}
			if hdr.typ == longHandshake && (proven.IsZero() || w.at.Before(proven)) {
				proven = w.at.Add(oneWay)
			}
			rest = after
		}
	}
	sent := 0
	for _, w := range s.cb.captured() {
		if !proven.IsZero() && !w.at.Before(proven) {
			break
		}
		sent += len(w.data)
		received := 0
		for _, r := range s.ca.captured() {
			if !r.at.Add(oneWay).After(w.at) {
				received += len(r.data)
			}
		}
		if sent > 3*received {
			t.Errorf("%d bytes sent to an unproven address that had sent %d", sent, received)
			return
		}
	}
}

// TestClientHelloReversed: a ClientHello takes two datagrams; the second one
// may come first.
func TestClientHelloReversed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		var initials int
		s.ca.setRule(func(n int, b []byte, _ netip.AddrPort) []delivery {
			if isLongPacket(b[0]) && n < 2 {
				initials++
			}
			if n == 0 {
				return []delivery{{time.Millisecond, b}}
			}
			return as(b)
		})
		begun := time.Now()
		client, server := s.connect()
		if got, want := time.Since(begun), 31*time.Millisecond; got > want {
			t.Errorf("handshake took %v, want at most %v", got, want)
		}
		if initials != 2 {
			t.Errorf("ClientHello took %d datagrams, want 2", initials)
		}
		exchange(t, client, server, 1000)
		if got := s.b.Stats().HandshakesStarted; got != 1 {
			t.Errorf("handshakes started by the responder = %d, want 1", got)
		}
	})
}

// TestHandshakeLedgerUnderLoss looks at the 3x limit while flights are repeated.
func TestHandshakeLedgerUnderLoss(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			state := seed*2654435761 + 1
			lossy := func(_ int, b []byte, _ netip.AddrPort) []delivery {
				state = state*6364136223846793005 + 1442695040888963407
				if state>>33%100 < 35 {
					return nil
				}
				return as(b)
			}
			var mu sync.Mutex
			rule := func(n int, b []byte, to netip.AddrPort) []delivery {
				mu.Lock()
				defer mu.Unlock()
				return lossy(n, b, to)
			}
			s.ca.setRule(rule)
			s.cb.setRule(rule)
			s.a.Dial(t.Context(), s.b.PeerID(), s.toB()) // may time out, too
			s.ca.setRule(nil)
			s.cb.setRule(nil)
			wantLedgerKept(t, s)
		})
	}
}

// fillHalfOpen makes e want Retry of everybody.
func fillHalfOpen(e *Endpoint, n int) (undo func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.halfOpen.count += n
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.halfOpen.count -= n
	}
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		defer fillHalfOpen(s.b, retryAboveHalfOpen)()
		begun := time.Now()
		client, server := s.connect()
		if got, want := time.Since(begun), 50*time.Millisecond; got != want {
			t.Errorf("handshake with Retry took %v, want two and a half round trips, %v", got, want)
		}
		exchange(t, client, server, 1000)
		// Both datagrams of the ClientHello are answered, neither with state.
		if got := s.b.Stats(); got.RetriesSent != 2 || got.HandshakesStarted != 1 {
			t.Errorf("retries = %d, handshakes = %d; want 2, 1", got.RetriesSent, got.HandshakesStarted)
		}
		client.Close()
	})
}

// TestRetryTokenMisuse replays Initials with a token that was good once.
func TestRetryTokenMisuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		undo := fillHalfOpen(s.b, retryAboveHalfOpen)
		client, _ := s.connect()
		undo()
		var withToken []byte
		for _, w := range s.ca.captured() {
			if h, _, _, err := parseLongHeader(w.data); err == nil && h.typ == longInitial && len(h.token) > 0 {
				withToken = w.data
				break
			}
		}
		if withToken == nil {
			t.Fatal("no Initial carried a token")
		}
		before := s.b.Stats()
		other := s.stranger(7000)
		other.WriteTo(withToken, net.UDPAddrFromAddrPort(linkAddr(s.lb)))
		// While the handshake is known its packets go there, unmoved by tokens.
		if got := drainSocket(t, other, time.Second); len(got) != 0 {
			t.Errorf("a copied Initial of a known handshake was answered with %d datagrams", len(got))
		}
		client.Close()
		time.Sleep(tombstone)
		other.WriteTo(withToken, net.UDPAddrFromAddrPort(linkAddr(s.lb)))
		if got := drainSocket(t, other, time.Second); len(got) != 0 {
			t.Errorf("a token of another address was answered with %d datagrams", len(got))
		}
		s.ca.PacketConn.WriteTo(withToken, net.UDPAddrFromAddrPort(linkAddr(s.lb)))
		time.Sleep(time.Second)
		after := s.b.Stats()
		if got := after.TokensRefused - before.TokensRefused; got != 2 {
			t.Errorf("tokens refused = %d, want 2: one of another address, one expired", got)
		}
		if after.HandshakesStarted != before.HandshakesStarted {
			t.Error("a misused token began a handshake")
		}
	})
}

func TestVersionNegotiation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		// The client speaks a version to come: the responder must say what it
		// speaks, in fewer bytes than it got.
		key := mac1Key(s.b.PeerID())
		const version2 = version1 + 1
		initial := appendLongHeader(nil, longHeader{typ: longInitial, version: version2, dcid: 1, scid: 2}, &key)
		initial = append(initial, make([]byte, baseSize-len(initial))...)
		pc := s.stranger(9)
		pc.WriteTo(initial, net.UDPAddrFromAddrPort(linkAddr(s.lb)))
		answers := drainSocket(t, pc, time.Second)
		if len(answers) != 1 {
			t.Fatalf("answers = %d, want 1", len(answers))
		}
		v, err := parseVersionNegotiation(answers[0])
		if err != nil || v.dcid != 2 || v.scid != 1 || len(v.versions) != 1 || v.versions[0] != version1 {
			t.Errorf("answer = %+v, %v", v, err)
		}

		// A responder of other versions: the dial fails with both lists.
		peer, err := NewIdentity(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		old := s.stranger(10)
		go func() {
			buf := make([]byte, 2048)
			n, from, err := old.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _, dcid, scid, _ := peekLong(buf[:n])
			// First one for somebody else, and one that lies about version 1.
			old.WriteTo(appendVersionNegotiation(nil, versionNegotiation{dcid: scid, scid: dcid + 1, versions: []uint32{7}}), from)
			old.WriteTo(appendVersionNegotiation(nil, versionNegotiation{dcid: scid, scid: dcid, versions: []uint32{7, version1}}), from)
			time.Sleep(time.Second)
			old.WriteTo(appendVersionNegotiation(nil, versionNegotiation{dcid: scid, scid: dcid, versions: []uint32{version2, 0x52320009}}), from)
		}()
		begun := time.Now()
		_, err = s.a.Dial(t.Context(), peer.PeerID(), Remote{Link: s.la, Addr: addrPortOf(old.LocalAddr())})
		var ve *VersionError
		if !errors.As(err, &ve) || ve.Ours != version1 || len(ve.Theirs) != 2 || ve.Theirs[0] != version2 {
			t.Errorf("err = %v, want a *VersionError", err)
		}
		if got := time.Since(begun); got < time.Second {
			t.Errorf("a false Version Negotiation ended the dial after %v", got)
		}
		wantNoHandshakeState(t, s.a)
		wantNoHandshakeState(t, s.b)
	})
}

// TestSilence: what a stranger may send without an answer.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		key := mac1Key(s.b.PeerID())
		wrong := mac1Key(s.a.PeerID())
		initial := func(mac *[32]byte, version uint32, size int) []byte {
			b := appendLongHeader(nil, longHeader{typ: longInitial, version: version, dcid: 1, scid: 2, length: uint16(size - 43)}, mac)
			return append(b, make([]byte, max(0, size-len(b)))...)
		}
		pc := s.stranger(9)
		for _, tt := range []struct {
			name    string
			data    []byte
			counter func(Stats) uint64
		}{
			{"mac1 for another peer", initial(&wrong, version1, 1200), func(s Stats) uint64 { return s.Mac1Failed }},
			{"unknown version, mac1 for another peer", initial(&wrong, 99, 1200), func(s Stats) uint64 { return s.Mac1Failed }},
			{"undersized", initial(&key, version1, minBaseSize-1), func(s Stats) uint64 { return s.UndersizedInitials }},
			{"undersized, unknown version", initial(&key, 99, minBaseSize-1), func(s Stats) uint64 { return s.UndersizedInitials }},
			{"does not open", initial(&key, version1, 1200), func(s Stats) uint64 { return s.AuthenticationFailed }},
			{"version zero", initial(&key, 0, 1200), func(s Stats) uint64 { return s.UnknownConnection }},
			{"Handshake packet of nobody", append([]byte{0xd0}, make([]byte, 1199)...), func(s Stats) uint64 { return s.UnknownConnection }},
			{"one byte, long", []byte{0xc0}, func(s Stats) uint64 { return s.Malformed }},
			{"one byte, short", []byte{0x40}, func(s Stats) uint64 { return s.Malformed }},
			{"empty", nil, func(s Stats) uint64 { return s.Malformed }},
			{"no RI2N", make([]byte, 500), func(s Stats) uint64 { return s.DatagramsReceived }},
			{"short, too small for a reset", append([]byte{0x40}, make([]byte, minResetTrigger-2)...), func(s Stats) uint64 { return s.UnknownConnection }},
		} {
			before := s.b.Stats()
			pc.WriteTo(tt.data, net.UDPAddrFromAddrPort(linkAddr(s.lb)))
			if got := drainSocket(t, pc, time.Second); len(got) != 0 {
				t.Errorf("%s: answered with %x", tt.name, got)
			}
			after := s.b.Stats()
			if got := tt.counter(after) - tt.counter(before); got != 1 {
				t.Errorf("%s: its counter moved by %d, want 1", tt.name, got)
			}
			if after.DatagramsSent != before.DatagramsSent || after.HandshakesStarted != before.HandshakesStarted {
				t.Errorf("%s: something was sent or begun", tt.name)
			}
		}
		wantNoHandshakeState(t, s.b)
	})
}

// craftInitial returns a client's first Initial with one CRYPTO frame.
func craftInitial(responder PeerID, dcid, scid connID, token, crypto []byte) []byte {
	key := mac1Key(responder)
	keys, _ := initialKeys(dcid)
	h := longHeader{typ: longInitial, version: version1, dcid: dcid, scid: scid, token: token}
	frames := appendCryptoFrame(nil, cryptoFrame{data: crypto})
	frames = appendPadding(frames, baseSize-longHeaderLen(h)-aeadOverhead-len(frames))
	h.length = uint16(2 + len(frames) + aeadOverhead)
	b := appendLongHeader(nil, h, &key)
	headerLen := len(b)
	b = append(b, frames...)
	b = append(b, make([]byte, aeadOverhead)...)
	return keys.seal(b[:len(b)-aeadOverhead], headerLen, 0, 0)
}

// TestInitialFlood sends well-formed Initials from many addresses: those that
// begin a ClientHello and stop, and those whose handshake fails at once.
func TestInitialFlood(t *testing.T) {
	for _, tt := range []struct {
		name   string
		crypto []byte
	}{
		{"half a ClientHello", append([]byte{1, 0, 5, 0}, make([]byte, 600)...)},
		{"no ClientHello", append([]byte{9, 0, 0, 4}, make([]byte, 600)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const flood = 1200
				s := newStage(t)
				s.b.halfOpen.tombstones = maxTombstones - 200 // as after a longer flood
				var before, after runtime.MemStats
				goroutines := runtime.NumGoroutine()
				runtime.GC()
				runtime.ReadMemStats(&before)
				r := receiver{endpoint: s.b, link: s.lb, now: time.Now()}
				sent := len(s.cb.captured())
				for i := range flood {
					addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 9)
					r.now = time.Now()
					r.datagram(craftInitial(s.b.PeerID(), connID(i+1), connID(i), nil, tt.crypto), addr)
					if i%100 == 99 {
						time.Sleep(100 * time.Millisecond) // 1000/s
					}
				}
				synctest.Wait()
				runtime.GC()
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
					t.Errorf("heap grew by %d KiB, want at most 16 MiB", grown>>10)
				}
				// crypto/tls runs each handshake on a goroutine of its own.
				if got := runtime.NumGoroutine() - goroutines; got > retryAboveHalfOpen+150 {
					t.Errorf("goroutines grew by %d, want at most %d", got, retryAboveHalfOpen+150)
				}
				s.b.mu.Lock()
				// Those that were queued when the limit was reached go through.
				if got, want := s.b.halfOpen.count, retryAboveHalfOpen+100; got > want {
					t.Errorf("half-open = %d, want at most %d for unproven addresses", got, want)
				}
				s.b.mu.Unlock()
				s.b.routes.mu.RLock()
				if got, want := len(s.b.routes.long), 2*(retryAboveHalfOpen+100+200); got > want {
					t.Errorf("connection IDs of handshakes = %d, want at most %d", got, want)
				}
				s.b.routes.mu.RUnlock()
				var bytes int
				for _, w := range s.cb.captured()[sent:] {
					bytes += len(w.data)
				}
				if bytes > flood*baseSize {
					t.Errorf("answered %d bytes to %d", bytes, flood*baseSize)
				}
				stats := s.b.Stats()
				if stats.RetriesSent == 0 {
					t.Error("nobody was asked to prove its address")
				}
				// An honest peer still gets in.
				client, server := s.connect()
				exchange(t, client, server, 1000)
				client.Close()
				wantNoHandshakeState(t, s.b)
				if got, want := s.b.halfOpen.tombstones, maxTombstones-200; got != want {
					t.Errorf("tombstones = %d in the end, want %d", got, want)
				}
			})
		})
	}
}

// TestEarlyPacketsAreBounded: 1-RTT packets ahead of the handshake's end are
// kept for a few handshakes only.
func TestEarlyPacketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		r := receiver{endpoint: s.b, link: s.lb, now: time.Now()}
		for i := range 200 {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 0, byte(i)}), 9)
			r.datagram(craftInitial(s.b.PeerID(), connID(i+1), connID(i), nil, append([]byte{1, 0, 5, 0}, make([]byte, 600)...)), addr)
			synctest.Wait()
			for range 100 {
				b := make([]byte, 1400)
				b[0] = 0x40
				binary.BigEndian.PutUint64(b[1:], uint64(i)+1<<40)
				r.datagram(b, addr)
			}
		}
		s.b.mu.Lock()
		total := 0
		for _, from := range s.b.halfOpen.tuples {
			total += len(from.packets)
		}
		s.b.mu.Unlock()
		if total > maxEarlyTotal {
			t.Errorf("early packets held = %d, want at most %d", total, maxEarlyTotal)
		}
		if got := s.b.Stats().EarlyPacketsDropped; got == 0 {
			t.Error("no early packet was dropped")
		}
		time.Sleep(30 * time.Second)
		if s.b.mu.Lock(); s.b.halfOpen.early != 0 {
			t.Errorf("early packets = %d after all handshakes have ended, want 0", s.b.halfOpen.early)
		}
		s.b.mu.Unlock()
	})
}

func TestHandshakeTimeouts(t *testing.T) {
	t.Run("nobody answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			s.cb.setRule(dropAll)
			begun := time.Now()
			_, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB())
			var de *DialError
			if !errors.As(err, &de) || !errors.Is(err, ErrHandshakeTimeout) || len(de.Tried) != 1 {
				t.Errorf("err = %v, want a *DialError that wraps %v", err, ErrHandshakeTimeout)
			}
			if got := time.Since(begun); got != 10*time.Second {
				t.Errorf("dial took %v, want 10 s", got)
			}
			wantNoHandshakeState(t, s.a)
			wantNoHandshakeState(t, s.b)
		})
	})
	t.Run("the client falls silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			s.ca.setRule(func(n int, b []byte, _ netip.AddrPort) []delivery {
				if n < 2 {
					return as(b)
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			client, err := s.a.Dial(ctx, s.b.PeerID(), s.toB())
			if err != nil {
				t.Fatal(err) // the client has all it needs
			}
			time.Sleep(11 * time.Second)
			if got := s.b.Stats().HandshakesFailed; got != 1 {
				t.Errorf("handshakes failed at the responder = %d, want 1", got)
			}
			<-client.Done()
			wantNoHandshakeState(t, s.a)
			wantNoHandshakeState(t, s.b)
		})
	})
}

func TestDialCancelled(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 15 * time.Millisecond, time.Second} {
		t.Run(wait.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				if wait == time.Second {
					s.cb.setRule(dropAll)
				}
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				begun := time.Now()
				_, err := s.a.Dial(ctx, s.b.PeerID(), s.toB())
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("err = %v, want %v", err, context.DeadlineExceeded)
				}
				if got := time.Since(begun); got != wait {
					t.Errorf("dial took %v, want %v", got, wait)
				}
				wantNoHandshakeState(t, s.a)
				wantNoHandshakeState(t, s.b)
			})
		})
	}
}

func TestCloseDuringDial(t *testing.T) {
	for _, wait := range []time.Duration{0, 10 * time.Millisecond, 19 * time.Millisecond, 20 * time.Millisecond, 21 * time.Millisecond} {
		t.Run(wait.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				go func() {
					time.Sleep(wait)
					s.a.Close()
				}()
				client, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB())
				if err == nil {
					<-client.Done()
					err = client.Err()
				}
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("err = %v, want %v", err, net.ErrClosed)
				}
				if _, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("dial after Close: %v, want %v", err, net.ErrClosed)
				}
				if _, err := s.a.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept after Close: %v, want %v", err, net.ErrClosed)
				}
			})
		})
	}
}

func TestCrossedDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		toA := Remote{Link: s.lb, Addr: linkAddr(s.la)}
		var ab, ba *Session
		var wg sync.WaitGroup
		wg.Go(func() { ab, _ = s.a.Dial(t.Context(), s.b.PeerID(), s.toB()) })
		wg.Go(func() { ba, _ = s.b.Dial(t.Context(), s.a.PeerID(), toA) })
		wg.Wait()
		if ab == nil || ba == nil {
			t.Fatal("one of two crossed dials failed")
		}
		atB, err := s.b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		atA, err := s.a.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, ab, atB, 100000)
		exchange(t, ba, atA, 100000)
		ab.Close()
		exchange(t, ba, atA, 1000)
		ba.Close()
	})
}

func TestSeveralCandidates(t *testing.T) {
	for _, tt := range []struct {
		name   string
		dead   []bool
		want   int // index of the candidate in use
		atMost time.Duration
	}{
		{"first dead", []bool{true, false}, 1, 50 * time.Millisecond},
		{"both answer", []bool{false, false}, 0, 30 * time.Millisecond},
		{"seven dead", []bool{true, true, true, true, true, true, true, false}, 7, 330 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				var candidates []Remote
				for i, dead := range tt.dead {
					l, c := s.link(s.b, s.world.Host(netsim.Delay(5*time.Millisecond)), uint16(8000+i))
					if dead {
						c.setRule(dropAll)
					}
					candidates = append(candidates, Remote{Link: s.la, Addr: linkAddr(l)})
				}
				begun := time.Now()
				client, server := connectSessions(t, s.a, s.b, candidates...)
				if got := time.Since(begun); got > tt.atMost {
					t.Errorf("dial took %v, want at most %v", got, tt.atMost)
				}
				exchange(t, client, server, 10000)
				paths := client.Paths()
				if len(paths) != 1 || paths[0].Remote != candidates[tt.want].Addr {
					t.Errorf("paths = %+v, want one to %v", paths, candidates[tt.want].Addr)
				}
				if got := s.b.Stats().HandshakesStarted; got != 1 {
					t.Errorf("handshakes started by the responder = %d, want 1", got)
				}
				client.Close()
				wantNoHandshakeState(t, s.b)
				wantNoHandshakeState(t, s.a)
			})
		})
	}
}

// withCertificate makes e show another certificate.
func withCertificate(e *Endpoint, cert tls.Certificate) { e.cfg.Identity.cert = cert }

// selfSigned returns a certificate for key, signed by signer.
func selfSigned(t testing.TB, key any, signer any, from, to time.Time) tls.Certificate {
	t.Helper()
	public := any(nil)
	switch k := key.(type) {
	case ed25519.PrivateKey:
		public = k.Public()
	case *ecdsa.PrivateKey:
		public = k.Public()
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestBadCertificates(t *testing.T) {
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cert func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate
		says string
	}{
		{"expired", func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate {
			return selfSigned(t, e.cfg.Identity.key, e.cfg.Identity.key, now.Add(-2*time.Hour), now.Add(-time.Hour))
		}, "is valid from"},
		{"not yet valid", func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate {
			return selfSigned(t, e.cfg.Identity.key, e.cfg.Identity.key, now.Add(time.Hour), now.Add(2*time.Hour))
		}, "is valid from"},
		{"signed by another key", func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate {
			der := append([]byte(nil), e.cfg.Identity.cert.Certificate[0]...)
			der[len(der)-1] ^= 1
			return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: e.cfg.Identity.key}
		}, "is not signed by its own key"},
		{"ECDSA", func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate {
			return selfSigned(t, ec, ec, now.Add(-time.Hour), now.Add(time.Hour))
		}, "does not hold an Ed25519 key"},
		{"three certificates", func(t testing.TB, e *Endpoint, now time.Time) tls.Certificate {
			c := e.cfg.Identity.cert
			der := c.Certificate[0]
			return tls.Certificate{Certificate: [][]byte{der, der, der}, PrivateKey: c.PrivateKey}
		}, "sent 3 certificates"},
	} {
		t.Run(tt.name+", client dials it", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				withCertificate(s.b, tt.cert(t, s.b, time.Now()))
				_, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB())
				if err == nil || !contains(err, tt.says) {
					t.Errorf("err = %v, want one that says %q", err, tt.says)
				}
				wantNoHandshakeState(t, s.a)
				wantNoHandshakeState(t, s.b)
			})
		})
		t.Run(tt.name+", it dials", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				withCertificate(s.a, tt.cert(t, s.a, time.Now()))
				client, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB())
				if err == nil {
					<-client.Done()
					err = client.Err()
				}
				var remote *RemoteError
				if !errors.As(err, &remote) || remote.Code&^0xff != codeTLSAlert {
					t.Errorf("err = %v, want a TLS alert from the responder", err)
				}
				if got := s.b.Stats().SessionsStarted; got != 0 {
					t.Errorf("sessions started = %d, want 0", got)
				}
				wantNoHandshakeState(t, s.a)
				wantNoHandshakeState(t, s.b)
			})
		})
	}
	t.Run("of another peer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			// It knows the wanted peer's ID, which is what mac1 is made of.
			wanted := PeerIDOf(foreign.Public().(ed25519.PublicKey))
			s.b.macKey = mac1Key(wanted)
			s.b.mac1 = newMAC1Hasher(s.b.macKey)
			_, err := s.a.Dial(t.Context(), wanted, s.toB())
			var mismatch *PeerMismatchError
			if !errors.As(err, &mismatch) || mismatch.Want != wanted || mismatch.Got != s.b.PeerID() {
				t.Errorf("err = %v, want a *PeerMismatchError", err)
			}
			if got := s.b.Stats().SessionsStarted; got != 0 {
				t.Errorf("sessions started = %d, want 0", got)
			}
			wantNoHandshakeState(t, s.a)
			wantNoHandshakeState(t, s.b)
		})
	})
}

// TestRefusalCostsNoSecondHandshake: the reason reaches the dialer, and a
// refused peer that repeats its Initials starts nothing anew.
func TestRefusalCostsNoSecondHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied := errors.New("not on the list")
		s := newStage(t, func(c *Config) { c.Authorize = func(PeerID) error { return denied } })
		client, err := s.a.Dial(t.Context(), s.b.PeerID(), s.toB())
		if err == nil {
			<-client.Done()
			err = client.Err()
		}
		if !errors.Is(err, ErrRefused) {
			t.Errorf("err = %v, want %v", err, ErrRefused)
		}
		for _, w := range s.ca.captured() {
			s.ca.PacketConn.WriteTo(w.data, net.UDPAddrFromAddrPort(w.to))
		}
		time.Sleep(time.Second)
		if got := s.b.Stats(); got.HandshakesStarted != 1 || got.HandshakesRefused != 1 || got.SessionsStarted != 0 {
			t.Errorf("handshakes = %d, refused = %d, sessions = %d; want 1, 1, 0", got.HandshakesStarted, got.HandshakesRefused, got.SessionsStarted)
		}
		wantNoHandshakeState(t, s.a)
		wantNoHandshakeState(t, s.b)
	})
}
