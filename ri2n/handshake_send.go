package ri2n

import "time"

// flush sends what the handshake has to say: everything that is not
// acknowledged if all is set, otherwise what is new. Candidates whose turn has
// come get everything.
func (h *handshake) flush(now time.Time, all bool) { h.flushAll(now, all, false) }

// ackWait is how long an ACK waits for handshake data to travel with. It only
// tells a peer which part of a flight to repeat, so it need not be quick.
const ackWait = 25 * time.Millisecond

// flushAll is flush that, with acks set, also sends ACKs that have nothing to
// travel with.
func (h *handshake) flushAll(now time.Time, all, acks bool) {
	repeats := false
	if h.spaces[1].write != nil && h.client {
		h.spaces[0].ackDue = false // our Handshake packets say it
	}
	for _, t := range h.targets() {
		if h.client && !h.answered && !t.used {
			if now.Before(t.due) {
				continue
			}
			t.used = true
			h.sendFlight(t, now, true, acks)
			continue
		}
		h.sendFlight(t, now, all, acks)
	}
	waits := false
	for i := range h.spaces {
		s := &h.spaces[i]
		if acks || s.outSent < len(s.out) {
			s.ackDue = false
		}
		waits = waits || s.ackDue
		s.outSent = len(s.out)
		s.outstanding(true, func(int, int) { repeats = true })
	}
	switch {
	case !waits:
		h.ackAt = time.Time{}
	case h.ackAt.IsZero():
		h.ackAt = now.Add(ackWait)
	}
	switch {
	case !repeats:
		h.next = time.Time{}
	case all || h.next.IsZero():
		h.next = now.Add(h.pto())
	}
	h.arm()
}

// targets are the transport addresses to send to: every one until the client
// has got an answer, then that one. A server answers wherever it was asked.
func (h *handshake) targets() []*tuple {
	if h.client && h.answered {
		return []*tuple{h.path}
	}
	return h.tuples
}

// sendFlight sends the outstanding parts of both levels to t, packed into as
// few datagrams as they need.
func (h *handshake) sendFlight(t *tuple, now time.Time, all, acks bool) {
	size := h.datagramSize(t)
	scratch := transmissions.Get().(*transmission)
	defer transmissions.Put(scratch)
	scratch.reset(size)
	buf := scratch.buf    // a burst of datagrams, and behind it the one in the making
	burst := 0            // length of the burst
	var segment, last int // sizes of its first and its last datagram
	initials := false
	filled := func() int { return len(buf) - burst }
	send := func() {
		if burst > 0 {
			h.transmit(t, buf[:burst], segment)
			buf = buf[:copy(buf, buf[burst:])]
			burst = 0
		}
	}
	emit := func() {
		n := filled()
		if n == 0 {
			return
		}
		// Datagrams of one size leave together, within one limit.
		if last != segment || n > segment || len(buf) > maxBurst {
			send()
		}
		if burst == 0 {
			segment = n
		}
		last = n
		burst = len(buf)
		initials = false
	}
	defer func() {
		emit()
		send()
	}()
	for i := range h.spaces {
		s := &h.spaces[i]
		if s.write == nil {
			continue
		}
		typ := longInitial
		if i == 1 {
			typ = longHandshake
		}
		overhead := longHeaderLen(longHeader{typ: typ, token: h.tokenFor(typ)}) + aeadOverhead
		put := func(frames []byte, start, end int) {
			// A client pads every datagram with an Initial, so that the
			// server may answer with three times as much and the path is
			// known to carry the base size.
			if typ == longInitial && h.client {
				if pad := size - filled() - overhead - len(frames); pad > 0 {
					frames = appendPadding(frames, pad)
				}
				initials = true
			}
			if end > start {
				s.sent = append(s.sent, sentCrypto{packetNumber(s.nextNumber), start, end})
			}
			buf = h.appendPacket(buf, s, typ, frames)
		}
		ack := func() []byte {
			if !s.ackDue && !all {
				return nil
			}
			ranges := s.received.appendRanges(nil, 8)
			if len(ranges) == 0 {
				return nil
			}
			return appendAckFrame(nil, ackFrame{ranges: ranges})
		}
		sentAny := false
		s.outstanding(all, func(start, end int) {
			for start < end {
				var frames []byte
				if !sentAny {
					frames = ack()
				}
				room := size - filled() - overhead - len(frames) - cryptoHeaderLen(uint64(start), size)
				if room < 64 {
					emit()
					continue
				}
				n := min(room, end-start)
				frames = appendCryptoFrame(frames, cryptoFrame{offset: uint64(start), data: s.out[start : start+n]})
				put(frames, start, start+n)
				start += n
				sentAny = true
			}
		})
		if !sentAny && s.ackDue && acks {
			if frames := ack(); frames != nil {
				if size-filled()-overhead-len(frames) < 0 {
					emit()
				}
				put(frames, 0, 0)
			}
		}
		if initials {
			emit()
		}
	}
}

func (h *handshake) tokenFor(typ longType) []byte {
	if typ == longInitial && h.client {
		return h.token
	}
	return nil
}

// datagramSize is the path's base size; after two unanswered flights at 1200
// the next ones try the floor, and what has worked stays. A responder sends
// nothing larger than what came to it.
func (h *handshake) datagramSize(t *tuple) int {
	size := t.link.baseSize()
	if h.attempts >= 2 {
		h.small = true
	}
	if h.small {
		size = min(size, smallBaseSize)
	}
	if !h.client {
		size = min(size, max(t.largest, minBaseSize))
	}
	return size
}

// appendPacket seals frames as one long packet behind b. When the numbers of
// a level are used up it appends nothing; the handshake times out.
func (h *handshake) appendPacket(b []byte, s *cryptoSpace, typ longType, frames []byte) []byte {
	if s.nextNumber == 1<<16-1 {
		return b
	}
	start := len(b)
	b = appendLongHeader(b, longHeader{
		typ: typ, version: version1, dcid: h.dcid, scid: h.scid, token: h.tokenFor(typ),
		length: uint16(2 + len(frames) + aeadOverhead), pn: s.nextNumber,
	}, &h.macKey)
	headerLen := len(b) - start
	b = append(b, frames...)
	end := len(b)
	b = append(b, zeroTag[:]...)
	s.write.seal(b[start:end], headerLen, 0, packetNumber(s.nextNumber))
	s.nextNumber++
	return b
}

// transmit sends a burst of datagrams of size bytes, the last one maybe
// shorter, as far as the limit on unproven addresses lets it.
func (h *handshake) transmit(t *tuple, burst []byte, size int) {
	if !h.client && !t.proven {
		if room := max(0, 3*t.received-t.sent); len(burst) > room {
			h.endpoint.counters.amplificationLimited.Add(1)
			burst = burst[:room/size*size]
		}
	}
	if len(burst) == 0 {
		return
	}
	t.sent += len(burst)
	// A path that does not answer may be one that loses bursts only.
	t.link.sendBurst(burst, size, t.addr, h.attempts == 0)
}
