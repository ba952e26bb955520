package mpi

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestMatcherLikeNaive compares the matcher with two lists that are searched
// from the front, which is what MPI 4.1, section 3.5 says.
func TestMatcherLikeNaive(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var m matcher
		var posted []*Request
		var unexpected []*arrival
		for step := range 300 {
			switch context := uint64(rng.IntN(2)) << 2; rng.IntN(5) {
			case 0, 1:
				r := &Request{want: pattern{context, int32(rng.IntN(4) - 1), int32(rng.IntN(4) - 1)}}
				var want *arrival
				if i := slices.IndexFunc(unexpected, r.want.matches); i >= 0 {
					want = unexpected[i]
					unexpected = slices.Delete(unexpected, i, i+1)
				} else {
					posted = append(posted, r)
				}
				if got := m.peek(r.want); got != want {
					t.Fatalf("seed %d: peek %+v, want %+v", seed, got, want)
				}
				if m.take(r.want) == nil {
					m.post(r)
				}
			case 2, 3:
				a := &arrival{context: context, source: int32(rng.IntN(3)), tag: int32(rng.IntN(3))}
				if rng.IntN(2) == 0 {
					a.rts, a.id = true, uint64(step+1)
				}
				var want *Request
				if i := slices.IndexFunc(posted, func(r *Request) bool { return r.want.matches(a) }); i >= 0 {
					want = posted[i]
					posted = slices.Delete(posted, i, i+1)
				} else {
					unexpected = append(unexpected, a)
				}
				if got := m.claim(a); got != want {
					t.Fatalf("seed %d: claim %+v, want %+v", seed, got, want)
				}
				if want == nil {
					m.queue(a)
				}
			case 4:
				for _, a := range unexpected {
					if a.rts && m.rts(int(a.source), a.id) != a {
						t.Fatalf("seed %d: %+v is not found by its id", seed, a)
					}
				}
				if len(posted) > 0 {
					i := rng.IntN(len(posted))
					m.unpost(posted[i])
					posted = slices.Delete(posted, i, i+1)
				}
				if len(unexpected) > 0 {
					i := rng.IntN(len(unexpected))
					m.drop(unexpected[i])
					unexpected = slices.Delete(unexpected, i, i+1)
				}
			}
		}
		for _, r := range posted {
			m.unpost(r)
		}
		for _, a := range unexpected {
			m.drop(a)
		}
		if len(m.contexts) != 0 || len(m.announced) != 0 {
			t.Fatalf("seed %d: %d contexts and %d ids stay", seed, len(m.contexts), len(m.announced))
		}
	}
}
