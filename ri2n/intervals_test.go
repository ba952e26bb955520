package ri2n

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestIntervalSet(t *testing.T) {
	add := func(start, end uint64) func(*intervalSet) {
		return func(s *intervalSet) { s.add(start, end) }
	}
	remove := func(start, end uint64) func(*intervalSet) {
		return func(s *intervalSet) { s.remove(start, end) }
	}
	type ops []func(*intervalSet)
	for _, tt := range []struct {
		name string
		ops  ops
		want string
	}{
		{"empty range", ops{add(5, 5), add(6, 5)}, "[]"},
		{"disjoint, in disorder", ops{add(20, 30), add(0, 10)}, "[{0 10} {20 30}]"},
		{"touching behind", ops{add(0, 10), add(10, 20)}, "[{0 20}]"},
		{"touching before", ops{add(10, 20), add(0, 10)}, "[{0 20}]"},
		{"one offset short of touching", ops{add(0, 10), add(11, 20)}, "[{0 10} {11 20}]"},
		{"inside", ops{add(0, 10), add(3, 4)}, "[{0 10}]"},
		{"over several", ops{add(0, 2), add(4, 6), add(8, 10), add(1, 9)}, "[{0 10}]"},
		{"fills a hole", ops{add(0, 2), add(4, 6), add(2, 4)}, "[{0 6}]"},
		{"remove nothing", ops{add(4, 6), remove(0, 4), remove(6, 9), remove(5, 5)}, "[{4 6}]"},
		{"remove all", ops{add(0, 2), add(4, 6), remove(0, 6)}, "[]"},
		{"remove the middle", ops{add(0, 10), remove(3, 5)}, "[{0 3} {5 10}]"},
		{"remove the front", ops{add(0, 10), remove(0, 5)}, "[{5 10}]"},
		{"remove the back", ops{add(0, 10), remove(5, 20)}, "[{0 5}]"},
		{"remove across", ops{add(0, 4), add(6, 8), add(10, 14), remove(2, 12)}, "[{0 2} {12 14}]"},
		{"remove from within to behind", ops{add(0, 4), add(6, 8), remove(2, 9)}, "[{0 2}]"},
		{"remove from before to within", ops{add(1, 4), add(6, 9), remove(0, 7)}, "[{7 9}]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s intervalSet
			for _, op := range tt.ops {
				op(&s)
			}
			if got := fmt.Sprint(s.list); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestIntervalSetTakeFirst(t *testing.T) {
	var s intervalSet
	s.add(10, 20)
	s.add(30, 35)
	for _, tt := range []struct {
		max  uint64
		want interval
		ok   bool
	}{
		{0, interval{}, false},
		{4, interval{10, 14}, true},
		{6, interval{14, 20}, true},
		{100, interval{30, 35}, true},
		{100, interval{}, false},
	} {
		if got, ok := s.takeFirst(tt.max); got != tt.want || ok != tt.ok {
			t.Errorf("takeFirst(%d) = %v, %v, want %v, %v", tt.max, got, ok, tt.want, tt.ok)
		}
	}
	if s.total() != 0 || s.len() != 0 {
		t.Errorf("left: total %d, list %v", s.total(), s.list)
	}
}

// TestIntervalSetAgainstBitmap compares random operations with a plain bitmap.
func TestIntervalSetAgainstBitmap(t *testing.T) {
	const size = 200
	for seed := range uint64(50) {
		var (
			rng = rand.New(rand.NewPCG(seed, 0))
			s   intervalSet
			bit [size]bool
		)
		for step := range 300 {
			start := rng.Uint64N(size)
			end := min(size, start+rng.Uint64N(30))
			switch rng.IntN(5) {
			case 0, 1:
				s.add(start, end)
				for i := start; i < end; i++ {
					bit[i] = true
				}
			case 2, 3:
				s.remove(start, end)
				for i := start; i < end; i++ {
					bit[i] = false
				}
			case 4:
				if v, ok := s.takeFirst(end - start); ok {
					for i := v.start; i < v.end; i++ {
						bit[i] = false
					}
				}
			}
			if s.len() == 0 && cap(s.list) > intervalKeep {
				t.Fatalf("seed %d, step %d: the empty set keeps %d intervals", seed, step, cap(s.list))
			}
			var want []interval
			total := uint64(0)
			for i := uint64(0); i < size; i++ {
				if !bit[i] {
					continue
				}
				total++
				if n := len(want); n > 0 && want[n-1].end == i {
					want[n-1].end++
				} else {
					want = append(want, interval{i, i + 1})
				}
			}
			if !slices.Equal(s.list, want) || s.total() != total || s.len() != len(want) {
				t.Fatalf("seed %d, step %d: got %v, total %d; want %v, total %d",
					seed, step, s.list, s.total(), want, total)
			}
			if first, ok := s.first(); ok != (len(want) > 0) || ok && first != want[0] {
				t.Fatalf("seed %d, step %d: first = %v, %v", seed, step, first, ok)
			}
			all := true
			for i := start; i < end; i++ {
				all = all && bit[i]
			}
			if got := s.contains(start, end); got != all {
				t.Fatalf("seed %d, step %d: contains(%d, %d) = %v, want %v", seed, step, start, end, got, all)
			}
		}
	}
}

func TestFifoAgainstSlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	var (
		q    fifo[int]
		want []int
	)
	for step := range 5000 {
		if grow := step/500%2 == 0; len(want) == 0 || rng.IntN(3) > 0 == grow {
			q.push(step)
			want = append(want, step)
		} else if got := q.pop(); got != want[0] {
			t.Fatalf("step %d: pop = %d, want %d", step, got, want[0])
		} else {
			want = want[1:]
		}
		if q.len() != len(want) {
			t.Fatalf("step %d: len = %d, want %d", step, q.len(), len(want))
		}
		for i, v := range want {
			if got := *q.at(i); got != v {
				t.Fatalf("step %d: at(%d) = %d, want %d", step, i, got, v)
			}
		}
		if q.len() == 0 && len(q.ring) > fifoKeep {
			t.Fatalf("step %d: empty, yet holds %d", step, len(q.ring))
		}
	}
}
