package ri2n

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"golang.org/x/net/nettest"
)

// addSimulated gives e a socket on a simulated host.
func addSimulated(t testing.TB, e *Endpoint, h netsim.Host, port uint16) *Link {
	t.Helper()
	pc, err := h.ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.AddLink(h.Name(), pc)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// simPair connects two public hosts over the given uplinks.
func simPair(t testing.TB, seed uint64, up ...netsim.Link) (w *netsim.World, client, server *Session) {
	t.Helper()
	w = netsim.New(t, seed)
	ha, hb := w.Host(up...), w.Host(up...)
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
	client, server = connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
	return w, client, server
}

// transfer sends n pseudo-random bytes from a to b and compares them. It
// returns the time it took.
func transfer(t testing.TB, a, b *Stream, n int) time.Duration {
	t.Helper()
	begun := time.Now()
	sent := sha256.New()
	failed := make(chan error, 1)
	go func() {
		rng := rand.NewChaCha8([32]byte{7})
		buf := make([]byte, 64<<10)
		for left := n; left > 0; {
			k := min(left, len(buf))
			rng.Read(buf[:k])
			sent.Write(buf[:k])
			if _, err := a.Write(buf[:k]); err != nil {
				failed <- err
				return
			}
			left -= k
		}
		failed <- a.CloseWrite()
	}()
	got := sha256.New()
	m, err := io.Copy(got, b)
	if err != nil {
		t.Fatalf("read after %d bytes: %v", m, err)
	}
	if err := <-failed; err != nil {
		t.Fatalf("write: %v", err)
	}
	if m != int64(n) || [32]byte(got.Sum(nil)) != [32]byte(sent.Sum(nil)) {
		t.Fatalf("received %d bytes, want %d with equal hash", m, n)
	}
	return time.Since(begun)
}

func TestFirstByteAfterOneRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		ha, hb := w.Host(netsim.Delay(10*time.Millisecond)), w.Host(netsim.Delay(10*time.Millisecond))
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		begun := time.Now()
		client, err := a.Dial(t.Context(), b.PeerID(), Remote{Link: la, Addr: linkAddr(lb)})
		if err != nil {
			t.Fatal(err)
		}
		st, _ := client.OpenStream(t.Context())
		st.Write([]byte("x"))
		if got, want := time.Since(begun), 40*time.Millisecond; got != want {
			t.Errorf("first byte was written after %v, want %v", got, want)
		}
		server, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		in, err := server.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var buf [1]byte
		in.Read(buf[:])
		// RFC 9000, section 7: 1-RTT data leave with the client's last flight.
		if got, want := time.Since(begun), 60*time.Millisecond; got != want {
			t.Errorf("first byte arrived after %v, want %v", got, want)
		}
	})
}

func TestTransferOverSimulatedLinks(t *testing.T) {
	for _, tt := range []struct {
		name string
		link netsim.Link
		n    int
		max  time.Duration
	}{
		{"delay", netsim.Link{Delay: 10 * time.Millisecond}, 8 << 20, 3 * time.Second},
		{"rate 100 Mbit/s", netsim.Link{Delay: 10 * time.Millisecond, Rate: 100e6}, 16 << 20, 2 * time.Second},
		{"rate 5 Mbit/s, small queue", netsim.Link{Delay: 10 * time.Millisecond, Rate: 5e6, Queue: 30000}, 2 << 20, 5 * time.Second},
		{"loss 1 %", netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.01}, 4 << 20, 30 * time.Second},
		{"loss 10 %", netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.1}, 1 << 20, 60 * time.Second},
		{"jitter without reordering", netsim.Link{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond}, 4 << 20, 10 * time.Second},
		{"reordering", netsim.Link{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: 0.5}, 4 << 20, 20 * time.Second},
		{"duplication", netsim.Link{Delay: 10 * time.Millisecond, Duplicate: 0.2}, 4 << 20, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, client, server := simPair(t, 1, tt.link)
				a, b := streamPair(t, client, server)
				took := transfer(t, a, b, tt.n)
				t.Logf("%d bytes in %v: %.1f Mbit/s; %+v", tt.n, took, float64(tt.n)*8/took.Seconds()/1e6, client.Paths()[0])
				if took > tt.max {
					t.Errorf("took %v, want at most %v", took, tt.max)
				}
			})
		})
	}
}

// TestHandshakeLosesEachPacket drops the n-th packet of each direction.
func TestHandshakeSurvivesLoss(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			_, client, server := simPair(t, seed, netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.2})
			a, b := streamPair(t, client, server)
			transfer(t, a, b, 100000)
		})
	}
}

// addDirectPath adds a second pair of links between the same two endpoints.
func addDirectPath(t testing.TB, w *netsim.World, client, server *Session, up netsim.Link) (names [2]string) {
	t.Helper()
	ha, hb := w.Host(up), w.Host(up)
	la := addSimulated(t, client.endpoint, ha, 7001)
	lb := addSimulated(t, server.endpoint, hb, 7001)
	ctx, cancel := context.WithTimeout(t.(*testing.T).Context(), 10*time.Second)
	defer cancel()
	if _, err := client.AddPath(ctx, Remote{Link: la, Addr: linkAddr(lb)}); err != nil {
		t.Fatal(err)
	}
	return [2]string{ha.Name(), hb.Name()}
}

func sendingLink(s *Session) string {
	for _, p := range s.Paths() {
		if p.Sending {
			return p.Link
		}
	}
	return ""
}

func TestSilentPathFailsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, client, server := simPair(t, 1, netsim.Link{Delay: 20 * time.Millisecond, Rate: 50e6})
		hosts := addDirectPath(t, w, client, server, netsim.Link{Delay: 5 * time.Millisecond, Rate: 50e6})
		a, b := streamPair(t, client, server)
		time.Sleep(100 * time.Millisecond)
		// 20 ms against 80 ms: both ends have moved.
		if got := sendingLink(client); got != hosts[0] {
			t.Errorf("client sends on %q, want %q", got, hosts[0])
		}
		cut := time.AfterFunc(500*time.Millisecond, func() {
			w.SetUplink(hosts[0], netsim.Link{Cut: true})
		})
		defer cut.Stop()
		begun := time.Now()
		var longest time.Duration
		go func() {
			a.Write(make([]byte, 10<<20))
			a.CloseWrite()
		}()
		buf := make([]byte, 64<<10)
		for last := begun; ; {
			_, err := b.Read(buf)
			longest = max(longest, time.Since(last))
			last = time.Now()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// The queue of 100 ms in front of the cut is part of the PTO.
		if longest > 300*time.Millisecond {
			t.Errorf("longest gap = %v, want a PTO and a round trip", longest)
		}
		t.Logf("took %v, longest gap %v", time.Since(begun), longest)
		for _, p := range client.Paths() {
			t.Logf("client %+v", p)
		}
		if got := sendingLink(client); got == hosts[0] {
			t.Errorf("client still sends on the cut path")
		}
	})
}

func TestPathComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, client, server := simPair(t, 1, netsim.Link{Delay: 20 * time.Millisecond})
		good := netsim.Link{Delay: 5 * time.Millisecond}
		hosts := addDirectPath(t, w, client, server, good)
		a, b := streamPair(t, client, server)
		go io.Copy(io.Discard, b)
		for range 20 {
			a.Write(make([]byte, 20000))
			time.Sleep(50 * time.Millisecond)
		}
		w.SetUplink(hosts[0], netsim.Link{Cut: true})
		for range 40 {
			a.Write(make([]byte, 20000))
			time.Sleep(50 * time.Millisecond)
		}
		if got := sendingLink(client); got == hosts[0] {
			t.Errorf("client sends on the cut path")
		}
		w.SetUplink(hosts[0], good)
		for range 200 {
			a.Write(make([]byte, 20000))
			time.Sleep(50 * time.Millisecond)
		}
		if got := sendingLink(client); got != hosts[0] {
			t.Errorf("client sends on %q after the better path came back, want %q", got, hosts[0])
		}
	})
}

func TestNATRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		up := netsim.Delay(10 * time.Millisecond)
		home := w.NAT(netsim.NAT{Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}, up)
		inside, public := home.Host(), w.Host(up)
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, lb := addSimulated(t, a, inside, 7000), addSimulated(t, b, public, 7000)
		client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
		up1, down1 := streamPair(t, client, server)
		up2, down2 := streamPair(t, client, server)
		before := server.Paths()[0].Remote
		reboot := time.AfterFunc(300*time.Millisecond, home.Gateway.Reboot)
		defer reboot.Stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			transfer(t, down2, up2, 2<<20) // toward the client, across the reboot
		}()
		transfer(t, up1, down1, 2<<20)
		<-done
		time.Sleep(time.Second)
		after := server.Paths()[0].Remote
		if before == after {
			t.Errorf("server still sends to %v after the NAT forgot the mapping", before)
		}
	})
}

func TestIdleSessionEndsWhenThePeerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, client, _ := simPair(t, 1, netsim.Delay(10*time.Millisecond))
		time.Sleep(10 * time.Minute)
		if err := client.Err(); err != nil {
			t.Fatalf("idle session with keepalives ended: %v", err)
		}
		w.SetUplink("host2", netsim.Link{Cut: true})
		begun := time.Now()
		<-client.Done()
		if err := client.Err(); err != ErrIdleTimeout {
			t.Errorf("err = %v, want %v", err, ErrIdleTimeout)
		}
		if got := time.Since(begun); got > 61*time.Second || got < 40*time.Second {
			t.Errorf("ended after %v, want about 60 s", got)
		}
		var ne net.Error
		if !errors.As(client.Err(), &ne) || !ne.Timeout() {
			t.Errorf("%v is no net.Error with Timeout", client.Err())
		}
	})
}

func TestStatelessResetAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		ha, hb := w.Host(netsim.Delay(time.Millisecond)), w.Host(netsim.Delay(time.Millisecond))
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		client, _ := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
		time.Sleep(time.Second)
		// A crash tells nobody.
		w.SetUplink(hb.Name(), netsim.Link{Cut: true})
		id := b.cfg.Identity
		b.Close()
		w.SetUplink(hb.Name(), netsim.Delay(time.Millisecond))
		again := newTestEndpoint(t, func(c *Config) { c.Identity = id })
		addSimulated(t, again, hb, 7000)
		st, err := client.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.Write([]byte("hello?"))
		begun := time.Now()
		<-client.Done()
		if !errors.Is(client.Err(), ErrStatelessReset) {
			t.Errorf("err = %v, want %v", client.Err(), ErrStatelessReset)
		}
		if got := time.Since(begun); got > time.Second {
			t.Errorf("session ended after %v", got)
		}
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 3, netsim.Link{Delay: 10 * time.Millisecond, Loss: 0.05, Rate: 20e6})
		a, b := streamPair(t, client, server)
		go func() {
			a.Write(make([]byte, 200000))
			a.Close()
			client.Close()
		}()
		n, err := io.Copy(io.Discard, b)
		if n != 200000 || err != nil {
			t.Errorf("read %d bytes, %v; want 200000, nil", n, err)
		}
		<-server.Done()
		var remote *RemoteError
		if !errors.As(server.Err(), &remote) || remote.Code != codeNoError {
			t.Errorf("server's session ended with %v, want the peer's orderly close", server.Err())
		}
	})
}

func TestRefusedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		ha, hb := w.Host(netsim.Delay(time.Millisecond)), w.Host(netsim.Delay(time.Millisecond))
		a := newTestEndpoint(t)
		b := newTestEndpoint(t, func(c *Config) { c.Authorize = nil })
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		s, err := a.Dial(t.Context(), b.PeerID(), Remote{Link: la, Addr: linkAddr(lb)})
		if err == nil {
			<-s.Done()
			err = s.Err()
		}
		if !errors.Is(err, ErrRefused) {
			t.Errorf("err = %v, want %v", err, ErrRefused)
		}
		if got := b.Stats().SessionsStarted; got != 0 {
			t.Errorf("sessions started = %d, want 0", got)
		}
	})
}

func TestWrongPeerID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		ha, hb := w.Host(), w.Host()
		a, b, c := newTestEndpoint(t), newTestEndpoint(t), newTestEndpoint(t)
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		begun := time.Now()
		_, err := a.Dial(t.Context(), c.PeerID(), Remote{Link: la, Addr: linkAddr(lb)})
		// The mac1 is for another responder, so b is silent.
		if !errors.Is(err, ErrHandshakeTimeout) {
			t.Errorf("err = %v, want %v", err, ErrHandshakeTimeout)
		}
		if got := time.Since(begun); got != 10*time.Second {
			t.Errorf("gave up after %v, want 10 s", got)
		}
		if got := b.Stats().Mac1Failed; got == 0 {
			t.Error("no mac1 failure was counted")
		}
	})
}

func TestConnOverSimulator(t *testing.T) {
	for _, tt := range []struct {
		name string
		link netsim.Link
	}{
		{"perfect", netsim.Link{}},
		{"lossy and reordering", netsim.Link{Delay: time.Millisecond, Jitter: time.Millisecond, Reorder: 0.2, Loss: 0.02}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				w, client, server := simPair(t, 1, tt.link)
				c1, c2 = streamPair(t, client, server)
				return c1, c2, func() {
					c1.Close()
					c2.Close()
					client.endpoint.Close()
					server.endpoint.Close()
					w.Close()
				}, nil
			})
		})
	}
}
