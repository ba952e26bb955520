package netsim

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/netip"
	"time"
)

// A PcapWriter writes trace events as a capture that Wireshark opens (pcapng,
// draft-ietf-opsawg-pcapng). Each place is an interface; each step of a packet
// is one packet of the capture, with a comment where it was dropped. Time
// begins on 2000-01-01, as in a bubble.
//
// Its methods are for one goroutine at a time, as a tracer's calls are.
type PcapWriter struct {
	w      *bufio.Writer
	places map[string]uint32 // interface of each place
	block  []byte            // scratch
	packet []byte            // scratch
	err    error
}

// Block types and options of pcapng, sections 4 and 3.5.
const (
	pcapSection   = 0x0a0d0d0a
	pcapInterface = 1
	pcapPacket    = 6

	pcapEnd        = 0
	pcapComment    = 1
	pcapName       = 2 // of an interface
	pcapFlags      = 2 // of a packet
	pcapResolution = 9 // of an interface's time stamps
)

// linkTypeIPv4 says that packets begin with an IPv4 header (LINKTYPE_IPV4).
const linkTypeIPv4 = 228

// pcapStart is the moment of a network's start in a capture.
var pcapStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()

// NewPcapWriter returns a writer of one capture to w. The caller ends it with
// Flush.
func NewPcapWriter(w io.Writer) *PcapWriter {
	p := &PcapWriter{w: bufio.NewWriterSize(w, 64<<10), places: make(map[string]uint32)}
	b := binary.LittleEndian.AppendUint32(nil, 0x1a2b3c4d)
	b = binary.LittleEndian.AppendUint16(b, 1) // version 1.0
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint64(b, 1<<64-1) // length of the section is not stated
	p.write(pcapSection, b)
	return p
}

// Trace writes one step; it is what WithTrace and Stepped.Trace call.
func (p *PcapWriter) Trace(e TraceEvent) {
	if p.err != nil {
		return
	}
	place, ok := p.places[e.Place]
	if !ok {
		place = uint32(len(p.places))
		p.places[e.Place] = place
		p.addInterface(e.Place)
	}
	p.packet = appendIPv4(p.packet[:0], e)
	at := uint64(pcapStart + int64(e.At))
	b := binary.LittleEndian.AppendUint32(p.block[:0], place)
	b = binary.LittleEndian.AppendUint32(b, uint32(at>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.packet))) // captured
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.packet))) // original
	b = append(b, p.packet...)
	b = pad(b)
	switch e.Kind {
	case TraceDeliver:
		b = appendOption(b, pcapFlags, []byte{1, 0, 0, 0}) // inbound
	case TraceSend:
		b = appendOption(b, pcapFlags, []byte{2, 0, 0, 0}) // outbound
	case TraceDrop:
		b = appendOption(b, pcapComment, []byte("dropped: "+e.Cause.String()))
	}
	b = appendOption(b, pcapEnd, nil)
	p.block = b
	p.write(pcapPacket, b)
}

// Flush writes what is buffered, and returns the first error of all writes.
func (p *PcapWriter) Flush() error {
	if err := p.w.Flush(); p.err == nil {
		p.err = err
	}
	return p.err
}

func (p *PcapWriter) addInterface(place string) {
	b := binary.LittleEndian.AppendUint16(nil, linkTypeIPv4)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, 0) // whole packets
	b = appendOption(b, pcapName, []byte(place))
	b = appendOption(b, pcapResolution, []byte{9}) // nanoseconds
	b = appendOption(b, pcapEnd, nil)
	p.write(pcapInterface, b)
}

// write writes a block, whose body is a multiple of four bytes.
func (p *PcapWriter) write(kind uint32, body []byte) {
	var head [8]byte
	size := uint32(len(body) + 12)
	binary.LittleEndian.PutUint32(head[:4], kind)
	binary.LittleEndian.PutUint32(head[4:], size)
	for _, part := range [][]byte{head[:], body, head[4:]} {
		if _, err := p.w.Write(part); err != nil && p.err == nil {
			p.err = err
		}
	}
}

func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// appendIPv4 appends the IP packet of a step (RFC 791; RFC 768; RFC 792).
func appendIPv4(b []byte, e TraceEvent) []byte {
	const udp, icmp = 17, 1
	if e.TooBig == 0 {
		b = appendIPv4Header(b, udp, e.Src.Addr(), e.Dst.Addr(), 8+len(e.Payload))
		b = binary.BigEndian.AppendUint16(b, e.Src.Port())
		b = binary.BigEndian.AppendUint16(b, e.Dst.Port())
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(e.Payload)))
		b = append(b, 0, 0) // no checksum
		return append(b, e.Payload...)
	}
	b = appendIPv4Header(b, icmp, e.Src.Addr(), e.Dst.Addr(), 8+headerBytes)
	at := len(b)
	b = append(b, 3, 4, 0, 0, 0, 0) // fragmentation needed; checksum; unused
	b = binary.BigEndian.AppendUint16(b, uint16(e.TooBig))
	// The quoted packet went the other way. How long it was is not known here.
	b = appendIPv4Header(b, udp, e.Dst.Addr(), e.Src.Addr(), 8)
	b = binary.BigEndian.AppendUint16(b, e.Dst.Port())
	b = binary.BigEndian.AppendUint16(b, e.Src.Port())
	b = append(b, 0, 8, 0, 0)
	binary.BigEndian.PutUint16(b[at+2:], checksum(b[at:]))
	return b
}

func appendIPv4Header(b []byte, protocol byte, src, dst netip.Addr, size int) []byte {
	at := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+size))
	b = append(b, 0, 0, 0x40, 0, 64, protocol, 0, 0) // do not fragment
	from, to := src.As4(), dst.As4()
	b = append(b, from[:]...)
	b = append(b, to[:]...)
	binary.BigEndian.PutUint16(b[at+10:], checksum(b[at:]))
	return b
}

// checksum returns the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
