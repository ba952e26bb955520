package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
)

// BenchmarkCut measures how fast content is cut, and BenchmarkSeal what comes
// after it.
func BenchmarkCut(b *testing.B) {
	gear := testKey.gear()
	data := noise(1, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[cut(&gear, rest):]
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	z, err := newSqueezer(1)
	if err != nil {
		b.Fatal(err)
	}
	s := newSealer(testKey, z)
	for name, data := range map[string][]byte{"noise": noise(1, normalCut), "text": bytes.Repeat([]byte("0.1234 5.678e-9 "), normalCut/16)} {
		b.Run("content="+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			buf := make([]byte, 0, maxCut+1024)
			for b.Loop() {
				s.seal(buf, leafKind, data)
			}
		})
	}
}

// BenchmarkPut puts objects of noise, and BenchmarkGet gets one, on one node.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s := open(b, Config{Quota: 64 << 30})
			data := noise(1, size)
			b.SetBytes(int64(size))
			n := 0
			for b.Loop() {
				n++
				for i := 0; i < len(data); i += minCut {
					data[i] = byte(n) // so that no chunk is there already
					if i+2 < len(data) {
						data[i+1] = byte(n >> 8)
						data[i+2] = byte(n >> 16)
					}
				}
				put(b, s, data, PutOptions{})
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b, Config{Quota: 4 << 30})
	const size = 256 << 20
	x := put(b, s, noise(1, size), PutOptions{})
	b.SetBytes(size)
	for b.Loop() {
		if _, err := s.Get(context.Background(), x.ID, io.Discard, GetOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSmallPutIsCheap bounds what a put of 4 KiB allocates: not the room that
// cutting a large object takes.
func TestSmallPutIsCheap(t *testing.T) {
	s := open(t, Config{})
	data := noise(1, 4096)
	var before, after runtime.MemStats
	put(t, s, data, PutOptions{}) // fills the pool
	runtime.ReadMemStats(&before)
	const times = 20
	for i := range times {
		data[0] = byte(i)
		put(t, s, data, PutOptions{})
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 1<<20 {
		t.Errorf("a put of 4 KiB allocates %d bytes", each)
	}
}
