package hrw

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"testing"
)

func key(i int) [32]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	return sha256.Sum256(b[:])
}

func winner(k [32]byte, names []string) string {
	best := names[0]
	for _, n := range names[1:] {
		if Score(k, NameOf(n)) > Score(k, NameOf(best)) {
			best = n
		}
	}
	return best
}

func TestShares(t *testing.T) {
	names := []string{"alice", "bob", "carol", "dave"}
	wins := make(map[string]int)
	const elections = 20_000
	for i := range elections {
		k := key(i)
		w := winner(k, names)
		wins[w]++
		// Whoever loses changes nothing by leaving.
		if w != "dave" && winner(k, names[:3]) != w {
			t.Fatalf("election %d: %s no longer wins when dave leaves", i, w)
		}
	}
	for _, n := range names {
		if share := float64(wins[n]) / elections; math.Abs(share-0.25) > 0.02 {
			t.Errorf("%s wins %.3f, want 0.25", n, share)
		}
	}
}

func TestWeightedShares(t *testing.T) {
	wins := 0
	const elections = 20_000
	for i := range elections {
		if k := key(i); Weighted(k, NameOf("alice"), 3) > Weighted(k, NameOf("bob"), 1) {
			wins++
		}
	}
	if share := float64(wins) / elections; math.Abs(share-0.75) > 0.02 {
		t.Errorf("alice wins %.3f of weight 3 beside weight 1, want 0.75", share)
	}
}
