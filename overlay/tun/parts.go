package tun

import (
	"encoding/binary"
	"sync"
	"time"
)

// The first byte of a datagram's content is that of an IP packet, 4 or 6 in its
// upper half, or says that this is one half of a packet (docs/overlay-protocol.md,
// section 10).
const (
	formFirst  = 0x01
	formSecond = 0x02

	partHeaderLen = 3
)

const (
	maxParts      = 64        // halves of one peer that wait for the other
	maxPartsBytes = 256 << 10 // of these
	partLife      = time.Second
)

// A part is half of a packet.
type part struct {
	second bool
	id     uint16 // the same in both halves
	data   []byte
}

// appendPart appends the encoding of p.
func appendPart(b []byte, p part) []byte {
	form := byte(formFirst)
	if p.second {
		form = formSecond
	}
	b = append(b, form)
	b = binary.BigEndian.AppendUint16(b, p.id)
	return append(b, p.data...)
}

// parsePart decodes a datagram's content. The data alias b.
func parsePart(b []byte) (p part, err error) {
	if len(b) <= partHeaderLen || b[0] != formFirst && b[0] != formSecond {
		return p, errMalformed
	}
	return part{second: b[0] == formSecond, id: binary.BigEndian.Uint16(b[1:]), data: b[partHeaderLen:]}, nil
}

// isPart reports whether a datagram's content is half of a packet.
func isPart(b []byte) bool { return len(b) > 0 && (b[0] == formFirst || b[0] == formSecond) }

// An assembler puts the halves of a peer's packets together. The oldest makes
// room. It is safe for concurrent use; the zero value is empty.
type assembler struct {
	mu      sync.Mutex // guards what follows
	waiting []waitingPart
	bytes   int
	lost    uint64 // halves whose other one did not come
}

type waitingPart struct {
	part
	at time.Time
}

// add takes a half. It returns the whole packet if the other half was here.
func (a *assembler) add(now time.Time, p part) (whole []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.waiting) > 0 && now.Sub(a.waiting[0].at) >= partLife {
		a.drop(0)
		a.lost++
	}
	for i, w := range a.waiting {
		if w.id != p.id {
			continue
		}
		a.drop(i)
		if w.second == p.second {
			a.lost++ // the number is used again
			break
		}
		first, second := w.data, p.data
		if w.second {
			first, second = second, first
		}
		return append(append(make([]byte, 0, len(first)+len(second)), first...), second...)
	}
	if len(p.data) > maxPartsBytes {
		a.lost++
		return nil
	}
	for len(a.waiting) >= maxParts || a.bytes+len(p.data) > maxPartsBytes {
		a.drop(0)
		a.lost++
	}
	p.data = append([]byte(nil), p.data...)
	a.waiting = append(a.waiting, waitingPart{p, now})
	a.bytes += len(p.data)
	return nil
}

func (a *assembler) drop(i int) {
	a.bytes -= len(a.waiting[i].data)
	copy(a.waiting[i:], a.waiting[i+1:])
	a.waiting[len(a.waiting)-1] = waitingPart{}
	a.waiting = a.waiting[:len(a.waiting)-1]
}

// lostParts returns how many halves were given up.
func (a *assembler) lostParts() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost
}
