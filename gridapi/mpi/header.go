package mpi

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errMalformed reports bytes that no append function of ours produces.
var errMalformed = errors.New("mpi: malformed bytes from another rank")

type frameKind uint8

const (
	frameEager    frameKind = 1  // a message with its data
	frameRTS      frameKind = 2  // a message whose data waits
	frameCTS      frameKind = 3  // the data may come
	frameData     frameKind = 4  // a part of it
	frameCredit   frameKind = 5  // room for more messages
	frameWithdraw frameKind = 6  // the data of an RTS will not come
	frameAbort    frameKind = 7  // a collective call failed
	frameRevoke   frameKind = 8  // a communicator is revoked
	frameDead     frameKind = 9  // a rank failed
	frameAgree    frameKind = 10 // a step of an agreement
	frameCheck    frameKind = 11 // which collective call waits
	frameBye      frameKind = 12 // the sender is done
)

// A header opens every frame (docs/mpi-protocol.md, section 2).
type header struct {
	kind    frameKind
	tag     int32  // of the message, the collective call or the agreement
	check   uint32 // of the collective call; of frameAbort the error class
	context uint64
	id      uint64 // of the message at its sender; of frameDead and frameAbort a rank
	size    uint64 // bytes of the message; of frameData the offset, of frameCTS the bytes wanted, of frameCredit the bytes granted
}

// fieldSet says which fields of a header a kind uses. The others are zero.
type fieldSet uint8

const (
	hasTag fieldSet = 1 << iota
	hasCheck
	hasContext
	hasID
	hasSize
)

func (k frameKind) fields() (f fieldSet, known bool) {
	switch k {
	case frameEager:
		return hasTag | hasCheck | hasContext | hasSize, true
	case frameRTS:
		return hasTag | hasCheck | hasContext | hasID | hasSize, true
	case frameCTS, frameData:
		return hasID | hasSize, true
	case frameCredit:
		return hasSize, true
	case frameWithdraw, frameDead:
		return hasID, true
	case frameAbort:
		return hasTag | hasCheck | hasContext | hasID, true
	case frameRevoke:
		return hasContext, true
	case frameAgree:
		return hasTag | hasContext, true
	case frameCheck:
		return hasTag | hasCheck | hasContext, true
	case frameBye:
		return 0, true
	}
	return 0, false
}

// putHeader writes h to the first HeaderLen bytes of b.
func putHeader(b []byte, h header) {
	b = b[:HeaderLen]
	b[0], b[1], b[2], b[3] = byte(h.kind), 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(h.tag))
	binary.BigEndian.PutUint32(b[8:], h.check)
	binary.BigEndian.PutUint64(b[12:], h.context)
	binary.BigEndian.PutUint64(b[20:], h.id)
	binary.BigEndian.PutUint64(b[28:], h.size)
}

// parseHeader decodes a header of exactly HeaderLen bytes.
func parseHeader(b []byte) (h header, err error) {
	if len(b) != HeaderLen {
		return h, fmt.Errorf("%w: a head of %d bytes", errMalformed, len(b))
	}
	h = header{
		kind:    frameKind(b[0]),
		tag:     int32(binary.BigEndian.Uint32(b[4:])),
		check:   binary.BigEndian.Uint32(b[8:]),
		context: binary.BigEndian.Uint64(b[12:]),
		id:      binary.BigEndian.Uint64(b[20:]),
		size:    binary.BigEndian.Uint64(b[28:]),
	}
	f, known := h.kind.fields()
	switch {
	case !known, b[1]|b[2]|b[3] != 0, h.tag < 0,
		f&hasTag == 0 && h.tag != 0,
		f&hasCheck == 0 && h.check != 0,
		f&hasContext == 0 && h.context != 0,
		f&hasID == 0 && h.id != 0,
		f&hasSize == 0 && h.size != 0,
		h.size > 1<<62:
		return header{}, fmt.Errorf("%w: head %x", errMalformed, b)
	}
	return h, nil
}
