package ri2n

import (
	"encoding/binary"
	"errors"
)

// Reasons for which a parser refuses bytes. They are sentinels, so that a
// flood of bad packets allocates nothing.
var (
	errTruncated = errors.New("ri2n: encoding ends too early")
	errMalformed = errors.New("ri2n: encoding is not canonical or out of range")
)

// maxVarint is the largest value of a varint (RFC 9000, section 16).
const maxVarint = 1<<62 - 1

// varintLen returns the length of the encoding of v in bytes: 1, 2, 4 or 8.
// It panics above maxVarint.
func varintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	case v <= maxVarint:
		return 8
	}
	panic("ri2n: a varint is below 2^62")
}

// appendVarint appends v in the shortest of the forms of RFC 9000, section 16.
// It panics above maxVarint.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, 1<<14|uint16(v))
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, 2<<30|uint32(v))
	case v <= maxVarint:
		return binary.BigEndian.AppendUint64(b, 3<<62|v)
	}
	panic("ri2n: a varint is below 2^62")
}

// parseVarint decodes the varint at the front of b and returns the bytes after
// it. A value written longer than needed is refused, so that every structure
// has one encoding.
func parseVarint(b []byte) (v uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errTruncated
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, nil, errTruncated
	}
	switch n {
	case 1:
		return uint64(b[0]), b[1:], nil
	case 2:
		v = uint64(binary.BigEndian.Uint16(b)) & (1<<14 - 1)
	case 4:
		v = uint64(binary.BigEndian.Uint32(b)) & (1<<30 - 1)
	case 8:
		v = binary.BigEndian.Uint64(b) & maxVarint
	}
	if varintLen(v) != n {
		return 0, nil, errMalformed
	}
	return v, b[n:], nil
}

// parseVarints decodes one varint into each of vs, in order.
func parseVarints(b []byte, vs ...*uint64) (rest []byte, err error) {
	for _, v := range vs {
		if *v, b, err = parseVarint(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}
