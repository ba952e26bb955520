package main

import (
	"context"
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
)

// A plan is what all ranks know of the work.
type plan struct {
	size  int     // cells of each side
	steps int     // at most
	every int     // steps between two looks at the change
	below float64 // the change at which the plate has settled, in degrees a step
}

// settled says whether to stop after a step.
func (c plan) settled(step int, change float64) bool {
	return step%c.every == 0 && change < c.below
}

// A part is one rank's block and the ranks around it.
type part struct {
	grid                  *mpi.Comm
	up, down, left, right int // negative at an edge of the plate
	*block
}

// span cuts size cells in n runs and returns run i.
func span(size, n, i int) (from, length int) {
	from = size * i / n
	return from, size*(i+1)/n - from
}

// blockOf is the place of a rank's block on the plate.
func blockOf(grid *mpi.Comm, size, rank int) (row, col, rows, cols int, err error) {
	dims, _ := grid.CartDims()
	at, err := grid.CartCoords(rank)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	row, rows = span(size, dims[0], at[0])
	col, cols = span(size, dims[1], at[1])
	return row, col, rows, cols, nil
}

// newPart lays the ranks of c on a grid. All of them have a part of the plate.
func newPart(ctx context.Context, c *mpi.Comm, size int) (*part, error) {
	dims, err := mpi.DimsCreate(c.Size(), []int{0, 0})
	if err != nil {
		return nil, err
	}
	if dims[0] > size || dims[1] > size {
		return nil, fmt.Errorf("%d ranks are too many for a plate of %d x %d cells", c.Size(), size, size)
	}
	p := new(part)
	if p.grid, err = c.CartCreate(ctx, dims, []bool{false, false}); err != nil {
		return nil, err
	}
	if p.up, p.down, err = p.grid.CartShift(0, 1); err != nil {
		return nil, err
	}
	if p.left, p.right, err = p.grid.CartShift(1, 1); err != nil {
		return nil, err
	}
	row, col, rows, cols, err := blockOf(p.grid, size, p.grid.Rank())
	if err != nil {
		return nil, err
	}
	p.block = newBlock(size, row, col, rows, cols)
	return p, nil
}

// exchange fills the border with the neighbours' cells.
func (p *part) exchange(ctx context.Context) error {
	width := p.cols + 2
	column := mpi.Vector(p.rows, 1, width)
	border := make([]float64, 2*p.rows) // columns that come, left and right
	var all []*mpi.Request
	begin := func(r *mpi.Request, err error) error {
		all = append(all, r)
		return err
	}
	for tag, side := range [...]struct {
		rank     int
		out, in  []float64
		oncoming int // tag of what comes from there
	}{
		{p.up, p.now[p.at(0, 0):][:p.cols], p.now[p.at(-1, 0):][:p.cols], 1},
		{p.down, p.now[p.at(p.rows-1, 0):][:p.cols], p.now[p.at(p.rows, 0):][:p.cols], 0},
		{p.left, p.now[p.at(0, 0):], border[:p.rows], 3},
		{p.right, p.now[p.at(0, p.cols-1):], border[p.rows:], 2},
	} {
		if side.rank < 0 {
			continue
		}
		out := side.out
		if tag >= 2 {
			var err error
			if out, err = mpi.Pack(out, column); err != nil {
				return err
			}
		}
		if err := begin(mpi.Irecv(p.grid, side.in, side.rank, side.oncoming)); err != nil {
			return err
		}
		if err := begin(mpi.Isend(p.grid, out, side.rank, tag)); err != nil {
			return err
		}
	}
	if _, err := mpi.WaitAll(ctx, all...); err != nil {
		return err
	}
	if p.left >= 0 {
		if err := mpi.Unpack(border[:p.rows], p.now[p.at(0, -1):], column); err != nil {
			return err
		}
	}
	if p.right >= 0 {
		return mpi.Unpack(border[p.rows:], p.now[p.at(0, p.cols):], column)
	}
	return nil
}

// solve computes the plate with all ranks of c. Rank 0 gets the whole field, the others
// nil. The largest change is the same however the plate is cut, and so are the steps.
func solve(ctx context.Context, c *mpi.Comm, cfg plan, progress func(step int, change float64)) (field []float64, steps int, err error) {
	p, err := newPart(ctx, c, cfg.size)
	if err != nil {
		return nil, 0, err
	}
	largest := make([]float64, 1)
	for steps < cfg.steps {
		if err := p.exchange(ctx); err != nil {
			return nil, steps, fmt.Errorf("step %d: %w", steps, err)
		}
		change := p.step()
		steps++
		if steps%cfg.every != 0 {
			continue
		}
		if err := mpi.Allreduce(ctx, p.grid, []float64{change}, largest, mpi.Max[float64]()); err != nil {
			return nil, steps, fmt.Errorf("step %d: %w", steps, err)
		}
		progress(steps, largest[0])
		if cfg.settled(steps, largest[0]) {
			break
		}
	}
	field, err = p.gather(ctx, cfg.size)
	return field, steps, err
}

// gather brings all blocks to rank 0 and puts them in their places.
func (p *part) gather(ctx context.Context, size int) ([]float64, error) {
	n := p.grid.Size()
	counts := make([]int, n)
	layouts := make([]mpi.Layout, n)
	for r := range n {
		row, col, rows, cols, err := blockOf(p.grid, size, r)
		if err != nil {
			return nil, err
		}
		counts[r], layouts[r] = rows*cols, mpi.Subarray(size, row, col, rows, cols)
	}
	var packed, field []float64
	if p.grid.Rank() == 0 {
		packed, field = make([]float64, size*size), make([]float64, size*size)
	}
	if err := mpi.Gatherv(ctx, p.grid, p.cells(), packed, counts, 0); err != nil || field == nil {
		return nil, err
	}
	for r, n := range counts {
		if err := mpi.Unpack(packed[:n], field, layouts[r]); err != nil {
			return nil, err
		}
		packed = packed[n:]
	}
	return field, nil
}
