package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
)

// edge is the temperature that the cells around a plate of size x size cells keep: hot
// above, as a hump, warm at the left, and cold elsewhere.
func edge(size, row, col int) float64 {
	switch {
	case row < 0:
		x := (float64(col) + 0.5) / float64(size)
		return 400 * x * (1 - x)
	case col < 0:
		return 50
	}
	return 0
}

// A block is a rectangle of a plate with a border of one cell: of its neighbours'
// cells, or of the edge. The plate begins at 0 degrees.
type block struct {
	row, col   int // of the plate, where the first cell lies
	rows, cols int
	now, next  []float64 // with the border, rows of cols+2
}

func newBlock(size, row, col, rows, cols int) *block {
	n := (rows + 2) * (cols + 2)
	b := &block{row, col, rows, cols, make([]float64, n), make([]float64, n)}
	inside := func(x int) bool { return x >= 0 && x < size }
	for i := -1; i <= rows; i++ {
		for j := -1; j <= cols; j++ {
			if !inside(row+i) || !inside(col+j) {
				b.now[b.at(i, j)] = edge(size, row+i, col+j)
				b.next[b.at(i, j)] = b.now[b.at(i, j)]
			}
		}
	}
	return b
}

// at is the index of a cell; the border has indexes of -1 and of rows or cols.
func (b *block) at(i, j int) int { return (i+1)*(b.cols+2) + j + 1 }

// step lets heat flow for one unit of time and returns the largest change of a cell.
//
// The conversions keep compilers from fusing a product with a sum, which rounds
// otherwise on some processors (Go specification, Floating-point operators).
func (b *block) step() (change float64) {
	const flow = 0.24 // of the difference to a neighbour; stable up to 1/4
	for i := range b.rows {
		up := b.now[b.at(i-1, 0):][:b.cols]
		here := b.now[b.at(i, -1):][:b.cols+2]
		down := b.now[b.at(i+1, 0):][:b.cols]
		out := b.next[b.at(i, 0):][:b.cols]
		for j := range out {
			u := here[j+1]
			d := flow * (up[j] + down[j] + here[j] + here[j+2] - float64(4*u))
			out[j] = u + float64(d)
			change = max(change, math.Abs(d))
		}
	}
	b.now, b.next = b.next, b.now
	return change
}

// cells returns the block without its border, row after row.
func (b *block) cells() []float64 {
	out := make([]float64, 0, b.rows*b.cols)
	for i := range b.rows {
		out = append(out, b.now[b.at(i, 0):][:b.cols]...)
	}
	return out
}

// serial computes the whole plate alone, by the rule of [solve].
func serial(cfg plan) (field []float64, steps int) {
	b := newBlock(cfg.size, 0, 0, cfg.size, cfg.size)
	for steps < cfg.steps {
		change := b.step()
		steps++
		if cfg.settled(steps, change) {
			break
		}
	}
	return b.cells(), steps
}

// fingerprint tells two fields apart if they differ in a bit.
func fingerprint(field []float64) string {
	h := sha256.New()
	for _, u := range field {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], math.Float64bits(u))
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
