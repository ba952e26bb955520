package ri2n

import (
	"encoding/binary"
	"net/netip"
)

// Families of an address on the wire.
const (
	addrFamily4 = 4
	addrFamily6 = 6
)

// An addrFrame tells a transport address: one of the sender's (ADDR_ADD), one
// that no longer is (ADDR_REMOVE), or the one from which the peer's packets
// arrive on the path of the frame (OBSERVED_ADDR).
type addrFrame struct {
	kind uint64         // the frame type: frameAddrAdd, frameAddrRemove or frameObservedAddr
	addr netip.AddrPort // valid, without zone, IPv4 unmapped
}

// appendAddrFrame appends f. An IPv4-mapped IPv6 address is written as IPv4
// and a zone is left out; an invalid address panics.
func appendAddrFrame(b []byte, f addrFrame) []byte {
	b = appendVarint(b, f.kind)
	if addr := f.addr.Addr().Unmap(); addr.Is4() {
		a := addr.As4()
		b = append(append(b, addrFamily4), a[:]...)
	} else {
		if !addr.IsValid() {
			panic("ri2n: an address frame has an address")
		}
		a := addr.As16()
		b = append(append(b, addrFamily6), a[:]...)
	}
	return binary.BigEndian.AppendUint16(b, f.addr.Port())
}

// parseAddrFrame decodes what follows the type typ. Whether the address may be
// sent to at all is for the caller to judge.
func parseAddrFrame(b []byte, typ uint64) (f addrFrame, rest []byte, err error) {
	if len(b) == 0 {
		return addrFrame{}, nil, errTruncated
	}
	family, b := b[0], b[1:]
	var addr netip.Addr
	switch family {
	case addrFamily4:
		if len(b) < 4+2 {
			return addrFrame{}, nil, errTruncated
		}
		addr, b = netip.AddrFrom4([4]byte(b)), b[4:]
	case addrFamily6:
		if len(b) < 16+2 {
			return addrFrame{}, nil, errTruncated
		}
		addr, b = netip.AddrFrom16([16]byte(b)), b[16:]
		if addr.Is4In6() {
			return addrFrame{}, nil, errMalformed
		}
	default:
		return addrFrame{}, nil, errMalformed
	}
	return addrFrame{typ, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b))}, b[2:], nil
}
