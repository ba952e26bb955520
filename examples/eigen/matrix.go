package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/fxamacker/cbor/v2"
	"gonum.org/v1/gonum/mat"
)

// A Matrix is sparse, real and symmetric: its diagonal, and the entries above it.
type Matrix struct {
	Size     int       `json:"size"`
	Diagonal []float64 `json:"diagonal"`
	Row      []int     `json:"row"` // of each entry, less than its column
	Column   []int     `json:"column"`
	Value    []float64 `json:"value"`
}

// Disordered returns the Hamiltonian of an electron on a square lattice with a
// random potential (Anderson's model): 4 and the potential on the diagonal, -1
// between neighbours. width is the potential's.
func Disordered(side int, width float64, seed uint64) *Matrix {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := &Matrix{Size: side * side}
	for y := range side {
		for x := range side {
			at := y*side + x
			m.Diagonal = append(m.Diagonal, 4+width*(rng.Float64()-0.5))
			if x+1 < side {
				m.add(at, at+1, -1)
			}
			if y+1 < side {
				m.add(at, at+side, -1)
			}
		}
	}
	return m
}

func (m *Matrix) add(row, column int, value float64) {
	m.Row, m.Column, m.Value = append(m.Row, row), append(m.Column, column), append(m.Value, value)
}

// Encode returns the matrix as bytes.
func (m *Matrix) Encode() ([]byte, error) { return cbor.Marshal(m) }

// DecodeMatrix is the inverse of Encode. It checks what others index by.
func DecodeMatrix(b []byte) (*Matrix, error) {
	var m Matrix
	if err := cbor.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Size != len(m.Diagonal) || len(m.Row) != len(m.Value) || len(m.Column) != len(m.Value) {
		return nil, fmt.Errorf("a matrix of size %d with %d diagonal entries", m.Size, len(m.Diagonal))
	}
	for i := range m.Value {
		if m.Row[i] < 0 || m.Row[i] >= m.Column[i] || m.Column[i] >= m.Size {
			return nil, fmt.Errorf("entry %d,%d of a matrix of size %d", m.Row[i], m.Column[i], m.Size)
		}
	}
	return &m, nil
}

// Band returns how far from the diagonal entries are.
func (m *Matrix) Band() (band int) {
	for i := range m.Value {
		band = max(band, m.Column[i]-m.Row[i])
	}
	return band
}

// Times returns m x for the columns of x.
func (m *Matrix) Times(x *mat.Dense) *mat.Dense {
	_, columns := x.Dims()
	y := mat.NewDense(m.Size, columns, nil)
	for i, d := range m.Diagonal {
		for j := range columns {
			y.Set(i, j, d*x.At(i, j))
		}
	}
	for k, v := range m.Value {
		r, c := m.Row[k], m.Column[k]
		for j := range columns {
			y.Set(r, j, y.At(r, j)+v*x.At(c, j))
			y.Set(c, j, y.At(c, j)+v*x.At(r, j))
		}
	}
	return y
}

// Dense returns the matrix with all its zeros, for a reference.
func (m *Matrix) Dense() *mat.SymDense {
	d := mat.NewSymDense(m.Size, nil)
	for i, v := range m.Diagonal {
		d.SetSym(i, i, v)
	}
	for k, v := range m.Value {
		d.SetSym(m.Row[k], m.Column[k], d.At(m.Row[k], m.Column[k])+v)
	}
	return d
}
