package ri2n

import "sort"

// largeSlabFrom is the number of bytes, to be written at once or already held,
// above which a sendBuffer takes large slabs. Below, it takes small ones; so
// the slabs hold at most four times the bytes written, or one small slab.
const largeSlabFrom = largeSlab / 4

// A sendBuffer holds what one stream's writer has written and the peer has not
// acknowledged, and tells which range of it is to be sent next. Ranges in
// flight are not recorded here: the paths know them and report what became of
// each (RFC 9002, section 6). One range may be in flight several times.
//
// The zero value is an empty buffer at offset zero. The caller holds the
// session's mutex. What is held of the bytes is proportional to buffered.
type sendBuffer struct {
	segs   fifo[sendSegment] // the bytes [base, end), without holes
	cursor int               // index in segs of the last look-up: a hint

	base uint64 // every byte below is acknowledged and forgotten
	sent uint64 // every byte below has been handed out once
	end  uint64 // every byte below has been written

	acked intervalSet // acknowledged above base
	lost  intervalSet // to be sent again; disjoint from acked

	fin     finState
	dropped bool // reset was called
}

// finState is the life of a stream's FIN bit.
type finState uint8

const (
	finNone   finState = iota // the writer has not finished
	finWanted                 // finished, but the FIN was never sent
	finFlying                 // sent
	finLost                   // sent and lost
	finAcked
)

// A sendSegment is a run of written bytes: in a slab of ours, or in memory of
// the writer, which is told when it may have it back.
type sendSegment struct {
	off     uint64 // stream offset of data[0]
	data    []byte
	slab    *slab  // nil for owned memory
	release func() // nil for slabs
}

func (g *sendSegment) end() uint64 { return g.off + uint64(len(g.data)) }

// drop gives the memory back to whom it belongs.
func (g *sendSegment) drop() {
	if g.slab != nil {
		putSlab(g.slab)
	} else if g.release != nil {
		g.release()
	}
}

// write copies bytes from p until limit bytes are buffered, and returns how
// many it took: none once finish or reset was called.
func (b *sendBuffer) write(p []byte, limit int) (n int) {
	if b.fin != finNone || b.dropped {
		return 0
	}
	p = p[:min(len(p), max(0, limit-b.buffered()))]
	for n < len(p) {
		n += b.fill(p[n:])
	}
	return n
}

// fill copies the front of p, which is not empty, into one slab.
func (b *sendBuffer) fill(p []byte) int {
	var g *sendSegment
	if n := b.segs.len(); n > 0 {
		g = b.segs.at(n - 1)
	}
	if g == nil || g.slab == nil || len(g.data) == len(g.slab.buf) {
		hint := smallSlab
		if max(len(p), b.buffered()) > largeSlabFrom {
			hint = largeSlab
		}
		s := getSlab(hint)
		b.segs.push(sendSegment{off: b.end, data: s.buf[:0], slab: s})
		g = b.segs.at(b.segs.len() - 1)
	}
	have := len(g.data)
	n := copy(g.slab.buf[have:], p)
	g.data = g.slab.buf[:have+n]
	b.end += uint64(n)
	return n
}

// writeOwned appends p without copying it, whatever is buffered already. p must
// not change until release is called, which happens once all of p has been
// acknowledged, or dropped by reset; at once if p is empty or the stream
// finished or reset. The session's mutex is held then: release must return
// soon and must not call into the session. Nil is allowed.
func (b *sendBuffer) writeOwned(p []byte, release func()) {
	if len(p) == 0 || b.fin != finNone || b.dropped {
		if release != nil {
			release()
		}
		return
	}
	b.segs.push(sendSegment{off: b.end, data: p, release: release})
	b.end += uint64(len(p))
}

// buffered returns the number of bytes held: from the first that is not
// acknowledged to the last written.
func (b *sendBuffer) buffered() int { return int(b.end - b.base) }

// finish puts a FIN behind all data. It may be called again without effect.
func (b *sendBuffer) finish() {
	if b.fin == finNone && !b.dropped {
		b.fin = finWanted
	}
}

// finished reports whether finish was called.
func (b *sendBuffer) finished() bool { return b.fin != finNone }

// sentOffset returns the offset behind the highest byte ever handed out by
// next: what counts against flow control, and the final size of a RESET.
func (b *sendBuffer) sentOffset() uint64 { return b.sent }

// next returns the range [off, off+n) to be sent next and regards it as in
// flight. Lost ranges come first, lowest offset first; then new data below the
// stream offset creditLimit, for which fresh is true. n is at most max.
//
// fin tells that the range ends the stream; with all data sent, n may be zero
// and off the final size. ok is false if there is nothing to send, or nothing
// that max and creditLimit allow. Lost ranges need no credit: they have used
// theirs.
func (b *sendBuffer) next(max int, creditLimit uint64) (off uint64, n int, fin, fresh, ok bool) {
	room := uint64(0)
	if max > 0 {
		room = uint64(max)
	}
	if b.lost.len() > 0 {
		v, ok := b.lost.takeFirst(room)
		if !ok {
			return 0, 0, false, false, false
		}
		return v.start, int(v.end - v.start), b.takeFIN(v.end), false, true
	}
	if b.fin == finLost {
		return b.end, 0, b.takeFIN(b.end), false, true
	}
	return b.nextFresh(max, creditLimit)
}

// nextFresh is next for data that have not been sent before.
func (b *sendBuffer) nextFresh(max int, creditLimit uint64) (off uint64, n int, fin, fresh, ok bool) {
	room := uint64(0)
	if max > 0 {
		room = uint64(max)
	}
	off = b.sent
	stop := min(b.end, creditLimit)
	if stop > off && room > 0 {
		b.sent = min(stop, off+room)
		return off, int(b.sent - off), b.takeFIN(b.sent), true, true
	}
	if b.fin == finWanted && off == b.end {
		return off, 0, b.takeFIN(off), true, true
	}
	return 0, 0, false, false, false
}

// takeFIN reports whether a range that ends at end carries the FIN, and marks
// it as sent.
func (b *sendBuffer) takeFIN(end uint64) bool {
	if b.fin == finNone || end != b.end {
		return false
	}
	if b.fin != finAcked {
		b.fin = finFlying
	}
	return true
}

// hasNext reports whether next would return something for any positive max.
func (b *sendBuffer) hasNext(creditLimit uint64) bool {
	return b.lost.len() > 0 || b.fin == finLost ||
		min(b.end, creditLimit) > b.sent ||
		b.fin == finWanted && b.sent == b.end
}

// hasFresh reports whether nextFresh would return something.
func (b *sendBuffer) hasFresh(creditLimit uint64) bool {
	return min(b.end, creditLimit) > b.sent || b.fin == finWanted && b.sent == b.end
}

// needs reports whether the peer may lack something of [off, off+n), or the
// FIN if fin is set.
func (b *sendBuffer) needs(off uint64, n int, fin bool) bool {
	if b.dropped {
		return false
	}
	if fin && b.fin != finAcked {
		return true
	}
	start, stop, ok := b.clip(off, n)
	return ok && !b.acked.contains(start, stop)
}

// blockedAt reports whether there is new data of which creditLimit allows
// nothing.
func (b *sendBuffer) blockedAt(creditLimit uint64) bool {
	return b.end > b.sent && b.sent >= creditLimit
}

// copyRange copies the bytes [off, off+len(dst)) to dst. The range must be one
// that next has returned. Bytes of it that have been acknowledged since may be
// gone: then copyRange reports false and dst must not be sent.
func (b *sendBuffer) copyRange(dst []byte, off uint64) bool {
	if len(dst) == 0 {
		return true
	}
	if off < b.base || off+uint64(len(dst)) > b.end {
		return false
	}
	i := b.segmentAt(off)
	for {
		g := b.segs.at(i)
		n := copy(dst, g.data[off-g.off:])
		dst, off = dst[n:], off+uint64(n)
		if len(dst) == 0 {
			b.cursor = i
			return true
		}
		i++
	}
}

// segmentAt returns the index of the segment that holds off, which must be in
// [base, end). New data is looked up in order, so the last answer or the one
// after it is usually right.
func (b *sendBuffer) segmentAt(off uint64) int {
	n := b.segs.len()
	for i := b.cursor; i < min(b.cursor+2, n); i++ {
		if g := b.segs.at(i); g.off <= off && off < g.end() {
			return i
		}
	}
	return sort.Search(n, func(i int) bool { return b.segs.at(i).end() > off })
}

// onAcked records that the peer has [off, off+n), and the FIN if fin is set.
// The first acknowledgement of any copy counts; later ones change nothing.
// Bytes that were never sent are ignored.
func (b *sendBuffer) onAcked(off uint64, n int, fin bool) {
	if b.dropped {
		return
	}
	if fin && (b.fin == finFlying || b.fin == finLost) {
		b.fin = finAcked
	}
	start, stop, ok := b.clip(off, n)
	if !ok {
		return
	}
	if b.lost.len() > 0 {
		b.lost.remove(start, stop)
	}
	if start > b.base {
		b.acked.add(start, stop)
		return
	}
	b.base = b.acked.advance(b.base, stop)
	for b.segs.len() > 0 && b.segs.at(0).end() <= b.base {
		g := b.segs.pop()
		b.cursor = max(0, b.cursor-1)
		g.drop()
	}
}

// onLost queues again what the peer has not acknowledged of [off, off+n), and
// the FIN if fin is set.
func (b *sendBuffer) onLost(off uint64, n int, fin bool) {
	if b.dropped {
		return
	}
	if fin && b.fin == finFlying {
		b.fin = finLost
	}
	start, stop, ok := b.clip(off, n)
	if !ok {
		return
	}
	b.lost.add(start, stop)
	for _, v := range b.acked.overlapping(start, stop) {
		b.lost.remove(v.start, v.end)
	}
}

// clip returns the part of [off, off+n) in [base, sent), or false if there is
// none.
func (b *sendBuffer) clip(off uint64, n int) (start, stop uint64, ok bool) {
	if n <= 0 || off >= b.sent {
		return 0, 0, false
	}
	start, stop = max(off, b.base), min(off+uint64(n), b.sent)
	return start, stop, start < stop
}

// done reports whether the peer has acknowledged all data and the FIN.
func (b *sendBuffer) done() bool { return b.fin == finAcked && b.base == b.end }

// reset drops all data and runs the release functions of what was not yet
// acknowledged. Afterwards nothing is written or sent any more; sentOffset
// keeps its value.
func (b *sendBuffer) reset() {
	segs := b.segs
	*b = sendBuffer{base: b.sent, sent: b.sent, end: b.sent, dropped: true}
	for segs.len() > 0 {
		g := segs.pop()
		g.drop()
	}
}
