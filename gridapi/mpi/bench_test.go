package mpi_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

// BenchmarkPingPong is half a round trip, over TCP on the loopback.
// testdata/bench.c is the same for other MPIs.
func BenchmarkPingPong(b *testing.B) {
	for _, size := range []int{1, 1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			ctx := context.Background()
			mpitest.Run(b, mpitest.TCP(b, 2), mpi.Config{}, func(_ *mpi.Process, c *mpi.Comm) error {
				buf := make([]byte, size)
				if c.Rank() == 0 {
					b.ResetTimer()
				}
				for i := range b.N {
					if i%2 == c.Rank() {
						if err := c.Send(ctx, buf, 1-c.Rank(), 0); err != nil {
							return err
						}
					} else if _, err := c.Recv(ctx, buf, 1-c.Rank(), 0); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// BenchmarkAllreduce is of four ranks.
func BenchmarkAllreduce(b *testing.B) {
	for _, size := range []int{8, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			ctx := context.Background()
			mpitest.Run(b, mpitest.TCP(b, 4), mpi.Config{}, func(_ *mpi.Process, c *mpi.Comm) error {
				in, out := make([]float64, size/8), make([]float64, size/8)
				if c.Rank() == 0 {
					b.ResetTimer()
				}
				for range b.N {
					if err := mpi.Allreduce(ctx, c, in, out, mpi.Sum[float64]()); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}
