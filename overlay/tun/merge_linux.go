package tun

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Limits of what one write merges.
const (
	maxMerged  = 65535 // bytes of a packet
	openMerges = 8     // flows at a time
)

// Layout of struct virtio_net_hdr (linux/virtio_net.h), of vnetRoom bytes.
const (
	vnetFlags      = 0
	vnetType       = 1
	vnetHeaderLen  = 2
	vnetSize       = 4
	vnetSumStart   = 6
	vnetSumOffset  = 8
	tcpSumOffset   = 16
	tcpSequence    = 4
	tcpFlagsOffset = 13
	tcpPSH         = 0x08
)

// A merge is a packet for the kernel: one of a peer's, or consecutive segments
// of a TCP connection as one GSO packet, as generic receive offload makes them
// of what a network card delivers. The kernel need not verify what was merged:
// the session has authenticated it.
type merge struct {
	first   []byte   // the first segment's packet, behind vnetRoom bytes
	more    [][]byte // payloads of the others
	header  int      // length of the headers; zero: nothing may be merged to it
	size    int      // payload of each segment but the last
	total   int      // length of the whole packet
	next    uint32   // sequence number that follows
	push    bool
	closed  bool // nothing more fits
	version uint8
}

// A merger collects what one write gives the kernel. It is used again.
type merger struct {
	merges []merge
	count  int
}

// reset forgets the packets.
func (m *merger) reset() {
	for i := range m.merges[:m.count] {
		x := &m.merges[i]
		clear(x.more)
		*x = merge{more: x.more[:0]}
	}
	m.count = 0
}

// add takes a packet that begins at vnetRoom of b.
func (m *merger) add(b []byte) {
	p := b[vnetRoom:]
	header, version := mergeable(p)
	if header > 0 {
		for i := m.count - 1; i >= 0 && i >= m.count-openMerges; i-- {
			x := &m.merges[i]
			if x.header == 0 || !sameConnection(x.first[vnetRoom:], p, x.version, version) {
				continue
			}
			if x.append(p, header) {
				return
			}
			break // the order within a connection is kept
		}
	}
	if m.count == len(m.merges) {
		m.merges = append(m.merges, merge{})
	}
	x := &m.merges[m.count]
	m.count++
	x.first, x.total, x.version = b, len(p), version
	if header == 0 {
		return
	}
	tcp := p[header-int(p[transportOf(version)+12]>>4)*4:]
	x.header, x.size = header, len(p)-header
	x.next = binary.BigEndian.Uint32(tcp[tcpSequence:]) + uint32(x.size)
	x.push = tcp[tcpFlagsOffset]&tcpPSH != 0
	x.closed = x.push || x.size == 0 || tcp[tcpFlagsOffset]&^tcpPSH != tcpACK
}

// transportOf returns where the transport header of a packet without options
// begins.
func transportOf(version uint8) int {
	if version == 4 {
		return ipv4HeaderLen
	}
	return ipv6HeaderLen
}

// mergeable returns the length of the headers of a TCP packet without IP
// options, zero for anything else.
func mergeable(p []byte) (header int, version uint8) {
	if len(p) < ipv4HeaderLen+20 {
		return 0, 0
	}
	switch {
	case p[0] == 0x45 && p[9] == protoTCP && p[6]&0x3f == 0 && p[7] == 0:
		version = 4
	case p[0]>>4 == 6 && p[6] == protoTCP && len(p) >= ipv6HeaderLen+20:
		version = 6
	default:
		return 0, 0
	}
	at := transportOf(version)
	length := int(p[at+12]>>4) * 4
	if length < 20 || at+length > len(p) {
		return 0, 0
	}
	return at + length, version
}

// sameConnection compares addresses and ports.
func sameConnection(a, b []byte, va, vb uint8) bool {
	if va != vb {
		return false
	}
	if va == 4 {
		return bytes.Equal(a[12:24], b[12:24])
	}
	return bytes.Equal(a[8:44], b[8:44])
}

// append merges the packet p of the same connection, if it is the next segment
// and differs from the one before in nothing else.
func (x *merge) append(p []byte, header int) bool {
	a, payload := x.first[vnetRoom:], p[header:]
	at := transportOf(x.version)
	flags := p[at+tcpFlagsOffset]
	switch {
	case x.closed, header != x.header, len(payload) == 0, len(payload) > x.size, x.total+len(payload) > maxMerged,
		flags&^tcpPSH != tcpACK,
		binary.BigEndian.Uint32(p[at+tcpSequence:]) != x.next,
		!bytes.Equal(a[at+8:at+12], p[at+8:at+12]),   // acknowledgement
		!bytes.Equal(a[at+14:at+16], p[at+14:at+16]), // window
		!bytes.Equal(a[at+20:header], p[at+20:header]):
		x.closed = true
		return false
	}
	if x.version == 4 && (a[1] != p[1] || a[8] != p[8] || a[6] != p[6]) || x.version == 6 && !bytes.Equal(a[:4], p[:4]) {
		x.closed = true
		return false
	}
	x.more = append(x.more, payload)
	x.total += len(payload)
	x.next += uint32(len(payload))
	x.push = flags&tcpPSH != 0
	x.closed = x.push || len(payload) < x.size
	return true
}

// finish writes the header of struct virtio_net_hdr, and the headers of a
// merged packet.
func (x *merge) finish() {
	h, p := x.first[:vnetRoom], x.first[vnetRoom:]
	clear(h)
	if len(x.more) == 0 {
		return
	}
	at := transportOf(x.version)
	length := x.total - at
	h[vnetFlags] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	var pseudo uint64
	if x.version == 4 {
		h[vnetType] = unix.VIRTIO_NET_HDR_GSO_TCPV4
		binary.BigEndian.PutUint16(p[2:], uint16(x.total))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^fold(sum(p[:at], 0)))
		pseudo = sum(p[12:20], uint64(length)+protoTCP)
	} else {
		h[vnetType] = unix.VIRTIO_NET_HDR_GSO_TCPV6
		binary.BigEndian.PutUint16(p[4:], uint16(length))
		pseudo = sum(p[8:40], uint64(length)+protoTCP)
	}
	binary.NativeEndian.PutUint16(h[vnetHeaderLen:], uint16(x.header))
	binary.NativeEndian.PutUint16(h[vnetSize:], uint16(x.size))
	binary.NativeEndian.PutUint16(h[vnetSumStart:], uint16(at))
	binary.NativeEndian.PutUint16(h[vnetSumOffset:], tcpSumOffset)
	if x.push {
		p[at+tcpFlagsOffset] |= tcpPSH
	}
	binary.BigEndian.PutUint16(p[at+tcpSumOffset:], fold(pseudo))
}
