package ri2n

import (
	"slices"
	"time"
)

// receive handles a batch of authenticated packets that arrived on l.
func (s *Session) receive(now time.Time, l *Link, batch []receivedPacket) {
	s.mu.Lock()
	switch s.state {
	case sessionGone:
		s.mu.Unlock()
		return
	case sessionDraining:
		// Say it again, no more often than packets come.
		if s.closeFrame != (closeFrame{}) || s.closedBy == nil {
			s.closesDue = min(s.closesDue+1, 1)
		}
		s.flush(now)
		return
	}
	for i := range batch {
		if v := s.packet(now, l, &batch[i]); v != nil {
			s.violated(now, v)
			break
		}
		if s.state >= sessionDraining {
			break
		}
	}
	s.flush(now)
}

// packet handles one authenticated packet.
func (s *Session) packet(now time.Time, l *Link, pkt *receivedPacket) *violation {
	if pkt.reserved {
		return &violation{codeProtocolViolation, "reserved bits set"}
	}
	if pkt.updates > s.readKeys.current.Load().count {
		if v := s.peerUpdatedKeys(now); v != nil {
			return v
		}
	}
	p := s.pathByID(pkt.path)
	if q := s.abandoned; p == nil && q != nil && q.id == pkt.path && now.Sub(s.abandonedAt) <= reopenWait {
		// What was on its way is not lost: datagrams are not sent again. And if
		// the peer abandons the other path, it says so on this one.
		p = q
	}
	if p == nil {
		if slices.Contains(s.retired, pkt.path) {
			s.endpoint.counters.closedPathPackets.Add(1)
			return nil
		}
		if p = s.peerOpensPath(pkt, l, now); p == nil {
			return nil
		}
	}
	inOrder := p.numbers.inOrder(pkt.number)
	newest := true
	if largest, any := p.numbers.largest(); any {
		newest = pkt.number > largest
	}
	if p.numbers.contains(pkt.number) || p.refused != nil && p.refused.contains(pkt.number) {
		s.endpoint.counters.duplicates.Add(1)
		p.packetsDuplicate++
		return nil
	}
	s.lastReceived, p.lastReceived = now, now
	p.packetsReceived++
	p.bytesReceived += uint64(pkt.size)
	if newest && p.state != PathClosed && (p.link != l || p.remote != pkt.from) {
		s.rebound(p, l, pkt.from, now)
	}
	p.received += pkt.size
	if s.trace != nil {
		s.trace.packetReceived(now, p, pkt)
	}

	asks, v := s.frames(now, p, pkt)
	s.resting = s.resting && !asks.more
	if s.unblocked {
		s.unblocked = false
		for st := range s.streams.all() {
			s.queueStream(st)
		}
	}
	if v != nil {
		return v
	}
	if s.unstored {
		// Not acknowledged, so the peer sends again what had no room, in
		// another packet; a copy of this one is a replay.
		s.unstored = false
		if p.refused == nil {
			p.refused = new(receivedPackets)
		}
		p.refused.add(pkt.number)
		s.endpoint.counters.streamGapsRefused.Add(1)
		return nil
	}
	p.numbers.add(pkt.number)
	p.updates = max(p.updates, pkt.updates)
	p.acks.received(now, pkt.number, asks.ack, !inOrder, asks.atOnce)
	if asks.data {
		// When what was a flow of packets stops, one PING finds out whether
		// the sender has paused or the path has died.
		p.silenceAt = now.Add(max(3*p.rtt.pto(maxAckDelay), silenceWait))
	}
	return nil
}

// silenceWait is the least silence after received data that is looked into.
const silenceWait = 250 * time.Millisecond

// peerUpdatedKeys follows the peer into the next key phase.
func (s *Session) peerUpdatedKeys(now time.Time) *violation {
	// The peer waits for three of its PTOs and for an acknowledgement under
	// the present keys (RFC 9001, section 6.5), unless it follows an update of
	// ours. One update may be late and the next one not; since it was
	// acknowledged before that, three cannot lie closer together than the wait.
	g := s.readKeys.current.Load()
	asked := s.keys.phase != g.phase
	if !asked && (s.ackedUpdates < g.count || !g.before.IsZero() && now.Sub(g.before) < 3*s.leastPTO()) {
		return &violation{codeKeyUpdate, "keys updated too soon"}
	}
	if err := s.readKeys.rotate(now, 3*s.maxPTO()); err != nil {
		return &violation{codeInternal, "key update"}
	}
	if s.keys.phase != s.readKeys.current.Load().phase && !s.rotateSendKeys(now) {
		return &violation{codeInternal, "key update"}
	}
	return nil
}

// leastPTO is a lower bound of the peer's longest PTO: no smoothed RTT of a
// path is below the least one, and the longest counts for at least minPTOWait.
func (s *Session) leastPTO() time.Duration {
	least := time.Duration(0)
	for _, p := range s.paths {
		if p.rtt.samples > 0 && (least == 0 || p.rtt.min < least) {
			least = p.rtt.min
		}
	}
	return max(least, minPTOWait)
}

// packetAsks is what the frames of a packet ask of its receiver.
type packetAsks struct {
	ack    bool
	atOnce bool
	data   bool // it carries data, so that more is expected
	more   bool // it says more than a keepalive or the ACK of one
}

// frames handles the frames of one packet.
func (s *Session) frames(now time.Time, p *path, pkt *receivedPacket) (asks packetAsks, v *violation) {
	b := pkt.payload
	if len(b) == 0 {
		return asks, &violation{codeProtocolViolation, "packet without frames"}
	}
	for len(b) > 0 && s.state < sessionDraining {
		typ, rest, err := parseVarint(b)
		if err != nil {
			return asks, &violation{codeFrameEncoding, "frame type"}
		}
		asks.ack = asks.ack || isAckElicitingFrame(typ)
		if isStreamFrame(typ) {
			f, after, err := parseStreamFrame(rest, typ)
			if err != nil {
				return asks, malformed(typ)
			}
			if v := s.onStream(now, f); v != nil {
				return asks, v
			}
			asks.data, asks.more = true, true
			asks.atOnce = asks.atOnce || f.fin
			b = after
			continue
		}
		// After long silence a PING is a keepalive: delaying its ACK would cost
		// another wake-up and save no packet.
		asks.atOnce = asks.atOnce || typ == framePing && s.resting
		asks.more = asks.more || typ != framePing && typ != framePadding && typ != framePathAck
		if b, v = s.frame(now, p, pkt.number, typ, rest); v != nil {
			return asks, v
		}
		asks.data = asks.data || typ >= frameDatagram && typ <= frameDatagramNumbered
	}
	return asks, nil
}

func malformed(typ uint64) *violation {
	return &violation{codeFrameEncoding, frameName(typ)}
}

// frame handles one frame other than STREAM, of the packet number on p, and
// returns what follows it.
func (s *Session) frame(now time.Time, p *path, number packetNumber, typ uint64, b []byte) (rest []byte, v *violation) {
	var err error
	switch typ {
	case framePadding:
		return skipPadding(b), nil
	case framePing:
		return b, nil
	case framePathAck, framePathAckECN:
		var scratch [32]ackRange
		var f ackFrame
		if f, rest, err = parseAckFrame(b, typ, scratch[:0]); err == nil {
			v = s.onAck(now, p, &f)
		}
	case frameDatagram, frameDatagramLen:
		var f datagramFrame
		if f, rest, err = parseDatagramFrame(b, typ); err == nil {
			s.onDatagram(f.data)
		}
	case frameDatagramNumbered:
		var f datagramNumberedFrame
		if f, rest, err = parseDatagramNumberedFrame(b); err == nil {
			if s.datagramNumbers.add(packetNumber(f.number)) {
				s.endpoint.counters.datagramCopiesReceived.Add(1)
				break
			}
			s.onDatagram(f.data)
		}
	case frameResetStream:
		var f resetStreamFrame
		if f, rest, err = parseResetStreamFrame(b); err == nil {
			v = s.onResetStream(now, f)
		}
	case frameStopSending:
		var f stopSendingFrame
		if f, rest, err = parseStopSendingFrame(b); err == nil {
			v = s.onStopSending(f)
		}
	case frameMaxData:
		var f maxDataFrame
		if f, rest, err = parseMaxDataFrame(b); err == nil && f.limit > s.sendCredit {
			// Streams wait for it only where it was used up. A look at all of
			// them for each frame would be worth a peer's while.
			s.unblocked = s.unblocked || s.sendUsed >= s.sendCredit
			s.sendCredit = f.limit
		}
	case frameMaxStreamData:
		var f maxStreamDataFrame
		if f, rest, err = parseMaxStreamDataFrame(b); err == nil {
			v = s.onMaxStreamData(f)
		}
	case frameMaxStreamsBidi, frameMaxStreamsUni:
		var f maxStreamsFrame
		if f, rest, err = parseMaxStreamsFrame(b, typ); err == nil && !f.uni && f.limit > s.streamLimit {
			s.streamLimit = f.limit
			s.openable.signal()
		}
	case frameDataBlocked:
		_, rest, err = parseDataBlockedFrame(b)
	case frameStreamDataBlocked:
		_, rest, err = parseStreamDataBlockedFrame(b)
	case frameStreamsBlockedBidi, frameStreamsBlockedUni:
		_, rest, err = parseStreamsBlockedFrame(b, typ)
	case framePathChallenge:
		var f pathChallengeFrame
		if f, rest, err = parsePathChallengeFrame(b); err == nil {
			if len(p.responses) == maxResponses {
				s.endpoint.counters.challengesDropped.Add(1)
				p.responses = p.responses[1:]
			}
			p.responses = append(p.responses, f.data)
		}
	case framePathResponse:
		var f pathResponseFrame
		if f, rest, err = parsePathResponseFrame(b); err == nil && !p.challengeAt.IsZero() && f.data == p.challenge {
			s.validated(p, now)
		}
	case framePathStatus:
		var f pathStatusFrame
		if f, rest, err = parsePathStatusFrame(b); err == nil {
			s.onPathStatus(now, f)
		}
	case framePathAbandon:
		var f pathAbandonFrame
		if f, rest, err = parsePathAbandonFrame(b); err == nil {
			s.onPathAbandon(now, f)
		}
	case frameMaxPaths:
		var f maxPathsFrame
		if f, rest, err = parseMaxPathsFrame(b); err == nil {
			s.pathLimit = max(s.pathLimit, f.limit)
		}
	case frameHandshakeDone:
		if !s.client {
			return nil, &violation{codeProtocolViolation, "HANDSHAKE_DONE from a client"}
		}
		if h := s.handshake; h != nil {
			s.handshake = nil
			s.endpoint.enqueue(h.confirm)
		}
		return b, nil
	case frameClose:
		var f closeFrame
		if f, rest, err = parseCloseFrame(b); err == nil {
			s.end(&RemoteError{Code: f.code, Reason: f.reason})
			s.closedBy = p
			s.startDraining(now)
		}
	case frameAddrAdd, frameAddrRemove, frameObservedAddr:
		_, rest, err = parseAddrFrame(b, typ)
	case frameAckFreq:
		var f ackFreqFrame
		if f, rest, err = parseAckFreqFrame(b); err == nil {
			if number >= p.freqBy {
				p.freqBy = number
				p.acks.threshold = int(min(f.threshold, maxAckThreshold))
			}
		}
	case frameCrypto:
		return nil, &violation{codeProtocolViolation, "CRYPTO after the handshake"}
	default:
		return nil, &violation{codeFrameEncoding, "unknown frame type"}
	}
	if err != nil {
		return nil, malformed(typ)
	}
	return rest, v
}

// onDatagram keeps a datagram for ReceiveDatagram.
func (s *Session) onDatagram(b []byte) {
	if s.inbox.push(b) {
		s.endpoint.counters.datagramInboxDropped.Add(1)
	}
	if s.arrived.c != nil {
		s.wakeLater(s.arrived.c)
	}
}

// onAck handles PATH_ACK, which arrived on by and may be about any path.
func (s *Session) onAck(now time.Time, by *path, f *ackFrame) *violation {
	p := s.pathByID(f.path)
	if p == nil {
		return nil // abandoned
	}
	out := s.takeOutcome()
	out.elsewhere = by != p && p.rtt.samples > 0
	if err := p.loss.onAck(now, f, &p.rtt, maxAckDelay, out); err != nil {
		return &violation{codeAckUnsent, "PATH_ACK"}
	}
	if f.ranges[0].largest >= p.phaseAt {
		s.keys.confirmed = true
	}
	s.applyOutcome(p, now, out)
	if by == p {
		s.heard(p, f.ranges[0].largest, now)
	}
	if out.newlyAcked > 0 {
		s.stalled(p.stallSince, now)
		p.stallSince = time.Time{}
		s.progress(p, by, now)
		for _, q := range s.paths {
			if q != p { // progress here makes silence there tell more
				s.checkStall(q, now)
			}
		}
	}
	return nil
}

// applyOutcome carries out what an ACK or a timer has found.
func (s *Session) applyOutcome(p *path, now time.Time, out *ackOutcome) {
	out.feed(now, p.cc, &p.rtt)
	s.observe(p, now, out)
	if p.canary.observe(now, out.burst, out.lone) {
		s.endpoint.counters.burstsDistrusted.Add(1)
	}
	for _, r := range out.acked {
		if r.kind == refMTUProbe {
			if p.pmtu.acked(int(r.length), now) {
				p.setMTU(p.pmtu.passes)
			}
			continue
		}
		s.acknowledged(r)
	}
	for _, r := range out.lost {
		switch r.kind {
		case refMTUProbe:
			p.pmtu.failed(int(r.length), now)
		case refAckFreq:
			p.ackEvery = 0 // tell it again
		default:
			s.requeueOne(r)
		}
	}
	if p.pmtu.blackHole(out.ackedLarge, out.lostLarge, now) {
		p.setMTU(p.pmtu.base)
	}
}

func (s *Session) acknowledged(r frameRef) {
	switch r.kind {
	case refStream:
		r.stream.onAcked(r)
	case refCopy:
		if r.stream != nil {
			r.stream.onAcked(r)
		}
	case refResetStream:
		r.stream.resetAcked = true
		s.retire(r.stream)
	case refAck:
		if p := s.pathByID(pathID(r.id)); p != nil {
			p.ackHeard(packetNumber(r.offset))
		}
	}
}

func (s *Session) onPathStatus(now time.Time, f pathStatusFrame) {
	p := s.pathByID(f.path)
	if p == nil || f.seq <= p.peerSeq {
		return
	}
	p.peerSeq = f.seq
	if p.hasToken && p.resetToken != f.resetToken {
		s.endpoint.routes.removeReset(p.resetToken, s)
	}
	p.resetToken, p.hasToken = f.resetToken, true
	s.endpoint.routes.addReset(f.resetToken, s)
	suspects := f.status == pathStatusSuspect
	if backup := f.status == pathStatusBackup; backup != p.peerBackup && !suspects {
		p.peerBackup = backup
		s.choosePath()
	}
	if suspects != p.peerSuspects {
		p.peerSuspects = suspects
		s.shun(p, suspects && now.Sub(p.heardAt) > stallQuiet)
	}
}

func (s *Session) onPathAbandon(now time.Time, f pathAbandonFrame) {
	p := s.pathByID(f.path)
	if p == nil {
		// A path that never came to be: its challenges were lost.
		if !s.ours(f.path) && f.path <= s.localLimit && !slices.Contains(s.retired, f.path) {
			if r := s.endpoint.routes.findShort(s.localIDs.cid(f.path, 0)); r != nil && r.session == s {
				s.retirePath(f.path)
			}
		}
		return
	}
	if len(s.paths) == 1 {
		s.lastAbandoned(p, now)
		return
	}
	s.dropPath(p)
}
