package mpi_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

const silence = 30 * time.Second // the default

// A fate is what becomes of the connections of a rank.
type fate int

const (
	killed  fate = iota // they break: its process is gone
	cutOff              // one of them breaks
	offline             // nothing comes through any more, and nobody says so
	torn                // it falls silent in the midst of a frame
	choked              // nobody takes what is written
)

var fates = map[fate]string{killed: "killed", cutOff: "cut off", offline: "offline", torn: "torn", choked: "choked"}

// A strike is the fate of one rank, at one of the writes of a job.
type strike struct {
	mu     sync.Mutex
	fate   fate
	victim int
	at     int // the write
	other  int // of cutOff: at the other end
	writes int
	conns  []*doomed
}

// doomed is one end of a connection. What from writes reaches to.
type doomed struct {
	net.Conn
	s        *strike
	from, to int
	closed   chan struct{}
	once     sync.Once
}

func (s *strike) pair(from, to int) (net.Conn, net.Conn) {
	a, b := net.Pipe()
	one := &doomed{Conn: a, s: s, from: from, to: to, closed: make(chan struct{})}
	two := &doomed{Conn: b, s: s, from: to, to: from, closed: make(chan struct{})}
	s.mu.Lock()
	s.conns = append(s.conns, one, two)
	s.mu.Unlock()
	return one, two
}

// struck counts a write and says whether the fate has come over d, and whether
// it comes with this very write.
func (s *strike) struck(d *doomed) (hit, now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	mine := d.from == s.victim || d.to == s.victim
	if s.fate == torn && s.writes >= s.at && s.writes < 1<<30 {
		// It is the victim's own write that is torn.
		if d.from != s.victim {
			return false, false
		}
		s.writes = 1 << 30
		return true, true
	}
	if s.writes < s.at || !mine || s.fate == cutOff && d.from != s.other && d.to != s.other {
		return false, false
	}
	return true, false
}

func (d *doomed) Write(b []byte) (int, error) {
	hit, now := d.s.struck(d)
	if !hit {
		return d.Conn.Write(b)
	}
	switch d.s.fate {
	case killed, cutOff:
		d.s.mu.Lock()
		defer d.s.mu.Unlock()
		for _, c := range d.s.conns {
			if d.s.fate == killed && c.from == d.s.victim || c.from == d.from && c.to == d.to {
				c.Conn.Close()
			}
		}
		return 0, net.ErrClosed
	case torn:
		if now {
			d.Conn.Write(b[:len(b)/2])
		}
	case choked:
		<-d.closed
		return 0, net.ErrClosed
	}
	return len(b), nil
}

// Close of a connection through which nothing comes is not heard at the other end.
func (d *doomed) Close() error {
	d.once.Do(func() { close(d.closed) })
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if d.s.writes >= d.s.at && d.s.fate >= offline && (d.from == d.s.victim || d.to == d.s.victim) {
		return d.Conn.SetDeadline(time.Unix(1, 0))
	}
	return d.Conn.Close()
}

// TestMeshFates: whatever happens to the connections of a rank, whenever, all calls of all
// ranks return in time, with an error that says why, and those that live go on together.
func TestMeshFates(t *testing.T) {
	for f, name := range fates {
		t.Run(name, func(t *testing.T) {
			for round := range 8 {
				rng := rand.New(rand.NewPCG(uint64(f), uint64(round)))
				n := 3 + round%3
				s := &strike{fate: f, victim: rng.IntN(n), at: 2*n*n + rng.IntN(300)}
				s.other = (s.victim + 1 + rng.IntN(n-1)) % n
				synctest.Test(t, func(t *testing.T) { meshFate(t, s, n) })
				if t.Failed() {
					t.Fatalf("round %d: %d ranks, rank %d (and %d) %s at write %d", round, n, s.victim, s.other, name, s.at)
				}
			}
		})
	}
}

func meshFate(t *testing.T, s *strike, n int) {
	eps := mpitest.Pipes(t, n, s.pair)
	begin := time.Now()
	sums := make([]int, n)
	procs := make([]*mpi.Process, n)
	var wg sync.WaitGroup
	for i, ep := range eps {
		p, err := mpi.Init(ep, mpi.Config{})
		if err != nil {
			t.Fatal(err)
		}
		procs[i] = p
		wg.Go(func() {
			if sums[i], err = mpi.Endure(p.World()); err != nil && !mpi.Failure(err) {
				t.Errorf("rank %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	// A silent rank is found after the limit and a look at it; the calls that follow are short.
	if d := time.Since(begin); d > 2*silence {
		t.Errorf("it takes %v", d)
	}
	for i, sum := range sums {
		out := i == s.victim || s.fate == cutOff && i == s.other
		if !out && sum < n-1 && !(s.fate == cutOff && sum == n-2) {
			t.Errorf("rank %d counts %d of %d", i, sum, n)
		}
	}
	for _, p := range procs {
		wg.Go(func() { p.Close() })
	}
	wg.Wait()
}

// TestSilentRank: a rank that waits for one which has gone offline knows at the limit, not
// before, and counts it; a rank that merely has nothing to say is not taken for dead.
func TestSilentRank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := &strike{fate: offline, victim: 1, at: 1 << 29}
		eps := mpitest.Pipes(t, 2, s.pair)
		var procs []*mpi.Process
		for _, ep := range eps {
			p, err := mpi.Init(ep, mpi.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			procs = append(procs, p)
		}
		time.Sleep(time.Hour)
		if f := procs[0].World().GetFailed(); len(f) > 0 {
			t.Fatalf("rank %v has failed by having nothing to say", f)
		}
		s.mu.Lock()
		s.at = 0
		s.mu.Unlock()
		begin := time.Now()
		_, err := procs[0].World().Recv(ctx, make([]byte, 1), 1, 0)
		if d := time.Since(begin); !errors.Is(err, mpi.ErrProcFailed) || d < silence*3/4 || d > silence*3/2 {
			t.Errorf("Recv: %v after %v", err, d)
		}
		if n := eps[0].(*mpi.Mesh).Counters().Silent; n != 1 {
			t.Errorf("%d silent ranks are counted", n)
		}
	})
}

// place is the listener of one rank.
type place struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPlace() *place { return &place{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *place) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *place) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *place) Addr() net.Addr { return nil }

func (l *place) dial(ctx context.Context, _ int) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestRejoin: once a rank is lost, no incarnation of it comes back in this epoch of the job; in the
// next epoch the job begins anew, and who is still in the old one is refused.
func TestRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		job := [32]byte{1}
		join := func(at *place, listens bool, rank int, epoch, incarnation uint32) (*mpi.Mesh, error) {
			cfg := mpi.MeshConfig{Job: job, Rank: rank, Size: 2, Epoch: epoch, Incarnation: incarnation, Dial: at.dial}
			if listens {
				cfg.Listener = at
			}
			within, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return mpi.Join(within, cfg)
		}
		start := func(at *place, epoch uint32) (m [2]*mpi.Mesh, p [2]*mpi.Process) {
			var wg sync.WaitGroup
			for r := range m {
				wg.Go(func() {
					var err error
					if m[r], err = join(at, r == 0, r, epoch, 1); err == nil {
						p[r], err = mpi.Init(m[r], mpi.Config{})
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				t.FailNow()
			}
			return m, p
		}
		at := newPlace()
		m, p := start(at, 4)
		defer p[0].Close()
		p[1].Close() // without Finalize: it has failed
		if _, err := p[0].World().Recv(ctx, nil, 1, 0); !errors.Is(err, mpi.ErrProcFailed) {
			t.Errorf("Recv: %v", err)
		}
		for i, incarnation := range []uint32{1, 0, 2} {
			_, err := join(at, false, 1, 4, incarnation)
			if !errors.Is(err, mpi.ErrFenced) {
				t.Errorf("incarnation %d: %v", incarnation, err)
			}
			if c := m[0].Counters(); c.Fenced != uint64(i+1) {
				t.Errorf("incarnation %d: %+v", incarnation, c)
			}
		}
		if _, err := join(at, false, 1, 5, 2); err == nil || !strings.Contains(err.Error(), "another epoch") {
			t.Errorf("another epoch: %v", err)
		}
		if err := p[0].World().Send(ctx, nil, 1, 0); !errors.Is(err, mpi.ErrProcFailed) {
			t.Errorf("after the attempts: %v", err)
		}

		next := newPlace()
		_, q := start(next, 5)
		if _, err := join(next, false, 1, 4, 9); err == nil || !strings.Contains(err.Error(), "another epoch") {
			t.Errorf("the old epoch: %v", err)
		}
		var wg sync.WaitGroup
		for r := range q {
			wg.Go(func() {
				sum := make([]int, 1)
				if err := mpi.Allreduce(ctx, q[r].World(), []int{r + 1}, sum, mpi.Sum[int]()); err != nil || sum[0] != 3 {
					t.Errorf("rank %d in the next epoch: %d, %v", r, sum[0], err)
				}
				if err := q[r].Finalize(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// meet joins rank 0 of a job of two with a connection that the test holds the other end of,
// as rank 1 in epoch 3 and incarnation 7.
func meet(t *testing.T) (m *mpi.Mesh, p *mpi.Process, conn net.Conn) {
	t.Helper()
	at := newPlace()
	joined := make(chan error)
	go func() {
		var err error
		m, err = mpi.Join(context.Background(), mpi.MeshConfig{Size: 2, Epoch: 3, Listener: at})
		joined <- err
	}()
	conn, err := at.dial(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(mpi.Hello([32]byte{}, 3, 2, 1, 0, 7)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, mpi.WelcomeLen)); err != nil {
		t.Fatal(err)
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	if p, err = mpi.Init(m, mpi.Config{}); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, conn)
	return m, p, conn
}

// TestStaleFrames: a frame of another epoch or incarnation, or one that breaks the protocol,
// ends its sender and is not delivered.
func TestStaleFrames(t *testing.T) {
	frame := func(epoch, incarnation uint32, length int, head []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(length))
		b = binary.BigEndian.AppendUint32(b, epoch)
		b = binary.BigEndian.AppendUint32(b, incarnation)
		return append(b, head...)
	}
	hello := make([]byte, mpi.HeaderLen+1) // an eager message of one byte, tag 0, to the world
	hello[0], hello[19], hello[35], hello[36] = 1, 4, 1, 'x'
	for name, c := range map[string]struct {
		bytes []byte
		stale uint64
		fine  bool
	}{
		"of this epoch":       {frame(3, 7, len(hello), hello), 0, true},
		"of the last epoch":   {frame(2, 7, len(hello), hello), 1, false},
		"of the next epoch":   {frame(4, 7, len(hello), hello), 1, false},
		"another incarnation": {frame(3, 6, len(hello), hello), 1, false},
		"a stale sign":        {frame(2, 7, 0, nil), 1, false},
		"too short":           {frame(3, 7, 5, hello[:5]), 0, false},
		"too long":            {frame(3, 7, 1<<31, hello), 0, false},
		"of no kind":          {frame(3, 7, mpi.HeaderLen, make([]byte, mpi.HeaderLen)), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, p, conn := meet(t)
				defer p.Close()
				defer conn.Close()
				go conn.Write(c.bytes)
				b := make([]byte, 1)
				_, err := p.World().Recv(context.Background(), b, 1, 0)
				if c.fine && (err != nil || b[0] != 'x') || !c.fine && !errors.Is(err, mpi.ErrProcFailed) {
					t.Errorf("Recv: %q, %v", b, err)
				}
				if n := m.Counters().Stale; n != c.stale {
					t.Errorf("%d stale frames are counted, want %d", n, c.stale)
				}
			})
		})
	}
}

// TestUninvited: connections that say nothing, or the wrong thing, are turned away and
// counted, take up no more than their room, and keep nobody from joining.
func TestUninvited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		at := newPlace()
		liar := uint32(2)
		var m *mpi.Mesh
		joined := make(chan error)
		cfg := mpi.MeshConfig{Size: 3, Epoch: 3, Listener: at, Verify: func(_ net.Conn, rank int) error {
			if rank == int(liar) {
				return errors.New("it is somebody else")
			}
			return nil
		}}
		within, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		go func() {
			var err error
			m, err = mpi.Join(within, cfg)
			joined <- err
		}()
		var mute []net.Conn
		for range mpi.MaxHellos + 5 {
			c, err := at.dial(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			mute = append(mute, c)
			synctest.Wait()
		}
		last := mute[mpi.MaxHellos+4]
		if _, err := last.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(11 * time.Second)
		if _, err := mute[0].Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection that says nothing: %v", err)
		}
		for name, hello := range map[string][]byte{
			"rubbish":       make([]byte, mpi.HelloLen),
			"another job":   mpi.Hello([32]byte{9}, 3, 3, 1, 0, 0),
			"another size":  mpi.Hello([32]byte{}, 3, 4, 1, 0, 0),
			"another epoch": mpi.Hello([32]byte{}, 2, 3, 1, 0, 0),
			"ourselves":     mpi.Hello([32]byte{}, 3, 3, 0, 0, 0),
			"no such rank":  mpi.Hello([32]byte{}, 3, 3, 1<<31, 0, 0),
			"for another":   mpi.Hello([32]byte{}, 3, 3, 2, 1, 0),
			"a liar":        mpi.Hello([32]byte{}, 3, 3, liar, 0, 0),
		} {
			c, err := at.dial(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(hello); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if b, _ := io.ReadAll(c); len(b) > 0 && b[0] == 0 {
				t.Errorf("%s is welcome", name)
			}
		}
		if err := <-joined; err == nil || !strings.Contains(fmt.Sprint(err), "ranks [1 2] are missing") {
			t.Errorf("Join: %v", err)
		}
		if m != nil {
			t.Error("a mesh in spite of missing ranks")
		}
	})
}
