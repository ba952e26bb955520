package overlay

import (
	"crypto/ed25519"
	"encoding/binary"
	"net/netip"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
)

// An announcement says where a member can be reached: what a dialer knows of it
// without a rendezvous. The member signs it, and the ledger's record in it says
// which name is its (docs/overlay-protocol.md, section 11.2).
type announcement struct {
	member    *routing.Member
	key       [ed25519.PublicKeySize]byte
	issued    uint64 // ms since 1970; the greater one holds
	addresses []netip.AddrPort
	signature [ed25519.SignatureSize]byte
}

const (
	maxAnnounced       = 8 // addresses
	announcementDomain = "instantgrid announcement v1\x00"
	nameDomain         = "instantgrid name v1\x00"
)

// appendFields extends b by what the signature covers, without its domain.
func (a *announcement) appendFields(b []byte) []byte {
	b = routing.AppendMember(b, a.member)
	b = append(b, a.key[:]...)
	b = binary.BigEndian.AppendUint64(b, a.issued)
	b = append(b, byte(len(a.addresses)))
	for _, x := range a.addresses {
		addr := x.Addr().AsSlice()
		b = append(b, byte(len(addr)))
		b = append(b, addr...)
		b = binary.BigEndian.AppendUint16(b, x.Port())
	}
	return b
}

func appendAnnouncement(b []byte, a *announcement) []byte {
	return append(a.appendFields(b), a.signature[:]...)
}

// sign signs a with the member's key.
func (a *announcement) sign(key ed25519.PrivateKey) {
	a.key = [32]byte(key.Public().(ed25519.PublicKey))
	a.signature = [64]byte(ed25519.Sign(key, a.appendFields([]byte(announcementDomain))))
}

// signed reports whether the member that a names has signed it. Whether it is a
// member is another question.
func (a *announcement) signed() bool {
	return routing.PeerIDOf(a.key[:]) == a.member.Peer &&
		ed25519.Verify(a.key[:], a.appendFields([]byte(announcementDomain)), a.signature[:])
}

// parseAnnouncement decodes b, which is one announcement and nothing else. What
// it returns shares no memory with b.
func parseAnnouncement(b []byte) (*announcement, error) {
	b = append([]byte(nil), b...)
	a := &announcement{}
	var err error
	if a.member, b, err = routing.ParseMember(b); err != nil {
		return nil, errMalformed
	}
	if len(b) < 32+8+1 {
		return nil, errMalformed
	}
	a.key, a.issued = [32]byte(b), binary.BigEndian.Uint64(b[32:])
	count := int(b[40])
	b = b[41:]
	if count > maxAnnounced {
		return nil, errMalformed
	}
	for range count {
		if len(b) < 1 {
			return nil, errMalformed
		}
		n := int(b[0])
		if n != 4 && n != 16 || len(b) < 1+n+2 {
			return nil, errMalformed
		}
		addr, _ := netip.AddrFromSlice(b[1 : 1+n])
		if addr.Is4In6() {
			return nil, errMalformed // it has a shorter form
		}
		a.addresses = append(a.addresses, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[1+n:])))
		b = b[1+n+2:]
	}
	if len(b) != ed25519.SignatureSize {
		return nil, errMalformed
	}
	a.signature = [64]byte(b)
	return a, nil
}

// peer returns whose announcement it is.
func (a *announcement) peer() ri2n.PeerID { return ri2n.PeerID(a.member.Peer) }
