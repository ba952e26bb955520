package tun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// segment makes a TCP packet with vnetRoom in front and correct checksums.
func segment(version uint8, port uint16, seq uint32, flags uint8, data []byte) []byte {
	t := append(tcp(port, 80, flags), data...)
	binary.BigEndian.PutUint32(t[4:], seq)
	var p []byte
	if version == 4 {
		p = ip4(protoTCP, their4, our4, t)
	} else {
		p = ip6(protoTCP, their6, our6, t)
	}
	setTCPSum(p)
	return append(make([]byte, vnetRoom), p...)
}

// setTCPSum computes the whole checksum of a packet without IP options.
func setTCPSum(p []byte) {
	at := transportOf(p[0] >> 4)
	p[at+tcpSumOffset], p[at+tcpSumOffset+1] = 0, 0
	addresses := p[12:20]
	if p[0]>>4 == 6 {
		addresses = p[8:40]
	}
	acc := sum(addresses, uint64(len(p)-at)+protoTCP)
	binary.BigEndian.PutUint16(p[at+tcpSumOffset:], ^fold(sum(p[at:], acc)))
}

// resegment does what the kernel does with a packet that was merged: it cuts it
// up, and computes checksums from the partial one.
func resegment(t *testing.T, x *merge) (packets [][]byte) {
	t.Helper()
	h := append([]byte(nil), x.first[:vnetRoom]...)
	p := append([]byte(nil), x.first[vnetRoom:]...)
	for _, b := range x.more {
		p = append(p, b...)
	}
	if h[vnetType] == unix.VIRTIO_NET_HDR_GSO_NONE {
		if !bytes.Equal(h, make([]byte, vnetRoom)) {
			t.Errorf("a single packet has the header %x", h)
		}
		return [][]byte{p}
	}
	version := p[0] >> 4
	at := int(binary.NativeEndian.Uint16(h[vnetSumStart:]))
	header := int(binary.NativeEndian.Uint16(h[vnetHeaderLen:]))
	size := int(binary.NativeEndian.Uint16(h[vnetSize:]))
	addresses, length := p[12:20], int(binary.BigEndian.Uint16(p[2:]))
	if version == 6 {
		addresses, length = p[8:40], ipv6HeaderLen+int(binary.BigEndian.Uint16(p[4:]))
	}
	if length != len(p) || at != transportOf(version) || header != at+20 || size == 0 {
		t.Fatalf("merged packet of %d bytes says %d, header %x", len(p), length, h)
	}
	if got, want := binary.BigEndian.Uint16(p[at+tcpSumOffset:]), fold(sum(addresses, uint64(len(p)-at)+protoTCP)); got != want {
		t.Errorf("partial checksum %#x, want %#x", got, want)
	}
	if version == 4 && fold(sum(p[:at], 0)) != 0xffff {
		t.Error("the checksum of the IPv4 header is wrong")
	}
	seq := binary.BigEndian.Uint32(p[at+4:])
	for data := p[header:]; len(data) > 0; {
		n := min(size, len(data))
		s := append(append([]byte(nil), p[:header]...), data[:n]...)
		data = data[n:]
		binary.BigEndian.PutUint32(s[at+4:], seq)
		seq += uint32(n)
		if len(data) > 0 {
			s[at+tcpFlagsOffset] &^= tcpPSH
		}
		if version == 4 {
			binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
			s[10], s[11] = 0, 0
			binary.BigEndian.PutUint16(s[10:], ^fold(sum(s[:at], 0)))
		} else {
			binary.BigEndian.PutUint16(s[4:], uint16(len(s)-at))
		}
		setTCPSum(s)
		packets = append(packets, s)
	}
	return packets
}

// Whatever comes in whatever order: cut up again, each connection's packets are
// those that came, in their order.
func TestMergedPacketsComeApartAgain(t *testing.T) {
	merged := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		type connection struct {
			version uint8
			port    uint16
			seq     uint32
			size    int
		}
		var list []connection
		for i := range 1 + rng.IntN(12) {
			list = append(list, connection{uint8(4 + 2*rng.IntN(2)), uint16(1000 + i), rng.Uint32(), 1 + rng.IntN(1400)})
		}
		came, left := make(map[string][][]byte), make(map[string][][]byte)
		key := func(p []byte) string { return fmt.Sprintf("%d/%x", p[0]>>4, p[transportOf(p[0]>>4):][:2]) }
		var m merger
		for range 2 {
			for range rng.IntN(120) {
				c := &list[rng.IntN(len(list))]
				n, flags := c.size, uint8(tcpACK)
				switch rng.IntN(20) {
				case 0:
					flags |= tcpPSH
				case 1:
					n = rng.IntN(c.size)
				case 2:
					n = 0
				case 3:
					flags |= tcpFIN
				case 4:
					c.seq += 100 // one is missing
				case 5:
					n = c.size + rng.IntN(50)
				}
				b := segment(c.version, c.port, c.seq, flags, bytes.Repeat([]byte{byte(rng.IntN(256))}, n))
				c.seq += uint32(n)
				p := append([]byte(nil), b[vnetRoom:]...)
				came[key(p)] = append(came[key(p)], p)
				m.add(b)
			}
			for i := range m.count {
				x := &m.merges[i]
				x.finish()
				if len(x.more) > 0 {
					merged++
				}
				for _, p := range resegment(t, x) {
					left[key(p)] = append(left[key(p)], p)
				}
			}
			m.reset()
		}
		for k, want := range came {
			got := left[k]
			if len(got) != len(want) {
				t.Fatalf("seed %d: connection %s: %d packets came, %d left", seed, k, len(want), len(got))
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("seed %d: connection %s, packet %d:\n%x\nwant\n%x", seed, k, i, got[i], want[i])
				}
			}
		}
	}
	if merged < 300 {
		t.Errorf("%d packets were merged", merged)
	}
}

// What differs in more than its place is not merged.
func TestWhatIsNotMerged(t *testing.T) {
	data := make([]byte, 100)
	for name, change := range map[string]func(p []byte){
		"acknowledgement": func(p []byte) { p[20+11]++ },
		"window":          func(p []byte) { p[20+15]++ },
		"type of service": func(p []byte) { p[1] = 4 },
		"time to live":    func(p []byte) { p[8]-- },
		"another port":    func(p []byte) { p[20]++ },
		"urgent":          func(p []byte) { p[20+tcpFlagsOffset] |= 0x20 },
		"CWR":             func(p []byte) { p[20+tcpFlagsOffset] |= 0x80 },
		"a fragment":      func(p []byte) { p[6], p[7] = 0x20, 0 },
		"UDP":             func(p []byte) { p[9] = protoUDP },
	} {
		var m merger
		m.add(segment(4, 1000, 1, tcpACK, data))
		b := segment(4, 1000, 101, tcpACK, data)
		change(b[vnetRoom:])
		m.add(b)
		if m.count != 2 {
			t.Errorf("%s: merged all the same", name)
		}
	}
	var m merger
	for range 10 {
		m.add(segment(6, 1000, 1, tcpACK, nil)) // duplicate ACKs must stay what they are
	}
	if m.count != 10 {
		t.Errorf("10 ACKs became %d packets", m.count)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(segment(4, 1000, 1, tcpACK, []byte("ab"))[vnetRoom:], segment(4, 1000, 3, tcpACK|tcpPSH, []byte("c"))[vnetRoom:])
	f.Add(segment(6, 1000, 1, tcpACK, []byte("ab"))[vnetRoom:], segment(6, 1000, 3, tcpACK, []byte("cd"))[vnetRoom:])
	f.Add([]byte{0x45}, []byte{0x60})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) == 0 || len(b) == 0 {
			return
		}
		var m merger
		m.add(append(make([]byte, vnetRoom), a...))
		m.add(append(make([]byte, vnetRoom), b...))
		total := 0
		for i := range m.count {
			x := &m.merges[i]
			x.finish()
			total += x.total
			if x.header > 0 && (x.header > len(x.first)-vnetRoom || len(x.more) > 0 && x.size == 0) {
				t.Errorf("%x and %x: %+v", a, b, x)
			}
		}
		if m.count == 2 && total != len(a)+len(b) {
			t.Errorf("%d bytes became %d", len(a)+len(b), total)
		}
	})
}
