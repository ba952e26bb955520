package ri2n

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"sync"
)

// A mac1Hasher computes mac1 under one key without deriving the pads of HMAC
// each time and without an allocation: what a flood of junk costs most. It may
// be used concurrently.
type mac1Hasher struct {
	key  [32]byte
	pool sync.Pool // of *mac1State
}

type mac1State struct {
	hash.Hash
	sum [sha256.Size]byte
}

func newMAC1Hasher(key [32]byte) *mac1Hasher {
	return &mac1Hasher{key: key, pool: sync.Pool{New: func() any {
		return &mac1State{Hash: hmac.New(sha256.New, key[:])}
	}}}
}

// mac returns what computeMAC1 does.
func (m *mac1Hasher) mac(covered []byte) (mac [mac1Len]byte) {
	s := m.pool.Get().(*mac1State)
	s.Reset()
	s.Write(covered)
	copy(mac[:], s.Sum(s.sum[:0]))
	m.pool.Put(s)
	return mac
}

// check is checkMAC1 under the hasher's key.
func (m *mac1Hasher) check(packet []byte, h longHeader) bool {
	at := longPrefixLen + 2 + len(h.token)
	if !h.typ.hasMAC1() || len(packet) < at+mac1Len {
		return false
	}
	mac := m.mac(packet[:at])
	return subtle.ConstantTimeCompare(mac[:], packet[at:at+mac1Len]) == 1
}
