package ri2n

import (
	"sync"
	"time"
)

// spareLife is how long a prepared dial waits for its use, and how close two
// dials must be for the endpoint to expect a third.
const spareLife = 10 * time.Second

// A spareDial keeps the first flight of the next dial ready, on endpoints that
// dial often: its fresh key share is the dearest part of a dial and depends on
// nothing, so it is made while an earlier peer computes its answer. It is used
// once or, after spareLife, never.
type spareDial struct {
	mu     sync.Mutex // guards what follows
	spare  *handshake // nil: none
	madeAt time.Time
	lastAt time.Time // of the last dial
	making bool
	closed bool
}

// takeSpare returns the prepared dial, or nil.
func (e *Endpoint) takeSpare() *handshake {
	d := &e.spare
	d.mu.Lock()
	h := d.spare
	d.spare = nil
	stale := h != nil && time.Since(d.madeAt) >= spareLife
	d.mu.Unlock()
	if h == nil {
		return nil
	}
	if e.timers.set(&h.timer, time.Time{}); stale {
		h.release()
		return nil
	}
	h.timer.fire = h.onTimer
	return h
}

// wantSpare prepares a dial if the last one was not long ago.
func (e *Endpoint) wantSpare(now time.Time) {
	d := &e.spare
	d.mu.Lock()
	often := !d.lastAt.IsZero() && now.Sub(d.lastAt) < spareLife
	d.lastAt = now
	wanted := often && !d.making && !d.closed && d.spare == nil
	d.making = d.making || wanted
	d.mu.Unlock()
	if wanted && !e.enqueue(e.makeSpare) {
		d.mu.Lock()
		d.making = false
		d.mu.Unlock()
	}
}

func (e *Endpoint) makeSpare() {
	h, err := e.prepareDial()
	d := &e.spare
	d.mu.Lock()
	d.making = false
	if err != nil || d.closed {
		d.mu.Unlock()
		if err == nil {
			h.release()
		}
		return
	}
	d.spare, d.madeAt = h, time.Now()
	h.timer.fire = func(time.Time) { e.dropSpare(h) }
	e.timers.set(&h.timer, d.madeAt.Add(spareLife))
	d.mu.Unlock()
}

// dropSpare gives up h unless it is in use.
func (e *Endpoint) dropSpare(h *handshake) {
	d := &e.spare
	d.mu.Lock()
	unused := d.spare == h
	if unused {
		d.spare = nil
	}
	d.mu.Unlock()
	if unused {
		h.release()
	}
}

// closeSpare ends the preparation of dials.
func (e *Endpoint) closeSpare() {
	d := &e.spare
	d.mu.Lock()
	h := d.spare
	d.spare, d.closed = nil, true
	d.mu.Unlock()
	if h != nil {
		e.timers.set(&h.timer, time.Time{})
		h.release()
	}
}
