package overlay

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// protocolVersion is the one version of control messages that we speak.
const protocolVersion = 1

const (
	messageHeaderLen = 3    // kind, length
	maxMessageBody   = 4096 // bytes; punch's messages have at most about 2 KiB
	maxSoftware      = 64   // bytes of hello.software
	maxReason        = 32   // bytes of report.reason
	maxLinksTold     = 8    // links of linkList
	maxRelaysTold    = 8    // relays of relayList
)

// Kinds of message on the control stream (docs/overlay-protocol.md,
// section 2). Kinds from firstExtension on are skipped by a receiver that does
// not know them.
const (
	kindProof      = 0x01
	kindHello      = 0x02
	kindPunch      = 0x03
	kindPing       = 0x04
	kindPong       = 0x05
	kindReport     = 0x06
	firstExtension = 0x40
	kindMember     = 0x40
	kindListAt     = 0x41
	kindListGet    = 0x42
	kindListPart   = 0x43
	kindLinks      = 0x45
	kindRelays     = 0x46
)

// A message travels on the control stream.
type message interface {
	kind() byte
	appendBody(b []byte) []byte
}

// A proof shows that the sender holds a token of the receiver's.
type proof struct{ mac [32]byte }

// A hello is the first message of either side that the other has authorized.
type hello struct {
	version      uint16 // highest version spoken
	capabilities uint32 // bits; unknown ones are ignored
	policy       PathPolicy
	software     string // for people's eyes
}

// A punchMessage carries one message of package punch.
type punchMessage struct{ data []byte }

// A ping asks for a pong with the same nonce.
type ping struct{ nonce uint64 }
type pong struct{ nonce uint64 }

// A report says what the TLS client of the session has decided: whether the
// session counts as direct, and otherwise why not.
type report struct{ reason punch.Reason }

// A memberMessage shows that the sender is a member of the receiver's grid: a
// membership.Proof, which the receiver has yet to look into.
type memberMessage struct{ proof []byte }

// A listAt tells which revocation list the sender has; listGet asks for a part
// of it and listPart is that part.
type listAt struct{ sequence uint64 }

type listGet struct {
	sequence uint64
	offset   uint32
}

type listPart struct {
	sequence      uint64
	total, offset uint32
	data          []byte
}

// A linkList names the links of the server, as punch's descriptions do, the
// preferred one first.
type linkList struct{ ids []uint16 }

// A relayList names the relays that the sender is registered with.
type relayList struct{ relays []relayAt }

// A relayAt is a relay and the round trip time to it, in milliseconds on the
// wire; zero: not known.
type relayAt struct {
	relay ri2n.PeerID
	rtt   time.Duration
}

const relayAtLen = 34

// An unknown is a message of a later version that may be skipped.
type unknown struct {
	code byte
	body []byte
}

func (proof) kind() byte         { return kindProof }
func (hello) kind() byte         { return kindHello }
func (punchMessage) kind() byte  { return kindPunch }
func (ping) kind() byte          { return kindPing }
func (pong) kind() byte          { return kindPong }
func (report) kind() byte        { return kindReport }
func (memberMessage) kind() byte { return kindMember }
func (listAt) kind() byte        { return kindListAt }
func (listGet) kind() byte       { return kindListGet }
func (listPart) kind() byte      { return kindListPart }
func (linkList) kind() byte      { return kindLinks }
func (relayList) kind() byte     { return kindRelays }
func (m unknown) kind() byte     { return m.code }

func (m proof) appendBody(b []byte) []byte { return append(b, m.mac[:]...) }

func (m hello) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.version)
	b = binary.BigEndian.AppendUint32(b, m.capabilities)
	b = append(b, byte(m.policy))
	return append(b, m.software...)
}

func (m punchMessage) appendBody(b []byte) []byte  { return append(b, m.data...) }
func (m ping) appendBody(b []byte) []byte          { return binary.BigEndian.AppendUint64(b, m.nonce) }
func (m pong) appendBody(b []byte) []byte          { return binary.BigEndian.AppendUint64(b, m.nonce) }
func (m report) appendBody(b []byte) []byte        { return append(b, m.reason...) }
func (m unknown) appendBody(b []byte) []byte       { return append(b, m.body...) }
func (m memberMessage) appendBody(b []byte) []byte { return append(b, m.proof...) }
func (m listAt) appendBody(b []byte) []byte        { return binary.BigEndian.AppendUint64(b, m.sequence) }

func (m listGet) appendBody(b []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, m.sequence), m.offset)
}

func (m listPart) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.sequence)
	b = binary.BigEndian.AppendUint32(b, m.total)
	return append(binary.BigEndian.AppendUint32(b, m.offset), m.data...)
}

func (m linkList) appendBody(b []byte) []byte {
	for _, id := range m.ids {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return b
}

func (m relayList) appendBody(b []byte) []byte {
	for _, r := range m.relays {
		b = append(b, r.relay[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(min(r.rtt.Milliseconds(), 1<<16-1)))
	}
	return b
}

// appendMessage extends b by m with its header.
func appendMessage(b []byte, m message) []byte {
	start := len(b)
	b = m.appendBody(append(b, m.kind(), 0, 0))
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-messageHeaderLen))
	return b
}

// parseMessage decodes the message at the front of b and returns the bytes
// after it. What it returns shares no memory with b.
func parseMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < messageHeaderLen {
		return nil, nil, fmt.Errorf("%w: message cut short", errMalformed)
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n > maxMessageBody {
		return nil, nil, fmt.Errorf("%w: message of %d bytes", errMalformed, n)
	}
	if len(b) < messageHeaderLen+n {
		return nil, nil, fmt.Errorf("%w: message cut short", errMalformed)
	}
	m, err = parseBody(b[0], b[messageHeaderLen:messageHeaderLen+n])
	if err != nil {
		return nil, nil, err
	}
	return m, b[messageHeaderLen+n:], nil
}

// readMessage reads one message from a control stream. The error is
// errMalformed or the stream's own; io.EOF only between messages.
func readMessage(r io.Reader) (message, error) {
	var h [messageHeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(h[1:]))
	if n > maxMessageBody {
		return nil, fmt.Errorf("%w: message of %d bytes", errMalformed, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return parseBody(h[0], body)
}

// parseBody decodes a whole body.
func parseBody(kind byte, b []byte) (message, error) {
	bad := func() (message, error) {
		return nil, fmt.Errorf("%w: message of kind %#02x with %d bytes", errMalformed, kind, len(b))
	}
	switch kind {
	case kindProof:
		if len(b) != 32 {
			return bad()
		}
		return proof{mac: [32]byte(b)}, nil
	case kindHello:
		if len(b) < 7 || len(b) > 7+maxSoftware || !utf8.Valid(b[7:]) || b[6] > byte(PathDirectOnly) {
			return bad()
		}
		return hello{
			version:      binary.BigEndian.Uint16(b),
			capabilities: binary.BigEndian.Uint32(b[2:]),
			policy:       PathPolicy(b[6]),
			software:     string(b[7:]),
		}, nil
	case kindPunch:
		if len(b) == 0 {
			return bad()
		}
		return punchMessage{data: append([]byte(nil), b...)}, nil
	case kindPing, kindPong:
		if len(b) != 8 {
			return bad()
		}
		nonce := binary.BigEndian.Uint64(b)
		if kind == kindPing {
			return ping{nonce}, nil
		}
		return pong{nonce}, nil
	case kindReport:
		r := punch.Reason(b)
		// The list of reasons is closed, and each has an advice.
		if len(b) > maxReason || r != punch.Direct && r.Advice() == "" {
			return bad()
		}
		return report{reason: r}, nil
	case kindMember:
		if len(b) == 0 || len(b) > membership.MaxProof {
			return bad()
		}
		return memberMessage{proof: append([]byte(nil), b...)}, nil
	case kindListAt:
		if len(b) != 8 {
			return bad()
		}
		return listAt{binary.BigEndian.Uint64(b)}, nil
	case kindListGet:
		if len(b) != 12 {
			return bad()
		}
		return listGet{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}, nil
	case kindListPart:
		if len(b) <= 16 || len(b) > 16+maxListPart {
			return bad()
		}
		return listPart{
			sequence: binary.BigEndian.Uint64(b), total: binary.BigEndian.Uint32(b[8:]),
			offset: binary.BigEndian.Uint32(b[12:]), data: append([]byte(nil), b[16:]...),
		}, nil
	}
	if kind == kindLinks {
		if len(b)%2 != 0 || len(b) > 2*maxLinksTold {
			return bad()
		}
		var m linkList
		for ; len(b) > 0; b = b[2:] {
			m.ids = append(m.ids, binary.BigEndian.Uint16(b))
		}
		return m, nil
	}
	if kind == kindRelays {
		if len(b)%relayAtLen != 0 || len(b) > relayAtLen*maxRelaysTold {
			return bad()
		}
		var m relayList
		for ; len(b) > 0; b = b[relayAtLen:] {
			m.relays = append(m.relays, relayAt{
				relay: ri2n.PeerID(b[:32]), rtt: time.Duration(binary.BigEndian.Uint16(b[32:])) * time.Millisecond,
			})
		}
		return m, nil
	}
	if kind < firstExtension {
		return bad()
	}
	return unknown{code: kind, body: append([]byte(nil), b...)}, nil
}
