package ri2n

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func TestRecvBuffer(t *testing.T) {
	type frame struct {
		off  uint64
		data string
		fin  bool
		err  error
	}
	for _, tt := range []struct {
		name   string
		frames []frame
		want   string // what can be read at the end
		high   uint64
		eof    bool
	}{
		{"in order", []frame{{0, "abc", false, nil}, {3, "def", false, nil}}, "abcdef", 6, false},
		{"reversed", []frame{{3, "def", false, nil}, {0, "abc", false, nil}}, "abcdef", 6, false},
		{"gap", []frame{{0, "abc", false, nil}, {6, "ghi", false, nil}}, "abc", 9, false},
		{"gap filled", []frame{{0, "a", false, nil}, {2, "c", false, nil}, {1, "b", false, nil}}, "abc", 3, false},
		{"over several", []frame{{1, "b", false, nil}, {3, "d", false, nil}, {0, "abcde", false, nil}}, "abcde", 5, false},
		{"into the middle of a later one", []frame{{1, "b", false, nil}, {3, "def", false, nil}, {0, "abcd", false, nil}}, "abcdef", 6, false},
		{"duplicate", []frame{{0, "abc", false, nil}, {0, "abc", false, nil}, {1, "b", false, nil}}, "abc", 3, false},
		{"overlap", []frame{{0, "abc", false, nil}, {1, "bcd", false, nil}}, "abcd", 4, false},
		{"other bytes in front", []frame{{0, "abc", false, nil}, {1, "bX", false, errContradiction}}, "abc", 3, false},
		{"other bytes ahead", []frame{{2, "cd", false, nil}, {0, "abcX", false, errContradiction}, {0, "ab", false, nil}}, "abcd", 4, false},
		{"FIN with data", []frame{{0, "abc", true, nil}}, "abc", 3, true},
		{"bare FIN", []frame{{0, "abc", false, nil}, {3, "", true, nil}}, "abc", 3, true},
		{"FIN first", []frame{{3, "", true, nil}, {0, "abc", false, nil}}, "abc", 3, true},
		{"FIN of an empty stream", []frame{{0, "", true, nil}}, "", 0, true},
		{"FIN again", []frame{{0, "abc", true, nil}, {2, "c", true, nil}}, "abc", 3, true},
		{"FIN behind a gap", []frame{{1, "bc", true, nil}}, "", 3, false},
		// RFC 9000, section 4.5.
		{"FIN elsewhere", []frame{{0, "abc", true, nil}, {0, "ab", true, errFinalSize}}, "abc", 3, true},
		{"FIN below data", []frame{{0, "abc", false, nil}, {0, "ab", true, errFinalSize}}, "abc", 3, false},
		{"data behind the FIN", []frame{{0, "abc", true, nil}, {3, "d", false, errFinalSize}}, "abc", 3, true},
		{"beyond any window", []frame{{maxRecvSpan, "a", false, errBeyondWindow}, {math.MaxUint64, "ab", false, errBeyondWindow}}, "", 0, false},
		{"at the end of the widest window", []frame{{maxRecvSpan - 1, "a", false, nil}}, "", maxRecvSpan, false},
		{"nothing at all", []frame{{7, "", false, nil}}, "", 7, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b recvBuffer
			for i, f := range tt.frames {
				if err := b.insert(f.off, []byte(f.data), f.fin); !errors.Is(err, f.err) {
					t.Errorf("frame %d: got %v, want %v", i, err, f.err)
				}
			}
			p := make([]byte, 100)
			if got := string(p[:b.read(p)]); got != tt.want {
				t.Errorf("read %q, want %q", got, tt.want)
			}
			if b.highest() != tt.high || b.eof() != tt.eof || b.consumed() != uint64(len(tt.want)) {
				t.Errorf("highest %d, eof %v, consumed %d; want %d, %v, %d",
					b.highest(), b.eof(), b.consumed(), tt.high, tt.eof, len(tt.want))
			}
			b.reset()
		})
	}
}

// memory returns the bytes that b holds in slabs, and in tables and lists.
func (b *recvBuffer) memory() (slabs, lists int) {
	for i := range b.blocks.len() {
		if s := b.blocks.at(i).slab; s != nil {
			slabs += len(s.buf)
		}
	}
	return slabs, len(b.blocks.ring)*16 + cap(b.ahead.list)*16
}

func TestRecvBufferSetFinal(t *testing.T) {
	for _, tt := range []struct {
		name string
		fin  bool // three bytes came, with a FIN or without
		size uint64
		want error
	}{
		{"behind the data", false, 10, nil},
		{"at its end", false, 3, nil},
		{"below it", false, 2, errFinalSize},
		{"as the FIN told", true, 3, nil},
		{"other than the FIN told", true, 4, errFinalSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b recvBuffer
			if err := b.insert(0, []byte("abc"), tt.fin); err != nil {
				t.Fatal(err)
			}
			if err := b.setFinal(tt.size); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want != nil {
				return
			}
			if size, ok := b.finalSize(); !ok || size != tt.size || b.highest() != tt.size {
				t.Errorf("finalSize = %d, %v, highest %d; want %d", size, ok, b.highest(), tt.size)
			}
			if err := b.insert(tt.size, []byte("x"), false); !errors.Is(err, errFinalSize) {
				t.Errorf("data behind the final size: got %v", err)
			}
		})
	}
}

func TestRecvBufferReset(t *testing.T) {
	var b recvBuffer
	if err := b.insert(0, make([]byte, 10), false); err != nil {
		t.Fatal(err)
	}
	if err := b.insert(100_000, make([]byte, 10), false); err != nil {
		t.Fatal(err)
	}
	b.read(make([]byte, 4))
	b.reset()
	if b.readable() != 0 || b.consumed() != 4 || b.highest() != 100_010 {
		t.Errorf("readable %d, consumed %d, highest %d", b.readable(), b.consumed(), b.highest())
	}
	if err := b.insert(1<<40, make([]byte, 10), true); err != nil {
		t.Fatal(err)
	}
	if b.highest() != 1<<40+10 || b.readable() != 0 || b.eof() {
		t.Errorf("highest %d, readable %d, eof %v", b.highest(), b.readable(), b.eof())
	}
	if slabs, lists := b.memory(); slabs > 0 || lists > 16*(fifoKeep+intervalKeep) {
		t.Errorf("holds %d bytes of slabs and %d of lists", slabs, lists)
	}
	if err := b.insert(1<<40+10, []byte{1}, false); !errors.Is(err, errFinalSize) {
		t.Errorf("data behind the final size: got %v", err)
	}
}

// TestRecvBufferGaps sends single bytes with holes between them all over a
// window of 1 MiB, in several orders and from several offsets
// (RUSTSEC-2026-0185).
func TestRecvBufferGaps(t *testing.T) {
	const (
		window       = 1 << 20
		slabOverhead = 64 << 10
		listOverhead = 24 << 10
	)
	for _, tt := range []struct {
		name  string
		start uint64 // bytes read before
		at    func(i int) uint64
	}{
		{"every other byte", 0, func(i int) uint64 { return uint64(2*i + 1) }},
		{"every other byte, from the middle of a slab", 40_000, func(i int) uint64 { return uint64(2*i + 1) }},
		{"from the end", 0, func(i int) uint64 { return uint64(window - 1 - 2*i) }},
		{"one for each page", 1, func(i int) uint64 { return uint64(i*smallSlab + 1 + 2*(i/256)) }},
		{"one for each slab", 65_535, func(i int) uint64 { return uint64(i*largeSlab + 1 + 2*(i/16)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var (
				b       recvBuffer
				refused int
			)
			p := make([]byte, window)
			if err := b.insert(0, patternBytes(0, int(tt.start)), false); err != nil {
				t.Fatal(err)
			}
			b.read(p)
			for i := range 100_000 {
				off := tt.start + tt.at(i)%window
				switch err := b.insert(off, []byte{pattern(off)}, false); err {
				case nil:
				case errTooManyGaps:
					refused++
				default:
					t.Fatal(err)
				}
				if i%1000 == 0 || i == 99_999 {
					slabs, lists := b.memory()
					if slabs > window+slabOverhead || lists > listOverhead {
						t.Fatalf("after %d frames %d bytes of slabs and %d of lists; want at most %d and %d",
							i, slabs, lists, window+slabOverhead, listOverhead)
					}
				}
			}
			if b.ahead.len() > maxRecvGaps || refused == 0 {
				t.Errorf("%d gaps, %d frames refused", b.ahead.len(), refused)
			}
			// The stream can always go on from its front.
			for off := tt.start; off < tt.start+window; off += 1024 {
				if err := b.insert(off, patternBytes(off, 1024), false); err != nil {
					t.Fatalf("at %d: %v", off, err)
				}
			}
			if n := b.read(p); n != window || !bytes.Equal(p, patternBytes(tt.start, window)) {
				t.Errorf("read %d bytes, or other bytes than sent", n)
			}
			if slabs, lists := b.memory(); slabs > 0 || lists > 16*(fifoKeep+intervalKeep) {
				t.Errorf("empty, yet holds %d bytes of slabs and %d of lists", slabs, lists)
			}
		})
	}
}

func TestRecvBufferSmallStreamHoldsSmallSlab(t *testing.T) {
	var b recvBuffer
	for _, tt := range []struct {
		off     uint64
		n, want int // slab bytes held afterwards
	}{
		{0, 10, smallSlab},
		{10, 4000, smallSlab},
		{4010, 86, smallSlab},
		{4096, 1, largeSlab},
	} {
		if err := b.insert(tt.off, patternBytes(tt.off, tt.n), false); err != nil {
			t.Fatal(err)
		}
		if got := len(b.blocks.at(0).slab.buf); got != tt.want {
			t.Errorf("%d+%d: %d bytes held, want %d", tt.off, tt.n, got, tt.want)
		}
	}
	p := make([]byte, 5000)
	if n := b.read(p); !bytes.Equal(p[:n], patternBytes(0, 4097)) {
		t.Errorf("read %d bytes, or other bytes than sent", n)
	}
	if b.blocks.len() != 0 {
		t.Error("empty, yet holds a slab")
	}
}

// TestRecvBufferViewsOutliveTheBuffer holds views while the stream goes on, and
// lets go of them in disorder.
func TestRecvBufferViewsOutliveTheBuffer(t *testing.T) {
	var (
		b        recvBuffer
		views    [][]byte
		offs     []uint64
		releases []func()
		off      uint64
	)
	rng := rand.New(rand.NewPCG(7, 0))
	for range 300 {
		n := 1 + rng.IntN(9000)
		if err := b.insert(off, patternBytes(off, n), false); err != nil {
			t.Fatal(err)
		}
		off += uint64(n)
		from := b.consumed()
		bufs, release := b.views(1 + rng.IntN(9000))
		for _, v := range bufs {
			views, offs = append(views, v), append(offs, from)
			from += uint64(len(v))
		}
		if from != b.consumed() {
			t.Fatalf("views end at %d, consumed is %d", from, b.consumed())
		}
		releases = append(releases, release)
	}
	for i, v := range views {
		if !bytes.Equal(v, patternBytes(offs[i], len(v))) {
			t.Fatalf("the view at %d has changed", offs[i])
		}
	}
	b.reset()
	for _, i := range rng.Perm(len(releases)) {
		releases[i]()
		releases[i]() // without effect
	}
	if bufs, release := b.views(10); bufs != nil || release != nil {
		t.Error("views of an empty buffer")
	}
}

// exerciseRecvBuffer runs the operations encoded in ops on a recvBuffer and on
// a flat array.
func exerciseRecvBuffer(t *testing.T, ops []byte) {
	const size = 1 << 18
	var (
		b        recvBuffer
		r        = opReader{ops}
		flat     [size]byte
		have     [size]bool
		consumed int
		ready    int
		high     int
		final    = -1
		releases []func()
	)
	defer func() {
		for _, release := range releases {
			release()
		}
		b.reset()
	}()
	got := make([]byte, 20000)
	for r.more() {
		op := r.u8()
		switch op % 8 {
		case 0, 1, 2, 3, 4:
			var off int
			switch op % 8 {
			case 0, 1: // in order
				off = ready
			case 2: // near
				off = ready - 3000 + r.u16()%9000
			case 3: // anywhere
				off = r.u16() * 4
			case 4: // at the edge of what is there
				off = high - r.u8()
			}
			n := r.u8()
			if op&8 != 0 {
				n *= 40
			}
			off = min(max(off, 0), size)
			n = min(n, size-off)
			fin := op&16 != 0 && op&32 != 0
			p := patternBytes(uint64(off), n)
			if op&0xc0 == 0xc0 && n > 0 {
				p[r.u8()%n] ^= 0x80
			}
			end := off + n
			var want error
			if final >= 0 && (end > final || fin && end != final) || fin && end < high {
				want = errFinalSize
			} else {
				for i := max(off, consumed); i < end; i++ {
					if have[i] && flat[i] != p[i-off] {
						want = errContradiction
						break
					}
				}
			}
			err := b.insert(uint64(off), p, fin)
			if err == errTooManyGaps {
				if b.ahead.len() < maxRecvGaps || off <= ready {
					t.Fatalf("insert(%d+%d) refused with %d gaps", off, n, b.ahead.len())
				}
				continue
			}
			if err != want {
				t.Fatalf("insert(%d+%d, %v) = %v, want %v", off, n, fin, err, want)
			}
			if err != nil {
				continue
			}
			for i := max(off, consumed); i < end; i++ {
				if !have[i] {
					have[i], flat[i] = true, p[i-off]
				}
			}
			clear(p) // the buffer has its own copy
			high = max(high, end)
			if fin {
				final = end
			}
			for ready < size && have[ready] {
				ready++
			}
		case 5:
			n := r.u16() % len(got)
			want := min(n, ready-consumed)
			if k := b.read(got[:n]); k != want || !bytes.Equal(got[:k], flat[consumed:consumed+k]) {
				t.Fatalf("read(%d) at %d = %d bytes, want %d, or other bytes", n, consumed, k, want)
			}
			consumed += want
		case 6:
			n := r.u16() % len(got)
			bufs, release := b.views(n)
			if release != nil {
				releases = append(releases, release)
			}
			at := consumed
			for _, v := range bufs {
				if !bytes.Equal(v, flat[at:at+len(v)]) {
					t.Fatalf("views(%d) at %d has other bytes", n, consumed)
				}
				at += len(v)
			}
			if want := consumed + min(n, ready-consumed); at != want {
				t.Fatalf("views(%d) at %d ends at %d, want %d", n, consumed, at, want)
			}
			consumed = at
		case 7:
			if op < 250 {
				continue
			}
			n := r.u16() * 4
			var want error
			if final >= 0 && n != final || n < high {
				want = errFinalSize
			}
			if err := b.setFinal(uint64(n)); err != want {
				t.Fatalf("setFinal(%d) = %v, want %v", n, err, want)
			}
			if want == nil {
				high, final = n, n
			}
		}
		if b.readable() != ready-consumed || b.consumed() != uint64(consumed) || b.highest() != uint64(high) {
			t.Fatalf("readable %d, consumed %d, highest %d; want %d, %d, %d",
				b.readable(), b.consumed(), b.highest(), ready-consumed, consumed, high)
		}
		if size, ok := b.finalSize(); ok != (final >= 0) || ok && size != uint64(final) {
			t.Fatalf("finalSize = %d, %v, want %d", size, ok, final)
		}
		if got, want := b.eof(), final >= 0 && consumed == final; got != want {
			t.Fatalf("eof = %v, want %v", got, want)
		}
		if b.ahead.len() > maxRecvGaps {
			t.Fatalf("%d gaps", b.ahead.len())
		}
		// What is buffered spans at most this many slabs.
		limit := (high+largeSlab-1)/largeSlab*largeSlab - consumed/largeSlab*largeSlab
		if slabs, lists := b.memory(); slabs > limit || lists > 24<<10 {
			t.Fatalf("%d bytes of slabs and %d of lists held from %d to %d", slabs, lists, consumed, high)
		}
	}
}

func TestRecvBufferAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		ops := make([]byte, 50+rng.IntN(1500))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { exerciseRecvBuffer(t, ops) })
	}
}

// TestRecvBufferAnyOrder cuts a stream into segments that overlap, and delivers
// them in any order, some twice, while a reader reads.
func TestRecvBufferAnyOrder(t *testing.T) {
	const size = 300_000
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var frames [][2]int
		for off := 0; off < size; {
			n := 1 + rng.IntN(3000)
			frames = append(frames, [2]int{max(0, off-rng.IntN(500)), min(size, off+n)})
			off += n
		}
		for range len(frames) / 4 {
			frames = append(frames, frames[rng.IntN(len(frames))])
		}
		rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		var (
			b   recvBuffer
			out []byte
			p   [10000]byte
		)
		for _, f := range frames {
			if err := b.insert(uint64(f[0]), patternBytes(uint64(f[0]), f[1]-f[0]), f[1] == size); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			out = append(out, p[:b.read(p[:rng.IntN(len(p))])]...)
		}
		for b.readable() > 0 {
			out = append(out, p[:b.read(p[:])]...)
		}
		if !b.eof() || !bytes.Equal(out, patternBytes(0, size)) {
			t.Errorf("seed %d: read %d bytes of %d, eof %v", seed, len(out), size, b.eof())
		}
	}
}

func FuzzReassembly(f *testing.F) {
	f.Add([]byte{0, 200, 8, 100, 2, 20, 0, 50, 5, 10, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		exerciseRecvBuffer(t, ops[:min(len(ops), 1000)])
	})
}

// TestBulkAllocatesNothing moves a stream in order through both buffers with a
// window's worth in flight: once the pools are warm, nothing is allocated.
func TestBulkAllocatesNothing(t *testing.T) {
	if underRace() {
		t.Skip("the race detector makes sync.Pool drop items at random")
	}
	const window = 512 << 10
	var (
		s      sendBuffer
		r      recvBuffer
		flying fifo[sentRange]
		data   = make([]byte, largeSlab)
		pkt    [1440]byte
	)
	move := func() {
		for rest := data; len(rest) > 0; {
			rest = rest[s.write(rest, window):]
			for {
				off, n, fin, fresh, ok := s.next(len(pkt), math.MaxUint64)
				if !ok {
					break
				}
				s.copyRange(pkt[:n], off)
				if err := r.insert(off, pkt[:n], fin); err != nil {
					t.Fatal(err)
				}
				flying.push(sentRange{off, n, fin, fresh})
			}
			for s.buffered() > window-largeSlab {
				v := flying.pop()
				s.onAcked(v.off, v.n, v.fin)
			}
			for r.readable() >= largeSlab {
				r.read(data)
			}
		}
	}
	for range 50 {
		move()
	}
	if got := testing.AllocsPerRun(200, move); got != 0 {
		t.Errorf("%v allocations per 64 KiB, want 0", got)
	}
}

func BenchmarkRecvBuffer(bm *testing.B) {
	for _, order := range []string{"in", "pairs"} {
		bm.Run("order="+order, func(bm *testing.B) {
			var (
				b   recvBuffer
				off uint64
				pkt [1440]byte
				p   = make([]byte, largeSlab)
			)
			bm.SetBytes(2 * int64(len(pkt)))
			bm.ReportAllocs()
			for bm.Loop() {
				first, second := off, off+uint64(len(pkt))
				if order == "pairs" {
					first, second = second, first
				}
				if b.insert(first, pkt[:], false) != nil || b.insert(second, pkt[:], false) != nil {
					bm.Fatal("refused")
				}
				off += 2 * uint64(len(pkt))
				if b.readable() >= len(p) {
					b.read(p)
				}
			}
			b.reset()
		})
	}
}
