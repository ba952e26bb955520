package ri2n

import (
	"encoding/binary"
	"math"
	"time"
)

// maxTransportParams bounds the encoding in bytes: eight times what we send.
const maxTransportParams = 1024

// IDs of transport parameters (docs/wire-format.md, section 6).
const (
	paramVersion        = 0x00
	paramOriginalDCID   = 0x01
	paramInitialSCID    = 0x02
	paramRetrySCID      = 0x03
	paramMaxData        = 0x04
	paramMaxStreamData  = 0x05
	paramMaxStreamsBidi = 0x06
	paramMaxStreamsUni  = 0x07
	paramMaxIdle        = 0x08
	paramMaxAckDelay    = 0x09
	paramMaxDatagram    = 0x0a
	paramMaxPaths       = 0x0b
	paramCount          = 0x0c
)

// transportParams travel in the TLS extension 0x39 of both sides. All but
// retrySCID are always present.
type transportParams struct {
	// The handshake as its sender saw it (RFC 9000, section 7.3).
	version      uint32
	originalDCID connID // of the client's first Initial
	initialSCID  connID // of the sender's Initials
	retrySCID    connID // of the Retry; server only, when there was one
	hasRetrySCID bool

	// What the peer may do until it is told more.
	maxData        uint64
	maxStreamData  uint64 // of each stream
	maxStreamsBidi uint64 // at most maxStreamCount
	maxStreamsUni  uint64
	maxDatagram    uint64 // bytes of one DATAGRAM's data; zero: none are taken
	maxPaths       pathID // highest ID, as in MAX_PATHS

	maxIdle     time.Duration // the session ends after this silence; whole ms; zero: never
	maxAckDelay time.Duration // whole microseconds
}

// appendTransportParams appends p, parameters in ascending order.
func appendTransportParams(b []byte, p transportParams) []byte {
	b = appendParamHeader(b, paramVersion, 4)
	b = binary.BigEndian.AppendUint32(b, p.version)
	b = appendParamCID(b, paramOriginalDCID, p.originalDCID)
	b = appendParamCID(b, paramInitialSCID, p.initialSCID)
	if p.hasRetrySCID {
		b = appendParamCID(b, paramRetrySCID, p.retrySCID)
	}
	b = appendParamVarint(b, paramMaxData, p.maxData)
	b = appendParamVarint(b, paramMaxStreamData, p.maxStreamData)
	b = appendParamVarint(b, paramMaxStreamsBidi, p.maxStreamsBidi)
	b = appendParamVarint(b, paramMaxStreamsUni, p.maxStreamsUni)
	b = appendParamDuration(b, paramMaxIdle, p.maxIdle, time.Millisecond)
	b = appendParamDuration(b, paramMaxAckDelay, p.maxAckDelay, time.Microsecond)
	b = appendParamVarint(b, paramMaxDatagram, p.maxDatagram)
	return appendParamVarint(b, paramMaxPaths, uint64(p.maxPaths))
}

func appendParamHeader(b []byte, id uint64, length int) []byte {
	return appendVarint(appendVarint(b, id), uint64(length))
}

func appendParamCID(b []byte, id uint64, cid connID) []byte {
	return binary.BigEndian.AppendUint64(appendParamHeader(b, id, 8), uint64(cid))
}

func appendParamVarint(b []byte, id, v uint64) []byte {
	return appendVarint(appendParamHeader(b, id, varintLen(v)), v)
}

func appendParamDuration(b []byte, id uint64, d, unit time.Duration) []byte {
	return appendParamVarint(b, id, uint64(min(max(d, 0)/unit, maxDurationUnits)))
}

// parseTransportParams decodes all of b. Parameters of unknown IDs are skipped:
// they are the room for extensions.
func parseTransportParams(b []byte) (p transportParams, err error) {
	if len(b) > maxTransportParams {
		return transportParams{}, errMalformed
	}
	var seen [paramCount]bool
	next := uint64(0) // the least ID that keeps the order
	for len(b) > 0 {
		var id uint64
		var value []byte
		if id, b, err = parseVarint(b); err != nil {
			return transportParams{}, err
		}
		if id < next {
			return transportParams{}, errMalformed
		}
		next = id + 1
		if value, b, err = parseBytes(b); err != nil {
			return transportParams{}, err
		}
		if id >= paramCount {
			continue
		}
		seen[id] = true
		if err := p.set(id, value); err != nil {
			return transportParams{}, err
		}
	}
	for id, ok := range seen {
		if !ok && id != paramRetrySCID {
			return transportParams{}, errTruncated
		}
	}
	p.hasRetrySCID = seen[paramRetrySCID]
	return p, nil
}

// set decodes the value of one known parameter.
func (p *transportParams) set(id uint64, value []byte) error {
	switch id {
	case paramVersion:
		if len(value) != 4 {
			return errMalformed
		}
		p.version = binary.BigEndian.Uint32(value)
		return nil
	case paramOriginalDCID:
		return setParamCID(&p.originalDCID, value)
	case paramInitialSCID:
		return setParamCID(&p.initialSCID, value)
	case paramRetrySCID:
		return setParamCID(&p.retrySCID, value)
	}
	v, rest, err := parseVarint(value)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return errMalformed
	}
	limit := uint64(maxVarint)
	switch id {
	case paramMaxData:
		p.maxData = v
	case paramMaxStreamData:
		p.maxStreamData = v
	case paramMaxStreamsBidi:
		p.maxStreamsBidi, limit = v, maxStreamCount
	case paramMaxStreamsUni:
		p.maxStreamsUni, limit = v, maxStreamCount
	case paramMaxIdle:
		p.maxIdle, limit = time.Duration(v)*time.Millisecond, maxDurationUnits
	case paramMaxAckDelay:
		p.maxAckDelay, limit = time.Duration(v)*time.Microsecond, maxDurationUnits
	case paramMaxDatagram:
		p.maxDatagram = v
	case paramMaxPaths:
		p.maxPaths, limit = pathID(v), math.MaxUint32
	}
	if v > limit {
		return errMalformed
	}
	return nil
}

func setParamCID(cid *connID, value []byte) error {
	if len(value) != 8 {
		return errMalformed
	}
	*cid = connID(binary.BigEndian.Uint64(value))
	return nil
}
