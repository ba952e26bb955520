package ri2n

import (
	"net/netip"
	"time"
)

// A receiver takes the datagrams of one read from one link: it finds their
// owner, opens them without any lock, and hands them to the session in one
// batch. It belongs to one goroutine.
type receiver struct {
	endpoint *Endpoint
	link     *Link
	now      time.Time // of the read
	held     bool      // the datagram has waited for a handshake

	session *Session // owner of batch
	batch   []receivedPacket
}

// A receivedPacket has been authenticated and not yet been looked into.
type receivedPacket struct {
	path     pathID
	number   packetNumber
	payload  []byte // aliases the read buffer
	from     netip.AddrPort
	size     int // of the datagram
	reserved bool
	updates  uint64 // the peer's key updates before it
}

// begin tells that a read has brought datagrams.
func (r *receiver) begin() {
	r.now = time.Now()
	r.endpoint.counters.reads.Add(1)
}

// datagram handles one datagram, which it may change.
func (r *receiver) datagram(b []byte, from netip.AddrPort) {
	e := r.endpoint
	e.counters.datagramsReceived.Add(1)
	e.counters.bytesReceived.Add(uint64(len(b)))
	switch {
	case len(b) == 0:
		e.counters.malformed.Add(1)
	case !isSessionPacket(b[0]):
		if r.link.other != nil {
			r.link.other.push(b, from)
		}
	case isLongPacket(b[0]):
		e.longDatagram(r.link, from, b, r.now)
	default:
		r.short(b, from)
	}
}

func (r *receiver) short(b []byte, from netip.AddrPort) {
	e := r.endpoint
	h, _, err := parseShortHeader(b)
	if err != nil || len(b) < shortHeaderLen+16 {
		e.counters.malformed.Add(1)
		return
	}
	rt := e.routes.findShort(h.dcid)
	if rt == nil {
		if e.holdEarly(r.link, from, b) {
			return
		}
		// Its handshake may have completed between the two looks.
		if rt = e.routes.findShort(h.dcid); rt == nil {
			if r.held {
				// Its handshake failed. Who sent it is told in the handshake.
				e.counters.earlyPacketsDropped.Add(1)
				return
			}
			e.unknownShort(r.link, from, b, h.dcid, r.now)
			return
		}
	}
	s := rt.session
	number := expandPacketNumber(packetNumber(rt.largest.Load()), h.pn)
	payload, updates, err := s.readKeys.open(b, h, rt.path, number)
	if err != nil {
		e.counters.authenticationFailed.Add(1)
		if s.readKeys.forgeries.Load() >= s.readKeys.most {
			r.finish()
			s.forgeryLimit(r.now)
		} else if s := e.routes.findReset(b); s != nil {
			r.finish()
			s.statelessReset(r.now)
		}
		return
	}
	for {
		largest := rt.largest.Load()
		if uint64(number) <= largest || rt.largest.CompareAndSwap(largest, uint64(number)) {
			break
		}
	}
	if r.session != s {
		r.finish()
		r.session = s
	}
	r.batch = append(r.batch, receivedPacket{
		path: rt.path, number: number, payload: payload, from: from, size: len(b),
		reserved: h.reserved != 0, updates: updates,
	})
}

// finish delivers what has been collected. The read buffer is free after it.
func (r *receiver) finish() {
	if r.session == nil {
		return
	}
	r.session.receive(r.now, r.link, r.batch)
	clear(r.batch)
	r.batch = r.batch[:0]
	r.session = nil
}

// unknownShort handles a packet whose connection ID nobody has: a stateless
// reset, or a packet of a session that we have forgotten, whose sender
// deserves one.
func (e *Endpoint) unknownShort(l *Link, from netip.AddrPort, b []byte, id connID, now time.Time) {
	e.counters.unknownConnection.Add(1)
	if s := e.routes.findReset(b); s != nil {
		s.statelessReset(now)
		return
	}
	if l.IsCarrier() || len(b) < minResetTrigger {
		return
	}
	e.mu.Lock()
	allowed := !e.closed && e.resets.allow(now, from.Addr())
	e.mu.Unlock()
	if !allowed {
		e.counters.statelessResetsHeld.Add(1)
		return
	}
	reset := appendStatelessReset(nil, e.cfg.Rand, statelessResetToken(&e.resetKey, id), len(b)-1)
	if len(reset) == 0 {
		return
	}
	e.counters.statelessResetsSent.Add(1)
	l.send(reset, len(reset), from)
}

// minResetTrigger is the smallest datagram that is answered with a stateless
// reset, which must be shorter, so that two endpoints cannot answer each
// other for ever (RFC 9000, section 10.3.3). Packets that want an answer are
// at least so large.
const minResetTrigger = minStatelessReset + 1
