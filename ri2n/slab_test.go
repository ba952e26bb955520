package ri2n

import (
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestSlabSizes(t *testing.T) {
	for _, tt := range []struct{ hint, want int }{
		{0, smallSlab}, {smallSlab, smallSlab}, {smallSlab + 1, largeSlab}, {largeSlab, largeSlab}, {1 << 20, largeSlab},
	} {
		s := getSlab(tt.hint)
		if len(s.buf) != tt.want {
			t.Errorf("getSlab(%d) has %d bytes, want %d", tt.hint, len(s.buf), tt.want)
		}
		s.hold()
		putSlab(s)
		putSlab(s)
	}
}

func TestSlabReleasedTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s := &slab{buf: make([]byte, smallSlab)}
	s.refs.Store(1)
	putSlab(s)
	putSlab(s)
}

// An opReader decodes the operations of a fuzz input. Behind its end there are
// zeros.
type opReader struct{ b []byte }

func (r *opReader) more() bool { return len(r.b) > 0 }

func (r *opReader) u8() int {
	if len(r.b) == 0 {
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return int(v)
}

func (r *opReader) u16() int { return r.u8()<<8 | r.u8() }

// pattern is the byte at offset off of the streams in these tests. It repeats
// after a prime number of bytes, so that no slab looks like another.
func pattern(off uint64) byte { return byte(off % 251) }

func patternBytes(off uint64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = pattern(off + uint64(i))
	}
	return p
}

// underRace reports whether the race detector is on: sync.Pool then drops
// items at random, so that counts of allocations mean nothing.
func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// TestBufferSeeds fails if the inputs kept for the fuzz targets are missing.
func TestBufferSeeds(t *testing.T) {
	for _, target := range []string{"FuzzReassembly", "FuzzSendBuffer"} {
		if seeds, _ := filepath.Glob(filepath.Join("testdata", "fuzz", target, "*")); len(seeds) < 3 {
			t.Errorf("%s has %d seeds, want at least 3", target, len(seeds))
		}
	}
}
