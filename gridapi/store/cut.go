package store

import (
	"errors"
	"io"
)

// Content-defined chunking after FastCDC (Xia et al., USENIX ATC 2016), sections
// 3.3 and 3.4: a gear hash, a least length that is skipped, and two masks that
// bring lengths near to the normal one. Decision 0032 has the measurements.
const (
	minCut    = 64 << 10
	normalCut = 256 << 10
	maxCut    = 1<<20 - 1024 // leaves room in chunk.MaxSize for what sealing adds

	// Of the masks, one has two bits more than log2(normalCut), the other two
	// fewer. They are the upper bits, which 64 bytes have gone into.
	strictMask = (1<<20 - 1) << 44
	looseMask  = (1<<16 - 1) << 48
)

// cut returns the length of the first piece of b: maxCut bytes of an object, or
// all that is left of it.
func cut(gear *[256]uint64, b []byte) int {
	if len(b) <= minCut {
		return len(b)
	}
	b = b[:min(len(b), maxCut)]
	var h uint64
	i := minCut
	for normal := min(len(b), normalCut); i < normal; i++ {
		h = h<<1 + gear[b[i]]
		if h&strictMask == 0 {
			return i + 1
		}
	}
	for ; i < len(b); i++ {
		h = h<<1 + gear[b[i]]
		if h&looseMask == 0 {
			return i + 1
		}
	}
	return len(b)
}

// A cutter cuts what it reads into pieces.
type cutter struct {
	gear       *[256]uint64
	r          io.Reader
	buf        []byte // of which [start:end] is read and not yet cut; it grows up to cutterRoom
	start, end int
	err        error // of r; io.EOF
}

const (
	cutterRoom = 4 * maxCut
	// firstRoom is what a cutter begins with, so that a small object costs
	// little; it grows eightfold.
	firstRoom = 8 << 10
)

func newCutter(gear *[256]uint64, r io.Reader) *cutter {
	return &cutter{gear: gear, r: r, buf: make([]byte, firstRoom)}
}

// next returns the next piece, which is valid until the next call, or io.EOF.
func (c *cutter) next() ([]byte, error) {
	if c.end-c.start < maxCut && c.err == nil {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
		for c.err == nil {
			if c.end == len(c.buf) {
				if len(c.buf) == cutterRoom {
					break
				}
				c.buf = append(make([]byte, 0, min(8*len(c.buf), cutterRoom)), c.buf...)
				c.buf = c.buf[:cap(c.buf)]
			}
			var n int
			n, c.err = c.r.Read(c.buf[c.end:])
			c.end += n
		}
	}
	if c.err != nil && !errors.Is(c.err, io.EOF) {
		return nil, c.err
	}
	if c.start == c.end {
		return nil, io.EOF
	}
	n := cut(c.gear, c.buf[c.start:c.end])
	piece := c.buf[c.start : c.start+n]
	c.start += n
	return piece, nil
}
