package tun

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// Addresses of the tests: ours, and those of the peer.
var (
	our4   = netip.MustParseAddr("100.90.0.1")
	their4 = netip.MustParseAddr("100.90.0.2")
	our6   = netip.MustParseAddr("fd00::1")
	their6 = netip.MustParseAddr("fd00::2")
)

// ip4 makes an IPv4 packet; more says what is to be changed in its header.
func ip4(proto uint8, src, dst netip.Addr, payload []byte, more ...func(b []byte)) []byte {
	b := make([]byte, ipv4HeaderLen, ipv4HeaderLen+len(payload))
	b[0], b[8], b[9] = 0x45, 64, proto
	b[6] = 0x40
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	for _, f := range more {
		f(b)
	}
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:ipv4HeaderLen], 0)))
	return b
}

func ip6(next uint8, src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return append(b, payload...)
}

func tcp(src, dst uint16, flags uint8, data ...byte) []byte {
	b := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12], b[13] = 5<<4, flags
	return append(b, data...)
}

func udp(src, dst uint16, data ...byte) []byte {
	b := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
	return append(b, data...)
}

func icmp(kind, code uint8, id uint16, data ...byte) []byte {
	return append([]byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, data...)
}

// fragment makes ip4's packet a fragment at offset, in units of eight bytes.
func fragment(id, offset uint16, more bool) func([]byte) {
	return func(b []byte) {
		binary.BigEndian.PutUint16(b[4:], id)
		if more {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], offset)
	}
}

// options puts IPv4 options into ip4's packet, in place of its payload's front.
func options(o ...byte) []byte {
	b := ip4(protoUDP, their4, our4, append(append([]byte(nil), o...), udp(1, 2)...))
	b[0] = 0x40 | byte(5+len(o)/4)
	return b
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestParsePacket(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want packet
	}{
		{"TCP over IPv4", ip4(protoTCP, their4, our4, tcp(1000, 22, tcpSYN)),
			packet{src: their4, dst: our4, srcPort: 1000, dstPort: 22, version: 4, proto: protoTCP, flags: tcpSYN, transport: 20}},
		{"UDP over IPv6", ip6(protoUDP, their6, our6, udp(53, 4000, 1)),
			packet{src: their6, dst: our6, srcPort: 53, dstPort: 4000, version: 6, proto: protoUDP, transport: 40}},
		{"echo request", ip4(protoICMP, their4, our4, icmp(8, 0, 7)),
			packet{src: their4, dst: our4, srcPort: 7, version: 4, proto: protoICMP, icmpType: 8, transport: 20}},
		{"ICMPv6 behind options", ip6(protoDestination, their6, our6, join([]byte{protoICMP6, 0, 1, 4, 0, 0, 0, 0}, icmp(129, 0, 9))),
			packet{src: their6, dst: our6, dstPort: 9, version: 6, proto: protoICMP6, icmpType: 129, transport: 48}},
		{"first fragment", ip4(protoUDP, their4, our4, udp(1, 2, make([]byte, 8)...), fragment(77, 0, true)),
			packet{src: their4, dst: our4, srcPort: 1, dstPort: 2, version: 4, proto: protoUDP, transport: 20, fragment: firstFragment, fragmentID: 77, mayFragment: true}},
		{"later fragment", ip4(protoUDP, their4, our4, make([]byte, 8), fragment(77, 2, false)),
			packet{src: their4, dst: our4, version: 4, proto: protoUDP, transport: 20, fragment: laterFragment, fragmentID: 77, mayFragment: true}},
		{"IPv6 fragment", ip6(protoFragment, their6, our6, join([]byte{protoUDP, 0, 0, 0x11, 0, 0, 0, 5}, make([]byte, 8))),
			packet{src: their6, dst: our6, version: 6, proto: protoUDP, transport: 48, fragment: laterFragment, fragmentID: 5}},
		{"harmless options", options(1, 1, 1, 0),
			packet{src: their4, dst: our4, srcPort: 1, dstPort: 2, version: 4, proto: protoUDP, transport: 24}},
		{"another protocol", ip4(47, their4, our4, []byte{1}), packet{src: their4, dst: our4, version: 4, proto: 47, transport: 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parsePacket(tt.b)
			if err != nil || got != tt.want {
				t.Errorf("parsePacket = %+v, %v; want %+v", got, err, tt.want)
			}
			for n := range len(tt.b) {
				if _, err := parsePacket(tt.b[:n]); err == nil {
					t.Errorf("its first %d bytes are taken for a packet", n)
				}
			}
			if _, err := parsePacket(append(tt.b[:len(tt.b):len(tt.b)], 0)); err == nil {
				t.Error("a packet with a byte behind it is taken")
			}
		})
	}
}

func TestPacketsThatAreRefused(t *testing.T) {
	short := ip4(protoUDP, their4, our4, udp(1, 2))
	short[0] = 0x44
	for name, b := range map[string][]byte{
		"nothing":                           {},
		"version 5":                         {0x50},
		"a header of 16 bytes":              short,
		"loose source route":                options(131, 3, 4, 0),
		"strict source route":               options(1, 137, 3, 4),
		"options that overrun":              options(7, 40, 0, 0),
		"routing header":                    ip6(protoRouting, their6, our6, join([]byte{protoUDP, 0, 0, 1, 0, 0, 0, 0}, udp(1, 2))),
		"fragment of a fragment":            ip6(protoFragment, their6, our6, join([]byte{protoFragment, 0, 0, 1, 0, 0, 0, 5}, []byte{protoUDP, 0, 0, 1, 0, 0, 0, 5}, udp(1, 2))),
		"nine extension headers":            ip6(protoDestination, their6, our6, join(repeated(9), udp(1, 2))),
		"first fragment with half a header": ip4(protoTCP, their4, our4, tcp(1, 22, tcpSYN)[:16], fragment(1, 0, true)),
		"fragment over TCP's flags":         ip4(protoTCP, their4, our4, make([]byte, 16), fragment(1, 1, false)),
		"ICMP of the other version":         ip4(protoICMP6, their4, our4, icmp(128, 0, 1)),
	} {
		if p, err := parsePacket(b); err == nil {
			t.Errorf("%s: parsed as %+v", name, p)
		}
	}
}

// repeated returns n headers of destination options, each before another.
func repeated(n int) (b []byte) {
	for range n {
		b = append(b, protoDestination, 0, 1, 4, 0, 0, 0, 0)
	}
	return b
}

func FuzzParsePacket(f *testing.F) {
	for _, b := range [][]byte{
		ip4(protoTCP, their4, our4, tcp(1000, 22, tcpSYN)),
		ip4(protoUDP, their4, our4, udp(1, 2, make([]byte, 8)...), fragment(77, 0, true)),
		ip6(protoUDP, their6, our6, udp(53, 4000, 1)),
		ip6(protoDestination, their6, our6, join([]byte{protoICMP6, 0, 1, 4, 0, 0, 0, 0}, icmp(129, 0, 9))),
		ip6(protoFragment, their6, our6, join([]byte{protoUDP, 0, 0, 0x11, 0, 0, 0, 5}, make([]byte, 8))),
		appendICMPError(nil, tooBig, 1280, their4, our4, ip4(protoTCP, our4, their4, tcp(1, 2, 0))),
		options(131, 3, 4, 0),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		quote, quoteErr := parseQuote(b)
		if err != nil {
			return
		}
		if quoteErr != nil || quote != p {
			t.Errorf("as a quote: %+v, %v; as a packet %+v", quote, quoteErr, p)
		}
		if p.transport > len(b) || p.version != b[0]>>4 || !p.src.IsValid() || !p.dst.IsValid() {
			t.Errorf("%x parsed as %+v", b, p)
		}
		var table flowTable
		now := epoch
		table.inbound(now, &p, b, func(uint16) bool { return true })
		if p.mayAnswer() {
			answer := appendICMPError(nil, prohibited, 0, p.dst, p.src, b)
			q, err := parsePacket(answer)
			if err != nil || !q.isICMPError() {
				t.Errorf("the answer to %x is %x, which is %+v, %v", b, answer, q, err)
			}
		}
	})
}
