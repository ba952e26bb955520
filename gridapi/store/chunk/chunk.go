// Package chunk names what the store holds: sealed chunks, each addressed by
// the hash of its bytes.
//
// A chunk is at most [MaxSize] bytes that nobody can read without the store's
// key. Its [ID] is their SHA-256, so that whoever fetches or keeps one can
// verify it without that key. [Holdings] is the little that the network half of
// the store needs of the local one.
package chunk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	// Size is the length of an ID in bytes.
	Size = sha256.Size
	// MaxSize is how long a chunk may be, in sealed bytes.
	MaxSize = 1 << 20
)

var (
	// ErrNotHeld reports that a chunk is not here. It may be elsewhere.
	ErrNotHeld = errors.New("chunk: not held")
	// ErrMismatch reports bytes that are not those of the ID.
	ErrMismatch = errors.New("chunk: the bytes do not have this hash")
	// ErrTooLarge reports more than MaxSize bytes, or none.
	ErrTooLarge = errors.New("chunk: no length of a chunk")
)

// An ID is the SHA-256 of a chunk's sealed bytes. The zero ID is that of no
// chunk.
type ID [Size]byte

// Sum returns the ID of sealed.
func Sum(sealed []byte) ID { return sha256.Sum256(sealed) }

// Verify returns ErrTooLarge or ErrMismatch unless sealed is the chunk id.
func Verify(id ID, sealed []byte) error {
	if len(sealed) == 0 || len(sealed) > MaxSize {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(sealed))
	}
	if Sum(sealed) != id {
		return ErrMismatch
	}
	return nil
}

// String returns the ID in lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes the form of String.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads the form of String.
func (id *ID) UnmarshalText(b []byte) error {
	parsed, err := Parse(string(b))
	if err == nil {
		*id = parsed
	}
	return err
}

// Parse reads the form of String. It refuses any other, upper case included.
func Parse(s string) (ID, error) {
	var id ID
	if len(s) != 2*Size {
		return ID{}, fmt.Errorf("chunk: an ID has %d hexadecimal digits, and this has %d characters", 2*Size, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, errors.New("chunk: an ID consists of lower-case hexadecimal digits")
	}
	return id, nil
}

// Holdings are the chunks of one node. All methods may be called concurrently.
type Holdings interface {
	// Has reports whether the chunk is held. It does not read it.
	Has(id ID) bool
	// Get appends the chunk to buf[:0] and returns that; the caller owns it. It
	// returns ErrNotHeld when the chunk is absent, and also once what is kept
	// of it is found damaged.
	Get(id ID, buf []byte) ([]byte, error)
	// Put keeps a chunk and returns once it would survive a crash. It verifies
	// the hash, and does not hold on to sealed. Keeping what is held already
	// is no error.
	Put(id ID, sealed []byte) error
}

// A Stager is Holdings that can also keep chunks without waiting for the disk:
// what can be fetched again need not survive a crash one by one.
type Stager interface {
	Holdings
	// Stage is Put without the wait. Get returns the chunk at once; a crash
	// before Sync may lose it.
	Stage(id ID, sealed []byte) error
	// Sync returns once all that was staged before would survive a crash.
	Sync() error
}

// A Pinner is Holdings that give chunks up when they need room, but not those
// that are pinned. Pins are counted, and forgotten when the program ends.
type Pinner interface {
	Holdings
	// Pin keeps a held chunk until as many calls of Unpin. It reports whether
	// the chunk is held.
	Pin(id ID) bool
	Unpin(id ID)
}
