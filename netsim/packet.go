package netsim

import (
	"net/netip"
	"sync"
)

// A packet is one IP packet that carries a UDP datagram or, if tooBig is set,
// an ICMP message.
type packet struct {
	src, dst netip.AddrPort
	payload  []byte
	tooBig   int // an ICMP message: the MTU of a link in bytes; zero: a UDP datagram
}

// headerBytes is what IPv4 and UDP add to a payload.
const headerBytes = 20 + 8

// maxPayload is the largest UDP payload in an IPv4 packet, in bytes.
const maxPayload = 65535 - headerBytes

// size returns the length of the IP packet in bytes.
func (p *packet) size() int {
	if p.tooBig > 0 {
		return 2 * headerBytes // RFC 792: the header of IP and 64 bits of the original
	}
	return len(p.payload) + headerBytes
}

// usualPayload holds what fits in an MTU of 1500; larger buffers are left to
// the collector.
const usualPayload = 1500

// packetPool is shared by all networks: what it holds has no content that
// anyone could observe.
var packetPool = sync.Pool{New: func() any {
	return &packet{payload: make([]byte, 0, usualPayload)}
}}

// newPacket returns a packet that holds a copy of payload.
func newPacket(src, dst netip.AddrPort, payload []byte) *packet {
	p := packetPool.Get().(*packet)
	p.src, p.dst, p.tooBig = src, dst, 0
	p.payload = append(p.payload[:0], payload...)
	return p
}

// free gives p back; nobody may use it afterwards.
func (p *packet) free() {
	if cap(p.payload) <= usualPayload {
		packetPool.Put(p)
	}
}
