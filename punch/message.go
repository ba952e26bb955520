package punch

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A messageType is the first byte of a signalling message.
type messageType uint8

const (
	// messageOffer carries the controlling side's description.
	messageOffer messageType = 1
	// messageAnswer carries the controlled side's.
	messageAnswer messageType = 2
	// messageStart lets the controlled side begin, where the offer could not
	// tell it when.
	messageStart messageType = 3
	// messageReason tells the outcome as the controlling side decided it.
	messageReason messageType = 4
	// messageAgain asks the controlling side for a new attempt.
	messageAgain messageType = 5
	// messagePlan carries a plan for the search through hard NATs, first the
	// controlling side's.
	messagePlan messageType = 6
)

// messageVersion is the second byte of every message.
const messageVersion = 1

// A message is one signalling message (type, version, attempt and a body).
type message struct {
	kind    messageType
	attempt uint64 // chosen by the controlling side; zero: the peer as a whole

	copy        uint8         // offer: which copy, from zero; answer: of the offer that it answers
	rtt         time.Duration // offer: round trip of the session; zero: unknown
	description Description   // offer and answer
	reason      Reason        // reason
	plan        plan          // plan
}

// appendMessage appends the encoding of m:
//
//	type(1) version(1) attempt(8) body
//
// The body is copy(1), the round trip in microseconds(4) and a description for
// an offer, copy(1) and a description for an answer, one byte for a reason, a
// plan, and nothing else.
func appendMessage(b []byte, m message) []byte {
	b = append(b, byte(m.kind), messageVersion)
	b = binary.BigEndian.AppendUint64(b, m.attempt)
	switch m.kind {
	case messageOffer:
		b = append(b, m.copy)
		b = binary.BigEndian.AppendUint32(b, uint32(max(0, min(m.rtt.Microseconds(), 1<<32-1))))
		b = appendDescription(b, m.description)
	case messageAnswer:
		b = append(b, m.copy)
		b = appendDescription(b, m.description)
	case messagePlan:
		b = appendPlan(b, m.plan)
	case messageReason:
		code, _ := m.reason.code()
		b = append(b, code)
	}
	return b
}

// parseMessage decodes a whole message. The result shares no memory with b.
func parseMessage(b []byte) (message, error) {
	if len(b) >= 2 && b[1] != messageVersion {
		return message{}, fmt.Errorf("message %d: %w", b[1], ErrVersion)
	}
	r := reader{b: b}
	m := message{kind: messageType(r.byte())}
	r.byte()
	if id := r.take(8); id != nil {
		m.attempt = binary.BigEndian.Uint64(id)
	}
	switch m.kind {
	case messageOffer, messageAnswer:
		m.copy = r.byte()
		if m.kind == messageOffer {
			m.rtt = time.Duration(r.uint32()) * time.Microsecond
		}
		if r.bad {
			break
		}
		var err error
		if m.description, r.b, err = parseDescription(r.b); err != nil {
			return message{}, err
		}
	case messageStart, messageAgain:
	case messagePlan:
		m.plan = r.plan()
	case messageReason:
		code := int(r.byte())
		if code >= len(reasons) {
			return message{}, fmt.Errorf("punch: unknown reason %d", code)
		}
		m.reason = reasons[code].reason
	default:
		return message{}, fmt.Errorf("punch: unknown message type %d", m.kind)
	}
	if r.bad || len(r.b) != 0 {
		return message{}, fmt.Errorf("punch: message of type %d has the wrong length", m.kind)
	}
	return m, nil
}
