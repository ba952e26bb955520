package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Numbers of the IP protocols that have a meaning here (RFC 5237).
const (
	protoHopByHop    = 0
	protoICMP        = 1
	protoTCP         = 6
	protoUDP         = 17
	protoRouting     = 43
	protoFragment    = 44
	protoICMP6       = 58
	protoDestination = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	maxExtensions = 8 // headers of an IPv6 packet; a guess
)

// Flags of TCP (RFC 9293, section 3.1).
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// fragmentKind says which part of a datagram an IP fragment is.
type fragmentKind uint8

const (
	unfragmented fragmentKind = iota
	firstFragment
	laterFragment // without ports
)

// A packet is what the forwarder and the filter look at in an IP packet.
type packet struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16 // of ICMP echo: its identifier, of the side that asks
	version          uint8  // 4 or 6
	proto            uint8
	flags            uint8 // of TCP
	icmpType         uint8
	icmpCode         uint8
	fragment         fragmentKind
	fragmentID       uint32
	transport        int  // where the transport header begins
	mayFragment      bool // IPv4 without DF
}

// errMalformed is a packet that makes no sense, or one that only attackers send:
// a first fragment without the whole transport header (RFC 1858), a source
// route.
var errMalformed = errors.New("tun: malformed packet")

// parsePacket decodes the headers of a whole IP packet, which ends with b.
func parsePacket(b []byte) (p packet, err error) {
	if len(b) == 0 {
		return p, errMalformed
	}
	switch b[0] >> 4 {
	case 4:
		if err = p.parse4(b); err == nil && int(binary.BigEndian.Uint16(b[2:])) != len(b) {
			err = errMalformed
		}
	case 6:
		if err = p.parse6(b); err == nil && ipv6HeaderLen+int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			err = errMalformed
		}
	default:
		err = errMalformed
	}
	return p, err
}

// parseQuote decodes the front of a packet as an ICMP error quotes it.
func parseQuote(b []byte) (p packet, err error) {
	if len(b) == 0 {
		return p, errMalformed
	}
	switch b[0] >> 4 {
	case 4:
		err = p.parse4(b)
	case 6:
		err = p.parse6(b)
	default:
		err = errMalformed
	}
	return p, err
}

func (p *packet) parse4(b []byte) error {
	if len(b) < ipv4HeaderLen {
		return errMalformed
	}
	header := int(b[0]&0x0f) * 4
	if header < ipv4HeaderLen || header > len(b) {
		return errMalformed
	}
	if header > ipv4HeaderLen && hasSourceRoute(b[ipv4HeaderLen:header]) {
		return errMalformed
	}
	p.version = 4
	p.proto = b[9]
	p.src = netip.AddrFrom4([4]byte(b[12:16]))
	p.dst = netip.AddrFrom4([4]byte(b[16:20]))
	word := binary.BigEndian.Uint16(b[6:])
	p.mayFragment = word&0x4000 == 0
	offset := word & 0x1fff
	p.setFragment(offset, word&0x2000 != 0, uint32(binary.BigEndian.Uint16(b[4:])))
	p.transport = header
	return p.parseTransport(b, offset)
}

// hasSourceRoute reports whether IPv4 options ask for a route (RFC 7126,
// sections 4.3 and 4.4), or make no sense.
func hasSourceRoute(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case 0:
			return false
		case 1:
			options = options[1:]
			continue
		case 131, 137:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

func (p *packet) parse6(b []byte) error {
	if len(b) < ipv6HeaderLen {
		return errMalformed
	}
	p.version = 6
	p.src = netip.AddrFrom16([16]byte(b[8:24]))
	p.dst = netip.AddrFrom16([16]byte(b[24:40]))
	next, at := b[6], ipv6HeaderLen
	offset := uint16(0)
	for range maxExtensions {
		switch next {
		case protoHopByHop, protoDestination:
			if len(b) < at+8 {
				return errMalformed
			}
			next, at = b[at], at+8+8*int(b[at+1])
		case protoFragment:
			if len(b) < at+8 || p.fragment != unfragmented {
				return errMalformed
			}
			word := binary.BigEndian.Uint16(b[at+2:])
			offset = word >> 3
			p.setFragment(offset, word&1 != 0, binary.BigEndian.Uint32(b[at+4:]))
			next, at = b[at], at+8
			if p.fragment == laterFragment {
				p.proto, p.transport = next, at
				return p.parseTransport(b, offset)
			}
		case protoRouting:
			return errMalformed
		default:
			if at > len(b) {
				return errMalformed
			}
			p.proto, p.transport = next, at
			return p.parseTransport(b, offset)
		}
		if at > len(b) {
			return errMalformed
		}
	}
	return errMalformed
}

func (p *packet) setFragment(offset uint16, more bool, id uint32) {
	switch {
	case offset > 0:
		p.fragment, p.fragmentID = laterFragment, id
	case more:
		p.fragment, p.fragmentID = firstFragment, id
	}
}

// parseTransport reads ports and the like. The offset is that of the fragment,
// in units of eight bytes.
func (p *packet) parseTransport(b []byte, offset uint16) error {
	b = b[p.transport:]
	if p.fragment == laterFragment {
		if p.proto == protoTCP && offset == 1 {
			return errMalformed // it would overwrite the flags
		}
		return nil
	}
	switch p.proto {
	case protoTCP:
		switch {
		case len(b) >= 14:
			p.flags = b[13]
		case len(b) < 8:
			return errMalformed
		}
		if p.fragment == firstFragment && len(b) < 20 {
			return errMalformed
		}
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case protoUDP:
		if len(b) < 8 {
			return errMalformed
		}
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case protoICMP, protoICMP6:
		if len(b) < 8 || (p.proto == protoICMP6) != (p.version == 6) {
			return errMalformed
		}
		p.icmpType, p.icmpCode = b[0], b[1]
		// The identifier stands for a port of whoever asks.
		switch id := binary.BigEndian.Uint16(b[4:]); {
		case p.isEchoRequest():
			p.srcPort = id
		case p.isEchoReply():
			p.dstPort = id
		}
	}
	return nil
}

func (p *packet) isICMP() bool { return p.proto == protoICMP || p.proto == protoICMP6 }

func (p *packet) isEchoRequest() bool {
	return p.proto == protoICMP && p.icmpType == 8 || p.proto == protoICMP6 && p.icmpType == 128
}

func (p *packet) isEchoReply() bool {
	return p.proto == protoICMP && p.icmpType == 0 || p.proto == protoICMP6 && p.icmpType == 129
}

// isICMPError reports whether p quotes a packet: destination unreachable, time
// exceeded, parameter problem, or packet too big.
func (p *packet) isICMPError() bool {
	switch p.proto {
	case protoICMP:
		return p.icmpType == 3 || p.icmpType == 11 || p.icmpType == 12
	case protoICMP6:
		return p.icmpType >= 1 && p.icmpType <= 4
	}
	return false
}

// opensTCP reports whether p asks for a new connection.
func (p *packet) opensTCP() bool { return p.proto == protoTCP && p.flags&(tcpSYN|tcpACK) == tcpSYN }

// A flowKey names a flow between two nodes: their addresses are known from the
// version.
type flowKey uint64

func makeKey(version, proto uint8, local, remote uint16) flowKey {
	return flowKey(version)<<40 | flowKey(proto)<<32 | flowKey(local)<<16 | flowKey(remote)
}

// outboundKey is the key of a packet of ours, inboundKey that of one of theirs.
func (p *packet) outboundKey() flowKey {
	return makeKey(p.version, p.proto, p.srcPort, p.dstPort)
}

func (p *packet) inboundKey() flowKey {
	return makeKey(p.version, p.proto, p.dstPort, p.srcPort)
}

// queue returns the number of the flow's queue in the session, one of 512: the
// session serves them in turns.
func (k flowKey) queue() uint32 {
	return uint32(uint64(k) * 0x9e3779b97f4a7c15 >> 55)
}
