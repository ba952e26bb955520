package ri2n

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// A sentRange is what next returned.
type sentRange struct {
	off   uint64
	n     int
	fin   bool
	fresh bool
}

func (r sentRange) String() string {
	s := fmt.Sprintf("%d+%d", r.off, r.n)
	if r.fin {
		s += " fin"
	}
	if !r.fresh {
		s += " again"
	}
	return s
}

func TestSendBufferNext(t *testing.T) {
	const free = math.MaxUint64
	next := func(max int, credit uint64, want string) func(*testing.T, *sendBuffer) {
		return func(t *testing.T, b *sendBuffer) {
			t.Helper()
			off, n, fin, fresh, ok := b.next(max, credit)
			got := "none"
			if ok {
				got = sentRange{off, n, fin, fresh}.String()
			}
			if got != want {
				t.Errorf("next(%d, %d) = %s, want %s", max, credit, got, want)
			}
		}
	}
	write := func(n int) func(*testing.T, *sendBuffer) {
		return func(_ *testing.T, b *sendBuffer) { b.write(make([]byte, n), 1<<20) }
	}
	finish := func(_ *testing.T, b *sendBuffer) { b.finish() }
	acked := func(off uint64, n int, fin bool) func(*testing.T, *sendBuffer) {
		return func(_ *testing.T, b *sendBuffer) { b.onAcked(off, n, fin) }
	}
	lost := func(off uint64, n int, fin bool) func(*testing.T, *sendBuffer) {
		return func(_ *testing.T, b *sendBuffer) { b.onLost(off, n, fin) }
	}
	done := func(want bool) func(*testing.T, *sendBuffer) {
		return func(t *testing.T, b *sendBuffer) {
			t.Helper()
			if got := b.done(); got != want {
				t.Errorf("done = %v, want %v", got, want)
			}
		}
	}
	has := func(credit uint64, want, blocked bool) func(*testing.T, *sendBuffer) {
		return func(t *testing.T, b *sendBuffer) {
			t.Helper()
			if got := b.hasNext(credit); got != want {
				t.Errorf("hasNext(%d) = %v, want %v", credit, got, want)
			}
			if got := b.blockedAt(credit); got != blocked {
				t.Errorf("blockedAt(%d) = %v, want %v", credit, got, blocked)
			}
		}
	}
	type steps []func(*testing.T, *sendBuffer)
	for _, tt := range []struct {
		name  string
		steps steps
	}{
		{"nothing", steps{has(free, false, false), next(100, free, "none"), done(false)}},
		{"in pieces", steps{write(250), next(100, free, "0+100"), next(100, free, "100+100"), next(100, free, "200+50"), next(100, free, "none")}},
		{"credit ends new data", steps{write(100), has(60, true, false), next(100, 60, "0+60"), has(60, false, true), next(100, 60, "none"), next(100, 61, "60+1")}},
		{"credit below what was sent", steps{write(100), next(60, free, "0+60"), has(30, false, true), next(100, 30, "none")}},
		{"no room", steps{write(100), next(0, free, "none"), next(-1, free, "none")}},
		{"FIN with the last byte", steps{write(100), finish, next(60, free, "0+60"), next(60, free, "60+40 fin"), next(60, free, "none")}},
		{"bare FIN behind data", steps{write(100), next(100, free, "0+100"), finish, has(free, true, false), next(100, free, "100+0 fin"), has(free, false, false)}},
		{"bare FIN of an empty stream", steps{finish, next(0, 0, "0+0 fin"), done(false), acked(0, 0, true), done(true)}},
		{"bare FIN needs no credit", steps{write(100), next(100, 100, "0+100"), finish, next(100, 100, "100+0 fin")}},
		{"FIN waits for data without credit", steps{write(100), finish, next(100, 50, "0+50"), has(50, false, true), next(100, 50, "none")}},
		{"lost before new, oldest first", steps{write(500), next(100, free, "0+100"), next(100, free, "100+100"), next(100, free, "200+100"),
			lost(200, 100, false), lost(0, 100, false), next(60, 0, "0+60 again"), next(60, 0, "60+40 again"), next(500, 0, "200+100 again"), next(500, free, "300+200")}},
		{"touching losses leave together", steps{write(200), next(100, free, "0+100"), next(100, free, "100+100"), lost(0, 100, false), lost(100, 100, false), next(500, free, "0+200 again")}},
		{"lost FIN with its data", steps{write(100), finish, next(100, free, "0+100 fin"), lost(0, 100, true), next(60, free, "0+60 again"), next(60, free, "60+40 fin again"), next(60, free, "none")}},
		{"lost FIN whose data arrived", steps{write(100), next(100, free, "0+100"), finish, next(9, free, "100+0 fin"), acked(0, 100, false), lost(100, 0, true), next(0, free, "100+0 fin again"), acked(100, 0, true), done(true)}},
		{"late loss of what arrived", steps{write(100), finish, next(100, free, "0+100 fin"), acked(0, 100, true), done(true), lost(0, 100, true), has(free, false, false), done(true)}},
		{"loss around an acknowledged middle", steps{write(300), next(300, free, "0+300"), acked(100, 100, false), lost(0, 300, false), next(300, free, "0+100 again"), next(300, free, "200+100 again"), next(300, free, "none")}},
		{"late acknowledgement of a lost range", steps{write(100), next(100, free, "0+100"), lost(0, 100, false), acked(0, 100, false), has(free, false, false)}},
		{"FIN acknowledged before data", steps{write(100), finish, next(50, free, "0+50"), next(50, free, "50+50 fin"), acked(50, 50, true), done(false), acked(0, 50, false), done(true)}},
		{"acknowledgement over several earlier ones", steps{write(100), finish, next(100, free, "0+100 fin"), acked(10, 10, false), acked(30, 70, true), done(false), acked(0, 40, false), done(true)}},
		{"acknowledgement of the unsent is ignored", steps{write(100), finish, next(50, free, "0+50"), acked(0, 100, true), acked(70, 9, true), lost(0, 100, true), done(false), next(100, free, "50+50 fin")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b sendBuffer
			for _, step := range tt.steps {
				step(t, &b)
			}
			b.reset()
		})
	}
}

func TestSendBufferLimit(t *testing.T) {
	var b sendBuffer
	for _, tt := range []struct{ n, limit, want int }{
		{100, 80, 80}, {100, 80, 0}, {100, 40, 0}, {100, 100, 20}, {0, 1000, 0}, {10, -1, 0},
	} {
		if got := b.write(make([]byte, tt.n), tt.limit); got != tt.want {
			t.Errorf("write(%d bytes, %d) = %d, want %d", tt.n, tt.limit, got, tt.want)
		}
	}
	b.next(30, 100)
	b.onAcked(0, 30, false)
	if got := b.write(make([]byte, 100), 100); got != 30 {
		t.Errorf("after an acknowledgement write = %d, want 30", got)
	}
	b.finish()
	if got := b.write(make([]byte, 1), 1000); got != 0 {
		t.Errorf("after finish write = %d, want 0", got)
	}
	b.reset()
}

func TestSendBufferReset(t *testing.T) {
	var (
		b        sendBuffer
		released int
	)
	release := func() { released++ }
	b.write(make([]byte, 1000), 1<<20)
	b.writeOwned(make([]byte, 1000), release)
	b.writeOwned(make([]byte, 1000), release)
	b.writeOwned(nil, release)
	if released != 1 {
		t.Errorf("empty buffer: released %d, want 1", released)
	}
	b.next(1500, 1<<20)
	b.onLost(0, 700, false)
	b.reset()
	if released != 3 {
		t.Errorf("after reset: released %d, want 3", released)
	}
	b.writeOwned(make([]byte, 10), release)
	b.onAcked(0, 1500, true)
	b.onLost(0, 1500, true)
	b.finish()
	b.reset()
	if n := b.write(make([]byte, 10), 1000); n != 0 || released != 4 || b.hasNext(1<<20) || b.done() || b.buffered() != 0 {
		t.Errorf("after reset: wrote %d, released %d, hasNext %v, done %v, buffered %d",
			n, released, b.hasNext(1<<20), b.done(), b.buffered())
	}
	if got := b.sentOffset(); got != 1500 {
		t.Errorf("sentOffset = %d, want 1500", got)
	}
}

func TestSendBufferCopyRange(t *testing.T) {
	var b sendBuffer
	b.write(patternBytes(0, 3000), 1<<20)
	b.writeOwned(patternBytes(3000, 5000), nil)
	b.write(patternBytes(8000, 100_000), 1<<20)
	b.next(108_000, 1<<20)
	b.onAcked(0, 500, false)
	b.onAcked(600, 100, false) // acknowledged, yet not forgotten
	for _, tt := range []struct {
		off  uint64
		n    int
		want bool
	}{
		{500, 1, true},
		{500, 107_500, true},
		{2999, 2, true},
		{7999, 2, true},
		{107_999, 1, true},
		{600, 100, true},
		{499, 2, false},
		{0, 500, false},
		{107_999, 2, false},
		{0, 0, true},
	} {
		p := make([]byte, tt.n)
		if got := b.copyRange(p, tt.off); got != tt.want || got && !bytes.Equal(p, patternBytes(tt.off, tt.n)) {
			t.Errorf("copyRange(%d+%d) = %v, want %v, or other bytes", tt.off, tt.n, got, tt.want)
		}
	}
	if b.finished() {
		t.Error("finished before finish")
	}
	b.finish()
	if !b.finished() {
		t.Error("not finished after finish")
	}
	b.reset()
}

// slabBytes is the memory that b holds in slabs.
func (b *sendBuffer) slabBytes() (n int) {
	for i := range b.segs.len() {
		if s := b.segs.at(i).slab; s != nil {
			n += len(s.buf)
		}
	}
	return n
}

func TestSendBufferMemory(t *testing.T) {
	for _, size := range []int{1, 100, smallSlab, smallSlab + 1, largeSlabFrom, largeSlabFrom + 1, largeSlab, 1 << 20} {
		for _, piece := range []int{1, 100, 1400, 10000, 1 << 20} {
			if size/piece > 20000 {
				continue
			}
			var b sendBuffer
			for left := size; left > 0; {
				left -= b.write(make([]byte, min(piece, left)), 1<<30)
			}
			if got, limit := b.slabBytes(), max(4*size, smallSlab)+smallSlab; got > limit {
				t.Errorf("%d bytes in pieces of %d take %d bytes of slabs, limit %d", size, piece, got, limit)
			}
			for {
				off, n, _, _, ok := b.next(1200, 1<<30)
				if !ok {
					break
				}
				b.onAcked(off, n, false)
			}
			if got := b.slabBytes(); got != 0 || b.buffered() != 0 {
				t.Errorf("%d bytes in pieces of %d: empty, yet holds %d bytes of slabs", size, piece, got)
			}
			if len(b.segs.ring) > fifoKeep || cap(b.acked.list) > intervalKeep || cap(b.lost.list) > intervalKeep {
				t.Errorf("empty, yet holds %d segments, %v, %v", len(b.segs.ring), b.acked, b.lost)
			}
		}
	}
}

// exerciseSendBuffer runs the operations encoded in ops on a sendBuffer and on
// a model that keeps one state for each byte, then brings the stream to its
// end under losses.
func exerciseSendBuffer(t *testing.T, ops []byte) {
	type byteState struct{ lost, acked bool }
	type owned struct {
		end      uint64
		released int
	}
	var (
		b      sendBuffer
		r      = opReader{ops}
		model  []byteState // one for each byte written
		sent   int
		base   int // bytes acknowledged without a hole
		fin    finState
		flying []sentRange // reported neither lost nor acknowledged, or to be again
		owners []*owned
		pkt    [5000]byte
	)
	const limit = 200_000
	check := func() {
		t.Helper()
		for base < len(model) && model[base].acked {
			base++
		}
		if got, want := b.buffered(), len(model)-base; got != want {
			t.Fatalf("buffered = %d, want %d", got, want)
		}
		if got := b.sentOffset(); got != uint64(sent) {
			t.Fatalf("sentOffset = %d, want %d", got, sent)
		}
		if got, want := b.done(), fin == finAcked && base == len(model); got != want {
			t.Fatalf("done = %v, want %v", got, want)
		}
		for _, o := range owners {
			want := 0
			if uint64(base) >= o.end {
				want = 1
			}
			if o.released != want {
				t.Fatalf("segment up to %d, base %d: released %d times", o.end, base, o.released)
			}
		}
	}
	send := func(most int, credit uint64) bool {
		t.Helper()
		lowest := -1
		for i := base; i < sent; i++ {
			if model[i].lost {
				lowest = i
				break
			}
		}
		want := lowest >= 0 || fin == finLost || sent < len(model) && uint64(sent) < credit || fin == finWanted && sent == len(model)
		if got := b.hasNext(credit); got != want {
			t.Fatalf("hasNext(%d) = %v, want %v", credit, got, want)
		}
		if got, want := b.blockedAt(credit), sent < len(model) && uint64(sent) >= credit; got != want {
			t.Fatalf("blockedAt(%d) = %v, want %v", credit, got, want)
		}
		off, n, withFIN, fresh, ok := b.next(most, credit)
		if !ok {
			if want && most > 0 {
				t.Fatalf("next(%d, %d) has nothing", most, credit)
			}
			return false
		}
		end := int(off) + n
		if n > most && n > 0 || end > len(model) {
			t.Fatalf("next(%d, %d) = %d+%d of %d", most, credit, off, n, len(model))
		}
		switch {
		case fresh && (int(off) != sent || lowest >= 0 || n > 0 && uint64(end) > credit):
			t.Fatalf("next(%d, %d) = fresh %d+%d; sent %d, lowest lost %d", most, credit, off, n, sent, lowest)
		case !fresh && n > 0 && int(off) != lowest:
			t.Fatalf("next = %d+%d again, lowest lost is %d", off, n, lowest)
		case !fresh && n == 0 && (lowest >= 0 || fin != finLost):
			t.Fatalf("next = a bare FIN again; lowest lost %d, FIN state %d", lowest, fin)
		case n == 0 && !withFIN:
			t.Fatal("next = nothing at all")
		}
		if withFIN != (fin != finNone && end == len(model)) {
			t.Fatalf("next = %d+%d of %d, FIN %v in state %d", off, n, len(model), withFIN, fin)
		}
		for i := int(off); i < end; i++ {
			if !fresh && !model[i].lost {
				t.Fatalf("next = %d+%d again, but %d is not lost", off, n, i)
			}
			model[i].lost = false
		}
		sent = max(sent, end)
		if withFIN && fin != finAcked {
			fin = finFlying
		}
		if !b.copyRange(pkt[:n], off) || !bytes.Equal(pkt[:n], patternBytes(off, n)) {
			t.Fatalf("copyRange(%d+%d) gives other bytes", off, n)
		}
		flying = append(flying, sentRange{off, n, withFIN, fresh})
		return true
	}
	report := func(i int, acked, forget bool) {
		v := flying[i]
		if forget {
			flying[i] = flying[len(flying)-1]
			flying = flying[:len(flying)-1]
		}
		for j := int(v.off); j < int(v.off)+v.n; j++ {
			if acked {
				model[j] = byteState{acked: true}
			} else if !model[j].acked {
				model[j].lost = true
			}
		}
		if acked {
			if v.fin {
				fin = finAcked
			}
			b.onAcked(v.off, v.n, v.fin)
			return
		}
		if v.fin && fin == finFlying {
			fin = finLost
		}
		b.onLost(v.off, v.n, v.fin)
	}
	for r.more() {
		switch op := r.u8(); op % 16 {
		case 0, 1, 2:
			n := r.u16() % 40000
			if op&16 != 0 {
				n %= 100
			}
			p := patternBytes(uint64(len(model)), n)
			want := min(n, max(0, limit-b.buffered()))
			if fin != finNone {
				want = 0
			}
			if got := b.write(p, limit); got != want {
				t.Fatalf("write(%d) = %d, want %d", n, got, want)
			}
			clear(p) // the buffer has its own copy
			model = append(model, make([]byteState, want)...)
		case 3:
			n := r.u16() % 5000
			if fin != finNone || len(model)-base > 2*limit {
				continue
			}
			o := &owned{end: uint64(len(model) + n)}
			b.writeOwned(patternBytes(uint64(len(model)), n), func() { o.released++ })
			if n > 0 {
				owners = append(owners, o)
			}
			model = append(model, make([]byteState, n)...)
		case 4, 5, 6, 7, 8, 9:
			credit := uint64(1 << 40)
			if op&16 != 0 {
				credit = uint64(sent + r.u8() - 100)
				credit = min(credit, 1<<40)
			}
			send(r.u16()%1500, credit)
		case 10, 11, 12: // the first acknowledgement, or one of many
			if len(flying) > 0 {
				report(r.u8()%len(flying), true, op&16 == 0)
			}
		case 13, 14:
			if len(flying) > 0 {
				report(r.u8()%len(flying), false, op&16 == 0)
			}
		case 15:
			if op > 200 {
				b.finish()
				if fin == finNone {
					fin = finWanted
				}
			}
		}
		check()
	}
	// To the end: all that is in flight is lost, and of what is sent then, every
	// third range again.
	b.finish()
	if fin == finNone {
		fin = finWanted
	}
	for round := 0; !b.done(); round++ {
		if round > 200 {
			t.Fatalf("not done: base %d of %d, FIN state %d", base, len(model), fin)
		}
		for i := len(flying) - 1; i >= 0; i-- {
			report(i, (i+round)%3 != 0, true)
		}
		for send(len(pkt), 1<<40) {
		}
		check()
	}
	if b.slabBytes() != 0 || b.segs.len() != 0 {
		t.Fatalf("done, yet holds %d bytes in %d segments", b.slabBytes(), b.segs.len())
	}
}

func TestSendBufferAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 50+rng.IntN(1500))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { exerciseSendBuffer(t, ops) })
	}
}

func FuzzSendBuffer(f *testing.F) {
	f.Add([]byte{0, 1, 0, 4, 0, 100, 10, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		exerciseSendBuffer(t, ops[:min(len(ops), 1000)])
	})
}

func BenchmarkSendBuffer(bm *testing.B) {
	const window = 1 << 20
	var (
		b   sendBuffer
		pkt [1440]byte
		p   = make([]byte, largeSlab)
		ack uint64
	)
	bm.SetBytes(int64(len(p)))
	bm.ReportAllocs()
	for bm.Loop() {
		for rest := p; len(rest) > 0; {
			rest = rest[b.write(rest, window):]
			for {
				off, n, _, _, ok := b.next(len(pkt), math.MaxUint64)
				if !ok {
					break
				}
				b.copyRange(pkt[:n], off)
			}
			for b.buffered() > window-largeSlab {
				n := min(len(pkt), int(b.sentOffset()-ack))
				b.onAcked(ack, n, false)
				ack += uint64(n)
			}
		}
	}
	b.reset()
}
