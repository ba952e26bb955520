package mpi

import (
	"context"
	"fmt"
	"slices"
)

// cartesian is the grid that a communicator's ranks lie on, the last dimension
// running fastest (MPI 4.1, section 8.5).
type cartesian struct {
	dims    []int
	periods []bool
}

// DimsCreate completes dims, where zero means any, to a grid of n ranks that is
// as square as can be (MPI_Dims_create).
func DimsCreate(n int, dims []int) ([]int, error) {
	out := slices.Clone(dims)
	rest, free := n, 0
	for _, d := range dims {
		switch {
		case d < 0:
			return nil, fault(ErrDims, "DimsCreate", fmt.Errorf("dimension %d", d))
		case d == 0:
			free++
		case rest%d != 0:
			return nil, fault(ErrDims, "DimsCreate", fmt.Errorf("%d ranks in %v", n, dims))
		default:
			rest /= d
		}
	}
	if n < 1 || free == 0 && rest != 1 {
		return nil, fault(ErrDims, "DimsCreate", fmt.Errorf("%d ranks in %v", n, dims))
	}
	var primes []int
	for f := 2; rest > 1; f++ {
		for rest%f == 0 {
			primes = append(primes, f)
			rest /= f
		}
	}
	sizes := make([]int, free)
	for i := range sizes {
		sizes[i] = 1
	}
	for _, f := range slices.Backward(primes) { // the largest to the smallest so far
		least := 0
		for i := range sizes {
			if sizes[i] < sizes[least] {
				least = i
			}
		}
		sizes[least] *= f
	}
	slices.SortFunc(sizes, func(a, b int) int { return b - a })
	for i, d := range out {
		if d == 0 {
			out[i], sizes = sizes[0], sizes[1:]
		}
	}
	return out, nil
}

// CartCreate makes a communicator whose ranks lie on a grid, in the order of
// ranks; periods says which dimensions close to a ring (MPI_Cart_create). For
// ranks beyond the grid it is nil.
func (c *Comm) CartCreate(ctx context.Context, dims []int, periods []bool) (*Comm, error) {
	n := 1
	for _, d := range dims {
		if d < 1 || n > c.Size()/d {
			return nil, c.handled(fault(ErrDims, "CartCreate", fmt.Errorf("%v for %d ranks", dims, c.Size())))
		}
		n *= d
	}
	if len(periods) != len(dims) {
		return nil, c.handled(fault(ErrDims, "CartCreate", fmt.Errorf("%d dimensions and %d periods", len(dims), len(periods))))
	}
	colour := 0
	if c.rank >= n {
		colour = NoColor
	}
	d, err := c.Split(ctx, colour, c.rank)
	if d != nil {
		d.cart = &cartesian{slices.Clone(dims), slices.Clone(periods)}
	}
	return d, err
}

// CartDims returns the grid, nil if c has none.
func (c *Comm) CartDims() (dims []int, periods []bool) {
	if c.cart == nil {
		return nil, nil
	}
	return slices.Clone(c.cart.dims), slices.Clone(c.cart.periods)
}

// CartCoords returns where a rank lies.
func (c *Comm) CartCoords(rank int) ([]int, error) {
	if c.cart == nil {
		return nil, c.handled(fault(ErrTopology, "CartCoords", nil))
	}
	if err := c.checkRank("CartCoords", rank); err != nil {
		return nil, c.handled(err)
	}
	coords := make([]int, len(c.cart.dims))
	for i := len(coords) - 1; i >= 0; i-- {
		coords[i] = rank % c.cart.dims[i]
		rank /= c.cart.dims[i]
	}
	return coords, nil
}

// CartRank returns the rank that lies at coords; where a dimension is a ring
// they wrap.
func (c *Comm) CartRank(coords []int) (int, error) {
	if c.cart == nil || len(coords) != len(c.cart.dims) {
		return -1, c.handled(fault(ErrTopology, "CartRank", nil))
	}
	r := c.cart.rank(coords)
	if r < 0 {
		return -1, c.handled(fault(ErrArg, "CartRank", fmt.Errorf("%v in %v", coords, c.cart.dims)))
	}
	return r, nil
}

// rank is negative beyond the edge.
func (t *cartesian) rank(coords []int) int {
	r := 0
	for i, x := range coords {
		d := t.dims[i]
		if t.periods[i] {
			x = (x%d + d) % d
		}
		if x < 0 || x >= d {
			return -1
		}
		r = r*d + x
	}
	return r
}

// CartShift returns the ranks that lie before and after this one in a dimension,
// at a distance; negative beyond the edge (MPI_Cart_shift).
func (c *Comm) CartShift(dimension, distance int) (source, dest int, err error) {
	if c.cart == nil || dimension < 0 || dimension >= len(c.cart.dims) {
		return -1, -1, c.handled(fault(ErrTopology, "CartShift", nil))
	}
	at, _ := c.CartCoords(c.rank)
	there := slices.Clone(at)
	there[dimension] = at[dimension] + distance
	dest = c.cart.rank(there)
	there[dimension] = at[dimension] - distance
	return c.cart.rank(there), dest, nil
}

// CartSub makes a communicator for each lower-dimensional grid that keeps the
// dimensions given (MPI_Cart_sub).
func (c *Comm) CartSub(ctx context.Context, keep []bool) (*Comm, error) {
	if c.cart == nil || len(keep) != len(c.cart.dims) {
		return nil, c.handled(fault(ErrTopology, "CartSub", nil))
	}
	at, _ := c.CartCoords(c.rank)
	sub := new(cartesian)
	colour, key := 0, 0
	for i, k := range keep {
		d := c.cart.dims[i]
		if k {
			key = key*d + at[i]
			sub.dims, sub.periods = append(sub.dims, d), append(sub.periods, c.cart.periods[i])
		} else {
			colour = colour*d + at[i]
		}
	}
	d, err := c.Split(ctx, colour, key)
	if d != nil {
		d.cart = sub
	}
	return d, err
}

// neighbours are the ranks before and after this one in each dimension, in MPI's
// order; negative beyond an edge.
func (c *Comm) neighbours(op string) ([]int, error) {
	if c.cart == nil {
		return nil, fault(ErrTopology, op, nil)
	}
	var out []int
	for i := range c.cart.dims {
		before, after, _ := c.CartShift(i, 1)
		out = append(out, before, after)
	}
	return out, nil
}

// NeighborAlltoall sends a block of out to each neighbour on the grid, before
// and after in each dimension, and receives one from it into the block of in
// (MPI_Neighbor_alltoall). Blocks beyond an edge are left alone.
func NeighborAlltoall[T any](ctx context.Context, c *Comm, out, in []T) error {
	return neighbour(ctx, c, "NeighborAlltoall", out, in, func(i, block int) []T { return out[i*block : (i+1)*block] }, 1)
}

// NeighborAllgather sends out to each neighbour and receives its into a block of
// in (MPI_Neighbor_allgather).
func NeighborAllgather[T any](ctx context.Context, c *Comm, out, in []T) error {
	return neighbour(ctx, c, "NeighborAllgather", out, in, func(int, int) []T { return out }, 2*len(c.cartDims()))
}

func (c *Comm) cartDims() []int {
	if c.cart == nil {
		return nil
	}
	return c.cart.dims
}

// neighbour exchanges blocks; times is how often out would fit in in.
func neighbour[T any](ctx context.Context, c *Comm, op string, out, in []T, part func(i, block int) []T, times int) error {
	ranks, err := c.neighbours(op)
	if err != nil {
		return c.handled(err)
	}
	if len(in)%max(len(ranks), 1) != 0 || len(out)*times != len(in) {
		return c.handled(fault(ErrCount, op, fmt.Errorf("%d values to send and %d to receive for %d neighbours", len(out), len(in), len(ranks))))
	}
	size, _, err := layout[T]()
	if err != nil {
		return c.handled(err)
	}
	block := len(in) / max(len(ranks), 1)
	return c.collect(ctx, op, sign(op, 0, block*size), func(x *collective) error {
		b, decode, err := room(in)
		if err != nil {
			return err
		}
		if decode != nil { // what is beyond an edge stays
			if old, err := encode(in); err == nil {
				copy(b, old)
			}
		}
		var requests []*Request
		fail := func(err error) error {
			x.quit(err)
			x.wait(requests...)
			return err
		}
		// Where both neighbours are one rank, its first message is that to its
		// neighbour before, which for us is the one after: so receive in turned order.
		for i := range ranks {
			j := i ^ 1
			if ranks[j] < 0 {
				continue
			}
			r, err := x.irecv(ranks[j], b[j*block*size:(j+1)*block*size])
			if err != nil {
				return fail(err)
			}
			requests = append(requests, r)
		}
		for i, to := range ranks {
			if to < 0 {
				continue
			}
			o, err := encode(part(i, block))
			if err != nil {
				return fail(err)
			}
			s, err := x.isend(to, o)
			if err != nil {
				return fail(err)
			}
			requests = append(requests, s)
		}
		if err := x.wait(requests...); err != nil {
			return err
		}
		if decode != nil {
			return decode()
		}
		return nil
	})
}
