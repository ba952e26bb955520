package protocol

import (
	"encoding/binary"
	"fmt"
)

// MaxVarint is the largest value that [AppendVarint] encodes.
const MaxVarint = 1<<62 - 1

// AppendVarint extends b by v as a QUIC variable-length integer (RFC 9000,
// section 16) in its shortest form. It panics when v exceeds [MaxVarint].
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	case v <= MaxVarint:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	default:
		panic(fmt.Sprintf("protocol: %d is above the largest varint", v))
	}
}

// VarintLen returns the number of bytes that [AppendVarint] adds for v.
func VarintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	default:
		return 8
	}
}

// ParseVarint decodes the integer at the front of b and returns the bytes
// after it. Longer forms than the shortest are refused.
func ParseVarint(b []byte) (v uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errShort
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, nil, errShort
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	if VarintLen(v) != n {
		return 0, nil, fmt.Errorf("%w: %d in %d bytes, shortest form is %d", ErrMalformed, v, n, VarintLen(v))
	}
	return v, b[n:], nil
}
