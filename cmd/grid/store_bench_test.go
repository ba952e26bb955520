package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
	"github.com/instantgrid/instantgrid/ri2n"
)

var storeMiB = flag.Int("store-mib", 64, "size of the object in BenchmarkStoreTransfer; the figures of docs/store.md are of 1024")

var storeMbit = flag.Int("store-mbit", 0, "rate of the link in BenchmarkStoreTransfer, in Mbit/s; 0: as fast as it goes")

// A pacedConn sends no faster than a link of storeMbit.
type pacedConn struct {
	net.PacketConn
	mu   sync.Mutex // guards next
	next time.Time
}

func (c *pacedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	now := time.Now()
	if idle := now.Add(-time.Millisecond); c.next.Before(idle) {
		c.next = idle
	}
	c.next = c.next.Add(time.Duration(len(b)+42) * 8 * time.Microsecond / time.Duration(*storeMbit))
	wait := c.next.Sub(now)
	c.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	return c.PacketConn.WriteTo(b, to)
}

// sessionListener hands out the streams of sessions as connections.
type sessionListener struct {
	endpoint *ri2n.Endpoint
	conns    chan net.Conn
	ctx      context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup
}

func (l *sessionListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *sessionListener) Close() error   { l.stop(); l.running.Wait(); return nil }
func (l *sessionListener) Addr() net.Addr { return new(net.UDPAddr) }

func (l *sessionListener) run() {
	for {
		s, err := l.endpoint.Accept(l.ctx)
		if err != nil {
			return
		}
		l.running.Go(func() {
			for {
				c, err := s.AcceptStream(l.ctx)
				if err != nil {
					return
				}
				select {
				case l.conns <- c:
				case <-l.ctx.Done():
					return
				}
			}
		})
	}
}

func loopbackEndpoint(b *testing.B) (*ri2n.Endpoint, *ri2n.Link, netip.AddrPort) {
	b.Helper()
	id, err := ri2n.NewIdentity(crand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	e, err := ri2n.NewEndpoint(ri2n.Config{Identity: id, Authorize: func(ri2n.PeerID) error { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	var pc net.PacketConn = socket
	if *storeMbit > 0 {
		pc = &pacedConn{PacketConn: socket}
	}
	link, err := e.AddLink("loopback", pc)
	if err != nil {
		b.Fatal(err)
	}
	return e, link, pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

type endless struct{ r *rand.ChaCha8 }

func (e endless) Read(b []byte) (int, error) { return e.r.Read(b) }

// BenchmarkStoreTransfer puts an object on one node and gets it on another, over
// a session of ri2n on loopback, beside a bare stream of the same session.
// TMPDIR says where the stores are; on a file system in memory the disk is out of
// the account.
func BenchmarkStoreTransfer(b *testing.B) {
	server, _, at := loopbackEndpoint(b)
	client, link, _ := loopbackEndpoint(b)
	ctx, stop := context.WithCancel(b.Context())
	ln := &sessionListener{endpoint: server, conns: make(chan net.Conn), ctx: ctx, stop: stop}
	ln.running.Go(ln.run)
	defer ln.Close()
	session, err := client.Dial(ctx, server.PeerID(), ri2n.Remote{Link: link, Addr: at})
	if err != nil {
		b.Fatal(err)
	}
	size := int64(*storeMiB) << 20
	content := func(n int) io.Reader {
		return io.LimitReader(endless{rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})}, size)
	}

	b.Run("raw", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			out, err := session.OpenStream(ctx)
			if err != nil {
				b.Fatal(err)
			}
			out.Write([]byte{0})
			in, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { _, err := io.Copy(io.Discard, in); done <- err }()
			for left := size; left > 0; left -= int64(len(buf)) {
				if _, err := out.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			out.CloseWrite()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			in.Close()
			out.Close()
		}
	})

	members := []swarm.Member{{Name: "alice", Site: "a"}, {Name: "bob", Site: "b"}}
	open := func(b *testing.B, name string, dial func(context.Context, string) (net.Conn, error)) (*store.Store, *swarm.Swarm) {
		s, err := store.Open(store.Config{Dir: b.TempDir(), Key: store.Key{1}, Quota: 4 * size * max(4, int64(b.N)+2)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		w := swarm.New(swarm.Config{Self: name, Holdings: s.Holdings(), Dial: dial, Members: func() []swarm.Member { return members }})
		b.Cleanup(func() { w.Close() })
		s.Connect(w, nil)
		return s, w
	}
	b.Run("store", func(b *testing.B) {
		alice, serving := open(b, "alice", func(context.Context, string) (net.Conn, error) { return nil, errors.New("bob serves nothing") })
		go serving.Serve(ln)
		bob, _ := open(b, "bob", func(ctx context.Context, _ string) (net.Conn, error) { return session.OpenStream(ctx) })
		b.SetBytes(size)
		var putting, getting time.Duration
		peak, sampled := peakHeap()
		n := 0
		for b.Loop() {
			n++
			b.StopTimer()
			begun := time.Now()
			x, err := alice.Put(ctx, content(n), store.PutOptions{})
			if err != nil {
				b.Fatal(err)
			}
			putting += time.Since(begun)
			b.StartTimer()
			begun = time.Now()
			if _, err := bob.Get(ctx, x.ID, io.Discard, store.GetOptions{}); err != nil {
				b.Fatal(err)
			}
			getting += time.Since(begun)
		}
		sampled()
		mb := float64(size) * float64(n) / 1e6
		b.ReportMetric(mb/putting.Seconds(), "put-MB/s")
		b.ReportMetric(mb/getting.Seconds(), "get-MB/s")
		b.ReportMetric(float64(peak.Load())/1e6, "peak-heap-MB")
	})
}

// peakHeap follows the heap until stop is called.
func peakHeap() (peak *atomic.Uint64, stop func()) {
	peak = new(atomic.Uint64)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapAlloc))
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return peak, func() { close(done); running.Wait() }
}
