package overlay

import (
	"encoding/binary"
	"fmt"
)

// MaxPacketSize is the largest payload in bytes that a socket of
// [Node.ListenPacket] sends, on any path: above the session's datagram size it
// travels in two halves.
const MaxPacketSize = 1500

// A packetPart says what a datagram of kind PORT holds
// (docs/overlay-protocol.md, section 9).
type packetPart uint8

const (
	partWhole   packetPart = 0
	partFirst   packetPart = 1 // of two halves
	partSecond  packetPart = 2
	partRefusal packetPart = 3 // of a packet in the other direction
)

// A packet is what travels between two ports, or a half of it.
type packet struct {
	part     packetPart
	from, to uint16
	number   uint32 // of the packet that a half belongs to
	code     uint16 // of a refusal: those of streams
	payload  []byte
}

// maxPacketHeader is the length of the longest header with its kind, in bytes.
const maxPacketHeader = 1 + 5 + 4

// appendPacket extends b by a datagram of kind PORT, the kind included.
func appendPacket(b []byte, p packet) []byte {
	b = append(b, byte(datagramPort), byte(p.part))
	b = binary.BigEndian.AppendUint16(b, p.from)
	b = binary.BigEndian.AppendUint16(b, p.to)
	switch p.part {
	case partFirst, partSecond:
		b = binary.BigEndian.AppendUint32(b, p.number)
	case partRefusal:
		return binary.BigEndian.AppendUint16(b, p.code)
	}
	return append(b, p.payload...)
}

// parsePacket decodes what follows the kind. The payload aliases b.
func parsePacket(b []byte) (p packet, err error) {
	if len(b) < 5 {
		return packet{}, fmt.Errorf("%w: packet cut short", errMalformed)
	}
	p.part = packetPart(b[0])
	p.from, p.to = binary.BigEndian.Uint16(b[1:]), binary.BigEndian.Uint16(b[3:])
	b = b[5:]
	if p.from == 0 || p.to == 0 {
		return packet{}, fmt.Errorf("%w: packet of port 0", errMalformed)
	}
	switch p.part {
	case partWhole:
	case partFirst, partSecond:
		if len(b) < 5 {
			return packet{}, fmt.Errorf("%w: half of a packet cut short", errMalformed)
		}
		p.number = binary.BigEndian.Uint32(b)
		b = b[4:]
	case partRefusal:
		if len(b) != 2 {
			return packet{}, fmt.Errorf("%w: refusal of %d bytes", errMalformed, len(b))
		}
		p.code = binary.BigEndian.Uint16(b)
		return p, nil
	default:
		return packet{}, fmt.Errorf("%w: part %d of a packet", errMalformed, p.part)
	}
	if len(b) > MaxPacketSize {
		return packet{}, fmt.Errorf("%w: packet of %d bytes", errMalformed, len(b))
	}
	p.payload = b
	return p, nil
}
