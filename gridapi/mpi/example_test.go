package mpi_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
)

// Four ranks share the sum that gives pi. With mpi.Join in the place of mpi.Local
// they are on four computers.
func Example() {
	ctx := context.Background()
	rank := func(ep mpi.Endpoint) error {
		p, err := mpi.Init(ep, mpi.Config{})
		if err != nil {
			return err
		}
		defer p.Finalize(ctx)
		c := p.World()

		const n = 1000
		part := make([]float64, 1)
		for i := c.Rank(); i < n; i += c.Size() {
			x := (float64(i) + 0.5) / n
			part[0] += 4 / (1 + x*x) / n
		}
		pi := make([]float64, 1)
		if err := mpi.Reduce(ctx, c, part, pi, mpi.Sum[float64](), 0); err != nil {
			return err
		}
		if c.Rank() == 0 {
			fmt.Printf("%.6f\n", pi[0])
		}
		return nil
	}
	var wg sync.WaitGroup
	for _, ep := range mpi.Local(4) {
		wg.Go(func() {
			if err := rank(ep); err != nil {
				fmt.Println(err)
			}
		})
	}
	wg.Wait()
	// Output:
	// 3.141593
}
