package overlay

import "time"

const (
	// maxHalves bounds the halves of one session that wait for their other
	// one: some 50 KiB. A guess; on one path the two arrive together.
	maxHalves = 32
	// halfLife is how long a half waits: longer than two paths of a session
	// differ.
	halfLife = time.Second
)

// halves puts packets together that came in two. The goroutine that reads the
// session's datagrams owns it.
type halves struct {
	waiting []half // oldest first
}

type half struct {
	packet
	until time.Time
}

// add takes a half and returns the whole packet once both are there. What had
// to go to make room, or has waited for too long, is counted in lost.
func (h *halves) add(now time.Time, p packet) (whole []byte, lost int) {
	old := 0
	for old < len(h.waiting) && !now.Before(h.waiting[old].until) {
		old++
	}
	lost = old
	h.waiting = h.waiting[old:]
	for i := range h.waiting {
		w := &h.waiting[i]
		if w.number != p.number || w.from != p.from || w.to != p.to {
			continue
		}
		if w.part == p.part || len(w.payload)+len(p.payload) > MaxPacketSize {
			return nil, lost + 1 // a second one of a number, or of none of ours
		}
		first, second := w.payload, p.payload
		if p.part == partFirst {
			first, second = second, first
		}
		whole = append(append(make([]byte, 0, len(first)+len(second)), first...), second...)
		h.waiting = append(h.waiting[:i], h.waiting[i+1:]...)
		return whole, lost
	}
	if len(h.waiting) >= maxHalves {
		h.waiting = h.waiting[1:]
		lost++
	}
	h.waiting = append(h.waiting, half{p, now.Add(halfLife)})
	return nil, lost
}
