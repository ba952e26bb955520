package frame

import (
	"bufio"
	"encoding/binary"
	"io"
)

// HeaderLen is the length of what precedes a body.
const HeaderLen = 5

// AppendHeader appends the header of a body of n bytes, which follows.
func AppendHeader(b []byte, kind byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind), uint32(n))
}

// Append appends a frame whose body is what body extends its argument by. Nil
// is an empty body.
func Append(b []byte, kind byte, body func([]byte) []byte) []byte {
	at := len(b)
	b = AppendHeader(b, kind, 0)
	if body != nil {
		b = body(b)
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(len(b)-at-HeaderLen))
	return b
}

// ReadHeader reads the header of the next frame. It returns [io.EOF] where the
// stream ends before one and [io.ErrUnexpectedEOF] where it ends within. The
// length is the other side's word: check it before making room.
func ReadHeader(r *bufio.Reader) (kind byte, n uint32, err error) {
	h, err := r.Peek(HeaderLen)
	if err != nil {
		if len(h) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, 0, err
	}
	kind, n = h[0], binary.BigEndian.Uint32(h[1:])
	r.Discard(HeaderLen)
	return kind, n, nil
}
