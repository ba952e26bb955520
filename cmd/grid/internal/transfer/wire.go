package transfer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// A frame is a type (1 byte), the length of its payload (4 bytes, big endian
// like every number here) and the payload. The order on a connection:
//
//	either   hello       both sides at once; it names magic, version and role
//	sender   offer       what the file is
//	receiver have        which beginnings of it are there, with their hashes
//	sender   start       where the data begins: 0 or one of those
//	sender   data ...    the bytes, each frame following the one before
//	receiver ack ...     bytes written so far, from the start of the file
//	sender   final       hash of the whole file
//	receiver done        the same hash: the file is verified and in place
//	sender   bye         done has arrived; the receiver may leave
//
// Either side may send abort instead of its next frame, and then sends no more.
type frameType uint8

const (
	frameHello frameType = iota
	frameOffer
	frameHave
	frameStart
	frameData
	frameAck
	frameFinal
	frameDone
	frameBye
	frameAbort
)

const (
	frameHeaderSize = 5

	magic   = "IGFT"
	version = 1

	// chunkSize is the largest data frame, and so the most that a receiver
	// loses of what is under way.
	chunkSize = 1 << 20

	maxControl = 512 // bytes of payload of any other frame

	maxName = 255 // bytes, the limit of usual file systems
	maxText = 200 // bytes of an abort's text
	maxHave = 2
	maxSize = 1 << 62 // bytes; room for sums
)

// frameLimits bounds each type's payload.
func (t frameType) limit() int {
	if t == frameData {
		return chunkSize
	}
	return maxControl
}

func appendFrameHeader(b []byte, t frameType, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(t)), uint32(n))
}

// parseFrameHeader decodes the header at the front of b.
func parseFrameHeader(b []byte) (t frameType, n int, rest []byte, err error) {
	if len(b) < frameHeaderSize {
		return 0, 0, nil, io.ErrUnexpectedEOF
	}
	t = frameType(b[0])
	length := binary.BigEndian.Uint32(b[1:])
	if t > frameAbort {
		return 0, 0, nil, protocolErrorf("frame of unknown type %d", t)
	}
	if length > uint32(t.limit()) {
		return 0, 0, nil, protocolErrorf("frame of type %d with %d bytes, more than %d", t, length, t.limit())
	}
	return t, int(length), b[frameHeaderSize:], nil
}

// A role is the part that the writer of a hello plays.
type role uint8

const (
	roleSender role = iota + 1
	roleReceiver
)

// hello opens both directions: magic (4), version (1), role (1). A later version
// may add to it.
type hello struct {
	version uint8
	role    role
}

func appendHello(b []byte, h hello) []byte {
	return append(append(b, magic...), h.version, byte(h.role))
}

func parseHello(b []byte) (h hello, err error) {
	if len(b) < len(magic)+2 || string(b[:len(magic)]) != magic {
		return h, protocolErrorf("the other side speaks another protocol")
	}
	h = hello{b[len(magic)], role(b[len(magic)+1])}
	if h.version != version {
		return h, &VersionError{Ours: version, Theirs: int(h.version)}
	}
	if h.role != roleSender && h.role != roleReceiver || len(b) > len(magic)+2 {
		return h, protocolErrorf("hello with role %d in %d bytes", h.role, len(b))
	}
	return h, nil
}

// hashSHA256 is the only hash algorithm of version 1.
const hashSHA256 = 1

// A Sum is the SHA-256 of a file, or of its beginning.
type Sum [sha256.Size]byte

// String returns the sum in hexadecimal.
func (s Sum) String() string { return fmt.Sprintf("%x", s[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// An Offer says what a sender has to give: hash algorithm (1), permissions (2),
// size (8), modification time in Unix seconds (8), length of the name (1),
// name.
type Offer struct {
	Name    string      // a base name, checked with [CheckName]
	Size    int64       // bytes
	Mode    fs.FileMode // permission bits, within 0755
	ModTime time.Time   // whole seconds
}

// modeMask keeps the permissions that travel: nobody else gets to write, and
// no set-user-ID bit crosses a network.
const modeMask = 0o755

func appendOffer(b []byte, o Offer) []byte {
	b = append(b, hashSHA256)
	b = binary.BigEndian.AppendUint16(b, uint16(o.Mode&modeMask))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(o.ModTime.Unix()))
	b = append(b, byte(len(o.Name)))
	return append(b, o.Name...)
}

func parseOffer(b []byte) (o Offer, err error) {
	const fixed = 1 + 2 + 8 + 8 + 1
	if len(b) < fixed {
		return o, io.ErrUnexpectedEOF
	}
	if b[0] != hashSHA256 {
		return o, protocolErrorf("offer with unknown hash algorithm %d", b[0])
	}
	mode := binary.BigEndian.Uint16(b[1:])
	size := binary.BigEndian.Uint64(b[3:])
	seconds := int64(binary.BigEndian.Uint64(b[11:]))
	name := string(b[fixed:])
	switch {
	case mode&^modeMask != 0:
		return o, protocolErrorf("offer with permissions %#o", mode)
	case size > maxSize:
		return o, protocolErrorf("offer of %d bytes", size)
	case len(name) < int(b[fixed-1]):
		return o, io.ErrUnexpectedEOF
	case len(name) > int(b[fixed-1]):
		return o, protocolErrorf("offer with %d bytes too many", len(name)-int(b[fixed-1]))
	}
	if err := CheckName(name); err != nil {
		return o, err
	}
	return Offer{Name: name, Size: int64(size), Mode: fs.FileMode(mode), ModTime: time.Unix(seconds, 0)}, nil
}

// A beginning is the first bytes of a file, with their hash.
type beginning struct {
	length int64
	sum    Sum
}

// have lists beginnings: length (8), sum (32) each, with growing lengths, none
// of them zero. An empty list is a receiver that has nothing.
type have []beginning

func appendHave(b []byte, h have) []byte {
	for _, x := range h {
		b = binary.BigEndian.AppendUint64(b, uint64(x.length))
		b = append(b, x.sum[:]...)
	}
	return b
}

func parseHave(b []byte) (h have, err error) {
	const each = 8 + sha256.Size
	if len(b)%each != 0 {
		return nil, io.ErrUnexpectedEOF
	}
	if len(b) > maxHave*each {
		return nil, protocolErrorf("%d beginnings, more than %d", len(b)/each, maxHave)
	}
	var last uint64
	for ; len(b) > 0; b = b[each:] {
		length := binary.BigEndian.Uint64(b)
		if length <= last || length > maxSize {
			return nil, protocolErrorf("beginning of %d bytes after one of %d", length, last)
		}
		last = length
		h = append(h, beginning{int64(length), Sum(b[8:each])})
	}
	return h, nil
}

// start and ack carry one offset (8).
func appendOffset(b []byte, offset int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(offset))
}

func parseOffset(b []byte) (int64, error) {
	if len(b) < 8 {
		return 0, io.ErrUnexpectedEOF
	}
	offset := binary.BigEndian.Uint64(b)
	if len(b) > 8 || offset > maxSize {
		return 0, protocolErrorf("offset %d in %d bytes", offset, len(b))
	}
	return int64(offset), nil
}

// final and done carry one sum (32).
func parseSum(b []byte) (s Sum, err error) {
	if len(b) < len(s) {
		return s, io.ErrUnexpectedEOF
	}
	if len(b) > len(s) {
		return s, protocolErrorf("sum of %d bytes", len(b))
	}
	return Sum(b), nil
}

// appendAbort encodes code (1) and text, which is cut at maxText bytes.
func appendAbort(b []byte, a AbortError) []byte {
	return append(append(b, byte(a.Code)), a.Text[:min(len(a.Text), maxText)]...)
}

// parseAbort makes the text fit for a terminal.
func parseAbort(b []byte) (a AbortError, err error) {
	if len(b) < 1 {
		return a, io.ErrUnexpectedEOF
	}
	if len(b) > 1+maxText {
		return a, protocolErrorf("abort with %d bytes", len(b))
	}
	return AbortError{Code: AbortCode(b[0]), Text: printable(string(b[1:]))}, nil
}
