// Package mpitest holds endpoints of gridapi/mpi to the rules of MPI: one suite
// for memory, TCP, the overlay and whatever else carries frames.
package mpitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
)

// Endpoints makes n endpoints that reach each other.
type Endpoints func(t testing.TB, n int) []mpi.Endpoint

// Run has n ranks do body and finalizes them.
func Run(t testing.TB, eps []mpi.Endpoint, cfg mpi.Config, body func(p *mpi.Process, c *mpi.Comm) error) {
	t.Helper()
	errs := make([]error, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			p, err := mpi.Init(ep, cfg)
			if err == nil {
				if err = body(p, p.World()); err == nil {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					err = p.Finalize(ctx)
				}
				p.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("rank %d: %v", i, err)
		}
	}
}

// Mesh joins ranks by listeners and a dial function.
func Mesh(t testing.TB, n int, listen func(rank int) net.Listener, dial func(ctx context.Context, from, to int) (net.Conn, error)) []mpi.Endpoint {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	eps := make([]mpi.Endpoint, n)
	var wg sync.WaitGroup
	for i := range n {
		ln := listen(i)
		wg.Go(func() {
			m, err := mpi.Join(ctx, mpi.MeshConfig{Rank: i, Size: n, Listener: ln, Dial: func(ctx context.Context, r int) (net.Conn, error) { return dial(ctx, i, r) }})
			if err != nil {
				t.Error(err)
				return
			}
			eps[i] = m
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return eps
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return nil }

// Pipes joins ranks by what pair returns: two ends of a connection.
func Pipes(t testing.TB, n int, pair func(from, to int) (net.Conn, net.Conn)) []mpi.Endpoint {
	ls := make([]*pipeListener, n)
	for i := range ls {
		ls[i] = newPipeListener()
	}
	return Mesh(t, n, func(r int) net.Listener { return ls[r] }, func(ctx context.Context, from, to int) (net.Conn, error) {
		a, b := pair(from, to)
		select {
		case ls[to].conns <- b:
			return a, nil
		case <-ls[to].done:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// Pipe joins ranks by net.Pipe.
func Pipe(t testing.TB, n int) []mpi.Endpoint {
	return Pipes(t, n, func(int, int) (net.Conn, net.Conn) { return net.Pipe() })
}

// TCP joins ranks over the loopback.
func TCP(t testing.TB, n int) []mpi.Endpoint {
	t.Helper()
	ls := make([]net.Listener, n)
	for i := range ls {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = ln
	}
	return Mesh(t, n, func(r int) net.Listener { return ls[r] }, func(ctx context.Context, _, to int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ls[to].Addr().String())
	})
}

var ctx = context.Background()

// need fails with what is wrong.
func need(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// Conform holds what an endpoint carries to the rules of MPI.
func Conform(t *testing.T, make Endpoints) {
	for _, tt := range []struct {
		name string
		n    int
		body func(p *mpi.Process, c *mpi.Comm) error
	}{
		{"modes and sizes", 2, modes},
		{"order and wildcards", 3, order},
		{"probes", 2, probes},
		{"requests", 2, requests},
		{"truncation", 2, truncation},
		{"communicators", 5, communicators},
		{"collectives of 1", 1, collectiveCalls},
		{"collectives of 4", 4, collectiveCalls},
		{"collectives of 5", 5, collectiveCalls},
		{"not blocking", 4, nonBlocking},
		{"cartesian", 6, grids},
	} {
		t.Run(tt.name, func(t *testing.T) { Run(t, make(t, tt.n), mpi.Config{}, tt.body) })
	}
	t.Run("three sites", func(t *testing.T) {
		Run(t, make(t, 5), mpi.Config{Sites: []string{"a", "b", "a", "c", "b"}}, collectiveCalls)
	})
}

func pattern8(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + seed + i>>8)
	}
	return b
}

func modes(p *mpi.Process, c *mpi.Comm) error {
	sizes := []int{0, 1, 1000, 9000, mpi.EagerLimit, mpi.EagerLimit + 1, 3<<20 + 5}
	for i, n := range sizes {
		for mode, send := range []func(context.Context, []byte, int, int) error{c.Send, c.Ssend, c.Bsend, c.Rsend} {
			tag := 10*i + mode
			for _, self := range []bool{false, true} {
				to, from := 1, 0
				if self {
					to, from = c.Rank(), c.Rank()
				}
				buf := make([]byte, n)
				var r *mpi.Request
				if self || c.Rank() == 1 {
					var err error
					if r, err = c.Irecv(buf, from, tag); err != nil {
						return err
					}
				}
				if self || c.Rank() == 0 {
					if err := send(ctx, pattern8(n, tag), to, tag); err != nil {
						return err
					}
				}
				if r != nil {
					st, err := r.Wait(ctx)
					if err := errors.Join(err, need(st == mpi.Status{Source: from, Tag: tag, Bytes: n} && bytes.Equal(buf, pattern8(n, tag)), "size %d mode %d: %+v", n, mode, st)); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func order(p *mpi.Process, c *mpi.Comm) error {
	const n = 6000 // more than the window holds
	if c.Rank() > 0 {
		for i := range n {
			if err := c.Send(ctx, []byte{byte(i), byte(i >> 8)}, 0, i%3); err != nil {
				return err
			}
		}
		return nil
	}
	next := map[[2]int]int{}
	b := make([]byte, 2)
	for range 2 * n {
		st, err := c.Recv(ctx, b, mpi.AnySource, mpi.AnyTag)
		if err != nil {
			return err
		}
		k := [2]int{st.Source, st.Tag}
		if got, want := int(b[0])|int(b[1])<<8, next[k]*3+st.Tag; got != want {
			return fmt.Errorf("from %v came %d, want %d", k, got, want)
		}
		next[k]++
	}
	return nil
}

func probes(p *mpi.Process, c *mpi.Comm) error {
	for _, n := range []int{3, 200_000} {
		if c.Rank() == 0 {
			var rs []*mpi.Request
			for tag := range 3 {
				r, err := c.Isend(pattern8(n, tag), 1, tag)
				if err != nil {
					return err
				}
				rs = append(rs, r)
			}
			if _, err := mpi.WaitAll(ctx, rs...); err != nil {
				return err
			}
			continue
		}
		st, err := c.Probe(ctx, 0, mpi.AnyTag)
		if err != nil || st.Tag != 0 || st.Bytes != n {
			return fmt.Errorf("probe: %+v, %v", st, err)
		}
		m, st, err := c.Mprobe(ctx, mpi.AnySource, mpi.AnyTag)
		if err != nil || st.Tag != 0 {
			return fmt.Errorf("mprobe: %+v, %v", st, err)
		}
		b := make([]byte, n)
		if st, err := c.Recv(ctx, b, 0, mpi.AnyTag); err != nil || st.Tag != 1 {
			return fmt.Errorf("after mprobe: %+v, %v", st, err)
		}
		if st, err := m.Recv(ctx, b); err != nil || st.Tag != 0 || !bytes.Equal(b, pattern8(n, 0)) {
			return fmt.Errorf("mrecv: %+v, %v", st, err)
		}
		if _, err := m.Recv(ctx, b); !errors.Is(err, mpi.ErrRequest) {
			return fmt.Errorf("mrecv twice: %v", err)
		}
		if _, err := c.Recv(ctx, b, 0, 2); err != nil {
			return err
		}
		if found, _, err := c.Iprobe(mpi.AnySource, 77); found || err != nil {
			return fmt.Errorf("iprobe: %v, %v", found, err)
		}
	}
	return nil
}

func requests(p *mpi.Process, c *mpi.Comm) error {
	const n = 8
	bufs := make([][]int32, n)
	var rs []*mpi.Request
	for i := range n {
		bufs[i] = []int32{int32(i), int32(c.Rank())}
		var r *mpi.Request
		var err error
		if c.Rank() == 0 {
			r, err = mpi.Isend(c, bufs[i], 1, i)
		} else {
			r, err = mpi.Irecv(c, bufs[i], 0, n-1-i)
		}
		if err != nil {
			return err
		}
		rs = append(rs, r)
	}
	for left := n; left > 0; left-- {
		i, st, err := mpi.WaitAny(ctx, rs...)
		if err != nil || i < 0 {
			return fmt.Errorf("WaitAny: %d, %v", i, err)
		}
		if c.Rank() == 1 && (st.Tag != n-1-i || bufs[i][0] != int32(n-1-i) || mpi.Count[int32](st) != 2) {
			return fmt.Errorf("request %d: %+v, %v", i, st, bufs[i])
		}
		rs[i] = nil
	}
	// A receive that is cancelled takes nothing.
	b := make([]byte, 1)
	r, err := c.Irecv(b, 1-c.Rank(), 99)
	if err != nil {
		return err
	}
	r.Cancel()
	if st, err := r.Wait(ctx); err != nil || !st.Cancelled {
		return fmt.Errorf("cancelled: %+v, %v", st, err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Recv(over, b, 1-c.Rank(), 99); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("recv without time: %v", err)
	}
	persistent := c.RecvInit(b, 1-c.Rank(), 5)
	for i := range 3 {
		r, err := persistent.Start()
		if err != nil {
			return err
		}
		if err := c.Send(ctx, []byte{byte(i)}, 1-c.Rank(), 5); err != nil {
			return err
		}
		if _, err := r.Wait(ctx); err != nil || b[0] != byte(i) {
			return fmt.Errorf("persistent %d: %d, %v", i, b[0], err)
		}
	}
	return nil
}

func truncation(p *mpi.Process, c *mpi.Comm) error {
	for _, n := range []int{100, 20_000, 500_000} {
		if c.Rank() == 0 {
			if err := c.Send(ctx, pattern8(n, 1), 1, 0); err != nil {
				return err
			}
			continue
		}
		b := make([]byte, n/2)
		if _, err := c.Recv(ctx, b, 0, 0); !errors.Is(err, mpi.ErrTruncate) || !bytes.Equal(b, pattern8(n, 1)[:n/2]) {
			return fmt.Errorf("%d: %v", n, err)
		}
	}
	return errors.Join(
		need(errors.Is(c.Send(ctx, nil, 7, 0), mpi.ErrRank), "rank 7"),
		need(errors.Is(c.Send(ctx, nil, 0, -2), mpi.ErrTag), "tag -2"),
		need(errors.Is(mpi.Bcast(ctx, c, []int{1}, 9), mpi.ErrRoot), "root 9"),
		need(errors.Is(mpi.Send(ctx, c, []string{""}, 0, 0), mpi.ErrType), "strings"),
	)
}

func communicators(p *mpi.Process, c *mpi.Comm) error {
	half, err := c.Split(ctx, c.Rank()%2, -c.Rank())
	if err != nil {
		return err
	}
	sum := make([]int, 1)
	if err := mpi.Allreduce(ctx, half, []int{c.Rank()}, sum, mpi.Sum[int]()); err != nil {
		return err
	}
	want := []int{6, 4}[c.Rank()%2]
	if sum[0] != want || half.Group()[0] < half.Group()[1] {
		return fmt.Errorf("half %v: %d", half.Group(), sum[0])
	}
	key := &mpi.Keyval{Copy: func(_ *mpi.Comm, v any) (any, bool) { return v, true }}
	c.SetAttr(key, 42)
	d, err := c.Dup(ctx)
	if err != nil {
		return err
	}
	if v, ok := d.Attr(key); !ok || v != 42 {
		return fmt.Errorf("attribute %v", v)
	}
	// Messages of d and c do not meet.
	next, last := (c.Rank()+1)%5, (c.Rank()+4)%5
	for i, x := range []*mpi.Comm{c, d} {
		if err := x.Send(ctx, []byte{byte(i)}, next, 0); err != nil {
			return err
		}
	}
	b := make([]byte, 1)
	for i, x := range []*mpi.Comm{d, c} {
		if _, err := x.Recv(ctx, b, last, 0); err != nil || b[0] != byte(1-i) {
			return fmt.Errorf("context: %d, %v", b[0], err)
		}
	}
	few, err := c.Create(ctx, []int{3, 1})
	if err != nil || (few != nil) != (c.Rank() == 3 || c.Rank() == 1) {
		return fmt.Errorf("create: %v, %v", few, err)
	}
	if few != nil && few.Rank() != (3-c.Rank())/2 {
		return fmt.Errorf("rank %d in the group", few.Rank())
	}
	return errors.Join(d.Free(), half.Free(), need(errors.Is(d.Barrier(ctx), mpi.ErrComm), "freed"))
}

// mix is associative and not commutative: x -> a*x+b, composed.
type affine struct{ A, B uint64 }

var compose = mpi.NewOp("compose", mpi.Ordered, func(f, g affine) affine { return affine{f.A * g.A, f.A*g.B + f.B} })

func collectiveCalls(p *mpi.Process, c *mpi.Comm) error {
	n, me := c.Size(), c.Rank()
	for _, k := range []int{0, 1, 3, 40_000} {
		value := func(r, i int) float64 { return float64(r*r+1) / float64(i+3) }
		mine := make([]float64, k)
		for i := range mine {
			mine[i] = value(me, i)
		}
		for root := range n {
			b := slices.Clone(mine)
			if err := mpi.Bcast(ctx, c, b, root); err != nil {
				return err
			}
			for i := range b {
				if b[i] != value(root, i) {
					return fmt.Errorf("bcast %d from %d: [%d] = %v", k, root, i, b[i])
				}
			}
			all, back := make([]float64, n*k), make([]float64, k)
			if err := mpi.Gather(ctx, c, mine, all, root); err != nil && (me == root || k > 0) {
				return err
			}
			if me == root {
				for i := range all {
					if all[i] != value(i/k, i%k) {
						return fmt.Errorf("gather %d at %d: [%d] = %v", k, root, i, all[i])
					}
				}
			}
			if err := mpi.Scatter(ctx, c, all, back, root); err != nil || !slices.Equal(back, mine) {
				return fmt.Errorf("scatter %d from %d: %v", k, root, err)
			}
			f, out := []affine{{uint64(me + 2), uint64(me)}}, make([]affine, 1)
			if err := mpi.Reduce(ctx, c, f, out, compose, root); err != nil {
				return err
			}
			if want := composed(0, n); me == root && out[0] != want {
				return fmt.Errorf("reduce at %d: %v, want %v", root, out[0], want)
			}
		}
		all := make([]float64, n*k)
		if err := mpi.Allgather(ctx, c, mine, all); err != nil {
			return err
		}
		for i := range all {
			if all[i] != value(i/k, i%k) {
				return fmt.Errorf("allgather %d: [%d] = %v", k, i, all[i])
			}
		}
		sum := make([]float64, k)
		if err := mpi.Allreduce(ctx, c, mine, sum, mpi.Sum[float64]()); err != nil {
			return err
		}
		everybodys := make([]float64, n*k)
		if err := mpi.Allgather(ctx, c, sum, everybodys); err != nil {
			return err
		}
		for i := range everybodys {
			if everybodys[i] != sum[i%max(k, 1)] {
				return fmt.Errorf("allreduce %d: ranks differ at %d", k, i)
			}
			want := 0.0
			for r := range n {
				want += value(r, i%k)
			}
			if d := everybodys[i] - want; d > 1e-9*want || d < -1e-9*want {
				return fmt.Errorf("allreduce %d: [%d] = %v, want %v", k, i, everybodys[i], want)
			}
		}
		out, in := make([]int64, n*k), make([]int64, n*k)
		for i := range out {
			out[i] = int64(me*1_000_000 + i)
		}
		if err := mpi.Alltoall(ctx, c, out, in); err != nil {
			return err
		}
		for i := range in {
			if want := int64(i/k*1_000_000 + me*k + i%k); in[i] != want {
				return fmt.Errorf("alltoall %d: [%d] = %d, want %d", k, i, in[i], want)
			}
		}
		blockSum := make([]int64, k)
		if err := mpi.ReduceScatterBlock(ctx, c, out, blockSum, mpi.Sum[int64]()); err != nil {
			return err
		}
		for i := range blockSum {
			if want := int64(n*(n-1)/2*1_000_000 + n*(me*k+i)); blockSum[i] != want {
				return fmt.Errorf("reduce-scatter %d: [%d] = %d, want %d", k, i, blockSum[i], want)
			}
		}
	}
	f, out := []affine{{uint64(me + 2), uint64(me)}}, []affine{{7, 7}}
	for _, call := range []struct {
		do   func() error
		want affine
	}{
		{func() error { return mpi.Allreduce(ctx, c, f, out, compose) }, composed(0, n)},
		{func() error { return mpi.Scan(ctx, c, f, out, compose) }, composed(0, me+1)},
		{func() error { return mpi.Exscan(ctx, c, f, out, compose) }, composed(0, me)},
	} {
		err := call.do()
		if want := call.want; err != nil || out[0] != want && me > 0 {
			return fmt.Errorf("ordered: %v, want %v: %v", out, want, err)
		}
	}
	loc := make([]mpi.Located[float32], 1)
	if err := mpi.Allreduce(ctx, c, []mpi.Located[float32]{{Value: float32((me * 3) % 4), Index: me}}, loc, mpi.MaxLoc[float32]()); err != nil {
		return err
	}
	best := mpi.Located[float32]{}
	for r := range n {
		if v := float32((r * 3) % 4); v > best.Value || r == 0 {
			best = mpi.Located[float32]{Value: v, Index: r}
		}
	}
	if loc[0] != best {
		return fmt.Errorf("maxloc %v, want %v", loc[0], best)
	}
	// Blocks of different lengths.
	counts := make([]int, n)
	total := 0
	for r := range counts {
		counts[r] = r % 3 * 5
		total += counts[r]
	}
	mine, all := slices.Repeat([]int16{int16(me)}, counts[me]), make([]int16, total)
	check := func(name string, err error) error {
		at := 0
		for r, n := range counts {
			for range n {
				if all[at] != int16(r) {
					return fmt.Errorf("%s: %v", name, all)
				}
				at++
			}
		}
		return err
	}
	if err := mpi.Allgatherv(ctx, c, mine, all, counts); err != nil || check("allgatherv", nil) != nil {
		return check("allgatherv", err)
	}
	clear(all)
	if err := mpi.Gatherv(ctx, c, mine, all, counts, n-1); err != nil || me == n-1 && check("gatherv", nil) != nil {
		return check("gatherv", err)
	}
	part := make([]int16, counts[me])
	if err := mpi.Scatterv(ctx, c, all, counts, part, n-1); err != nil || !slices.Equal(part, mine) {
		return fmt.Errorf("scatterv %v: %v", part, err)
	}
	truth := make([]bool, 1)
	if err := mpi.Allreduce(ctx, c, []bool{me == 0}, truth, mpi.LOr()); err != nil || !truth[0] {
		return fmt.Errorf("lor: %v", err)
	}
	return c.Barrier(ctx)
}

func composed(lo, hi int) affine {
	f := affine{1, 0}
	for r := lo; r < hi; r++ {
		g := affine{uint64(r + 2), uint64(r)}
		f = affine{f.A * g.A, f.A*g.B + f.B}
	}
	return f
}

func nonBlocking(p *mpi.Process, c *mpi.Comm) error {
	var rs []*mpi.Request
	sums := make([][]int, 20)
	for i := range sums {
		sums[i] = make([]int, 1)
		r, err := mpi.Iallreduce(c, []int{c.Rank() + i}, sums[i], mpi.Sum[int]())
		if err != nil {
			return err
		}
		b, err := c.Ibarrier()
		if err != nil {
			return err
		}
		rs = append(rs, r, b)
	}
	rand.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	if _, err := mpi.WaitAll(ctx, rs...); err != nil {
		return err
	}
	for i, s := range sums {
		if s[0] != 6+4*i {
			return fmt.Errorf("sum %d: %d", i, s[0])
		}
	}
	return nil
}

func grids(p *mpi.Process, c *mpi.Comm) error {
	dims, err := mpi.DimsCreate(6, []int{0, 0})
	if err != nil || !slices.Equal(dims, []int{3, 2}) {
		return fmt.Errorf("dims %v, %v", dims, err)
	}
	g, err := c.CartCreate(ctx, dims, []bool{true, false})
	if err != nil {
		return err
	}
	in := []int{-1, -1, -1, -1}
	me := g.Rank()
	if err := mpi.NeighborAllgather(ctx, g, []int{me}, in); err != nil {
		return err
	}
	up, down := (me+4)%6, (me+2)%6
	want := []int{up, down, me - 1, -1}
	if me%2 == 0 {
		want = []int{up, down, -1, me + 1}
	}
	row, err := g.CartSub(ctx, []bool{false, true})
	if err != nil {
		return err
	}
	return errors.Join(need(slices.Equal(in, want), "neighbours of %d: %v, want %v", me, in, want), need(row.Size() == 2 && row.Rank() == me%2, "row"))
}
