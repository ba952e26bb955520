package ri2n

import (
	"bytes"
	"errors"
	"net"
	"sync"
)

// maxRecvGaps is the number of holes that a recvBuffer keeps track of, in a
// list of at most 24 KiB. Single-byte frames with holes between them must not
// cost much more than the window that the peer was granted (RUSTSEC-2026-0185).
const maxRecvGaps = 1024

// maxRecvSpan is the distance, in bytes, from the first unread byte beyond
// which data is refused whatever the caller allows. Stream credit ends at
// 16 MiB; this bounds the table of slabs if a caller does not check it.
const maxRecvSpan = 64 << 20

// Violations by the peer that close the session, save for errTooManyGaps.
var (
	errFinalSize     = errors.New("ri2n: stream data contradicts the final size")
	errContradiction = errors.New("ri2n: stream data differs from earlier data at the same offset")
	errBeyondWindow  = errors.New("ri2n: stream data beyond any window")

	// errTooManyGaps reports that data was refused for want of room in the list
	// of holes. An honest peer meets it only under extreme loss, so the packet
	// should be dropped without acknowledgement and counted: the peer sends it
	// again. What fills a hole from its edge is never refused.
	errTooManyGaps = errors.New("ri2n: too many gaps in stream data")
)

// A recvBuffer puts the data of one stream in order. Data lies in slabs that
// start at multiples of 64 KiB of the stream offset, so its memory is at most
// the span of what is buffered, rounded up at both ends to 64 KiB, whatever the
// sizes of the frames; with little data, it is one slab of 4 KiB.
//
// The zero value is an empty buffer at offset zero. The caller holds the
// session's mutex and has checked the data against flow control. An empty
// buffer holds no slabs.
type recvBuffer struct {
	blocks fifo[recvBlock] // blocks.at(0) covers firstBlock
	first  uint64          // stream offset, in units of largeSlab, of blocks.at(0)

	read0 uint64      // every byte below has been read
	ready uint64      // every byte below has been received
	ahead intervalSet // received above ready
	high  uint64      // every offset seen is at most this

	final    uint64
	hasFinal bool
	dropped  bool // reset was called: sizes are checked, data is not kept
}

// A recvBlock holds the received bytes of one 64 KiB range of the stream. Its
// slab is nil if there are none, and covers one page of 4 KiB or all of it.
type recvBlock struct {
	slab *slab
	at   int // where in the range the slab begins
}

// insert takes the data of one STREAM frame, which it copies. fin tells that
// the stream ends behind it. After an error nothing of the frame counts as
// received.
func (b *recvBuffer) insert(off uint64, data []byte, fin bool) error {
	end := off + uint64(len(data))
	if end < off || end > b.read0+maxRecvSpan && !b.dropped {
		return errBeyondWindow
	}
	if b.hasFinal && (end > b.final || fin && end != b.final) || fin && end < b.high {
		return errFinalSize
	}
	if !b.dropped && len(data) > 0 {
		if err := b.store(off, end, data); err != nil {
			return err
		}
	}
	b.high = max(b.high, end)
	if fin {
		b.final, b.hasFinal = end, true
	}
	return nil
}

// store keeps the part of [off, end) that has not been read.
func (b *recvBuffer) store(off, end uint64, data []byte) error {
	if end <= b.read0 {
		return nil
	}
	if off < b.read0 {
		data, off = data[b.read0-off:], b.read0
	}
	if off == b.ready && b.ahead.len() == 0 { // the usual case: in order
		b.copyIn(off, data)
		b.ready = end
		return nil
	}
	if off > b.ready && b.ahead.len() >= maxRecvGaps {
		if i, j := b.ahead.touching(off, end); i == j {
			return errTooManyGaps
		}
	}
	// Compare what is there already, and copy what is not.
	at := off
	if at < b.ready {
		n := min(end, b.ready) - at
		if !b.equal(at, data[:n]) {
			return errContradiction
		}
		at += n
	}
	for _, v := range b.ahead.overlapping(at, end) {
		from, to := max(v.start, at), min(v.end, end)
		if !b.equal(from, data[from-off:to-off]) {
			return errContradiction
		}
	}
	for _, v := range b.ahead.overlapping(at, end) {
		if v.start > at {
			b.copyIn(at, data[at-off:v.start-off])
		}
		at = min(v.end, end)
	}
	if at < end {
		b.copyIn(at, data[at-off:])
	}
	if off > b.ready {
		b.ahead.add(off, end)
		return nil
	}
	if end > b.ready {
		b.ready = b.ahead.advance(b.ready, end)
	}
	return nil
}

// copyIn writes data to its place at off, in slabs that it makes as needed.
func (b *recvBuffer) copyIn(off uint64, data []byte) {
	if b.blocks.len() == 0 {
		b.first = b.read0 / largeSlab
	}
	alone := b.read0 == b.ready && b.ahead.len() == 0
	for len(data) > 0 {
		i := int(off/largeSlab - b.first)
		for b.blocks.len() <= i {
			b.blocks.push(recvBlock{})
		}
		at := int(off % largeSlab)
		n := min(len(data), largeSlab-at)
		copy(b.blocks.at(i).reserve(at, n, alone), data)
		data, off = data[n:], off+uint64(n)
	}
}

// reserve returns the n bytes at offset at of the block. It takes a small slab
// if small is set and they fit into one page, and replaces it by a large one
// once they do not.
func (k *recvBlock) reserve(at, n int, small bool) []byte {
	page := at &^ (smallSlab - 1)
	fits := at+n <= page+smallSlab
	switch {
	case k.slab == nil && small && fits:
		k.slab, k.at = getSlab(smallSlab), page
	case k.slab == nil:
		k.slab, k.at = getSlab(largeSlab), 0
	case len(k.slab.buf) == smallSlab && !(fits && page == k.at):
		// Views may still hold the small slab, so its bytes are copied.
		large := getSlab(largeSlab)
		copy(large.buf[k.at:], k.slab.buf)
		putSlab(k.slab)
		k.slab, k.at = large, 0
	}
	return k.slab.buf[at-k.at : at-k.at+n]
}

// view returns the stored bytes from off on, up to max of them and not beyond
// the slab. All of [off, off+max) must have been received.
func (b *recvBuffer) view(off uint64, max int) ([]byte, *slab) {
	k := b.blocks.at(int(off/largeSlab - b.first))
	at := int(off%largeSlab) - k.at
	return k.slab.buf[at:min(at+max, len(k.slab.buf))], k.slab
}

// equal reports whether data is what was received at off.
func (b *recvBuffer) equal(off uint64, data []byte) bool {
	for len(data) > 0 {
		have, _ := b.view(off, len(data))
		if !bytes.Equal(have, data[:len(have)]) {
			return false
		}
		data, off = data[len(have):], off+uint64(len(have))
	}
	return true
}

// highest returns the largest offset that the peer has used: what counts
// against flow control.
func (b *recvBuffer) highest() uint64 { return b.high }

// consumed returns the number of bytes read, by read or views.
func (b *recvBuffer) consumed() uint64 { return b.read0 }

// readable returns the number of bytes that can be read now.
func (b *recvBuffer) readable() int { return int(b.ready - b.read0) }

// read moves up to len(p) bytes to p and returns how many.
func (b *recvBuffer) read(p []byte) (n int) {
	p = p[:min(len(p), b.readable())]
	for n < len(p) {
		v, _ := b.view(b.read0, len(p)-n)
		n += copy(p[n:], v)
		b.advance(len(v))
	}
	return n
}

// views reads up to max bytes without copying them. They count as consumed at
// once, yet their memory stays in use until release is called, which may
// happen on any goroutine, without the session's mutex, and more than once.
// The caller must not write to them. Without readable bytes both results are nil.
func (b *recvBuffer) views(max int) (net.Buffers, func()) {
	left := min(max, b.readable())
	if left <= 0 {
		return nil, nil
	}
	var (
		bufs net.Buffers
		held []*slab
		once sync.Once
	)
	for left > 0 {
		v, s := b.view(b.read0, left)
		s.hold()
		bufs, held = append(bufs, v[:len(v):len(v)]), append(held, s)
		left -= len(v)
		b.advance(len(v))
	}
	return bufs, func() {
		once.Do(func() {
			for _, s := range held {
				putSlab(s)
			}
		})
	}
}

// advance moves the reader by n bytes and frees the slabs behind it; all of
// them if nothing is left.
func (b *recvBuffer) advance(n int) {
	b.read0 += uint64(n)
	if b.read0 == b.ready && b.ahead.len() == 0 {
		b.free()
		return
	}
	for b.first < b.read0/largeSlab && b.blocks.len() > 0 {
		k := b.blocks.pop()
		if k.slab != nil {
			putSlab(k.slab)
		}
		b.first++
	}
}

// free drops all slabs.
func (b *recvBuffer) free() {
	for b.blocks.len() > 0 {
		if k := b.blocks.pop(); k.slab != nil {
			putSlab(k.slab)
		}
	}
}

// eof reports whether the stream ended and all of it has been read.
func (b *recvBuffer) eof() bool { return b.hasFinal && !b.dropped && b.read0 == b.final }

// finalSize returns the size of the whole stream, once a FIN or setFinal told.
func (b *recvBuffer) finalSize() (uint64, bool) { return b.final, b.hasFinal }

// setFinal records the final size that a RESET_STREAM names, which counts as
// used for flow control. It returns errFinalSize if that contradicts what came
// before. Data already received stays readable until reset.
func (b *recvBuffer) setFinal(size uint64) error {
	if b.hasFinal && size != b.final || size < b.high {
		return errFinalSize
	}
	b.high, b.final, b.hasFinal = size, size, true
	return nil
}

// reset drops all data. Later data is checked against the final size, counted
// in highest and forgotten. consumed keeps its value: the difference to
// highest is what the caller still owes the connection's flow control.
func (b *recvBuffer) reset() {
	b.free()
	b.ahead = intervalSet{}
	b.ready = b.read0
	b.dropped = true
}
