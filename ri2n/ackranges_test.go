package ri2n

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// checkRanges compares r with the set of numbers got and the rule that ranges
// ascend with gaps between.
func checkRanges(t *testing.T, r *receivedPackets, got map[packetNumber]bool) {
	t.Helper()
	all := append(slices.Clone(r.older), r.last)
	if len(all) > maxReceivedRanges {
		t.Fatalf("%d ranges kept", len(all))
	}
	n, above := 0, r.floor
	for i, a := range all {
		if a.smallest > a.largest || a.smallest < above || i > 0 && a.smallest == above {
			t.Fatalf("ranges %v from floor %d are not ascending with gaps", all, r.floor)
		}
		for pn := a.smallest; pn <= a.largest; pn++ {
			if !got[pn] {
				t.Fatalf("ranges %v contain %d, which was not received", all, pn)
			}
			n++
		}
		above = a.largest + 1
	}
	for pn := range got {
		if pn < r.floor {
			n++
		}
	}
	if n != len(got) {
		t.Fatalf("ranges %v and what is below %d hold %d of %d numbers", all, r.floor, n, len(got))
	}
	out := r.appendRanges(nil, 1000)
	slices.Reverse(all)
	if want := all[:min(len(all), maxAckRanges)]; !slices.Equal(out, want) {
		t.Fatalf("ACK ranges = %v, want %v", out, want)
	}
}

func TestReceivedPacketsAgainstSet(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var r receivedPackets
		got := make(map[packetNumber]bool)
		top, spread := 0, 1+rng.IntN(300)
		for step := range 1500 {
			// Mostly near the top, and sometimes far below or ahead.
			pn := packetNumber(max(0, top+rng.IntN(spread)-spread/2))
			if rng.IntN(50) == 0 {
				pn = packetNumber(rng.IntN(top + 2))
			}
			if step == 700 {
				n := packetNumber(rng.IntN(top + 1))
				r.forgetBelow(n)
				for old := range got {
					if old < r.floor {
						delete(got, old)
					}
				}
				for old := range r.floor {
					got[old] = true // counts as received
				}
			}
			want := got[pn] || pn < r.floor
			if inOrder := r.inOrder(pn); inOrder != (!r.any || pn == packetNumber(top)+1) {
				t.Fatalf("seed %d: inOrder(%d) = %v with largest %d", seed, pn, inOrder, top)
			}
			if dup := r.add(pn); dup != want {
				t.Fatalf("seed %d: add(%d) = %v, want %v", seed, pn, dup, want)
			}
			if !want {
				got[pn] = true
			}
			top = max(top, int(pn))
			if step < 50 || step%20 == 0 {
				checkRanges(t, &r, got)
			}
		}
		if largest, ok := r.largest(); !ok || largest != packetNumber(top) {
			t.Errorf("seed %d: largest = %d, want %d", seed, largest, top)
		}
	}
}

func TestReceivedPacketsBounds(t *testing.T) {
	var r receivedPackets
	if _, ok := r.largest(); ok || r.appendRanges(nil, 32) != nil {
		t.Error("the empty set is not empty")
	}
	for pn := range packetNumber(1000) {
		if r.add(2 * pn) {
			t.Fatalf("%d is a duplicate", 2*pn)
		}
	}
	if got := len(r.older) + 1; got != maxReceivedRanges {
		t.Errorf("ranges = %d, want %d", got, maxReceivedRanges)
	}
	if !r.add(1) {
		t.Error("a number below the pruned floor is new")
	}
	if got := len(r.appendRanges(nil, 5)); got != 5 {
		t.Errorf("appendRanges with limit 5 gives %d", got)
	}
	for pn := r.floor; pn < 2000; pn++ {
		r.add(pn)
	}
	if r.older != nil {
		t.Error("one range owns memory")
	}
	const top = 1<<62 - 1
	if r.add(top) || !r.add(top) || r.add(top-1) {
		t.Error("the largest packet numbers are mistaken")
	}
}
