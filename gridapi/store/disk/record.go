package disk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Segments and records (docs/store-format.md, section 4).
const (
	segmentMagic     = "IGSEG\x00\x00\x01"
	segmentHeaderLen = 24
	recordHeaderLen  = 48
	recordAlign      = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoRecord reports bytes that are no whole record of this place.
var errNoRecord = errors.New("disk: no record here")

// A generation tells two segments of one number apart.
type generation uint64

func appendSegmentHeader(b []byte, g generation) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(g))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	return binary.LittleEndian.AppendUint32(b, 0)
}

func parseSegmentHeader(b []byte) (generation, error) {
	if len(b) < segmentHeaderLen || string(b[:8]) != segmentMagic ||
		crc32.Checksum(b[:16], castagnoli) != binary.LittleEndian.Uint32(b[16:]) || binary.LittleEndian.Uint32(b[20:]) != 0 {
		return 0, errNoRecord
	}
	return generation(binary.LittleEndian.Uint64(b[8:])), nil
}

// A place is where a record begins. Its header's checksum covers it, so that
// neither a stale block nor one that was written elsewhere passes for it.
type place struct {
	generation generation
	offset     int64
}

// A record is one chunk in a segment. The payload follows its header.
type record struct {
	id     chunk.ID
	length int    // of the payload, 1 to chunk.MaxSize
	sum    uint32 // CRC-32C of the payload
	used   useTime
}

// size is how many bytes of the segment the record takes.
func (r record) size() int64 { return recordSize(r.length) }

func recordSize(length int) int64 {
	n := int64(recordHeaderLen + length)
	return (n + recordAlign - 1) &^ (recordAlign - 1)
}

func (p place) checksum(b []byte) uint32 {
	var at [16]byte
	binary.LittleEndian.PutUint64(at[:], uint64(p.generation))
	binary.LittleEndian.PutUint64(at[8:], uint64(p.offset))
	return crc32.Update(crc32.Checksum(at[:], castagnoli), castagnoli, b)
}

// appendRecordHeader appends the header of r at p.
func appendRecordHeader(b []byte, p place, r record) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, r.sum)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.length))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.used))
	b = append(b, r.id[:]...)
	binary.LittleEndian.PutUint32(b[at:], p.checksum(b[at+4:]))
	return b
}

// parseRecordHeader decodes the header at the front of b, which was read at p.
func parseRecordHeader(b []byte, p place) (r record, err error) {
	if len(b) < recordHeaderLen || p.checksum(b[4:recordHeaderLen]) != binary.LittleEndian.Uint32(b) {
		return record{}, errNoRecord
	}
	r.sum = binary.LittleEndian.Uint32(b[4:])
	length := binary.LittleEndian.Uint32(b[8:])
	r.used = useTime(binary.LittleEndian.Uint32(b[12:]))
	if length == 0 || length > chunk.MaxSize || r.used > maxUseTime {
		return record{}, errNoRecord
	}
	r.length = int(length)
	r.id = chunk.ID(b[16:recordHeaderLen])
	return r, nil
}

// holds reports whether payload is that of r.
func (r record) holds(payload []byte) bool {
	return len(payload) == r.length && crc32.Checksum(payload, castagnoli) == r.sum
}
