package ri2n

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// hostileScale multiplies the counts of the tests of bad input: 1 in make
// test, what RI2N_HOSTILE says in make soak.
func hostileScale(t testing.TB) int {
	v := os.Getenv("RI2N_HOSTILE")
	if v == "" {
		return 1
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("RI2N_HOSTILE=%q is no factor", v)
	}
	return n
}

// clientHello returns the handshake bytes of a complete ClientHello, for which
// a server computes its whole flight.
func clientHello(t testing.TB) (hello []byte) {
	t.Helper()
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{
		NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
	}})
	defer q.Close()
	q.SetTransportParameters(appendTransportParams(nil, transportParams{
		version: version1, maxPaths: initialMaxPathID, maxAckDelay: maxAckDelay, maxIdle: time.Minute,
	}))
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for {
		switch ev := q.NextEvent(); ev.Kind {
		case tls.QUICNoEvent:
			return hello
		case tls.QUICWriteData:
			hello = append(hello, ev.Data...)
		}
	}
}

// craftFlight returns the Initials of a client's first flight.
func craftFlight(responder PeerID, dcid, scid connID, token, crypto []byte) (flight [][]byte) {
	key := mac1Key(responder)
	keys, _ := initialKeys(dcid)
	for pn, at := 0, 0; at < len(crypto); pn++ {
		h := longHeader{typ: longInitial, version: version1, dcid: dcid, scid: scid, token: token, pn: uint16(pn)}
		n := min(len(crypto)-at, 900)
		frames := appendCryptoFrame(nil, cryptoFrame{offset: uint64(at), data: crypto[at : at+n]})
		frames = appendPadding(frames, baseSize-longHeaderLen(h)-aeadOverhead-len(frames))
		h.length = uint16(2 + len(frames) + aeadOverhead)
		b := appendLongHeader(nil, h, &key)
		headerLen := len(b)
		b = append(b, frames...)
		b = append(b, make([]byte, aeadOverhead)...)
		flight = append(flight, keys.seal(b[:len(b)-aeadOverhead], headerLen, 0, packetNumber(pn)))
		at += n
	}
	return flight
}

// A flooder hands Initials to an endpoint as if read from its socket, and
// answers Retries where its sources are its own.
type flooder struct {
	stage  *stage
	hello  []byte
	next   uint64
	flight map[netip.AddrPort][][]byte // what each source sends next
	ready  [][]byte                    // flights made beforehand
}

func newFlooder(s *stage, hello []byte) *flooder {
	f := &flooder{stage: s, hello: hello, flight: make(map[netip.AddrPort][][]byte)}
	for range 256 {
		f.next++
		f.ready = append(f.ready, craftFlight(s.b.PeerID(), connID(f.next), connID(1<<40+f.next), nil, hello)...)
	}
	return f
}

// spoofed returns an Initial that no handshake knows, with a right mac1 if
// valid is set. It is not sealed anew, so it would not open.
func (f *flooder) spoofed(valid bool) []byte {
	f.next++
	b := append([]byte(nil), f.ready[f.next%uint64(len(f.ready))]...)
	if !valid {
		b[30] ^= 1
		return b
	}
	binary.BigEndian.PutUint64(b[5:], f.next<<20)
	mac := f.stage.b.mac1.mac(b[:longPrefixLen+2])
	copy(b[longPrefixLen+2:], mac[:])
	return b
}

// real returns what the source at addr sends: its ClientHello, and again with
// the token once it has got a Retry.
func (f *flooder) real(addr netip.AddrPort) []byte {
	if len(f.flight[addr]) == 0 {
		f.next++
		f.flight[addr] = craftFlight(f.stage.b.PeerID(), connID(f.next<<20), connID(f.next<<20+1), nil, f.hello)
	}
	b := f.flight[addr][0]
	f.flight[addr] = f.flight[addr][1:]
	return append([]byte(nil), b...)
}

// answerRetries lets the sources take the Retries among what has left.
func (f *flooder) answerRetries() {
	for _, w := range f.stage.cb.captured() {
		h, _, _, err := parseLongHeader(w.data)
		if err != nil || h.typ != longRetry {
			continue
		}
		if _, ours := f.flight[w.to]; ours {
			f.flight[w.to] = craftFlight(f.stage.b.PeerID(), h.scid, h.dcid, append([]byte(nil), h.token...), f.hello)
		}
	}
	f.stage.cb.forget()
}

// TestFloodIsBounded: 20 000 Initials a second beside honest dials from
// another prefix, in virtual time.
func TestFloodIsBounded(t *testing.T) {
	hello := clientHello(t)
	for _, tt := range []struct {
		name    string
		send    func(f *flooder, i int) ([]byte, netip.AddrPort)
		counter func(Stats) uint64
	}{
		{"no mac1", func(f *flooder, i int) ([]byte, netip.AddrPort) {
			return f.spoofed(false), netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), 9)
		}, func(s Stats) uint64 { return s.Mac1Failed }},
		{"spoofed sources of all prefixes", func(f *flooder, i int) ([]byte, netip.AddrPort) {
			return f.spoofed(true), netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 1}), 9)
		}, func(s Stats) uint64 { return s.RetriesSent }},
		{"spoofed sources of one prefix", func(f *flooder, i int) ([]byte, netip.AddrPort) {
			return f.spoofed(true), netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 0, 0, byte(i)}), uint16(i>>8))
		}, func(s Stats) uint64 { return s.RepliesHeld }},
		{"64 real sources", func(f *flooder, i int) ([]byte, netip.AddrPort) {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 0, byte(i % 64), 1}), 9)
			return f.real(addr), addr
		}, func(s Stats) uint64 { return s.HalfOpenRefused + s.HandshakesHeld }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const perStep = 100 // each 5 ms: 20 000/s
				steps := 120 * hostileScale(t)
				if raceEnabled {
					steps = 80
				}
				s := newStage(t)
				f := newFlooder(s, hello)
				s.b.halfOpen.refilled, s.b.halfOpen.left = time.Now(), handshakeBurst*2/3 // as after a longer flood
				client, server := s.connect()
				dial := func() time.Duration {
					begun := time.Now()
					c, _ := connectSessions(t, s.a, s.b, s.toB())
					took := time.Since(begun)
					c.CloseWithError(0, "")
					return took
				}
				goroutines := runtime.NumGoroutine()
				var dials []time.Duration
				peak, peakHalfOpen := 0, 0
				r := receiver{endpoint: s.b, link: s.lb}
				grown := heapGrowth(func() {
					done := make(chan struct{})
					go func() {
						defer close(done)
						for i := range steps / 40 {
							time.Sleep(200*time.Millisecond + time.Duration(i)*time.Millisecond)
							dials = append(dials, dial())
						}
					}()
					for i := range steps {
						r.now = time.Now()
						for k := range perStep {
							b, from := tt.send(f, i*perStep+k)
							r.datagram(b, from)
							if k%25 == 24 {
								synctest.Wait() // as fast as workers can be
							}
						}
						f.answerRetries()
						peak = max(peak, runtime.NumGoroutine()-goroutines)
						s.b.mu.Lock()
						peakHalfOpen = max(peakHalfOpen, s.b.halfOpen.count)
						s.b.mu.Unlock()
						time.Sleep(5 * time.Millisecond)
					}
					<-done
				})
				stats := s.b.Stats()
				t.Logf("heap +%d KiB, goroutines +%d at most, half-open %d at most, dials %v, started %d, held %d, refused %d, retries %d, evicted %d",
					grown>>10, peak, peakHalfOpen, dials, stats.HandshakesStarted, stats.HandshakesHeld, stats.HalfOpenRefused, stats.RetriesSent, stats.HalfOpenEvicted)
				if grown > 16<<20 {
					t.Errorf("heap grew by %d KiB, want at most 16 MiB", grown>>10)
				}
				// The goroutine of crypto/tls in each handshake, and the dialer's.
				if peak > peakHalfOpen+8 {
					t.Errorf("goroutines grew by %d with %d handshakes", peak, peakHalfOpen)
				}
				if tt.counter(stats) == 0 {
					t.Error("the limit has counted nothing")
				}
				if got := slices.Max(dials); got > 60*time.Millisecond {
					t.Errorf("an honest dial took %v, want at most 3 round trips of 20 ms", got)
				}
				// A tenth of a core, and what may be saved up.
				length := time.Duration(steps) * 5 * time.Millisecond
				most := uint64((length/handshakeShare+handshakeBurst)/handshakeCost) + uint64(len(dials)) + 1
				if stats.HandshakesStarted > most+most/20 { // some are queued when it is used up
					t.Errorf("handshakes begun = %d in %v, want at most %d", stats.HandshakesStarted, length, most)
				}
				exchange(t, client, server, 10000)
				client.Close()
				wantNoHandshakeState(t, s.b)
				if got := runtime.NumGoroutine() - goroutines; got > 0 {
					t.Errorf("%d goroutines are left", got)
				}
			})
		})
	}
}

// TestFloodJunkAllocs: what is refused at first sight costs no memory.
func TestFloodJunkAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop items at random")
	}
	e := newTestEndpoint(t)
	l := addLoopback(t, e)
	good := craftInitial(e.PeerID(), 1, 2, nil, make([]byte, 100))
	from := netip.MustParseAddrPort("203.0.113.1:9")
	for _, tt := range []struct {
		name string
		edit func(b []byte) []byte
	}{
		{"mac1 wrong", func(b []byte) []byte { b[30] ^= 1; return b }},
		{"undersized", func(b []byte) []byte { return b[:minBaseSize-1] }},
		{"Handshake packet of nobody", func(b []byte) []byte { b[0] |= 0x10; return b }},
		{"short packet of nobody", func(b []byte) []byte { b[0] = 0x40; return b[:30] }},
	} {
		b := tt.edit(append([]byte(nil), good...))
		r := receiver{endpoint: e, link: l, now: time.Now()}
		if got := testing.AllocsPerRun(1000, func() { r.datagram(b, from) }); got > 0 {
			t.Errorf("%s: %v allocations, want none", tt.name, got)
		}
	}
}

// BenchmarkInitialRefused is the price of one Initial of a flood.
func BenchmarkInitialRefused(b *testing.B) {
	e := newTestEndpoint(b)
	l := addLoopback(b, e)
	good := craftInitial(e.PeerID(), 1, 2, nil, make([]byte, 100))
	bad := append([]byte(nil), good...)
	bad[30] ^= 1
	for name, packet := range map[string][]byte{"mac1=wrong": bad, "mac1=right": good} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := receiver{endpoint: e, link: l, now: time.Now()}
			from := netip.MustParseAddrPort("127.0.0.1:9")
			for b.Loop() {
				r.datagram(packet, from)
			}
		})
	}
}

// TestPrefixLimiter: what one prefix uses up is not missing to another.
func TestPrefixLimiter(t *testing.T) {
	var p prefixLimiter
	now := time.Now()
	one, other := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/56")
	take := func(n int, prefix netip.Prefix) (got int) {
		for range n {
			if p.allow(now, prefix, time.Second, 8) {
				got++
			}
		}
		return got
	}
	if got := take(100, one); got != 8 {
		t.Errorf("allowances at once = %d, want 8", got)
	}
	if got := take(100, other); got != 8 {
		t.Errorf("another prefix got %d at once, want 8", got)
	}
	now = now.Add(3 * time.Second)
	if got := take(100, one); got != 3 {
		t.Errorf("allowances after 3 s = %d, want 3", got)
	}
	now = now.Add(time.Hour)
	if got := take(100, one); got != 8 {
		t.Errorf("allowances after an hour = %d, want 8", got)
	}
}
