package store

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Name records (docs/store-format.md, section 5).
const (
	recordVersion = 1
	recordContext = "instantgrid store 1 name\x00"

	// MaxNameLen bounds a name, in bytes.
	MaxNameLen = 128
	// MaxRecordLen bounds the encoding of a record, in bytes.
	MaxRecordLen = 1 + 1 + MaxNameLen + ed25519.PublicKeySize + 8 + 8 + chunk.Size + 8 + ed25519.SignatureSize
)

var errRecord = errors.New("the record is malformed, or its signature wrong")

// A Record says which object a name means, in the words of one signer. Of
// several, the one with the highest version counts; of those, the one whose
// encoding has the greatest hash.
type Record struct {
	Name    string            `json:"name"`
	Signer  ed25519.PublicKey `json:"signer"`
	Version uint64            `json:"version"`
	Time    time.Time         `json:"time"`   // of signing, by the signer's clock, in s
	Object  chunk.ID          `json:"object"` // zero: the name means nothing any more
	Size    int64             `json:"size_bytes"`

	encoded []byte
}

// Removed reports whether the name means nothing any more.
func (r *Record) Removed() bool { return r.Object == chunk.ID{} }

// CheckName returns a [NameError] unless name can be one. The 64 digits of an
// object's ID cannot.
func CheckName(name string) error {
	bad := func(problem string) error { return &NameError{Name: name, Problem: problem} }
	if name == "" || len(name) > MaxNameLen {
		return bad("its length is none of a name")
	}
	if _, err := chunk.Parse(name); err == nil {
		return bad("it looks like the ID of an object")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/", rune(c)) {
			return bad("it has a character that no name has")
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return bad("it has an empty part")
		}
	}
	return nil
}

// sign returns r with its signature. Name and object are set.
func (r Record) sign(key ed25519.PrivateKey) *Record {
	r.Signer = key.Public().(ed25519.PublicKey)
	r.Time = r.Time.Truncate(time.Second).UTC()
	b := appendRecord(nil, &r)
	r.encoded = append(b, ed25519.Sign(key, append([]byte(recordContext), b...))...)
	return &r
}

// appendRecord appends what is signed of r.
func appendRecord(b []byte, r *Record) []byte {
	b = append(b, recordVersion, byte(len(r.Name)))
	b = append(b, r.Name...)
	b = append(b, r.Signer...)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.Unix()))
	b = append(b, r.Object[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(r.Size))
}

// ParseRecord decodes a record and verifies its signature; whether the signer
// counts is for the caller to know. It keeps a copy of b.
func ParseRecord(b []byte) (*Record, error) {
	if len(b) < 2 || b[0] != recordVersion || len(b) > MaxRecordLen {
		return nil, errRecord
	}
	n := int(b[1])
	if n > MaxNameLen || len(b) != 2+n+ed25519.PublicKeySize+8+8+chunk.Size+8+ed25519.SignatureSize {
		return nil, errRecord
	}
	r := &Record{encoded: bytes.Clone(b)}
	body := r.encoded[:len(b)-ed25519.SignatureSize]
	r.Name = string(b[2 : 2+n])
	f := body[2+n:]
	r.Signer = ed25519.PublicKey(f[:ed25519.PublicKeySize])
	f = f[ed25519.PublicKeySize:]
	r.Version = binary.BigEndian.Uint64(f)
	seconds := binary.BigEndian.Uint64(f[8:])
	r.Object = chunk.ID(f[16:])
	size := binary.BigEndian.Uint64(f[16+chunk.Size:])
	if seconds > 1<<40 || size > maxObject || r.Version == 0 {
		return nil, errRecord
	}
	r.Time, r.Size = time.Unix(int64(seconds), 0).UTC(), int64(size)
	if CheckName(r.Name) != nil || !ed25519.Verify(r.Signer, append([]byte(recordContext), body...), r.encoded[len(body):]) {
		return nil, errRecord
	}
	return r, nil
}

// Encoded returns the record as ParseRecord takes it. The caller must not change
// it.
func (r *Record) Encoded() []byte { return r.encoded }

// beats reports whether r counts rather than other, which may be nil.
func (r *Record) beats(other *Record) bool {
	if other == nil || r.Version != other.Version {
		return other == nil || r.Version > other.Version
	}
	a, b := sha256.Sum256(r.encoded), sha256.Sum256(other.encoded)
	return bytes.Compare(a[:], b[:]) > 0
}
