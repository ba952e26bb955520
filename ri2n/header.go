package ri2n

import "encoding/binary"

// A connID tells the receiver which session, or which path of one, a packet
// belongs to. It is 8 bytes, big-endian, on the wire.
type connID uint64

// A pathID numbers the paths of a session: even IDs are opened by the client,
// odd ones by the server. IDs are never reused.
type pathID uint32

// A packetNumber counts the packets sent on one path, from 0, without reuse.
// It stays below 2^62.
type packetNumber uint64

// shortHeaderLen is the length of a short header in bytes, always.
const shortHeaderLen = 13

// Bits of the first byte of a packet (docs/wire-format.md, section 3).
const (
	bitLong      = 0x80
	bitSession   = 0x40 // always set; STUN leaves it clear (RFC 9443, section 3)
	bitKeyPhase  = 0x20
	bitRedundant = 0x10
	maskReserved = 0x0f
)

// A shortHeader opens every packet once the handshake is complete
// (docs/wire-format.md, section 3.1).
type shortHeader struct {
	keyPhase  bool
	redundant bool  // a copy of what another path carries
	reserved  uint8 // low 4 bits; checked to be zero once the AEAD has been
	dcid      connID
	pn        uint32 // low 32 bits of the packet number
}

// isSessionPacket reports whether a datagram that begins with b0 is RI2N; the
// others (STUN and probes) belong to whoever shares the socket.
func isSessionPacket(b0 byte) bool { return b0&bitSession != 0 }

// isLongPacket reports whether a packet that begins with b0 has a long header.
func isLongPacket(b0 byte) bool { return b0&(bitLong|bitSession) == bitLong|bitSession }

// appendShortHeader appends the shortHeaderLen bytes of h.
func appendShortHeader(b []byte, h shortHeader) []byte {
	b0 := byte(bitSession) | h.reserved&maskReserved
	if h.keyPhase {
		b0 |= bitKeyPhase
	}
	if h.redundant {
		b0 |= bitRedundant
	}
	b = append(b, b0)
	b = binary.BigEndian.AppendUint64(b, uint64(h.dcid))
	return binary.BigEndian.AppendUint32(b, h.pn)
}

// parseShortHeader decodes the header at the front of b. The payload, still
// sealed, aliases b.
func parseShortHeader(b []byte) (h shortHeader, payload []byte, err error) {
	if len(b) < shortHeaderLen {
		return shortHeader{}, nil, errTruncated
	}
	if b[0]&(bitLong|bitSession) != bitSession {
		return shortHeader{}, nil, errMalformed
	}
	return shortHeader{
		keyPhase:  b[0]&bitKeyPhase != 0,
		redundant: b[0]&bitRedundant != 0,
		reserved:  b[0] & maskReserved,
		dcid:      connID(binary.BigEndian.Uint64(b[1:])),
		pn:        binary.BigEndian.Uint32(b[9:]),
	}, b[shortHeaderLen:], nil
}

// expandPacketNumber returns the packet number nearest to largest+1 whose low
// 32 bits are truncated (RFC 9000, appendix A.3). Largest is the largest number
// received so far on the path, zero before the first. A sender keeps its
// unacknowledged numbers within 2^31.
func expandPacketNumber(largest packetNumber, truncated uint32) packetNumber {
	const window = 1 << 32
	expected := largest + 1
	candidate := expected&^(window-1) | packetNumber(truncated)
	switch {
	case candidate+window/2 <= expected && candidate+window <= maxVarint:
		return candidate + window
	case candidate >= window && (candidate > expected+window/2 || candidate > maxVarint):
		return candidate - window
	}
	return candidate
}
