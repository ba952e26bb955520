package ri2n

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// soakTime is how long a soak lasts: RI2N_SOAK, or in make test a second.
func soakTime(t testing.TB) time.Duration {
	v := os.Getenv("RI2N_SOAK")
	if v == "" {
		return time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		t.Fatalf("RI2N_SOAK=%q is no duration", v)
	}
	return d
}

// A cuttableConn is a socket that can be made to lose all that is sent.
type cuttableConn struct {
	net.PacketConn
	cut atomic.Bool
}

func (c *cuttableConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// soakPair are two endpoints on loopback with two paths: one over kernel
// sockets, whose links are closed and opened again, and one that is cut.
type soakPair struct {
	t        *testing.T
	a, b     *Endpoint
	la, lb   *Link // kernel sockets
	ca, cb   *cuttableConn
	client   *Session
	server   *Session
	flaps    int
	cutLinks [2]*Link
}

func newSoakPair(t *testing.T) *soakPair {
	t.Helper()
	p := &soakPair{t: t, a: newTestEndpoint(t), b: newTestEndpoint(t)}
	p.la, p.lb = addLoopback(t, p.a), addLoopback(t, p.b)
	cuttable := func(e *Endpoint) (*Link, *cuttableConn) {
		pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		c := &cuttableConn{PacketConn: pc}
		l, err := e.AddLink("cut", c)
		if err != nil {
			t.Fatal(err)
		}
		return l, c
	}
	p.cutLinks[0], p.ca = cuttable(p.a)
	p.cutLinks[1], p.cb = cuttable(p.b)
	p.client, p.server = connectSessions(t, p.a, p.b, Remote{Link: p.la, Addr: linkAddr(p.lb)})
	p.addPath(p.cutLinks[0], p.cutLinks[1])
	return p
}

// addPath opens a path, unless one is there or cannot be now.
func (p *soakPair) addPath(l, to *Link) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := p.client.AddPath(ctx, Remote{Link: l, Addr: linkAddr(to)})
	return err
}

// flap harms one of the paths, never both at once, and mends it.
func (p *soakPair) flap(rng *rand.Rand) {
	p.flaps++
	pause := time.Duration(10+rng.IntN(400)) * time.Millisecond
	switch rng.IntN(4) {
	case 0: // silent death in one direction
		p.ca.cut.Store(true)
		time.Sleep(pause)
		p.ca.cut.Store(false)
	case 1: // in both
		p.ca.cut.Store(true)
		p.cb.cut.Store(true)
		time.Sleep(pause)
		p.ca.cut.Store(false)
		p.cb.cut.Store(false)
	case 2: // the kernel link of the dialer goes and another comes
		if p.addPath(p.cutLinks[0], p.cutLinks[1]) != nil {
			return // the other path is not there now
		}
		p.la.Close()
		time.Sleep(pause)
		p.la = addLoopback(p.t, p.a)
		p.addPath(p.la, p.lb)
	case 3: // a path is abandoned and opened again
		if ps := p.client.Paths(); len(ps) > 1 {
			p.client.AbandonPath(ps[rng.IntN(len(ps))].ID)
		}
		time.Sleep(pause / 4)
		p.addPath(p.la, p.lb)
		p.addPath(p.cutLinks[0], p.cutLinks[1])
	}
	p.addPath(p.cutLinks[0], p.cutLinks[1])
}

// pass sends n pseudo-random bytes over a fresh stream and compares hashes.
func (p *soakPair) pass(from, to *Session, n int, seed byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	st, err := from.OpenStream(ctx)
	if err != nil {
		return err
	}
	sent := sha256.New()
	failed := make(chan error, 1)
	go func() {
		rng := rand.NewChaCha8([32]byte{seed})
		buf := make([]byte, 32<<10)
		for left := n; left > 0; left -= len(buf) {
			buf = buf[:min(left, len(buf))]
			rng.Read(buf)
			sent.Write(buf)
			if _, err := st.Write(buf); err != nil {
				failed <- err
				return
			}
		}
		failed <- st.CloseWrite()
	}()
	in, err := to.AcceptStream(ctx)
	if err != nil {
		return err
	}
	got := sha256.New()
	in.SetReadDeadline(time.Now().Add(60 * time.Second))
	m, err := io.Copy(got, in)
	if err := errorsOf(err, <-failed); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", m, n, err)
	}
	if m != int64(n) || [32]byte(got.Sum(nil)) != [32]byte(sent.Sum(nil)) {
		return fmt.Errorf("%d bytes arrived of %d, or others", m, n)
	}
	in.Close()
	return st.Close()
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestSoak moves data both ways over two paths on loopback in real time while
// links flap, and looks for leaks. make soak runs it for an hour.
func TestSoak(t *testing.T) {
	length := soakTime(t)
	goroutines := runtime.NumGoroutine()
	p := newSoakPair(t)
	size := 2 << 20
	if raceEnabled {
		size = 256 << 10
	}
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var moved atomic.Int64
	var beside sync.WaitGroup
	for i, ends := range [][2]*Session{{p.client, p.server}, {p.server, p.client}} {
		beside.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := p.pass(ends[0], ends[1], size, byte(n+i)); err != nil {
					t.Errorf("transfer %d of direction %d: %v", n, i, err)
					stop()
					return
				}
				moved.Add(int64(size))
			}
		})
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	begun := time.Now()
	var first, last int64
	said := begun
	for ctx.Err() == nil {
		p.flap(rng)
		if now := time.Since(said); now > 10*time.Second {
			said = time.Now()
			if last = heap(); first == 0 {
				first = last
			}
			t.Logf("%v: %d flaps, %d MiB moved, heap %d KiB (%+d), goroutines %d", time.Since(begun).Round(time.Second), p.flaps,
				moved.Load()>>20, last>>10, (last-first)>>10, runtime.NumGoroutine())
		}
	}
	beside.Wait()
	if moved.Load() == 0 {
		t.Error("nothing was moved")
	}
	for _, s := range []*Session{p.client, p.server} {
		if err := s.Err(); err != nil {
			t.Errorf("session: %v", err)
		}
	}
	p.client.Close()
	p.a.Close()
	p.b.Close()
	// One that has said that it ends may still be counted.
	for wait := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(wait); {
		time.Sleep(10 * time.Millisecond)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("goroutines: %d, and %d before", got, goroutines)
	}
	if grown := last - first; grown > 32<<20 {
		t.Errorf("heap grew by %d MiB from the first look to the last", grown>>20)
	}
	t.Logf("%v: %d flaps, %d MiB moved", time.Since(begun).Round(time.Second), p.flaps, moved.Load()>>20)
}

// TestSoakSimulated runs fresh seeds of the path chaos in virtual time for as
// long as the soak lasts in real time; one without RI2N_SOAK, since
// TestPathChaos has the first ones.
func TestSoakSimulated(t *testing.T) {
	length, begun, said := soakTime(t), time.Now(), time.Now()
	seed := uint64(1000)
	if os.Getenv("RI2N_SOAK") == "" {
		length = 0
	} else {
		seed = uint64(begun.UnixNano())
	}
	n := 0
	for ; (n == 0 || time.Since(begun) < length) && !t.Failed(); n++ {
		seed++
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { pathChaos(t, seed) })
		})
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			fmt.Printf("soak: %v in simulation, %d seeds\n", time.Since(begun).Round(time.Second), n)
		}
	}
	t.Logf("%d seeds", n)
}
