package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	smallBytes = 64
	parallel   = 32 // callers at once, for calls a second
	grpcPort   = 7020
	rpcTCPPort = 7021
)

// A smallCaller makes calls of one kind.
type smallCaller struct {
	Contender string
	call      func(ctx context.Context) error

	times []time.Duration // of calls one after another
	rates []float64       // calls a second with several callers
}

// smallRow is what a contender has shown.
type smallRow struct {
	Contender      string     `json:"contender"`
	Calls          int        `json:"calls"`
	P50            cli.Number `json:"p50_us"`
	P99            cli.Number `json:"p99_us"`
	CallsPerSecond cli.Number `json:"calls_per_second"` // with 32 callers, the median of the rounds
}

// A callPair is two namespaces with a node, a worker and a gRPC server in one.
type callPair struct {
	pair    *kernel.Pair
	closers []func()
}

func (p *callPair) close() {
	for _, f := range slices.Backward(p.closers) {
		f()
	}
}

func benchIdentity(name string) (*ri2n.Identity, error) {
	seed := sha256.Sum256([]byte("bench-grid " + name))
	return ri2n.IdentityFromSeed(seed[:])
}

// runSmallCalls measures small calls of each contender in turns.
func runSmallCalls(ctx context.Context, b *gridBench) (*benchSection, error) {
	p := new(callPair)
	defer p.close()
	callers, err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range callers { // warm
		if err := c.repeat(ctx, 200*time.Millisecond, 1); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Contender, err)
		}
		c.times, c.rates = nil, nil
	}
	for round := range b.rounds {
		for _, c := range callers {
			b.progress("small-call: round %d of %d: %s", round+1, b.rounds, c.Contender)
			for _, at := range []int{1, parallel} {
				if err := c.repeat(ctx, time.Duration(b.seconds*float64(time.Second)), at); err != nil {
					return nil, fmt.Errorf("%s: %w", c.Contender, err)
				}
			}
		}
	}
	return smallSection(callers), nil
}

// repeat makes calls for a time, with so many callers.
func (c *smallCaller) repeat(ctx context.Context, length time.Duration, callers int) error {
	begun := time.Now()
	end := begun.Add(length)
	var all sync.WaitGroup
	var count atomic.Int64
	failures := make(chan error, callers)
	for range callers {
		all.Go(func() {
			for last := time.Now(); last.Before(end); {
				if err := c.call(ctx); err != nil {
					failures <- err
					return
				}
				now := time.Now()
				if callers == 1 {
					c.times = append(c.times, now.Sub(last))
				}
				last = now
				count.Add(1)
			}
		})
	}
	all.Wait()
	if callers > 1 {
		c.rates = append(c.rates, float64(count.Load())/time.Since(begun).Seconds())
	}
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func smallSection(callers []*smallCaller) *benchSection {
	s := &benchSection{}
	var rows []smallRow
	latency := chart.Chart{Title: "small calls, cumulative", XLabel: "microseconds", YLabel: "part of all", LogX: true}
	p50 := make(map[string]float64)
	for _, c := range callers {
		slices.Sort(c.times)
		slices.Sort(c.rates)
		at := func(q float64) float64 {
			if len(c.times) == 0 {
				return math.NaN()
			}
			return float64(c.times[int(q*float64(len(c.times)-1))].Nanoseconds()) / 1000
		}
		row := smallRow{c.Contender, len(c.times), cli.Number(at(0.5)), cli.Number(at(0.99)), cli.Number(math.NaN())}
		if len(c.rates) > 0 {
			row.CallsPerSecond = cli.Number(math.Round(c.rates[len(c.rates)/2]))
		}
		rows = append(rows, row)
		p50[c.Contender] = at(0.5)
		us := make([]float64, 0, 1000)
		for i := 0; i < len(c.times); i += max(len(c.times)/1000, 1) {
			us = append(us, float64(c.times[i].Nanoseconds())/1000)
		}
		latency.Series = append(latency.Series, chart.Distribution(c.Contender, us))
	}
	none := cli.Number(math.NaN())
	s.Figures = append(s.Figures, atMost("small-call", "p50 / that of gRPC over kernel TCP", 1.5, p50[contenderOverlay]/p50[contenderGRPC]))
	for _, r := range rows {
		s.Figures = append(s.Figures,
			gridFigure{"small-call", r.Contender + ": p50 in us", none, none, r.P50, true},
			gridFigure{"small-call", r.Contender + ": p99 in us", none, none, r.P99, true},
			gridFigure{"small-call", r.Contender + fmt.Sprintf(": calls/s with %d callers", parallel), none, none, r.CallsPerSecond, true})
	}
	s.Data, s.charts = rows, []chart.Chart{latency}
	return s
}

const (
	contenderOverlay = "rpc over the overlay"
	contenderTCP     = "rpc over kernel TCP"
	contenderGRPC    = "gRPC over kernel TCP"
)

// start makes both ends of each contender.
func (p *callPair) start(ctx context.Context) (callers []*smallCaller, err error) {
	nodes, err := p.startNodesOver(ctx, netsim.Link{})
	if err != nil {
		return nil, err
	}
	worker := rpc.NewWorker(rpc.WorkerConfig{Slots: 2 * parallel})
	p.closers = append(p.closers, func() { worker.Close() })
	if err := rpc.Register(worker, "echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }); err != nil {
		return nil, err
	}
	overlaid, err := nodes[1].Listen("tcp", ":7010")
	if err != nil {
		return nil, err
	}
	direct, err := p.pair.Host(1).Listen(ctx, rpcTCPPort)
	if err != nil {
		return nil, err
	}
	for _, ln := range []net.Listener{overlaid, direct} {
		go worker.Serve(ln) // ends with Close
	}
	dialHost := func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return p.pair.Host(0).Dial(ctx, to)
	}
	for _, x := range []struct {
		contender, address string
		dial               func(context.Context, string, string) (net.Conn, error)
	}{
		{contenderOverlay, nodes[1].PeerID().String() + ":7010", nodes[0].DialContext},
		{contenderTCP, netip.AddrPortFrom(p.pair.Addr(1, 0), rpcTCPPort).String(), dialHost},
	} {
		c, err := rpc.NewClient(rpc.ClientConfig{Dial: x.dial, Workers: []string{x.address}})
		if err != nil {
			return nil, err
		}
		p.closers = append(p.closers, func() { c.Close() })
		if err := c.WaitWorkers(ctx, 1); err != nil {
			return nil, err
		}
		payload := make([]byte, smallBytes)
		callers = append(callers, &smallCaller{Contender: x.contender, call: func(ctx context.Context) error {
			b, err := rpc.Call[[]byte, []byte](ctx, c, "echo", payload)
			if err == nil && len(b) != smallBytes {
				err = errors.New("the answer has another length")
			}
			return err
		}})
	}
	call, err := p.startGRPC(ctx, dialHost)
	if err != nil {
		return nil, err
	}
	return append(callers, &smallCaller{Contender: contenderGRPC, call: call}), nil
}

// startNodesOver makes the two namespaces and their link, and starts a node in each.
func (p *callPair) startNodesOver(ctx context.Context, l netsim.Link) (nodes [2]*overlay.Node, err error) {
	if p.pair, err = kernel.StartPair(1, l); err != nil {
		return nodes, err
	}
	p.closers = append(p.closers, func() { p.pair.Close() })
	return p.startNodes(ctx)
}

// startNodes starts two nodes with a direct path between them.
func (p *callPair) startNodes(ctx context.Context) (nodes [2]*overlay.Node, err error) {
	socket := func(host int, port uint16) (net.PacketConn, error) {
		return p.pair.Host(host).ListenPacket(ctx, port)
	}
	at, err := socket(0, 3478)
	if err != nil {
		return nodes, err
	}
	key, err := benchIdentity("server")
	if err != nil {
		return nodes, err
	}
	s, err := server.New(server.Config{Identity: key, Listen: []net.PacketConn{at}, Mode: server.Open})
	if err != nil {
		return nodes, err
	}
	p.closers = append(p.closers, func() { s.Close() })
	address := rendezvous.Address{Host: p.pair.Addr(0, 0).String(), Port: 3478, Peer: key.PeerID()}
	caller, err := benchIdentity("node 0")
	if err != nil {
		return nodes, err
	}
	for i := range nodes {
		id, err := benchIdentity(fmt.Sprintf("node %d", i))
		if err != nil {
			return nodes, err
		}
		pc, err := socket(i, 0)
		if err != nil {
			return nodes, err
		}
		nodes[i], err = overlay.Start(ctx, overlay.Config{
			Identity: id, Rendezvous: address.String(), Allow: []ri2n.PeerID{caller.PeerID()},
			Links: []overlay.LinkConfig{{Conn: pc, OwnPrefixes: []netip.Prefix{netip.PrefixFrom(p.pair.Addr(i, 0), 24).Masked()}}},
		})
		if err != nil {
			return nodes, err
		}
		p.closers = append(p.closers, func() { nodes[i].Close() })
		if err := nodes[i].Ready(ctx); err != nil {
			return nodes, err
		}
	}
	peer, err := nodes[0].Connect(ctx, nodes[1].PeerID())
	if err != nil {
		return nodes, err
	}
	_, err = peer.WaitDirect(ctx)
	return nodes, err
}

// echoService is a gRPC service with one method, as generated code describes it.
var echoService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := decode(in); err != nil {
				return nil, err
			}
			return in, nil
		},
	}},
}

// startGRPC starts a server and returns what calls it, without encryption.
func (p *callPair) startGRPC(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) (func(context.Context) error, error) {
	ln, err := p.pair.Host(1).Listen(ctx, grpcPort)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer()
	s.RegisterService(&echoService, struct{}{})
	go s.Serve(ln) // ends with Stop
	p.closers = append(p.closers, s.Stop)
	conn, err := grpc.NewClient("passthrough:///"+netip.AddrPortFrom(p.pair.Addr(1, 0), grpcPort).String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, func() { conn.Close() })
	in := wrapperspb.Bytes(make([]byte, smallBytes))
	return func(ctx context.Context) error {
		out := new(wrapperspb.BytesValue)
		err := conn.Invoke(ctx, "/bench.Echo/Echo", in, out)
		if err == nil && len(out.Value) != smallBytes {
			err = errors.New("the answer has another length")
		}
		return err
	}, nil
}
