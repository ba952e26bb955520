package main

import (
	"context"
	"errors"
	"fmt"
	"math/cmplx"
	"math/rand/v2"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// A Point is the argument of a call: solve (z - A) Y = V.
type Point struct {
	Matrix  string  `json:"matrix"` // its name in Data
	Real    float64 `json:"real"`   // of z
	Imag    float64 `json:"imag"`
	Columns int     `json:"columns"` // of V
	Seed    uint64  `json:"seed"`    // that V is made of, so that it need not travel
}

// A Solution is Y, column by column.
type Solution struct {
	Real []float64 `json:"real"`
	Imag []float64 `json:"imag"`
}

// maxColumns bounds what a call may ask for.
const maxColumns = 256

// Block returns V: random signs.
func Block(size, columns int, seed uint64) []float64 {
	rng := rand.New(rand.NewPCG(seed, 1))
	v := make([]float64, size*columns)
	for i := range v {
		v[i] = float64(rng.IntN(2))*2 - 1
	}
	return v
}

// A Solver is the worker's side.
type Solver struct {
	Data Data

	mu   sync.Mutex // guards what follows
	name string
	last *Matrix // the one of the last call: all calls of a run need the same
}

// Register offers the function on a worker.
func (s *Solver) Register(w *rpc.Worker) error { return rpc.Register(w, "resolvent", s.Solve) }

// Solve carries out one call.
func (s *Solver) Solve(ctx context.Context, p Point) (Solution, error) {
	m, err := s.matrix(ctx, p.Matrix)
	if err != nil {
		return Solution{}, err
	}
	if p.Columns < 1 || p.Columns > maxColumns {
		return Solution{}, fmt.Errorf("%d columns are not within 1 and %d", p.Columns, maxColumns)
	}
	lu, err := factorize(ctx, m, complex(p.Real, p.Imag))
	if err != nil {
		return Solution{}, err
	}
	block := Block(m.Size, p.Columns, p.Seed)
	out := Solution{make([]float64, 0, len(block)), make([]float64, 0, len(block))}
	x := make([]complex128, m.Size)
	for column := range p.Columns {
		for i := range x {
			x[i] = complex(block[column*m.Size+i], 0)
		}
		lu.solve(x)
		for _, v := range x {
			out.Real, out.Imag = append(out.Real, real(v)), append(out.Imag, imag(v))
		}
		rpc.Progress(ctx, float64(column+1)/float64(p.Columns))
	}
	return out, nil
}

func (s *Solver) matrix(ctx context.Context, name string) (*Matrix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && s.name == name {
		return s.last, nil
	}
	b, err := s.Data.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	m, err := DecodeMatrix(b)
	if err == nil {
		s.name, s.last = name, m
	}
	return m, err
}

// A banded is L D L^T of a complex symmetric matrix, within its band: row i has
// the entries of columns i-band to i. z is off the real axis and A symmetric, so
// that every pivot has an imaginary part of one sign, and none is zero.
type banded struct {
	size, band int
	rows       [][]complex128 // L without its diagonal; the last entry is D's
}

var errSingular = errors.New("the point is an eigenvalue")

// factorize returns z - A as L D L^T.
func factorize(ctx context.Context, m *Matrix, z complex128) (*banded, error) {
	if imag(z) == 0 {
		return nil, errSingular
	}
	b := &banded{size: m.Size, band: m.Band(), rows: make([][]complex128, m.Size)}
	for i := range b.rows {
		b.rows[i] = make([]complex128, b.band+1)
		b.rows[i][b.band] = z - complex(m.Diagonal[i], 0)
	}
	for k, v := range m.Value {
		r, c := m.Row[k], m.Column[k] // r < c
		b.rows[c][b.band-(c-r)] -= complex(v, 0)
	}
	scaled := make([]complex128, b.band)
	for i := range b.rows {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		row := b.rows[i]
		first := max(0, i-b.band)
		for j := first; j < i; j++ { // L[i][j] D[j]
			other := b.rows[j]
			sum := row[b.band-(i-j)]
			for k := max(first, j-b.band); k < j; k++ {
				sum -= scaled[k-first] * other[b.band-(j-k)]
			}
			scaled[j-first] = sum
		}
		for j := first; j < i; j++ {
			l := scaled[j-first] / b.rows[j][b.band]
			row[b.band] -= l * scaled[j-first]
			row[b.band-(i-j)] = l
		}
		if cmplx.Abs(row[b.band]) == 0 {
			return nil, errSingular
		}
	}
	return b, nil
}

// solve replaces x by the solution for it.
func (b *banded) solve(x []complex128) {
	for i := range x {
		for j := max(0, i-b.band); j < i; j++ {
			x[i] -= b.rows[i][b.band-(i-j)] * x[j]
		}
	}
	for i := range x {
		x[i] /= b.rows[i][b.band]
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := max(0, i-b.band); j < i; j++ {
			x[j] -= b.rows[i][b.band-(i-j)] * x[i]
		}
	}
}
