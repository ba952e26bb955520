package mpi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// A frail endpoint dies when the job has sent a number of frames.
type frail struct {
	Endpoint
	count func()
}

func (f frail) Send(to int, head, body []byte) error {
	f.count()
	return f.Endpoint.Send(to, head, body)
}

// everyCall makes each call once; blocked for ever, synctest says so.
func everyCall(c *Comm) error {
	n, me := c.Size(), c.Rank()
	b, all := []float64{float64(me)}, make([]float64, n)
	next, last := (me+1)%n, (me-1+n)%n
	large := make([]byte, 100_000)
	calls := []func() error{
		func() error { _, err := c.Sendrecv(ctx, []byte{1}, next, 0, make([]byte, 1), last, 0); return err },
		func() error { _, err := c.Sendrecv(ctx, large, next, 1, make([]byte, 100_000), last, 1); return err },
		func() error {
			s, err := c.Issend([]byte{1}, next, 2)
			if err != nil {
				return err
			}
			_, err = c.Probe(ctx, last, 2)
			if err == nil {
				_, err = c.Recv(ctx, make([]byte, 1), AnySource, 2)
			}
			_, serr := s.Wait(ctx)
			return errors.Join(err, serr)
		},
		func() error { return c.Barrier(ctx) },
		func() error { return Bcast(ctx, c, b, 1) },
		func() error { return Bcast(ctx, c, large, 0) },
		func() error { return Gather(ctx, c, b, all, 2) },
		func() error { return Scatter(ctx, c, all, b, 0) },
		func() error { return Allgather(ctx, c, b, all) },
		func() error { return Alltoall(ctx, c, all, make([]float64, n)) },
		func() error { return Reduce(ctx, c, b, make([]float64, 1), Sum[float64](), 0) },
		func() error { return Allreduce(ctx, c, b, make([]float64, 1), Sum[float64]()) },
		func() error { return Allreduce(ctx, c, large, make([]byte, len(large)), Max[byte]()) },
		func() error { return ReduceScatterBlock(ctx, c, all, b, Sum[float64]()) },
		func() error { return Scan(ctx, c, b, make([]float64, 1), Sum[float64]()) },
		func() error { return Exscan(ctx, c, b, make([]float64, 1), Sum[float64]()) },
		func() error { _, err := c.Dup(ctx); return err },
		func() error { _, err := c.Split(ctx, me%2, 0); return err },
		func() error {
			r, err := Iallreduce(c, b, make([]float64, 1), Sum[float64]())
			if err != nil {
				return err
			}
			_, err = r.Wait(ctx)
			return err
		},
	}
	for i, call := range calls {
		if err := call(); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
	}
	return nil
}

// endure makes every call once; with those that live it then goes on, until a sum of
// ones comes out at all of them. It returns that sum, zero at a rank that is out, and
// the error of the first call that failed.
func endure(c *Comm) (sum int, err error) {
	if err = everyCall(c); err != nil {
		c.Revoke()
	}
	ok := uint64(1)
	if err != nil {
		ok = 0
	}
	// Whether or not this rank saw a failure, all must come here.
	for {
		c.AckFailed()
		if _, aerr := c.Agree(ctx, ok); aerr != nil && !errors.Is(aerr, ErrProcFailed) {
			return 0, errors.Join(err, aerr)
		}
		d, serr := c.Shrink(ctx)
		if serr != nil {
			return 0, errors.Join(err, serr)
		}
		ones, flag := make([]int, 1), uint64(1)
		if Allreduce(ctx, d, []int{1}, ones, Sum[int]()) != nil {
			d.Revoke()
			flag = 0
		}
		if all, _ := d.Agree(ctx, flag); all == 1 {
			return ones[0], err
		}
		c = d
	}
}

// failure reports whether err is what a failure elsewhere, or of this rank, may give.
func failure(err error) bool {
	return errors.Is(err, ErrProcFailed) || errors.Is(err, ErrRevoked) || errors.Is(err, ErrFenced) || errors.Is(err, ErrClosed)
}

// TestKilledAnywhere kills a rank at many points of a program that makes every
// call: all calls of the others return, with an error that says why, and the
// ranks that live agree and go on.
func TestKilledAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 150 {
		n, victim, at := 3+round%4, 0, 1+rng.IntN(400)
		victim = rng.IntN(n)
		synctest.Test(t, func(t *testing.T) {
			eps := Local(n)
			procs := make([]*Process, n)
			var mu sync.Mutex
			frames, killed := 0, false
			var wg sync.WaitGroup
			for i := range eps {
				ep := frail{eps[i], func() {
					mu.Lock()
					frames++
					kill := frames == at
					killed = killed || kill
					mu.Unlock()
					if kill {
						wg.Go(func() { procs[victim].Close() })
					}
				}}
				p, err := Init(ep, Config{})
				if err != nil {
					t.Fatal(err)
				}
				procs[i] = p
			}
			sums := make([]int, n)
			for i, p := range procs {
				wg.Go(func() {
					var err error
					if sums[i], err = endure(p.World()); err != nil && i != victim && !errors.Is(err, ErrProcFailed) && !errors.Is(err, ErrRevoked) {
						t.Errorf("round %d (%d ranks, rank %d killed at frame %d): rank %d: %v", round, n, victim, at, i, err)
					}
				})
			}
			wg.Wait()
			mu.Lock()
			dead := killed
			mu.Unlock()
			for i, p := range procs {
				if dead && i != victim && sums[i] < n-1 {
					t.Errorf("round %d: rank %d counts %d of %d", round, i, sums[i], n)
				}
				p.Close()
			}
		})
		if t.Failed() {
			return
		}
	}
}

// TestAnyFailure is ULFM's rule for receives from anybody.
func TestAnyFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eps := Local(3)
		var ps []*Process
		for _, ep := range eps {
			p, _ := Init(ep, Config{})
			ps = append(ps, p)
		}
		defer func() {
			for _, p := range ps {
				p.Close()
			}
		}()
		c := ps[0].World()
		r, err := c.Irecv(make([]byte, 1), AnySource, 0)
		if err != nil {
			t.Fatal(err)
		}
		ps[2].Close()
		synctest.Wait()
		if _, err := r.Wait(ctx); !errors.Is(err, ErrProcFailedPending) {
			t.Errorf("Irecv: %v", err)
		}
		if _, err := c.Recv(ctx, nil, AnySource, 0); !errors.Is(err, ErrProcFailed) {
			t.Errorf("Recv: %v", err)
		}
		if f := c.AckFailed(); !slices.Equal(f, []int{2}) {
			t.Errorf("failed: %v", f)
		}
		if err := ps[1].World().Send(ctx, []byte{1}, 0, 0); err != nil {
			t.Error(err)
		}
		if st, err := r.Wait(ctx); err != nil || st.Source != 1 {
			t.Errorf("after AckFailed: %+v, %v", st, err)
		}
		if err := c.Send(ctx, nil, 2, 0); !errors.Is(err, ErrProcFailed) {
			t.Errorf("Send: %v", err)
		}
		// A rank that is held for dead is fenced.
		ps[0].Fail(1, nil)
		synctest.Wait()
		if err := ps[1].World().Send(ctx, nil, 0, 0); !errors.Is(err, ErrProcFailed) && !errors.Is(err, ErrFenced) {
			t.Errorf("fenced: %v", err)
		}
	})
}

// TestMismatch: collective calls that do not fit give an error at all ranks, and
// none hangs.
func TestMismatch(t *testing.T) {
	for name, call := range map[string]func(c *Comm) error{
		"roots": func(c *Comm) error { return Bcast(ctx, c, []int{1}, (c.Rank()+1)%c.Size()) },
		"kinds": func(c *Comm) error {
			if c.Rank() == 1 {
				return c.Barrier(ctx)
			}
			return Bcast(ctx, c, []int{1}, 0)
		},
		"counts": func(c *Comm) error {
			return Allreduce(ctx, c, make([]int, 1+c.Rank()/2), make([]int, 1+c.Rank()/2), Sum[int]())
		},
		"operations": func(c *Comm) error {
			op := Sum[int]()
			if c.Rank() == 2 {
				op = Max[int]()
			}
			return Allreduce(ctx, c, []int{1}, make([]int, 1), op)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				failed := 0
				var mu sync.Mutex
				var wg sync.WaitGroup
				for _, ep := range Local(3) {
					wg.Go(func() {
						p, _ := Init(ep, Config{})
						err := call(p.World())
						if err == nil {
							err = p.World().Barrier(ctx) // one that had no part in it hears now
						}
						mu.Lock()
						if errors.Is(err, ErrMismatch) || errors.Is(err, ErrCount) {
							failed++
						} else {
							t.Errorf("rank %d: %v", ep.Rank(), err)
						}
						mu.Unlock()
						time.Sleep(10 * time.Second)
						p.Close()
					})
				}
				wg.Wait()
				if d := time.Since(begin); failed != 3 || d > 15*time.Second {
					t.Errorf("%d of 3 failed after %v", failed, d)
				}
			})
		})
	}
}

// TestAgreementIsUniform runs the state machine alone: any order of messages
// between two members' own, any failures.
func TestAgreementIsUniform(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		n := 2 + rng.IntN(6)
		type letter struct {
			from int
			m    agreeMessage
		}
		lines := make([][][]letter, n) // to, from
		as := make([]agreement, n)
		alive := make([]bool, n)
		known := make([][]bool, n) // who knows of whose death
		for i := range as {
			as[i], alive[i] = newAgreement(n, i), true
			lines[i], known[i] = make([][]letter, n), make([]bool, n)
		}
		post := func(i int) {
			for _, o := range as[i].take() {
				lines[o.to][i] = append(lines[o.to][i], letter{i, o.agreeMessage})
			}
		}
		started := 0
		var results []vote
		for step := 0; step < 4000; step++ {
			i := rng.IntN(n)
			switch k := rng.IntN(12); {
			case !alive[i]:
			case k == 0 && rng.IntN(10) == 0:
				left := 0
				for _, a := range alive {
					if a {
						left++
					}
				}
				if left > 1 {
					alive[i] = false
				}
			case k == 1 && as[i].mine == nil:
				as[i].start(vote{flag: ^(uint64(1) << i), failed: newRankSet(n), acked: newRankSet(n)})
				started++
			case k < 4:
				if d := rng.IntN(n); !alive[d] && !known[i][d] && len(lines[i][d]) == 0 {
					known[i][d] = true
					as[i].fail(d)
				}
			default:
				f := rng.IntN(n)
				if q := lines[i][f]; len(q) > 0 {
					lines[i][f] = q[1:]
					as[i].receive(f, q[0].m)
				}
			}
			if alive[i] {
				post(i)
			}
		}
		for i := range as {
			if as[i].decided != nil {
				results = append(results, *as[i].decided)
			} else if alive[i] {
				t.Fatalf("seed %d: rank %d of %d does not decide", seed, i, n)
			}
		}
		for _, v := range results {
			if v.flag != results[0].flag || !slices.Equal(v.failed, results[0].failed) {
				t.Fatalf("seed %d: %+v and %+v", seed, v, results[0])
			}
		}
	}
}

// A recorder is an endpoint of rank 0 of three that keeps what it is told to do.
type recorder struct {
	silent
	mu  sync.Mutex
	did map[int][]string // for each rank
}

func (r *recorder) note(to int, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.did == nil {
		r.did = make(map[int][]string)
	}
	r.did[to] = append(r.did[to], what)
}

func (r *recorder) Send(to int, head, _ []byte) error {
	h, err := parseHeader(head)
	r.note(to, fmt.Sprintf("frame %d of %d", h.kind, h.id))
	return err
}

func (r *recorder) Drop(to int) { r.note(to, "drop") }

// TestLastWord: a rank that is held for dead on another's word hears so before it is cut
// off. Cut off without a word it would tell those that still hear it that we are dead.
func TestLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(recorder)
		p, err := Init(r, Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := put(p, 1, header{kind: frameDead, id: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * farewellTime)
		r.mu.Lock()
		defer r.mu.Unlock()
		if want := []string{fmt.Sprintf("frame %d of 2", frameDead), "drop"}; !slices.Equal(r.did[2], want) {
			t.Errorf("to the rank that is held for dead: %q", r.did[2])
		}
	})
}

// TestCauseBeforeWithdrawal: who withdraws a message because its call has failed elsewhere
// says so first, or the receiver would take the withdrawal for the cause.
func TestCauseBeforeWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(recorder)
		p, err := Init(r, Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		req, err := Ibcast(p.World(), make([]byte, 100_000), 0)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := put(p, 2, header{kind: frameAbort, context: worldContext, check: uint32(ErrProcFailed), id: 2}); err != nil {
			t.Fatal(err)
		}
		if _, err := req.Wait(ctx); !errors.Is(err, ErrProcFailed) {
			t.Errorf("Ibcast: %v", err)
		}
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		withdrawn := 0
		for to, did := range r.did {
			i := slices.Index(did, fmt.Sprintf("frame %d of 1", frameWithdraw))
			if i < 0 {
				continue
			}
			withdrawn++
			if j := slices.Index(did, fmt.Sprintf("frame %d of 2", frameAbort)); j < 0 || j > i {
				t.Errorf("to rank %d: %q", to, did)
			}
		}
		if withdrawn == 0 {
			t.Errorf("nothing was withdrawn: %v", r.did)
		}
	})
}
