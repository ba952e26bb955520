package disk

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestTable compares the table with a map under random operations, with tags
// that crowd at the ends of a shard so that the search wraps.
func TestTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x table
	model := map[location]uint64{}
	var list []location
	tag := func() uint64 {
		shard := uint64(r.IntN(3)) << 56
		switch r.IntN(3) {
		case 0:
			return shard | 1<<56 - 1 - uint64(r.IntN(4))
		case 1:
			return shard | uint64(r.IntN(4))
		}
		return shard | r.Uint64()>>8
	}
	for step := range 8_000 {
		if r.IntN(5) < 3 || len(list) == 0 {
			at := locate(uint32(step%1000), int64(step)*8, 1+step%1000)
			g := tag()
			x.insert(g, at, useTime(step))
			model[at] = g
			list = append(list, at)
		} else {
			i := r.IntN(len(list))
			at := list[i]
			s, slot, ok := x.find(model[at], func(l location) bool { return l == at })
			if !ok {
				t.Fatalf("step %d: %x is lost", step, at)
			}
			x.remove(s, slot)
			delete(model, at)
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
		}
	}
	check := func() {
		t.Helper()
		if x.count != len(model) {
			t.Fatalf("count = %d, want %d", x.count, len(model))
		}
		for at, g := range model {
			if _, _, ok := x.find(g, func(l location) bool { return l == at }); !ok {
				t.Fatalf("%x is lost", at)
			}
		}
	}
	check()
	odd := func(l location) bool { return l.offset()/8%2 == 1 }
	x.sweep(func(l location, _ uint32) bool { return odd(l) })
	for at := range model {
		if odd(at) {
			delete(model, at)
		}
	}
	check()
}

func TestLocation(t *testing.T) {
	for _, tt := range []struct {
		segment uint32
		offset  int64
		length  int
	}{
		{0, segmentHeaderLen, 1},
		{maxSegments - 1, maxSegmentSize - recordAlign, 1 << 20},
	} {
		l := locate(tt.segment, tt.offset, tt.length)
		if l.segment() != tt.segment || l.offset() != tt.offset || l.length() != tt.length {
			t.Errorf("%+v comes back as %d, %d, %d", tt, l.segment(), l.offset(), l.length())
		}
	}
}

func TestUseTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   time.Time
		want useTime
	}{
		{"before the epoch", time.Unix(0, 0), 0},
		{"epoch", useEpoch, 0},
		{"one step", useEpoch.Add(useStep), 1},
		{"beyond", useEpoch.AddDate(100, 0, 0), maxUseTime},
	} {
		if got := useTimeOf(tt.at); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestPins holds the counts apart from the time of use.
func TestPins(t *testing.T) {
	var x table
	x.insert(7, locate(1, 24, 5), 9)
	s, i, _ := x.find(7, always)
	for range 3 {
		s.pin(i, 1)
	}
	s.touch(i, 20)
	s.touch(i, 10) // earlier: no change
	if got := s.state[i]; pinsOf(got) != 3 || usedOf(got) != 20 {
		t.Errorf("state = %d pins, used %d; want 3, 20", pinsOf(got), usedOf(got))
	}
	for range 5 {
		s.pin(i, -1)
	}
	if got := pinsOf(s.state[i]); got != 0 {
		t.Errorf("pins = %d, want 0", got)
	}
	for range maxPins + 1 {
		s.pin(i, 1)
	}
	s.pin(i, -1) // how many there are is not known any more
	if got := pinsOf(s.state[i]); got != maxPins {
		t.Errorf("pins = %d, want %d", got, maxPins)
	}
}
