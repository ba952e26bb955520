package ri2n

import (
	"net/netip"
	"time"
)

const (
	// maxHandshakeDatagrams bounds the datagrams that are looked at for one
	// handshake. Ten seconds of repeated flights on eight paths are fewer.
	maxHandshakeDatagrams = 256

	maxHeldPackets = 4 // a server's flight is two or three
)

// A heldPacket came before the keys that open it (RFC 9001, section 5.7).
type heldPacket struct {
	tuple     *tuple
	hdr       longHeader
	packet    []byte
	headerLen int
}

// enqueueDatagram hands a copy of b to a worker.
func (h *handshake) enqueueDatagram(l *Link, from netip.AddrPort, b []byte, now time.Time) {
	if h.over.Load() {
		return
	}
	if h.datagrams.Add(1) > maxHandshakeDatagrams {
		h.datagrams.Store(maxHandshakeDatagrams)
		h.endpoint.counters.handshakeDatagramsDropped.Add(1)
		return
	}
	q := &h.endpoint.initials
	run := q.push(&h.waiting, waitingDatagram{link: l, from: from, data: append([]byte(nil), b...), at: now}, maxWaitingBytes)
	switch {
	case !run:
	case h.awaited != nil && q.attended(&h.waiting):
		signal(h.awaited)
	case !h.endpoint.enqueue(h.receiveWaiting):
		q.drop(&h.waiting)
	}
}

// receiveWaiting handles on a worker all that has arrived for h, in order.
func (h *handshake) receiveWaiting() {
	q := &h.endpoint.initials
	for {
		batch := q.take(&h.waiting)
		if batch == nil {
			return
		}
		for _, d := range batch {
			h.receive(d.link, d.from, d.data, false, d.at)
		}
	}
}

// receive handles one datagram on a worker. proven says that its sender has
// shown a Retry token.
func (h *handshake) receive(l *Link, from netip.AddrPort, datagram []byte, proven bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	confirming := h.client && h.state == handshakeComplete
	if h.state != handshakeRunning && !confirming {
		return
	}
	t := h.tuple(l, from)
	if t == nil {
		return
	}
	t.received += len(datagram)
	t.largest = max(t.largest, len(datagram))
	t.proven = t.proven || proven || l.IsCarrier()
	fresh := !t.used // a second way to the client: it wants the whole flight
	t.used = true

	advanced := false
	for rest := datagram; len(rest) > 0 && isLongPacket(rest[0]); {
		hdr, headerLen, after, err := parseLongHeader(rest)
		if err != nil {
			h.versionNegotiation(rest, now)
			break
		}
		packet := rest[:len(rest)-len(after)]
		rest = after
		ok, err := h.packet(t, hdr, packet, headerLen)
		if err != nil && confirming {
			h.session.closedInHandshake(err, now)
			return
		}
		if err != nil {
			h.fail(now, err)
			return
		}
		advanced = advanced || ok
	}
	if h.state != handshakeRunning || !advanced {
		return
	}
	begun := time.Now()
	err := h.feedTLS()
	if err == nil {
		err = h.takeHeld()
	}
	if spent := time.Since(begun); !h.client && spent > handshakeCost/4 {
		h.endpoint.handshakeTook(spent)
	}
	if err != nil {
		h.fail(now, err)
		return
	}
	if h.tlsDone {
		// The session must be known before our last flight leaves: its first
		// packets may be here before that call returns.
		h.path = t
		s, err := newSession(h, now)
		if err != nil {
			h.fail(now, err)
			return
		}
		h.flush(now, true)
		h.complete(s, now)
		return
	}
	h.flush(now, !h.client && fresh)
}

// takeHeld handles the packets that came before their keys, once those are
// there.
func (h *handshake) takeHeld() error {
	if len(h.held) == 0 || h.spaces[1].read == nil {
		return nil
	}
	held := h.held
	h.held = nil
	for _, p := range held {
		if _, err := h.packet(p.tuple, p.hdr, p.packet, p.headerLen); err != nil {
			return err
		}
	}
	return h.feedTLS()
}

// packet handles one long packet and reports whether it was authentic.
func (h *handshake) packet(t *tuple, hdr longHeader, packet []byte, headerLen int) (bool, error) {
	c := &h.endpoint.counters
	if hdr.typ.hasMAC1() && !checkMAC1(packet, hdr, &h.macKey) {
		c.mac1Failed.Add(1)
		return false, nil
	}
	switch {
	case hdr.typ == longRetry:
		return false, h.retry(hdr)
	case h.client && h.answered && hdr.scid != h.dcid, !h.client && hdr.scid != h.dcid:
		c.malformed.Add(1)
		return false, nil
	}
	space := &h.spaces[0]
	if hdr.typ == longHandshake {
		space = &h.spaces[1]
	}
	if space.read == nil {
		if len(h.held) < maxHeldPackets { // reordered: its keys are on their way
			h.held = append(h.held, heldPacket{t, hdr, packet, headerLen})
		}
		return false, nil
	}
	payload, err := space.read.open(packet, headerLen, 0, packetNumber(hdr.pn))
	if err != nil {
		c.authenticationFailed.Add(1)
		return false, nil
	}
	if h.client && !h.answered {
		h.answered = true
		h.dcid = hdr.scid
		h.path = t
		h.rtt = max(time.Since(h.started), time.Millisecond)
		h.attempts = 0
	}
	if hdr.typ == longHandshake {
		t.proven = true // only who got our flight has the keys
		// ... and all of our Initials (docs/wire-format.md, section 3.2).
		h.spaces[0].acked.add(0, uint64(len(h.spaces[0].out)))
		h.spaces[0].sent = nil
	}
	if space.received.add(packetNumber(hdr.pn)) {
		c.duplicates.Add(1)
		return false, nil
	}
	return true, h.frames(space, payload)
}

// frames handles the frames that a handshake may carry.
func (h *handshake) frames(space *cryptoSpace, b []byte) error {
	var scratch [32]ackRange
	for len(b) > 0 {
		typ, rest, err := parseVarint(b)
		if err != nil || !isHandshakeFrame(typ) {
			return &violation{codeFrameEncoding, "frame not allowed in a handshake"}
		}
		switch typ {
		case framePadding:
			b = skipPadding(rest)
		case framePing:
			space.ackDue = true
			b = rest
		case framePathAck, framePathAckECN:
			f, after, err := parseAckFrame(rest, typ, scratch[:0])
			if err != nil {
				return &violation{codeFrameEncoding, "PATH_ACK"}
			}
			space.acknowledge(f.ranges)
			b = after
		case frameCrypto:
			f, after, err := parseCryptoFrame(rest)
			if err != nil {
				return &violation{codeFrameEncoding, "CRYPTO"}
			}
			if f.offset+uint64(len(f.data)) > space.in.consumed()+maxCryptoBuffer {
				return &violation{codeCryptoBuffer, "CRYPTO beyond the buffer"}
			}
			if err := space.in.insert(f.offset, f.data, false); err != nil {
				return &violation{codeProtocolViolation, "CRYPTO contradicts itself"}
			}
			space.ackDue = true
			b = after
		case frameClose:
			f, _, err := parseCloseFrame(rest)
			if err != nil {
				return &violation{codeFrameEncoding, "CLOSE"}
			}
			return &RemoteError{Code: f.code, Reason: f.reason}
		default:
			return &violation{codeFrameEncoding, "frame not allowed in a handshake"}
		}
	}
	return nil
}

// retry restarts a dial with the token that proves its address.
func (h *handshake) retry(hdr longHeader) error {
	if !h.client || h.answered || h.retried {
		return nil
	}
	h.retried = true
	h.retrySCID = hdr.scid
	h.endpoint.counters.retriesReceived.Add(1)
	h.token = append([]byte(nil), hdr.token...)
	h.dcid = hdr.scid
	client, server := initialKeys(h.dcid)
	s := &h.spaces[0]
	s.write, s.read = client, server
	s.sent = nil
	h.flush(time.Now(), true)
	return nil
}

// versionNegotiation ends a dial to a peer that speaks other versions.
func (h *handshake) versionNegotiation(b []byte, now time.Time) {
	if !h.client || h.answered {
		return
	}
	v, err := parseVersionNegotiation(b)
	if err != nil || v.dcid != h.scid || v.scid != h.dcid {
		h.endpoint.counters.malformed.Add(1)
		return
	}
	for _, theirs := range v.versions {
		if theirs == version1 {
			return // not true, or a late answer
		}
	}
	h.fail(now, &VersionError{Ours: version1, Theirs: v.versions})
}
