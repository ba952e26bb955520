package swim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/routing"
)

// ErrMalformed is the cause of every error of the parser.
var ErrMalformed = errors.New("swim: malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// version is the only version of the messages.
const version = 1

// MaxMessage is the largest message in bytes. It fits a datagram of every
// session.
const MaxMessage = headerSize + pulseSize + 32 + 1 + maxRumours*(1+32+pulseSize+32)

const (
	headerSize = 1 + 1 + 8
	pulseSize  = 8 + 1 + 64

	// maxRumours is how many rumours a message carries at most.
	maxRumours = 6
)

// A kind tells what a message is (docs/routing-protocol.md, section 8).
type kind uint8

const (
	kindPing    kind = 1 // do you live?
	kindAck     kind = 2 // I do; or: subject does
	kindPingReq kind = 3 // ask subject for me
	kindNack    kind = 4 // subject has not answered me yet
	kindRumour  kind = 5 // rumours only
)

// A Pulse is a member's own word that it lives. Number grows with each that it
// signs, over restarts too: it is at least the milliseconds since 1970 of its
// clock.
type Pulse struct {
	Number    uint64 // zero: none is known
	Leaving   bool   // the last one: the member says farewell
	Signature [64]byte
}

// pulseDomain separates pulses from all else that a node signs.
const pulseDomain = "instantgrid pulse v1\x00"

// signed returns what the signature of p covers, when p is peer's.
func (p *Pulse) signed(peer routing.PeerID) []byte {
	b := append(make([]byte, 0, len(pulseDomain)+41), pulseDomain...)
	b = append(b, peer[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Number)
	return append(b, p.flags())
}

func (p *Pulse) flags() byte {
	if p.Leaving {
		return 1
	}
	return 0
}

// A rumour is news about a member. Without an accuser it is its pulse, and
// refutes suspicions with smaller numbers; with one, it says that nobody could
// reach the member since that pulse.
type rumour struct {
	peer    routing.PeerID
	pulse   Pulse
	accused bool
	accuser routing.PeerID
}

// A message is one of every kind.
type message struct {
	kind     kind
	sequence uint64
	pulse    Pulse          // the sender's
	subject  routing.PeerID // PING-REQ, NACK, and an ACK on behalf of another; else zero
	rumours  []rumour
}

func appendPulse(b []byte, p *Pulse) []byte {
	b = binary.BigEndian.AppendUint64(b, p.Number)
	b = append(b, p.flags())
	return append(b, p.Signature[:]...)
}

func parsePulse(b []byte) (p Pulse, rest []byte, err error) {
	if len(b) < pulseSize {
		return p, nil, malformed("it is cut short")
	}
	if b[8] > 1 {
		return p, nil, malformed("pulse flags %#02x", b[8])
	}
	return Pulse{binary.BigEndian.Uint64(b), b[8] == 1, [64]byte(b[9:pulseSize])}, b[pulseSize:], nil
}

// appendMessage extends b by m.
func appendMessage(b []byte, m *message) []byte {
	b = append(b, version, byte(m.kind))
	b = binary.BigEndian.AppendUint64(b, m.sequence)
	b = appendPulse(b, &m.pulse)
	b = append(b, m.subject[:]...)
	b = append(b, byte(len(m.rumours)))
	for i := range m.rumours {
		r := &m.rumours[i]
		accused := byte(0)
		if r.accused {
			accused = 1
		}
		b = append(b, accused)
		b = append(b, r.peer[:]...)
		b = appendPulse(b, &r.pulse)
		if r.accused {
			b = append(b, r.accuser[:]...)
		}
	}
	return b
}

// parseMessage decodes b, which is one message and nothing else.
func parseMessage(b []byte) (m message, err error) {
	if len(b) > MaxMessage {
		return m, malformed("%d bytes", len(b))
	}
	if len(b) < headerSize {
		return m, malformed("it is cut short")
	}
	if b[0] != version {
		return m, malformed("version %d", b[0])
	}
	m.kind, m.sequence = kind(b[1]), binary.BigEndian.Uint64(b[2:])
	if m.kind < kindPing || m.kind > kindRumour {
		return m, malformed("kind %d", m.kind)
	}
	if m.pulse, b, err = parsePulse(b[headerSize:]); err != nil {
		return m, err
	}
	if len(b) < 33 {
		return m, malformed("it is cut short")
	}
	m.subject = routing.PeerID(b[:32])
	count := int(b[32])
	b = b[33:]
	if count > maxRumours {
		return m, malformed("%d rumours", count)
	}
	for range count {
		var r rumour
		if r, b, err = parseRumour(b); err != nil {
			return m, err
		}
		m.rumours = append(m.rumours, r)
	}
	if len(b) > 0 {
		return m, malformed("%d bytes too many", len(b))
	}
	return m, nil
}

func parseRumour(b []byte) (r rumour, rest []byte, err error) {
	if len(b) < 33 {
		return r, nil, malformed("it is cut short")
	}
	if b[0] > 1 {
		return r, nil, malformed("rumour of kind %d", b[0])
	}
	r.accused, r.peer = b[0] == 1, routing.PeerID(b[1:33])
	if r.pulse, b, err = parsePulse(b[33:]); err != nil {
		return r, nil, err
	}
	if r.accused {
		if len(b) < 32 {
			return r, nil, malformed("it is cut short")
		}
		r.accuser, b = routing.PeerID(b[:32]), b[32:]
	}
	return r, b, nil
}
