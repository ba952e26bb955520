package frame

import (
	"encoding/binary"
	"slices"
)

// Fields takes a body apart, field by field. What is asked for beyond the end
// is zero, and from then on everything is: ask Whole or Bad once at the end.
type Fields struct {
	b   []byte
	bad bool
}

// FieldsOf returns the fields of b, which it refers to.
func FieldsOf(b []byte) Fields { return Fields{b: b} }

// zeros is more than any field of a fixed length has.
const zeros = 256

// Take returns the next n bytes, a part of the body; where there are fewer, n
// zeros, but no more than 256.
func (f *Fields) Take(n int) []byte {
	if f.bad || n < 0 || len(f.b) < n {
		f.bad = true
		return make([]byte, min(max(n, 0), zeros))
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}

func (f *Fields) U8() uint8   { return f.Take(1)[0] }
func (f *Fields) U16() uint16 { return binary.BigEndian.Uint16(f.Take(2)) }
func (f *Fields) U32() uint32 { return binary.BigEndian.Uint32(f.Take(4)) }
func (f *Fields) U64() uint64 { return binary.BigEndian.Uint64(f.Take(8)) }

// Text returns a text with a length of two bytes. One of more than most bytes
// is refused.
func (f *Fields) Text(most int) string {
	n := int(f.U16())
	f.Refuse(n > most)
	if f.bad {
		return ""
	}
	return string(f.Take(n))
}

// Rest returns a copy of what is left. More than most bytes are refused.
func (f *Fields) Rest(most int) []byte {
	f.Refuse(len(f.b) > most)
	if f.bad {
		return nil
	}
	return slices.Clone(f.Take(len(f.b)))
}

// Refuse makes the body a bad one if is holds.
func (f *Fields) Refuse(is bool) { f.bad = f.bad || is }

// Bad reports whether something was refused, or not there.
func (f *Fields) Bad() bool { return f.bad }

// Left returns how many bytes have not been taken.
func (f *Fields) Left() int { return len(f.b) }

// Whole reports whether all was taken, and nothing was bad.
func (f *Fields) Whole() bool { return !f.bad && len(f.b) == 0 }

// AppendText appends a text as Text reads it, of at most 65535 bytes.
func AppendText(b []byte, s string) []byte {
	s = s[:min(len(s), 0xffff)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
