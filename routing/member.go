package routing

import (
	"encoding/binary"
	"slices"
)

// MaxProof is the largest size of [Member.Proof] in bytes.
const MaxProof = 640

// A Member is a node of the grid as others get to know it. It is made by
// [NewMember] or by a parser and immutable from then on, so one Member may be
// shared by tables, lookups and goroutines.
type Member struct {
	// Peer names the node.
	Peer PeerID

	// Nonce is the ledger's, and makes the position.
	Nonce Nonce

	// Proof is what convinces Config.Verify that the grid has this member
	// with this nonce: the ledger record in whatever form the overlay gives
	// it, at most MaxProof bytes. Routing carries it and never looks inside.
	Proof []byte

	position Key
}

// NewMember returns the member of these parts. It keeps proof, which the
// caller must not change afterwards. It panics when proof is longer than
// [MaxProof], since the member could never be sent.
func NewMember(peer PeerID, nonce Nonce, proof []byte) *Member {
	if len(proof) > MaxProof {
		panic("routing: a member's proof is at most MaxProof bytes")
	}
	return &Member{Peer: peer, Nonce: nonce, Proof: proof, position: Position(peer, nonce)}
}

// Position returns the place of m in the key space.
func (m *Member) Position() Key { return m.position }

// same reports whether m and o are the same member with the same proof.
func (m *Member) same(o *Member) bool {
	return m == o || m.Peer == o.Peer && m.Nonce == o.Nonce && string(m.Proof) == string(o.Proof)
}

// clone returns a copy that shares no memory with a received message.
func (m *Member) clone() *Member {
	c := *m
	c.Proof = slices.Clone(m.Proof)
	return &c
}

// memberOverhead is the encoded size of a member with an empty proof.
const memberOverhead = 32 + 32 + 2

// AppendMember extends b by m (docs/routing-protocol.md, section 3).
func AppendMember(b []byte, m *Member) []byte {
	b = append(b, m.Peer[:]...)
	b = append(b, m.Nonce[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Proof)))
	return append(b, m.Proof...)
}

// ParseMember decodes the member at the front of b and returns the bytes
// after it. The proof aliases b and is not verified. The error is
// [ErrMalformed].
func ParseMember(b []byte) (m *Member, rest []byte, err error) {
	if len(b) < memberOverhead {
		return nil, nil, errShort
	}
	size := int(binary.BigEndian.Uint16(b[64:]))
	if size > MaxProof {
		return nil, nil, malformed("a proof of %d bytes", size)
	}
	if len(b) < memberOverhead+size {
		return nil, nil, errShort
	}
	m = &Member{Peer: PeerID(b[:32]), Nonce: Nonce(b[32:64]), Proof: b[memberOverhead : memberOverhead+size : memberOverhead+size]}
	m.position = Position(m.Peer, m.Nonce)
	return m, b[memberOverhead+size:], nil
}
