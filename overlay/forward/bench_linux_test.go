package forward_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/forward"
	"github.com/instantgrid/instantgrid/overlay/socks"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// blockSize is what one operation of the benchmark moves.
const blockSize = 64 << 20

// BenchmarkThroughput moves bytes between two nodes in two namespaces that a veth
// pair joins: on a stream of the overlay itself, through a forwarded port that
// leads to an exposed one, and through SOCKS to an exposed one. The processor time
// is that of both ends and of the programs.
func BenchmarkThroughput(b *testing.B) {
	pair, err := kernel.StartPair(1, netsim.Link{})
	if errors.Is(err, kernel.ErrNotPermitted) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer pair.Close()
	key := func(n string) *ri2n.Identity {
		seed := sha256.Sum256([]byte(n))
		id, err := ri2n.IdentityFromSeed(seed[:])
		if err != nil {
			b.Fatal(err)
		}
		return id
	}
	socketOf := func(host int, port uint16) net.PacketConn {
		pc, err := pair.Host(host).ListenPacket(b.Context(), port)
		if err != nil {
			b.Fatal(err)
		}
		return pc
	}
	s, err := server.New(server.Config{Identity: key("server"), Listen: []net.PacketConn{socketOf(0, 3478)}, Mode: server.Open})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	at := rendezvous.Address{Host: pair.Addr(0, 0).String(), Port: 3478, Peer: key("server").PeerID()}
	var nodes [2]*overlay.Node
	for i, name := range []string{"a", "b"} {
		nodes[i], err = overlay.Start(b.Context(), overlay.Config{
			Identity: key(name), Rendezvous: at.String(), Allow: []ri2n.PeerID{key("a").PeerID()},
			Links: []overlay.LinkConfig{{Conn: socketOf(i, 0), OwnPrefixes: []netip.Prefix{netip.PrefixFrom(pair.Addr(i, 0), 24).Masked()}}},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer nodes[i].Close()
		if err := nodes[i].Ready(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	to := nodes[1].PeerID().String()
	peer, err := nodes[0].Connect(b.Context(), nodes[1].PeerID())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := peer.WaitDirect(b.Context()); err != nil {
		b.Fatal(err)
	}

	// A program that swallows, on a socket of the kernel and on the overlay.
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	defer serving.Wait()
	defer cancel()
	swallow := func(ln net.Listener) {
		context.AfterFunc(ctx, func() { ln.Close() })
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				buf := make([]byte, 256<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						c.Write([]byte{1})
						return
					}
				}
			})
		}
	}
	kernelSink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	overlaySink, err := nodes[1].Listen("tcp", ":7000")
	if err != nil {
		b.Fatal(err)
	}
	exposed, err := nodes[1].Listen("tcp", ":7001")
	if err != nil {
		b.Fatal(err)
	}
	local := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return ln
	}
	forwarded, proxied := local(), local()
	serving.Go(func() { swallow(kernelSink) })
	serving.Go(func() { swallow(overlaySink) })
	serving.Go(func() {
		(&forward.Streams{Listener: exposed, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", kernelSink.Addr().String())
		}}).Serve(ctx)
	})
	serving.Go(func() {
		(&forward.Streams{Listener: forwarded, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
			return nodes[0].DialAccepted(ctx, "tcp", to+":7001")
		}}).Serve(ctx)
	})
	serving.Go(func() { socks.NewServer(socks.Config{Grid: nodes[0]}).Serve(ctx, proxied) })
	dialer, err := proxy.SOCKS5("tcp", proxied.Addr().String(), nil, proxy.Direct)
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"by=stream", func() (net.Conn, error) { return nodes[0].DialContext(ctx, "tcp", to+":7000") }},
		{"by=forward", func() (net.Conn, error) { return net.Dial("tcp", forwarded.Addr().String()) }},
		{"by=socks", func() (net.Conn, error) { return dialer.Dial("tcp", to+":7001") }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(blockSize)
			block := make([]byte, 256<<10)
			before := cpuTime()
			for b.Loop() {
				c, err := bb.dial()
				if err != nil {
					b.Fatal(err)
				}
				for range blockSize / len(block) {
					if _, err := c.Write(block); err != nil {
						b.Fatal(err)
					}
				}
				c.(interface{ CloseWrite() error }).CloseWrite()
				if _, err := io.ReadFull(c, block[:1]); err != nil { // all has been read
					b.Fatal(err)
				}
				c.Close()
			}
			b.ReportMetric((cpuTime()-before).Seconds()/(float64(b.N)*blockSize/1e9), "cpu-s/GB")
		})
	}
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
