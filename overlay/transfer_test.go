package overlay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A transfer is a file on its way from a to b.
type transfer struct {
	t     *testing.T
	size  int64
	wrote chan []byte // its hash, once written
	got   chan []byte // once received
	at    chan int64  // bytes received so far; the newest
	last  chan time.Duration
}

// sendFile writes size pseudo-random bytes to b's port 7000. The reader notes
// the longest time without a byte.
func sendFile(t *testing.T, a, b *Node, size int64) (*transfer, net.Conn) {
	t.Helper()
	x := &transfer{t: t, size: size, wrote: make(chan []byte, 1), got: make(chan []byte, 1),
		at: make(chan int64, 1), last: make(chan time.Duration, 1)}
	ln, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer ln.Close()
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		buf := make([]byte, 256<<10)
		var total int64
		var longest time.Duration
		before := time.Now()
		for {
			n, err := c.Read(buf)
			now := time.Now()
			longest = max(longest, now.Sub(before))
			before = now
			h.Write(buf[:n])
			total += int64(n)
			select {
			case <-x.at:
			default:
			}
			x.at <- total
			if err != nil {
				if err != io.EOF {
					t.Errorf("receive: %v", err)
				}
				break
			}
		}
		x.last <- longest
		x.got <- h.Sum(nil)
	}()
	c := dial(t, a, b.PeerID(), 7000)
	go func() {
		h := sha256.New()
		random := rand.NewChaCha8([32]byte{1})
		if _, err := io.CopyN(io.MultiWriter(c, h), random, size); err != nil {
			t.Errorf("send: %v", err)
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		x.wrote <- h.Sum(nil)
	}()
	return x, c
}

// await waits until n bytes have arrived.
func (x *transfer) await(n int64) {
	x.t.Helper()
	timeout := time.After(10 * time.Minute)
	for {
		select {
		case got := <-x.at:
			if got >= n {
				return
			}
		case <-timeout:
			x.t.Fatalf("%d bytes did not arrive", n)
		}
	}
}

// finish waits for the end, compares the hashes and returns the longest pause.
func (x *transfer) finish() time.Duration {
	x.t.Helper()
	timeout := time.After(10 * time.Minute)
	var wrote, got []byte
	for wrote == nil || got == nil {
		select {
		case wrote = <-x.wrote:
		case got = <-x.got:
		case <-timeout:
			x.t.Fatal("the transfer does not end")
		}
	}
	if !bytes.Equal(wrote, got) {
		x.t.Error("another hash arrived")
	}
	return <-x.last
}

// fileSize is what the transfers move: a part of the 64 MiB where the race
// detector makes that slow.
func fileSize() int64 {
	if raceEnabled || testing.Short() {
		return 4 << 20
	}
	return 64 << 20
}

func TestTransferSurvives(t *testing.T) {
	fast := netsim.Link{Delay: 10 * time.Millisecond, Rate: 200e6}
	for _, tt := range []struct {
		name   string
		break_ func(t *testing.T, r *rig, a, b *Node)
		pause  time.Duration // at most
	}{
		{"nothing happens", func(*testing.T, *rig, *Node, *Node) {}, 300 * time.Millisecond},
		{"rendezvous killed", func(t *testing.T, r *rig, a, b *Node) {
			r.server.Close()
		}, 300 * time.Millisecond},
		{"rendezvous restarted", func(t *testing.T, r *rig, a, b *Node) {
			r.server.Close()
			r.startServer()
		}, 300 * time.Millisecond},
		{"direct path cut", func(t *testing.T, r *rig, a, b *Node) {
			r.cut.Store(true)
		}, time.Second},
		{"both NATs rebooted", func(t *testing.T, r *rig, a, b *Node) {
			r.homeA.Reboot()
			r.homeB.Reboot()
		}, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 5, restricted, restricted)
				r.setUplinks(fast)
				a, b := r.pair(nil)
				x, c := sendFile(t, a, b, fileSize())
				defer c.Close()
				waitDirect(t, a, b)
				x.await(x.size / 4)
				tt.break_(t, r, a, b)
				start := time.Now()
				if pause := x.finish(); pause > tt.pause {
					t.Errorf("longest pause %v, want at most %v", pause, tt.pause)
				} else {
					t.Logf("longest pause %v; the rest took %v", pause, time.Since(start))
				}
			})
		})
	}
}

func (r *rig) setUplinks(l netsim.Link) {
	r.t.Helper()
	for _, h := range []*netsim.Home{r.homeA, r.homeB} {
		if err := r.world.SetUplink(h.Name(), l); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Loss on every link slows a transfer, also before and while its path changes.
func TestTransferOverLossyLinks(t *testing.T) {
	for seed := range uint64(5) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, seed, restricted, restricted)
			r.setUplinks(netsim.Link{
				Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.03, Duplicate: 0.01,
				Reorder: 0.05, Rate: 50e6,
			})
			a, b := r.pair(nil)
			start := time.Now()
			x, c := sendFile(t, a, b, 2<<20)
			defer c.Close()
			x.finish()
			waitDirect(t, a, b)
			t.Logf("seed %d: direct and done after %v", seed, time.Since(start))
			same(t, a, b)
		})
	}
}

// Behind carriers' NATs, and one host of the pair on a public address.
func TestOtherTopologies(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b func(r *rig) netsim.Host
	}{
		{"both public", func(r *rig) netsim.Host { return r.world.Host(access) }, func(r *rig) netsim.Host { return r.world.Host(access) }},
		{"one public, one symmetric", func(r *rig) netsim.Host { return r.world.Host(access) },
			func(r *rig) netsim.Host { return r.world.NAT(symmetric, access).Host() }},
		{"symmetric dials public", func(r *rig) netsim.Host { return r.world.NAT(symmetric, access).Host() },
			func(r *rig) netsim.Host { return r.world.Host(access) }},
		{"same home", func(r *rig) netsim.Host { return r.homeA.Host() }, func(r *rig) netsim.Host { return r.homeA.Host() }},
		{"behind two NATs each", func(r *rig) netsim.Host { return r.homeA.NAT(restricted).Host() },
			func(r *rig) netsim.Host { return r.homeB.NAT(restricted).Host() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 4, restricted, restricted)
				a := r.start(tt.a(r), 1, nil)
				b := r.start(tt.b(r), 2, func(c *Config) { c.Allow = []ri2n.PeerID{a.PeerID()} })
				r.ready(a, b)
				start := time.Now()
				x, c := sendFile(t, a, b, 1<<20)
				defer c.Close()
				waitDirect(t, a, b)
				t.Logf("direct after %v: %+v", time.Since(start), same(t, a, b))
				x.finish()
			})
		})
	}
}
