package ri2n

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// A longType is the kind of a packet with a long header.
type longType uint8

const (
	longInitial            longType = 0
	longHandshake          longType = 1
	longRetry              longType = 2
	longVersionNegotiation longType = 3
)

// version1 is "R2\x00\x01".
const version1 uint32 = 0x52320001

const (
	longPrefixLen = 21 // first byte, version, DCID, SCID
	mac1Len       = 16
	// sealedMin is the least that the length field counts: packet number and
	// tag.
	sealedMin = 2 + aeadOverhead
	// maxTokenLen bounds a Retry token in bytes. Ours has retryTokenLen.
	maxTokenLen = 256
	// maxVersions bounds the list of a Version Negotiation packet.
	maxVersions = 16
)

// errVersion reports a long header of a version that we do not speak.
var errVersion = errors.New("ri2n: unknown version")

// A longHeader opens the packets of the handshake (docs/wire-format.md,
// section 3.2). Version Negotiation has a structure of its own.
type longHeader struct {
	typ     longType // longInitial, longHandshake or longRetry
	version uint32
	dcid    connID
	scid    connID
	token   []byte        // Initial: may be empty; Retry: not empty
	mac1    [mac1Len]byte // Initial and Retry; computed by append
	length  uint16        // Initial and Handshake: packet number, payload and tag, in bytes
	pn      uint16        // Initial and Handshake: the whole packet number, on path 0
}

// hasMAC1 reports whether packets of type t carry a token and a mac1.
func (t longType) hasMAC1() bool { return t == longInitial || t == longRetry }

// longHeaderLen returns the length of the encoding of h in bytes.
func longHeaderLen(h longHeader) int {
	n := longPrefixLen
	if h.typ.hasMAC1() {
		n += 2 + len(h.token) + mac1Len
	}
	if h.typ != longRetry {
		n += 4
	}
	return n
}

// appendLongHeader appends h. The mac1 of an Initial or a Retry is computed
// with macKey, the dialed side's mac1Key, over the header up to it; macKey may
// be nil for a Handshake packet. A token above maxTokenLen panics.
func appendLongHeader(b []byte, h longHeader, macKey *[32]byte) []byte {
	start := len(b)
	b = appendLongPrefix(b, h.typ, h.version, h.dcid, h.scid)
	if h.typ.hasMAC1() {
		if len(h.token) > maxTokenLen {
			panic("ri2n: a token has at most maxTokenLen bytes")
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(h.token)))
		b = append(b, h.token...)
		mac := computeMAC1(macKey, b[start:])
		b = append(b, mac[:]...)
	}
	if h.typ == longRetry {
		return b
	}
	b = binary.BigEndian.AppendUint16(b, h.length)
	return binary.BigEndian.AppendUint16(b, h.pn)
}

// parseLongHeader decodes the long header at the front of b. For an Initial or
// a Handshake packet, b[:headerLen] is the header, which is also the AAD, the
// packet ends at headerLen-2+h.length, and rest is what follows it in the
// datagram. A Retry packet fills its datagram. The token aliases b.
//
// The error is errVersion for another version than version1; h then holds what
// all versions share, that is the fields up to mac1.
func parseLongHeader(b []byte) (h longHeader, headerLen int, rest []byte, err error) {
	typ, version, dcid, scid, ok := peekLong(b)
	if !ok {
		return longHeader{}, 0, nil, errTruncated
	}
	h = longHeader{typ: typ, version: version, dcid: dcid, scid: scid}
	if typ == longVersionNegotiation || version == 0 {
		return longHeader{}, 0, nil, errMalformed
	}
	at := longPrefixLen
	if typ.hasMAC1() {
		if len(b) < at+2 {
			return longHeader{}, 0, nil, errTruncated
		}
		n := int(binary.BigEndian.Uint16(b[at:]))
		at += 2
		if n > maxTokenLen || n == 0 && typ == longRetry {
			return longHeader{}, 0, nil, errMalformed
		}
		if len(b) < at+n+mac1Len {
			return longHeader{}, 0, nil, errTruncated
		}
		h.token = b[at : at+n : at+n]
		at += n
		h.mac1 = [mac1Len]byte(b[at:])
		at += mac1Len
	}
	if version != version1 {
		return h, 0, nil, errVersion
	}
	if b[0]&maskReserved != 0 {
		return longHeader{}, 0, nil, errMalformed
	}
	if typ == longRetry {
		if len(b) != at {
			return longHeader{}, 0, nil, errMalformed
		}
		return h, at, nil, nil
	}
	if len(b) < at+4 {
		return longHeader{}, 0, nil, errTruncated
	}
	h.length = binary.BigEndian.Uint16(b[at:])
	h.pn = binary.BigEndian.Uint16(b[at+2:])
	if h.length < sealedMin {
		return longHeader{}, 0, nil, errMalformed
	}
	end := at + 2 + int(h.length)
	if len(b) < end {
		return longHeader{}, 0, nil, errTruncated
	}
	return h, at + 4, b[end:], nil
}

// peekLong reads what every version of the protocol keeps: type, version and
// connection IDs. It is all that a router needs; ok is false when b is too
// short or has no long header.
func peekLong(b []byte) (typ longType, version uint32, dcid, scid connID, ok bool) {
	if len(b) < longPrefixLen || !isLongPacket(b[0]) {
		return 0, 0, 0, 0, false
	}
	return longType(b[0] >> 4 & 3),
		binary.BigEndian.Uint32(b[1:]),
		connID(binary.BigEndian.Uint64(b[5:])),
		connID(binary.BigEndian.Uint64(b[13:])),
		true
}

func appendLongPrefix(b []byte, typ longType, version uint32, dcid, scid connID) []byte {
	b = append(b, bitLong|bitSession|byte(typ)<<4)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(dcid))
	return binary.BigEndian.AppendUint64(b, uint64(scid))
}

// mac1Key returns the key of mac1 for packets to and from a responder, the
// dialed side. Whoever knows its peer ID knows the key: mac1 keeps a responder
// silent to those who do not, it authenticates nobody.
func mac1Key(responder PeerID) [32]byte {
	const label = "ri2n mac1"
	var b [len(label) + len(responder)]byte
	copy(b[copy(b[:], label):], responder[:])
	return sha256.Sum256(b[:])
}

// computeMAC1 returns the first 16 bytes of HMAC-SHA256 over covered.
func computeMAC1(key *[32]byte, covered []byte) (mac [mac1Len]byte) {
	m := hmac.New(sha256.New, key[:])
	m.Write(covered)
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	copy(mac[:], sum[:])
	return mac
}

// checkMAC1 reports, in constant time, whether the mac1 of packet, an Initial
// or a Retry of any version, is right. The header h is what parseLongHeader
// found at the front of packet.
func checkMAC1(packet []byte, h longHeader, macKey *[32]byte) bool {
	at := longPrefixLen + 2 + len(h.token)
	if !h.typ.hasMAC1() || len(packet) < at+mac1Len {
		return false
	}
	mac := computeMAC1(macKey, packet[:at])
	return subtle.ConstantTimeCompare(mac[:], packet[at:at+mac1Len]) == 1
}

// A versionNegotiation tells a dialer which versions the responder speaks. It
// is not authenticated: the dialer takes it only for the connection IDs of its
// own Initial, and only before any other answer.
type versionNegotiation struct {
	dcid     connID // the dialer's SCID
	scid     connID // the dialer's DCID
	versions []uint32
}

// appendVersionNegotiation appends a whole datagram. It panics unless there
// are 1 to maxVersions versions.
func appendVersionNegotiation(b []byte, v versionNegotiation) []byte {
	if len(v.versions) == 0 || len(v.versions) > maxVersions {
		panic("ri2n: Version Negotiation lists 1 to maxVersions versions")
	}
	b = appendLongPrefix(b, longVersionNegotiation, 0, v.dcid, v.scid)
	for _, version := range v.versions {
		b = binary.BigEndian.AppendUint32(b, version)
	}
	return b
}

// parseVersionNegotiation decodes the datagram b.
func parseVersionNegotiation(b []byte) (v versionNegotiation, err error) {
	typ, version, dcid, scid, ok := peekLong(b)
	if !ok || len(b) == longPrefixLen {
		return versionNegotiation{}, errTruncated
	}
	if typ != longVersionNegotiation || version != 0 || b[0]&maskReserved != 0 {
		return versionNegotiation{}, errMalformed
	}
	list := b[longPrefixLen:]
	if len(list)%4 != 0 {
		return versionNegotiation{}, errTruncated
	}
	if len(list)/4 > maxVersions {
		return versionNegotiation{}, errMalformed
	}
	v = versionNegotiation{dcid: dcid, scid: scid, versions: make([]uint32, 0, len(list)/4)}
	for ; len(list) > 0; list = list[4:] {
		v.versions = append(v.versions, binary.BigEndian.Uint32(list))
	}
	return v, nil
}
