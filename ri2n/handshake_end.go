package ri2n

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// tombstone is how long a finished handshake answers to its connection
// IDs, so that a late copy of its Initials begins no second one.
const tombstone = 10 * time.Second

// complete hands the session to who waits for it.
func (h *handshake) complete(s *Session, now time.Time) {
	h.state = handshakeComplete
	h.session = s
	h.endpoint.counters.handshakesCompleted.Add(1)
	if h.client {
		h.arm()
		s.begin(now)
		close(h.finished)
		return
	}
	e := h.endpoint
	early := e.dropHalfOpen(h, true)
	e.refund(h)
	h.release()
	h.entomb(now)
	close(h.finished)
	select {
	case e.accepted <- s:
		s.begin(now)
	default:
		// Nothing but CLOSE is ever sent: the peer has no token by which to
		// take a stateless reset of ours for the session's.
		e.counters.acceptQueueOverflows.Add(1)
		s.CloseWithError(codeRefused, "too many sessions wait to be accepted")
	}
	for _, p := range early {
		r := receiver{endpoint: e, link: p.link, now: now, held: true}
		r.datagram(p.data, p.from)
		r.finish()
	}
}

// release frees what only a running handshake needs: 6.5 KB of TLS state.
func (h *handshake) release() {
	if h.tls != nil {
		h.tls.Close()
		h.tls = nil
	}
	h.spaces = [2]cryptoSpace{}
	h.token, h.held = nil, nil
}

// confirm ends the client's part once the server has said that it is done.
// It runs on its own so that no session lock is held above the handshake's.
func (h *handshake) confirm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == handshakeComplete {
		h.bury()
	}
}

// bury forgets the handshake altogether.
func (h *handshake) bury() {
	h.state = handshakeDead
	h.release()
	if h.tombstone {
		h.tombstone = false
		h.endpoint.dropTombstone()
	}
	h.endpoint.timers.set(&h.timer, time.Time{})
	h.endpoint.routes.removeLong(h.scid, h)
	h.endpoint.routes.removeLong(h.firstDCID, h)
}

// fail ends the handshake with err, telling the peer where that is possible.
func (h *handshake) fail(now time.Time, err error) {
	if h.state != handshakeRunning {
		return
	}
	e := h.endpoint
	var remote *RemoteError
	if !errors.As(err, &remote) {
		h.sendClose(now, err)
	}
	switch {
	case h.refusal != nil:
		err = h.refusal
		if errors.Is(err, ErrRefused) {
			e.counters.handshakesRefused.Add(1)
		}
	case remote != nil:
		err = remote
	}
	e.counters.handshakesFailed.Add(1)
	h.err = err
	if h.client {
		h.bury()
	} else {
		early := e.dropHalfOpen(h, false)
		e.counters.earlyPacketsDropped.Add(uint64(len(early)))
		h.release()
		h.state = handshakeDead
		h.entomb(now)
	}
	close(h.finished)
}

// entomb keeps the connection IDs of a responder's finished handshake taken
// for a while: a repeated Initial, of a refused peer say, costs no second one.
// Under a flood of Initials that come to nothing there is no room for that.
func (h *handshake) entomb(now time.Time) {
	h.over.Store(true)
	h.next, h.ackAt, h.expires = time.Time{}, time.Time{}, now.Add(tombstone)
	if h.tombstone = h.endpoint.addTombstone(); !h.tombstone {
		h.bury()
		return
	}
	h.arm()
}

// abort ends a handshake from outside.
func (h *handshake) abort(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == handshakeRunning {
		h.fail(time.Now(), err)
	}
	if h.state != handshakeRunning && (h.client && h.session == nil || errors.Is(err, net.ErrClosed)) {
		h.bury()
	}
}

// sendClose tells the peer why, under the strongest keys both may have.
func (h *handshake) sendClose(now time.Time, err error) {
	code, reason := closeCode(err)
	switch {
	case h.refusal != nil && errors.Is(h.refusal, ErrRefused):
		code, reason = codeRefused, ""
	case errors.Is(err, ErrTooManySessions):
		code, reason = codeRefused, "too many sessions"
	}
	for i := range h.spaces {
		s := &h.spaces[i]
		if s.write == nil || h.client && !h.answered {
			continue
		}
		typ := longInitial
		if i == 1 {
			typ = longHandshake
		}
		frame := appendCloseFrame(nil, closeFrame{code: code, reason: reason})
		for _, t := range h.tuples {
			if h.client && t != h.path || !t.used && !h.client {
				continue
			}
			packet := h.appendPacket(nil, s, typ, frame)
			h.transmit(t, packet, max(1, len(packet)))
		}
	}
}

// closeCode maps an error of the handshake to what the peer is told.
func closeCode(err error) (code uint64, reason string) {
	var v *violation
	var alert tls.AlertError
	switch {
	case errors.As(err, &v):
		return uint64(v.code), v.reason
	case errors.As(err, &alert):
		return codeTLSAlert + uint64(alert), ""
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return codeNoError, ""
	}
	return codeInternal, ""
}
