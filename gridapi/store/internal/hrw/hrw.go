// Package hrw elects by rendezvous hashing: highest random weight (Thaler and
// Ravishankar, 1998). All who know the same names agree on a winner without a
// word, each name wins equally often, and when a winner goes, only what it had
// won is won by others.
//
// The hash keeps nobody from choosing a name that wins a given election:
// winning must be worth nothing but work.
package hrw

import (
	"encoding/binary"
	"hash/fnv"
	"math"
)

// A Name is a candidate, hashed once.
type Name uint64

// NameOf hashes a name.
func NameOf(s string) Name {
	h := fnv.New64a()
	h.Write([]byte(s))
	return Name(mix(h.Sum64()))
}

// Score returns how well name does in the election about key. The highest
// wins; equal scores go to the lesser name.
func Score(key [32]byte, name Name) uint64 {
	return mix(binary.LittleEndian.Uint64(key[:]) ^ uint64(name))
}

// Weighted returns a score with which name wins in proportion to weight, which
// is above zero.
func Weighted(key [32]byte, name Name, weight float64) float64 {
	// Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005:
	// the logarithmic method.
	u := (float64(Score(key, name)>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
