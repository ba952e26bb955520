package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// headerLen is the size of a stream header in bytes.
const headerLen = 4

const (
	headerVersion  = 1
	networkTCP     = 1
	networkService = 2 // the port is the number of a service
	networkAwaited = 3 // as networkTCP, and whoever takes the stream says so
	portControl    = 0 // the stream that messages between two nodes travel on

	// taken is the first byte of the answer on a stream of networkAwaited.
	taken = 0
)

// errMalformed reports bytes that no append function of ours produces.
var errMalformed = errors.New("overlay: malformed bytes from the peer")

// A header opens every stream (docs/overlay-protocol.md, section 1). It is
// sent at once, even when there is no data yet, so that servers that speak
// first work.
type header struct {
	network uint8
	port    uint16
}

func appendHeader(b []byte, h header) []byte {
	b = append(b, headerVersion, h.network)
	return binary.BigEndian.AppendUint16(b, h.port)
}

// parseHeader decodes the header at the front of b and returns the bytes
// after it.
func parseHeader(b []byte) (h header, rest []byte, err error) {
	if len(b) < headerLen {
		return header{}, nil, fmt.Errorf("%w: stream header cut short", errMalformed)
	}
	if b[0] != headerVersion {
		return header{}, nil, fmt.Errorf("%w: stream header of version %d", errMalformed, b[0])
	}
	if b[1] < networkTCP || b[1] > networkAwaited {
		return header{}, nil, fmt.Errorf("%w: stream for network %d", errMalformed, b[1])
	}
	return header{network: b[1], port: binary.BigEndian.Uint16(b[2:])}, b[headerLen:], nil
}

// Codes with which a stream is reset (docs/overlay-protocol.md, section 1).
const (
	resetRefused  = 0x1001 // nobody listens on the port
	resetBusy     = 0x1002 // the listener's backlog is full
	resetHeader   = 0x1003 // the header makes no sense
	resetIndirect = 0x1004 // the policy forbids streams on the relay
	resetPolicy   = 0x1005 // the port is closed to this peer
	resetAborted  = 0x1006 // the program gave the connection up
)

// Codes with which a session is closed (docs/overlay-protocol.md, section 4).
const (
	closeDuplicate = 0x1101 // another session with the same peer stays
	closeProof     = 0x1102 // the token's proof is wrong, late or missing
	closeProtocol  = 0x1103 // a message made no sense
	closeMember    = 0x1104 // the membership does not hold
	closeRevoked   = 0x1105 // the membership was revoked
	closeName      = 0x1106 // another member has the name
	closeIdle      = 0x1107 // routing needs the session no longer
)
