package ri2n

import (
	"context"
	"crypto/tls"
	"sync"
	"time"
)

// readyFor is how long a ClientHello waits for a dial to use it: who dials
// again soon has it, and its private keys do not lie about for long.
const readyFor = 10 * time.Second

// A readyHello keeps one client's handshake that has made its ClientHello and
// has not been told whom to dial. Its key share, a fifth of what both ends
// compute for a handshake, is made while the dial before waits for its answer,
// and serves one dial only.
type readyHello struct {
	mu     sync.Mutex
	h      *handshake // nil: none
	making bool
	closed bool
	expiry timer // of h
}

// take returns the handshake that is ready, or nil.
func (r *readyHello) take() *handshake {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.h
	r.h = nil
	return h
}

// want reports whether the caller is to make one and to put it.
func (r *readyHello) want() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.h != nil || r.making || r.closed {
		return false
	}
	r.making = true
	return true
}

// put ends what want began. It reports false if h, nil if there is none, is
// not kept.
func (r *readyHello) put(h *handshake) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.making = false
	if r.closed || h == nil {
		return false
	}
	r.h = h
	return true
}

// drop forgets the handshake that is ready.
func (r *readyHello) drop() {
	if h := r.take(); h != nil {
		h.release()
	}
}

// close drops it, and keeps none from now on.
func (r *readyHello) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.drop()
}

// prepareHello has a worker make the ClientHello of the next dial.
func (e *Endpoint) prepareHello() {
	r := &e.ready
	if !r.want() {
		return
	}
	made := e.enqueue(func() {
		h, err := e.makeHello()
		if err != nil { // the next dial meets it, and says so
			r.put(nil)
			return
		}
		if !r.put(h) {
			h.release()
			return
		}
		e.timers.set(&r.expiry, time.Now().Add(readyFor))
	})
	if !made {
		r.put(nil)
	}
}

// makeHello returns a client's handshake that lacks the peer.
func (e *Endpoint) makeHello() (*handshake, error) {
	h := e.newHandshake(true)
	h.firstDCID = e.newConnID()
	h.dcid, h.odcid = h.firstDCID, h.firstDCID
	h.awaited = make(chan struct{}, 1)
	h.spaces[0].write, h.spaces[0].read = initialKeys(h.dcid)
	h.tls = tls.QUICClient(&tls.QUICConfig{TLSConfig: e.tlsConfig(h)})
	h.tls.SetTransportParameters(e.transportParams(h))
	err := h.tls.Start(context.Background())
	if err == nil {
		err = h.drainTLS()
	}
	if err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}
