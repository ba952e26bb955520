package membership

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrMalformed reports bytes that no append function of this package writes.
var ErrMalformed = errors.New("membership: malformed bytes")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// maxSeconds keeps times within what every part of the package time can add to.
const maxSeconds = 1 << 40

// A decoder takes fields from the front of b; the first failure sticks.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
}

// take returns the next n bytes, which alias the input, or nil once anything
// has failed.
func (d *decoder) take(n int) []byte {
	if d.err == nil && len(d.b) < n {
		d.fail("cut short")
	}
	if d.err != nil {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) array32() (a [32]byte) {
	copy(a[:], d.take(32))
	return a
}

func (d *decoder) key() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), d.take(ed25519.PublicKeySize)...)
}

func (d *decoder) time() time.Time {
	s := d.uint64()
	if s > maxSeconds {
		d.fail("time %d out of range", s)
	}
	if d.err != nil {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// short takes a length of one byte and as many bytes.
func (d *decoder) short() []byte { return d.take(int(d.byte())) }

// long takes a length of two bytes and as many bytes.
func (d *decoder) long() []byte { return d.take(int(d.uint16())) }

// name takes a checked name.
func (d *decoder) name() string {
	s := string(d.short())
	if d.err == nil && CheckName(s) != nil {
		d.fail("a name that is none")
	}
	return s
}

// end reports the first failure, or bytes that are left.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return d.err
}

// signed splits a signature off the end of b.
func signed(b []byte) (body, signature []byte, err error) {
	if len(b) < ed25519.SignatureSize {
		return nil, nil, malformed("cut short")
	}
	n := len(b) - ed25519.SignatureSize
	return b[:n], b[n:], nil
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(max(t.Unix(), 0)))
}

func appendShort(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func appendLong(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// Contexts keep the signatures of one key apart. TLS signs with a member's and a
// rendezvous's key too, always behind 64 blanks (RFC 8446, section 4.4.3).
const (
	contextRecord      = "instantgrid record 1\x00"
	contextRevocations = "instantgrid revocations 1\x00"
	contextGrid        = "instantgrid grid 1\x00"
)

func sign(key ed25519.PrivateKey, context string, body []byte) []byte {
	return ed25519.Sign(key, append([]byte(context), body...))
}

func verifySignature(key ed25519.PublicKey, context string, body, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, append([]byte(context), body...), signature)
}
