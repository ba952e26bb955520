package tun

import (
	"encoding/binary"
	"net/netip"
)

// An icmpProblem is why a packet does not arrive, as ICMP says it.
type icmpProblem uint8

const (
	hostUnreachable icmpProblem = iota // nobody has the address, or who does is not there
	prohibited                         // the policy closes the port
	tooBig
)

// maxQuote is how much of the packet an error quotes: all of it that fits in
// what every path carries (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const (
	maxICMP4 = 576
	maxICMP6 = 1280
)

// mayAnswer reports whether an error about p may be sent (RFC 1122, section
// 3.2.2; RFC 4443, section 2.4).
func (p *packet) mayAnswer() bool {
	if p.fragment == laterFragment || p.src.IsUnspecified() || p.dst.IsMulticast() {
		return false
	}
	return !p.isICMP() || p.isEchoRequest()
}

// appendICMPError appends a packet from src to dst that says what is wrong with
// the packet original. The MTU is for tooBig alone. Both addresses are of
// original's version.
func appendICMPError(b []byte, problem icmpProblem, mtu int, src, dst netip.Addr, original []byte) []byte {
	start := len(b)
	if src.Is4() {
		kind, code := byte(3), byte(1)
		switch problem {
		case prohibited:
			code = 13
		case tooBig:
			code = 4
		}
		quote := original[:min(len(original), maxICMP4-ipv4HeaderLen-8)]
		b = append(b, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protoICMP, 0, 0)
		s, d := src.As4(), dst.As4()
		b = append(append(b, s[:]...), d[:]...)
		b = append(b, kind, code, 0, 0, 0, 0, byte(mtu>>8), byte(mtu))
		b = append(b, quote...)
		binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
		binary.BigEndian.PutUint16(b[start+10:], ^fold(sum(b[start:start+ipv4HeaderLen], 0)))
		icmp := b[start+ipv4HeaderLen:]
		binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(icmp, 0)))
		return b
	}
	kind, code := byte(1), byte(3)
	switch problem {
	case prohibited:
		code = 1
	case tooBig:
		kind, code = 2, 0
	}
	quote := original[:min(len(original), maxICMP6-ipv6HeaderLen-8)]
	b = append(b, 0x60, 0, 0, 0, 0, 0, protoICMP6, 64)
	s, d := src.As16(), dst.As16()
	b = append(append(b, s[:]...), d[:]...)
	b = append(b, kind, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(mtu))
	b = append(b, quote...)
	icmp := b[start+ipv6HeaderLen:]
	binary.BigEndian.PutUint16(b[start+4:], uint16(len(icmp)))
	pseudo := sum(b[start+8:start+40], uint64(len(icmp))+protoICMP6)
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(icmp, pseudo)))
	return b
}

// sum adds the 16-bit words of b to acc (RFC 1071).
func sum(b []byte, acc uint64) uint64 {
	for len(b) >= 4 {
		acc += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		acc += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		acc += uint64(b[0]) << 8
	}
	return acc
}

// fold reduces a sum to 16 bits, in one's complement arithmetic.
func fold(acc uint64) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}
