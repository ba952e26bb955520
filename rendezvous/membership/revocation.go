package membership

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"slices"
	"time"
)

// MaxRevoked is how many keys a list may name.
const MaxRevoked = 4096

// MaxRevocations is the size of the largest list, in bytes.
const MaxRevocations = 1 + 32 + 8 + 8 + 4 + MaxRevoked*32 + ed25519.SignatureSize

// Revocations are the keys that a grid takes back, signed by the grid key. They
// name public keys, of members and of invitations: revoking an invitation
// revokes all who came with it. A nil *Revocations names nobody and has sequence
// zero.
type Revocations struct {
	Grid     GridID
	Sequence uint64 // grows with each list; a receiver never goes back
	Issued   time.Time
	Keys     []KeyID // sorted, none twice

	signature []byte
}

// Number returns the list's sequence, zero for nil.
func (l *Revocations) Number() uint64 {
	if l == nil {
		return 0
	}
	return l.Sequence
}

// Has reports whether the list names id.
func (l *Revocations) Has(id KeyID) bool {
	if l == nil {
		return false
	}
	_, found := slices.BinarySearchFunc(l.Keys, id, compareKeys)
	return found
}

func compareKeys(a, b KeyID) int { return bytes.Compare(a[:], b[:]) }

func (l *Revocations) appendBody(b []byte) []byte {
	b = append(append(b, 1), l.Grid[:]...)
	b = binary.BigEndian.AppendUint64(b, l.Sequence)
	b = appendTime(b, l.Issued)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Keys)))
	for _, id := range l.Keys {
		b = append(b, id[:]...)
	}
	return b
}

// Revoke returns a list that names the keys of old and those of more, one
// sequence above old. Old may be nil.
func Revoke(key ed25519.PrivateKey, old *Revocations, now time.Time, more ...KeyID) (*Revocations, error) {
	l := &Revocations{
		Grid:     GridIDOf(key.Public().(ed25519.PublicKey)),
		Sequence: old.Number() + 1,
		Issued:   now.Truncate(time.Second).UTC(),
	}
	if old != nil {
		l.Keys = append(l.Keys, old.Keys...)
	}
	l.Keys = append(l.Keys, more...)
	slices.SortFunc(l.Keys, compareKeys)
	l.Keys = slices.Compact(l.Keys)
	if len(l.Keys) > MaxRevoked {
		return nil, &Error{Problem: TooMany, What: "the revocation list"}
	}
	l.signature = sign(key, contextRevocations, l.appendBody(nil))
	return l, nil
}

// AppendRevocations extends b by l with its signature.
func AppendRevocations(b []byte, l *Revocations) []byte {
	return append(l.appendBody(b), l.signature...)
}

// ParseRevocations decodes what AppendRevocations wrote and checks that the
// grid key has signed it.
func ParseRevocations(key ed25519.PublicKey, b []byte) (*Revocations, error) {
	if len(b) > MaxRevocations {
		return nil, malformed("a list of %d bytes", len(b))
	}
	body, signature, err := signed(b)
	if err != nil {
		return nil, err
	}
	d := decoder{b: body}
	if v := d.byte(); v != 1 {
		d.fail("format %d", v)
	}
	l := &Revocations{Grid: d.array32(), Sequence: d.uint64(), Issued: d.time()}
	n := d.uint32()
	if d.err == nil && int64(n)*32 != int64(len(d.b)) {
		d.fail("%d keys in %d bytes", n, len(d.b))
	}
	for d.err == nil && len(d.b) > 0 {
		id := KeyID(d.array32())
		if k := len(l.Keys); k > 0 && compareKeys(l.Keys[k-1], id) >= 0 {
			d.fail("keys out of order")
		}
		l.Keys = append(l.Keys, id)
	}
	if d.err == nil && l.Sequence == 0 {
		d.fail("sequence zero")
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if l.Grid != GridIDOf(key) {
		return nil, &Error{Problem: OtherGrid, What: "the revocation list"}
	}
	if !verifySignature(key, contextRevocations, body, signature) {
		return nil, &Error{Problem: BadSignature, What: "the revocation list"}
	}
	l.signature = append([]byte(nil), signature...)
	return l, nil
}
