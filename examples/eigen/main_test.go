package main

import (
	"bytes"
	"math"
	"math/cmplx"
	"strings"
	"testing"
)

// TestEigen finds the eigenvalues of a small matrix, with the matrix in memory
// and in a directory.
func TestEigen(t *testing.T) {
	s := Search{From: 2, To: 2.6, Points: 32, Columns: 8, Moments: 5, Seed: 1}
	for name, data := range map[string]Data{"memory": new(Memory), "directory": Directory(t.TempDir())} {
		var out bytes.Buffer
		if err := master(t.Context(), &out, s, Disordered(12, 2, 1), data, ""); err != nil || !strings.Contains(out.String(), "eigen: ok") {
			t.Errorf("%s: %v\n%s", name, err, &out)
		}
	}
}

// The solver against the product with the matrix.
func TestSolve(t *testing.T) {
	m := Disordered(7, 3, 2)
	z := complex(1.5, 0.2)
	lu, err := factorize(t.Context(), m, z)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]complex128, m.Size)
	for i := range x {
		x[i] = complex(float64(i%5)-2, float64(i%3))
	}
	want := append([]complex128(nil), x...)
	lu.solve(x)
	got := make([]complex128, m.Size)
	for i := range got {
		got[i] = (z - complex(m.Diagonal[i], 0)) * x[i]
	}
	for k, v := range m.Value {
		got[m.Row[k]] -= complex(v, 0) * x[m.Column[k]]
		got[m.Column[k]] -= complex(v, 0) * x[m.Row[k]]
	}
	for i := range got {
		if cmplx.Abs(got[i]-want[i]) > 1e-10 {
			t.Fatalf("row %d: %v, want %v", i, got[i], want[i])
		}
	}
	if _, err := factorize(t.Context(), m, 2); err == nil {
		t.Error("a real point is taken")
	}
}

func TestDataOfOthers(t *testing.T) {
	for _, m := range []*Matrix{
		{Size: 2, Diagonal: []float64{1}},
		{Size: 1, Diagonal: []float64{1}, Row: []int{0}, Column: []int{1}, Value: []float64{1}},
		{Size: 2, Diagonal: []float64{1, 2}, Row: []int{1}, Column: []int{0}, Value: []float64{1}},
	} {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeMatrix(b); err == nil {
			t.Errorf("%+v is taken", m)
		}
	}
	d := Directory(t.TempDir())
	for _, name := range []string{"../x", "", "none"} {
		if _, err := d.Get(t.Context(), name); err == nil {
			t.Errorf("data %q is there", name)
		}
	}
	if v := Block(10, 2, 3); len(v) != 20 || math.Abs(v[7]) != 1 {
		t.Errorf("V = %v", v)
	}
}
