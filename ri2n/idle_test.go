//go:build !race

package ri2n

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// The race detector multiplies memory, so it is counted without it.

// maxIdleBytes is what one end of a silent session with an open stream may
// keep on the heap. A process holds about half as much again for the spans
// between.
func maxIdleBytes(paths int) uint64 { return 5900 + 2500*uint64(paths-1) }

// A crowd is many sessions between two endpoints over memory.
type crowd struct {
	t    testing.TB
	a, b *Endpoint
	from []Remote // of each path, at a
	kept []*Stream
}

func newCrowd(t testing.TB, paths int) *crowd {
	c := &crowd{t: t, a: newTestEndpoint(t), b: newTestEndpoint(t)}
	net := newMemoryNet()
	for range paths {
		la, lb := net.link(t, c.a), net.link(t, c.b)
		c.from = append(c.from, Remote{Link: la, Addr: linkAddr(lb)})
	}
	return c
}

// open adds n sessions with all paths and one open stream each.
func (c *crowd) open(n int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var workers sync.WaitGroup
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	for range 8 {
		workers.Go(func() {
			for range todo {
				st, in, err := c.openOne(ctx)
				if err != nil {
					c.t.Error(err)
					return
				}
				mu.Lock()
				c.kept = append(c.kept, st, in)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
}

func (c *crowd) openOne(ctx context.Context) (st, in *Stream, err error) {
	s, err := c.a.Dial(ctx, c.b.PeerID(), c.from[0])
	if err != nil {
		return nil, nil, err
	}
	for _, r := range c.from[1:] {
		if _, err := s.AddPath(ctx, r); err != nil {
			return nil, nil, err
		}
	}
	if st, err = s.OpenStream(ctx); err != nil {
		return nil, nil, err
	}
	if _, err = st.Write([]byte{1}); err != nil {
		return nil, nil, err
	}
	peer, err := c.b.Accept(ctx)
	if err != nil {
		return nil, nil, err
	}
	if in, err = peer.AcceptStream(ctx); err != nil {
		return nil, nil, err
	}
	var buf [1]byte
	_, err = in.Read(buf[:])
	return st, in, err
}

// waitResting waits until every session has given back what it can.
func (c *crowd) waitResting() {
	c.t.Helper()
	limit := time.Now().Add(2 * time.Minute)
	for _, st := range c.kept {
		s := st.session
		for {
			s.mu.Lock()
			resting := s.resting && s.handshake == nil
			for _, p := range s.paths {
				resting = resting && p.loss.ring.slots == nil
			}
			s.mu.Unlock()
			if resting {
				break
			}
			if time.Now().After(limit) {
				c.t.Fatal("a silent session does not rest")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// What handshakes leave behind is theirs for a while, not the session's.
	for time.Now().Before(limit) {
		c.b.mu.Lock()
		left := c.b.halfOpen.tombstones
		c.b.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatal("finished handshakes are not forgotten")
}

func heapInUse() uint64 {
	// Twice: what pools hold goes with the second.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestIdleSessionsAreSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the handshakes to be forgotten")
	}
	const paths = 2
	const n = 300
	c := newCrowd(t, paths)
	c.open(20)
	c.waitResting()
	before, goroutines := heapInUse(), runtime.NumGoroutine()
	c.open(n)
	peak := heapInUse()
	c.waitResting()
	after := heapInUse()
	each := (after - before) / (2 * n)
	t.Logf("%d bytes for each end at rest, %d just connected", each, (peak-before)/(2*n))
	if each > maxIdleBytes(paths) {
		t.Errorf("an idle end keeps %d bytes, want at most %d", each, maxIdleBytes(paths))
	}
	if got := runtime.NumGoroutine(); got > goroutines+2 {
		t.Errorf("goroutines = %d with %d more sessions, want %d", got, n, goroutines)
	}
	runtime.KeepAlive(c)
}
