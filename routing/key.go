package routing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// A PeerID names a node: the SHA-256 of its Ed25519 public key as a
// SubjectPublicKeyInfo. It has the bytes of ri2n's type of that name.
type PeerID [sha256.Size]byte

// peerText is base32 as the rest of the project writes it.
var peerText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the 52 letters and digits of p.
func (p PeerID) String() string { return peerText.EncodeToString(p[:]) }

// ed25519Info is what stands before the 32 bytes of the key in the
// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
var ed25519Info = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}

// PeerIDOf returns the peer ID of the node that owns key.
func PeerIDOf(key ed25519.PublicKey) PeerID {
	var b [12 + ed25519.PublicKeySize]byte
	return sha256.Sum256(append(append(b[:0], ed25519Info...), key...))
}

// KeyBits is the length of a key.
const KeyBits = 256

// A Key is a point of the key space: the position of a node or the key of an
// object. The distance of two keys is their exclusive or, taken as a number.
type Key [KeyBits / 8]byte

// String returns k in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// A Nonce is what the ledger adds to a peer ID, so that nobody can choose its
// position. It is the same for a peer at each renewal of its record.
type Nonce [32]byte

// positionDomain separates positions from other uses of SHA-256. The ledger's
// records use the same.
const positionDomain = "instantgrid position 1 "

// Position returns the point of the key space where peer lives: SHA-256 of
// the domain, the peer ID and the nonce (docs/routing-protocol.md, section 2).
func Position(peer PeerID, nonce Nonce) Key {
	var b [len(positionDomain) + 64]byte
	p := append(b[:0], positionDomain...)
	p = append(p, peer[:]...)
	p = append(p, nonce[:]...)
	return sha256.Sum256(p)
}

// Xor returns the distance of k and o.
func (k Key) Xor(o Key) (d Key) {
	for i := 0; i < len(k); i += 8 {
		binary.BigEndian.PutUint64(d[i:], binary.BigEndian.Uint64(k[i:])^binary.BigEndian.Uint64(o[i:]))
	}
	return d
}

// Compare orders keys, and so distances, as numbers.
func (k Key) Compare(o Key) int { return bytes.Compare(k[:], o[:]) }

// IsZero reports whether k is the number zero.
func (k Key) IsZero() bool { return k == Key{} }

// CommonPrefix returns how many leading bits k and o share, 256 if they are
// the same.
func (k Key) CommonPrefix(o Key) int {
	for i := 0; i < len(k); i += 8 {
		if x := binary.BigEndian.Uint64(k[i:]) ^ binary.BigEndian.Uint64(o[i:]); x != 0 {
			return i*8 + bits.LeadingZeros64(x)
		}
	}
	return KeyBits
}

// closer reports whether a is nearer to k than b is. It allocates nothing and
// mostly looks at eight bytes.
func (k *Key) closer(a, b *Key) bool {
	for i := 0; i < len(k); i += 8 {
		at := binary.BigEndian.Uint64(k[i:])
		x, y := binary.BigEndian.Uint64(a[i:])^at, binary.BigEndian.Uint64(b[i:])^at
		if x != y {
			return x < y
		}
	}
	return false
}

// fraction returns k as a part of the key space, from 0 to 1.
func (k Key) fraction() float64 {
	return float64(binary.BigEndian.Uint64(k[:])) / (1 << 64)
}

// withPrefix returns k with its first n bits those of self and bit n the
// other way round: a key of bucket n of self when the rest of k is random.
func (k Key) withPrefix(self Key, n int) Key {
	for i := range n / 8 {
		k[i] = self[i]
	}
	if n < KeyBits {
		i, bit := n/8, byte(0x80)>>(n%8)
		above := ^(bit<<1 - 1) // the bits before bit n
		k[i] = self[i]&above | ^self[i]&bit | k[i]&(bit-1)
	}
	return k
}

// MarshalText returns k in hexadecimal.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText decodes what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(k)) {
		return malformed("a key of %d digits", len(b))
	}
	if _, err := hex.Decode(k[:], b); err != nil {
		return malformed("a key: %v", err)
	}
	return nil
}
