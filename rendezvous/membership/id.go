package membership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A GridID names a grid by its key, as a [ri2n.PeerID] names a peer. The zero
// value names no grid.
type GridID [sha256.Size]byte

// A KeyID names a public key: a member's, which is its peer ID, or that of an
// invitation.
type KeyID = ri2n.PeerID

// GridIDOf returns the name of a grid key.
func GridIDOf(key ed25519.PublicKey) GridID { return GridID(ri2n.PeerIDOf(key)) }

// ParseGridID decodes the 52-character text form.
func ParseGridID(s string) (GridID, error) {
	id, err := ri2n.ParsePeerID(s)
	if err != nil {
		return GridID{}, fmt.Errorf("membership: %q is not a grid ID of 52 letters and digits", s)
	}
	return GridID(id), nil
}

// String returns the text form.
func (g GridID) String() string { return ri2n.PeerID(g).String() }

// Short returns the first eight characters, for logs.
func (g GridID) Short() string { return ri2n.PeerID(g).Short() }

// IsZero reports whether g names no grid.
func (g GridID) IsZero() bool { return g == GridID{} }

// MarshalText implements [encoding.TextMarshaler].
func (g GridID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (g *GridID) UnmarshalText(b []byte) error {
	id, err := ParseGridID(string(b))
	if err != nil {
		return err
	}
	*g = id
	return nil
}

// Address6 returns the IPv6 address of a member: fd, 40 bits of the grid and 80
// bits of the peer ID (RFC 4193, section 3.1).
func (g GridID) Address6(peer ri2n.PeerID) netip.Addr {
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], g[:])
	copy(a[6:], peer[:])
	return netip.AddrFrom16(a)
}

// A Nonce places a member in the routing key space. The ledger derives it from
// a secret, so that nobody can choose a place by trying keys.
type Nonce [32]byte

// derivedNonce stands in for the ledger's in a grid without one. Everybody can
// compute it, so that who makes many keys can choose a place.
func derivedNonce(g GridID, peer ri2n.PeerID) Nonce {
	b := append([]byte("instantgrid derived nonce 1 "), g[:]...)
	return sha256.Sum256(append(b, peer[:]...))
}

// derivedAddress is the IPv4 address of a member where no ledger gives one: in
// network, neither its first address nor its last. Two peers may have the same.
func derivedAddress(g GridID, network netip.Prefix, peer ri2n.PeerID) netip.Addr {
	b := append([]byte("instantgrid derived address 1 "), g[:]...)
	sum := sha256.Sum256(append(b, peer[:]...))
	first := binary.BigEndian.Uint32(network.Addr().AsSlice())
	size := uint64(1) << (32 - network.Bits())
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], first+1+uint32(binary.BigEndian.Uint64(sum[:])%(size-2)))
	return netip.AddrFrom4(a)
}

// Position returns the place of a peer in the routing key space.
func Position(peer ri2n.PeerID, nonce Nonce) [32]byte {
	b := append([]byte("instantgrid position 1 "), peer[:]...)
	return sha256.Sum256(append(b, nonce[:]...))
}
