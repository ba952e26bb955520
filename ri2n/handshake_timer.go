package ri2n

import "time"

const (
	// handshakePTO is the wait for an answer before a round trip has been
	// seen. RFC 9002 begins with 1 s; a home link answers far sooner, and a
	// repeated flight costs the wait of one packet.
	handshakePTO    = 300 * time.Millisecond
	maxHandshakePTO = time.Second
)

// onTimer runs on the timer goroutine and moves the work to a worker.
func (h *handshake) onTimer(now time.Time) {
	if !h.endpoint.enqueue(func() { h.advance(time.Now()) }) {
		h.endpoint.timers.set(&h.timer, now.Add(50*time.Millisecond))
	}
}

// advance does what is due at now.
func (h *handshake) advance(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !now.Before(h.expires) && h.state == handshakeRunning:
		h.fail(now, ErrHandshakeTimeout)
		return
	case !now.Before(h.expires):
		h.bury()
		return
	case h.state == handshakeDead:
		return
	}
	if isDue(h.ackAt, now) {
		h.ackAt = time.Time{}
		h.flushAll(now, false, true)
		return
	}
	if !h.next.IsZero() && !now.Before(h.next) {
		h.attempts++
		h.flush(now, true)
		return
	}
	h.flush(now, false)
}

// arm sets the timer for the earliest of expiry, retransmission and the next
// candidate's turn.
func (h *handshake) arm() {
	at := h.expires
	if !h.next.IsZero() && h.next.Before(at) {
		at = h.next
	}
	if !h.ackAt.IsZero() && h.ackAt.Before(at) {
		at = h.ackAt
	}
	if h.client && !h.answered {
		for _, t := range h.tuples {
			if !t.used && t.due.Before(at) {
				at = t.due
			}
		}
	}
	h.endpoint.timers.set(&h.timer, at)
}

// pto is the wait until the flight is repeated.
func (h *handshake) pto() time.Duration {
	base := handshakePTO
	if h.rtt > 0 {
		base = max(2*h.rtt, 50*time.Millisecond)
	}
	return min(base<<min(h.attempts, 4), maxHandshakePTO)
}
