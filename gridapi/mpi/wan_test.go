package mpi_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

// A delayed connection carries what is written after a latency.
type delayed struct {
	net.Conn // the end that is read
	latency  time.Duration
	out      net.Conn
	mu       sync.Mutex
	queue    chan parcel
	closed   bool
}

type parcel struct {
	b  []byte
	at time.Time
}

// delayedPair returns both ends of a connection.
func delayedPair(latency time.Duration) (net.Conn, net.Conn) {
	inA, outB := net.Pipe()
	inB, outA := net.Pipe()
	return newDelayed(inA, outA, latency), newDelayed(inB, outB, latency)
}

func newDelayed(in, out net.Conn, latency time.Duration) net.Conn {
	d := &delayed{Conn: in, out: out, latency: latency, queue: make(chan parcel, 4096)}
	go func() {
		for p := range d.queue {
			time.Sleep(time.Until(p.at))
			d.out.Write(p.b)
		}
		d.out.Close()
	}()
	return d
}

func (d *delayed) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, net.ErrClosed
	}
	d.queue <- parcel{append([]byte(nil), b...), time.Now().Add(d.latency)}
	return len(b), nil
}

func (d *delayed) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		close(d.queue)
		d.Conn.Close()
	}
	return nil
}

// TestWideArea counts the round trips that calls of 64 ranks on four sites take.
func TestWideArea(t *testing.T) {
	ctx := context.Background()
	const n, wan, lan = 64, 10 * time.Millisecond, 100 * time.Microsecond
	sites := make([]string, n)
	for i := range sites {
		sites[i] = fmt.Sprint("site ", i%4)
	}
	synctest.Test(t, func(t *testing.T) {
		eps := mpitest.Pipes(t, n, func(from, to int) (net.Conn, net.Conn) {
			if sites[from] == sites[to] {
				return delayedPair(lan)
			}
			return delayedPair(wan)
		})
		took := make(map[string]time.Duration)
		var mu sync.Mutex
		mpitest.Run(t, eps, mpi.Config{Sites: sites}, func(p *mpi.Process, c *mpi.Comm) error {
			for _, call := range []struct {
				name string
				do   func() error
			}{
				{"allreduce", func() error { return mpi.Allreduce(ctx, c, []float64{1}, make([]float64, 1), mpi.Sum[float64]()) }},
				{"barrier", func() error { return c.Barrier(ctx) }},
				{"bcast", func() error { return mpi.Bcast(ctx, c, []int{1}, 5) }},
				{"gather", func() error { return mpi.Gather(ctx, c, []int{1}, make([]int, n), 5) }},
				{"allgather", func() error { return mpi.Allgather(ctx, c, []int{1}, make([]int, n)) }},
				{"allreduce of 32 KiB", func() error {
					return mpi.Allreduce(ctx, c, make([]float64, 4096), make([]float64, 4096), mpi.Sum[float64]())
				}},
			} {
				time.Sleep(time.Second)
				begin := time.Now()
				if err := call.do(); err != nil {
					return err
				}
				mu.Lock()
				took[call.name] = max(took[call.name], time.Since(begin))
				mu.Unlock()
				time.Sleep(time.Until(begin.Add(time.Second)))
			}
			return nil
		})
		time.Sleep(time.Second) // for what is on its way
		for name, d := range took {
			trips := float64(d) / float64(2*wan)
			t.Logf("%s: %.2f round trips", name, trips)
			if trips > 1.2 {
				t.Errorf("%s takes %.2f round trips between sites", name, trips)
			}
		}
	})
}
