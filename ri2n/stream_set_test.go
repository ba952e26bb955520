package ri2n

import (
	"math/rand/v2"
	"testing"
)

// TestStreamSet compares a streamSet with a map.
func TestStreamSet(t *testing.T) {
	var set streamSet
	want := make(map[uint64]*Stream)
	rng := rand.New(rand.NewPCG(1, 2))
	for step := range 10_000 {
		id := rng.Uint64N(6)
		switch st := want[id]; {
		case st == nil:
			st = &Stream{id: id}
			set.add(st)
			want[id] = st
		case rng.IntN(2) == 0:
			set.remove(st)
			delete(want, id)
		}
		if set.len() != len(want) {
			t.Fatalf("step %d: len = %d, want %d", step, set.len(), len(want))
		}
		for id := range uint64(6) {
			if set.get(id) != want[id] {
				t.Fatalf("step %d: get(%d) = %v, want %v", step, id, set.get(id), want[id])
			}
		}
		seen := 0
		for st := range set.all() {
			if want[st.id] != st {
				t.Fatalf("step %d: all yields a stream %d that is not there", step, st.id)
			}
			if seen++; rng.IntN(100) == 0 { // as a loop that retires streams does
				set.remove(st)
				delete(want, st.id)
			}
		}
		if rng.IntN(1000) == 0 && set.len() > 0 {
			for range set.all() {
				break
			}
		}
	}
}
