package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
)

// A Key is the secret of a grid or of a job: who has it can read what was put
// with it. It prints as its fingerprint.
type Key [32]byte

// NewKey returns a random Key.
func NewKey() (k Key) {
	rand.Read(k[:])
	return k
}

const keyPrefix = "igstore-"

// Encode returns the secret as text, for a file that nobody else may read.
func (k Key) Encode() string { return keyPrefix + hex.EncodeToString(k[:]) }

// ParseKey reads what Encode returns; white space around it is ignored.
func ParseKey(text string) (k Key, err error) {
	digits, ok := strings.CutPrefix(strings.TrimSpace(text), keyPrefix)
	if b, e := hex.DecodeString(digits); ok && e == nil && len(b) == len(k) {
		return Key(b), nil
	}
	return k, errors.New("store: this is no key: one begins with " + keyPrefix)
}

// Fingerprint tells keys apart without telling what they are.
func (k Key) Fingerprint() string { d := k.derive("fingerprint"); return hex.EncodeToString(d[:8]) }

func (k Key) String() string   { return "key " + k.Fingerprint() }
func (k Key) GoString() string { return k.String() }

// MarshalText refuses: a secret belongs into no document.
func (k Key) MarshalText() ([]byte, error) {
	return nil, errors.New("store: a key is not to be written down; see Encode")
}

// derive returns the secret for one purpose (docs/store-format.md, section 2).
func (k Key) derive(purpose string) [32]byte {
	return mac(k, []byte("instantgrid store 1 "+purpose))
}

// mac is HMAC-SHA256.
func mac(key [32]byte, parts ...[]byte) (sum [32]byte) {
	h := hmac.New(sha256.New, key[:])
	for _, b := range parts {
		h.Write(b)
	}
	h.Sum(sum[:0])
	return sum
}

// gear returns the table of the cutter. It is secret, so that where an object
// is cut, and so the lengths of its chunks, says less of its content to those
// who hold them.
func (k Key) gear() (table [256]uint64) {
	seed := k.derive("gear")
	for i := range table {
		sum := mac(seed, []byte{byte(i)})
		table[i] = binary.BigEndian.Uint64(sum[:])
	}
	return table
}
