package routing

import (
	"encoding/binary"
)

// Version is the only version of the protocol.
const Version = 1

const (
	// MaxPayload is the largest body of a request, an answer or a routed
	// message in bytes.
	MaxPayload = 8 << 10

	// MaxMessage is the largest message in bytes: what a [Messenger] must
	// carry. FOUND with 20 members of the largest proof is the longest.
	MaxMessage = 16 << 10

	// maxFound is the largest number of members in FOUND.
	maxFound = 20
)

// A kind tells what a message is (docs/routing-protocol.md, section 4).
type kind uint8

const (
	kindPing   kind = 0x01
	kindPong   kind = 0x02
	kindFind   kind = 0x03
	kindFound  kind = 0x04
	kindRoute  kind = 0x05
	kindRouted kind = 0x06
	kindAsk    kind = 0x07
	kindAnswer kind = 0x08
	kindRefuse kind = 0x09

	// kindExtension is the first of the kinds that a receiver skips when it
	// does not know them.
	kindExtension kind = 0x40
)

// headerSize is what stands before the body of every message.
const headerSize = 1 + 1 + 8

// A message is one of every kind; the fields that its kind does not have are
// zero. Slices alias what was parsed.
type message struct {
	kind    kind
	request uint64

	key     Key       // FIND, ROUTE
	floor   Key       // FIND: only members farther from key than this distance
	members []*Member // FOUND

	service Service // ROUTE, ASK
	limit   uint8   // ROUTE: hops left
	id      uint64  // ROUTE: the origin's number of this message
	origin  *Member // ROUTE
	payload []byte  // ROUTE, ASK, ANSWER

	reason Reason // REFUSE
}

// appendMessage extends b by m.
func appendMessage(b []byte, m *message) []byte {
	b = append(b, Version, byte(m.kind))
	b = binary.BigEndian.AppendUint64(b, m.request)
	switch m.kind {
	case kindFind:
		b = append(b, m.key[:]...)
		b = append(b, m.floor[:]...)
	case kindFound:
		b = append(b, byte(len(m.members)))
		for _, member := range m.members {
			b = AppendMember(b, member)
		}
	case kindRoute:
		b = append(b, m.key[:]...)
		b = append(b, byte(m.service), m.limit)
		b = binary.BigEndian.AppendUint64(b, m.id)
		b = AppendMember(b, m.origin)
		b = append(b, m.payload...)
	case kindAsk:
		b = append(b, byte(m.service))
		b = append(b, m.payload...)
	case kindAnswer:
		b = append(b, m.payload...)
	case kindRefuse:
		b = append(b, byte(m.reason))
	}
	return b
}

// parseMessage decodes b, which is one message and nothing else. A message of
// an unknown kind from kindExtension on has a kind and no body.
func parseMessage(b []byte) (m message, err error) {
	if len(b) > MaxMessage {
		return m, malformed("%d bytes", len(b))
	}
	if len(b) < headerSize {
		return m, errShort
	}
	if b[0] != Version {
		return m, malformed("version %d", b[0])
	}
	m.kind, m.request = kind(b[1]), binary.BigEndian.Uint64(b[2:])
	b = b[headerSize:]
	switch m.kind {
	case kindPing, kindPong, kindRouted:
		return m, m.end(b)
	case kindFind:
		if len(b) < 64 {
			return m, errShort
		}
		m.key, m.floor = Key(b[:32]), Key(b[32:64])
		return m, m.end(b[64:])
	case kindFound:
		return m, m.parseFound(b)
	case kindRoute:
		return m, m.parseRoute(b)
	case kindAsk:
		if len(b) < 1 {
			return m, errShort
		}
		m.service = Service(b[0])
		return m, m.rest(b[1:])
	case kindAnswer:
		return m, m.rest(b)
	case kindRefuse:
		if len(b) < 1 {
			return m, errShort
		}
		m.reason = Reason(b[0])
		return m, m.end(b[1:])
	}
	if m.kind < kindExtension {
		return m, malformed("kind %#02x", uint8(m.kind))
	}
	return m, nil
}

func (m *message) parseFound(b []byte) (err error) {
	if len(b) < 1 {
		return errShort
	}
	count := int(b[0])
	b = b[1:]
	if count > maxFound {
		return malformed("%d members", count)
	}
	if len(b) < count*memberOverhead {
		return errShort
	}
	if count > 0 {
		m.members = make([]*Member, count)
	}
	for i := range m.members {
		if m.members[i], b, err = ParseMember(b); err != nil {
			return err
		}
	}
	return m.end(b)
}

func (m *message) parseRoute(b []byte) (err error) {
	if len(b) < 32+1+1+8 {
		return errShort
	}
	m.key, m.service, m.limit, m.id = Key(b[:32]), Service(b[32]), b[33], binary.BigEndian.Uint64(b[34:])
	if m.limit > MaxHops {
		return malformed("a hop limit of %d", m.limit)
	}
	if m.origin, b, err = ParseMember(b[42:]); err != nil {
		return err
	}
	return m.rest(b)
}

// rest takes what is left as the payload.
func (m *message) rest(b []byte) error {
	if len(b) > MaxPayload {
		return malformed("a payload of %d bytes", len(b))
	}
	if len(b) > 0 {
		m.payload = b
	}
	return nil
}

// end refuses what is left.
func (m *message) end(b []byte) error {
	if len(b) > 0 {
		return malformed("%d bytes too many", len(b))
	}
	return nil
}
