package ri2n

import (
	"fmt"
	"math"
	"time"
)

// Frame types (docs/wire-format.md, section 4). They are untyped: on the wire
// a type is a varint.
const (
	framePadding            = 0x00
	framePing               = 0x01
	framePathAck            = 0x02
	framePathAckECN         = 0x03
	frameResetStream        = 0x04
	frameStopSending        = 0x05
	frameCrypto             = 0x06
	frameHandshakeDone      = 0x07
	frameStream             = 0x08 // to 0x0f: with the streamBits
	frameMaxData            = 0x10
	frameMaxStreamData      = 0x11
	frameMaxStreamsBidi     = 0x12
	frameMaxStreamsUni      = 0x13
	frameDataBlocked        = 0x14
	frameStreamDataBlocked  = 0x15
	frameStreamsBlockedBidi = 0x16
	frameStreamsBlockedUni  = 0x17
	framePathChallenge      = 0x1a
	framePathResponse       = 0x1b
	frameClose              = 0x1c
	framePathStatus         = 0x20
	framePathAbandon        = 0x21
	frameMaxPaths           = 0x22
	frameAddrAdd            = 0x24
	frameAddrRemove         = 0x25
	frameObservedAddr       = 0x26
	frameAckFreq            = 0x28
	frameDatagram           = 0x30 // to the end of the packet
	frameDatagramLen        = 0x31
	frameDatagramNumbered   = 0x32
)

// Bits of the type of a STREAM frame.
const (
	streamBitFIN = 0x01
	streamBitLEN = 0x02
	streamBitOFF = 0x04
	streamBits   = streamBitFIN | streamBitLEN | streamBitOFF
)

// isStreamFrame reports whether typ is one of the eight STREAM types.
func isStreamFrame(typ uint64) bool { return typ&^streamBits == frameStream }

// isAckElicitingFrame reports whether a packet with a frame of this type is to
// be acknowledged (RFC 9002, section 2).
func isAckElicitingFrame(typ uint64) bool {
	switch typ {
	case framePadding, framePathAck, framePathAckECN, frameClose:
		return false
	}
	return true
}

// isHandshakeFrame reports whether a frame of this type may be in an Initial or
// Handshake packet. All types but CRYPTO may be in a short one.
func isHandshakeFrame(typ uint64) bool {
	switch typ {
	case framePadding, framePing, framePathAck, frameCrypto, frameClose:
		return true
	}
	return false
}

// frameName returns the name of a frame type in docs/wire-format.md.
func frameName(typ uint64) string {
	if isStreamFrame(typ) {
		return "STREAM"
	}
	switch typ {
	case framePadding:
		return "PADDING"
	case framePing:
		return "PING"
	case framePathAck:
		return "PATH_ACK"
	case framePathAckECN:
		return "PATH_ACK_ECN"
	case frameResetStream:
		return "RESET_STREAM"
	case frameStopSending:
		return "STOP_SENDING"
	case frameCrypto:
		return "CRYPTO"
	case frameHandshakeDone:
		return "HANDSHAKE_DONE"
	case frameMaxData:
		return "MAX_DATA"
	case frameMaxStreamData:
		return "MAX_STREAM_DATA"
	case frameMaxStreamsBidi:
		return "MAX_STREAMS_BIDI"
	case frameMaxStreamsUni:
		return "MAX_STREAMS_UNI"
	case frameDataBlocked:
		return "DATA_BLOCKED"
	case frameStreamDataBlocked:
		return "STREAM_DATA_BLOCKED"
	case frameStreamsBlockedBidi:
		return "STREAMS_BLOCKED_BIDI"
	case frameStreamsBlockedUni:
		return "STREAMS_BLOCKED_UNI"
	case framePathChallenge:
		return "PATH_CHALLENGE"
	case framePathResponse:
		return "PATH_RESPONSE"
	case frameClose:
		return "CLOSE"
	case framePathStatus:
		return "PATH_STATUS"
	case frameDatagramNumbered:
		return "DATAGRAM_NUMBERED"
	case framePathAbandon:
		return "PATH_ABANDON"
	case frameMaxPaths:
		return "MAX_PATHS"
	case frameAddrAdd:
		return "ADDR_ADD"
	case frameAddrRemove:
		return "ADDR_REMOVE"
	case frameObservedAddr:
		return "OBSERVED_ADDR"
	case frameAckFreq:
		return "ACK_FREQ"
	case frameDatagram:
		return "DATAGRAM"
	case frameDatagramLen:
		return "DATAGRAM_LEN"
	}
	return fmt.Sprintf("frame %#x", typ)
}

// PADDING and PING have no fields, HANDSHAKE_DONE neither.

// appendPadding appends n bytes of PADDING, one frame each.
func appendPadding(b []byte, n int) []byte {
	for range n {
		b = append(b, framePadding)
	}
	return b
}

// skipPadding returns b from its first byte that is not PADDING.
func skipPadding(b []byte) []byte {
	for len(b) >= 8 && [8]byte(b) == [8]byte{} {
		b = b[8:]
	}
	for len(b) > 0 && b[0] == framePadding {
		b = b[1:]
	}
	return b
}

func appendPingFrame(b []byte) []byte { return append(b, framePing) }

func appendHandshakeDoneFrame(b []byte) []byte { return append(b, frameHandshakeDone) }

// parsePathID decodes a path ID, which is below 2^32.
func parsePathID(b []byte) (id pathID, rest []byte, err error) {
	v, rest, err := parseVarint(b)
	if err != nil {
		return 0, nil, err
	}
	if v > math.MaxUint32 {
		return 0, nil, errMalformed
	}
	return pathID(v), rest, nil
}

// maxDurationUnits bounds the durations on the wire, in their unit. Thus none
// overflows a time.Duration.
const maxDurationUnits = math.MaxUint32

// appendDuration appends d in whole units, rounded down. A negative d becomes
// zero and one too long the longest.
func appendDuration(b []byte, d, unit time.Duration) []byte {
	return appendVarint(b, uint64(min(max(d, 0)/unit, maxDurationUnits)))
}

func parseDuration(b []byte, unit time.Duration) (d time.Duration, rest []byte, err error) {
	v, rest, err := parseVarint(b)
	if err != nil {
		return 0, nil, err
	}
	if v > maxDurationUnits {
		return 0, nil, errMalformed
	}
	return time.Duration(v) * unit, rest, nil
}

// parseBytes decodes a varint length and that many bytes, which alias b.
func parseBytes(b []byte) (data, rest []byte, err error) {
	n, b, err := parseVarint(b)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(b)) {
		return nil, nil, errTruncated
	}
	return b[:n:n], b[n:], nil
}
