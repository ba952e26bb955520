package main

import (
	"context"
	"fmt"
	"math"
	"math/cmplx"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// A Search says which eigenvalues are wanted and how hard to look. The method is
// that of Sakurai and Sugiura (J. Comput. Appl. Math. 159, 2003) in its block
// form with a Rayleigh-Ritz projection (Ikegami and Sakurai, Taiwanese J. Math.
// 14, 2010): the moments
//
//	S_k = 1/(2 pi i) * integral over a circle of z^k (z - A)^-1 V dz
//
// span the eigenvectors of the eigenvalues within the circle. The trapezoidal
// rule makes a sum of the integral, and each of its points is one call.
type Search struct {
	From, To float64
	Points   int // on the circle; half of them are calls, the others conjugates
	Columns  int // of V
	Moments  int // Columns * Moments must exceed the number of eigenvalues
	Seed     uint64
}

// A Found is an eigenvalue with the norm of A x - value x for its vector of
// length one.
type Found struct{ Value, Residual float64 }

// Run has the workers of c solve for each point and returns the eigenvalues
// between From and To in rising order. done is called for each solution.
func (s Search) Run(ctx context.Context, c *rpc.Client, data Data, m *Matrix, done func(call, calls int)) ([]Found, error) {
	if s.Points < 4 || s.Points%2 != 0 || s.Columns < 1 || s.Moments < 1 || !(s.From < s.To) {
		return nil, fmt.Errorf("eigen: %+v makes no search", s)
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, err
	}
	name, err := data.Put(ctx, encoded)
	if err != nil {
		return nil, err
	}
	center, radius := (s.From+s.To)/2, (s.To-s.From)/2
	half := s.Points / 2
	calls := make([]*rpc.Session[Solution], half)
	units := make([]complex128, half) // (z - center) / radius
	for i := range calls {
		units[i] = cmplx.Exp(complex(0, 2*math.Pi*(float64(i)+0.5)/float64(s.Points)))
		z := complex(center, 0) + complex(radius, 0)*units[i]
		calls[i], err = rpc.CallAsync[Point, Solution](ctx, c, "resolvent", Point{name, real(z), imag(z), s.Columns, s.Seed})
		if err != nil {
			return nil, err
		}
	}
	// A and V are real: the lower half of the circle gives the conjugates, so
	// that each sum is twice the real part.
	moments := mat.NewDense(m.Size, s.Columns*s.Moments, nil)
	for i, call := range calls {
		y, err := call.Wait(ctx)
		if err != nil {
			return nil, err
		}
		if len(y.Real) != m.Size*s.Columns || len(y.Imag) != len(y.Real) {
			return nil, fmt.Errorf("eigen: a solution of %d numbers, not %d", len(y.Real), m.Size*s.Columns)
		}
		weight := units[i] * complex(2*radius/float64(s.Points), 0)
		for k := range s.Moments {
			for column := range s.Columns {
				for row := range m.Size {
					at := column*m.Size + row
					x := real(weight * complex(y.Real[at], y.Imag[at]))
					moments.Set(row, k*s.Columns+column, moments.At(row, k*s.Columns+column)+x)
				}
			}
			weight *= units[i]
		}
		done(i+1, half)
	}
	return s.project(m, moments)
}

// rankTolerance is which part of the largest singular value of the moments
// counts as zero.
const rankTolerance = 1e-12

// project finds the eigenvalues in the space that the moments span.
func (s Search) project(m *Matrix, moments *mat.Dense) ([]Found, error) {
	var svd mat.SVD
	if !svd.Factorize(moments, mat.SVDThin) {
		return nil, fmt.Errorf("eigen: the moments have no singular values")
	}
	values := svd.Values(nil)
	rank := 0
	for rank < len(values) && values[rank] > rankTolerance*values[0] {
		rank++
	}
	if rank == 0 {
		return nil, nil
	}
	var u mat.Dense
	svd.UTo(&u)
	basis := mat.DenseCopyOf(u.Slice(0, m.Size, 0, rank))
	image := m.Times(basis)
	var small mat.Dense
	small.Mul(basis.T(), image)
	symmetric := mat.NewSymDense(rank, nil)
	for i := range rank {
		for j := i; j < rank; j++ {
			symmetric.SetSym(i, j, (small.At(i, j)+small.At(j, i))/2)
		}
	}
	var eigen mat.EigenSym
	if !eigen.Factorize(symmetric, true) {
		return nil, fmt.Errorf("eigen: the projection has no eigenvalues")
	}
	var vectors, x, ax mat.Dense
	eigen.VectorsTo(&vectors)
	x.Mul(basis, &vectors)
	ax.Mul(image, &vectors)
	var found []Found
	for j, value := range eigen.Values(nil) {
		if value < s.From || value > s.To {
			continue
		}
		sum := 0.0
		for i := range m.Size {
			d := ax.At(i, j) - value*x.At(i, j)
			sum += d * d
		}
		// The projection also yields values that are none of A's.
		if residual := math.Sqrt(sum); residual < 1e-6 {
			found = append(found, Found{value, residual})
		}
	}
	slices.SortFunc(found, func(a, b Found) int { return int(math.Copysign(1, a.Value-b.Value)) })
	return found, nil
}

// Reference returns the same eigenvalues from the dense matrix.
func (s Search) Reference(m *Matrix) (values []float64) {
	var eigen mat.EigenSym
	if !eigen.Factorize(m.Dense(), false) {
		return nil
	}
	for _, v := range eigen.Values(nil) {
		if v >= s.From && v <= s.To {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return values
}
