package ri2n

import (
	"sync"
	"time"
)

// Kinds of frames that are sent again when they are lost.
const (
	refStream frameKind = iota + 1
	refDatagram
	refPing
	refHandshakeDone
	refMaxData
	refMaxStreams
	refMaxPaths
	refMaxStreamData
	refResetStream
	refStopSending
	refPathStatus
	refPathAbandon
	refPathProbe // PATH_CHALLENGE or PATH_RESPONSE
	refMTUProbe
	refAckFreq
	refCopy // of what another path carries too; the first is sent again if need be
	refAck  // our PATH_ACK, which the peer need not hear again
)

// maxBurst is the largest burst of datagrams in bytes: what one system call
// takes with UDP GSO.
const (
	maxBurst        = 63 << 10
	maxBurstPackets = 64
)

// A transmission is one burst on its way to a socket: packets of equal size,
// the last one maybe shorter, in plain text until it is sealed.
type transmission struct {
	buf     []byte
	size    int
	numbers [maxBurstPackets]packetNumber
	ends    [maxBurstPackets]int
	count   int

	// narrow tells that size is that of the first packet, which carries
	// datagrams and is shorter than the path allows.
	narrow bool
}

var transmissions = sync.Pool{New: func() any { return &transmission{buf: make([]byte, 0, 64<<10)} }}

func (t *transmission) reset(size int) {
	t.buf, t.size, t.count, t.narrow = t.buf[:0], size, 0, false
}

// room reports whether another packet may join the burst.
func (t *transmission) room() bool {
	return t.count < maxBurstPackets && len(t.buf)+t.size <= maxBurst && len(t.buf) == t.count*t.size
}

func (t *transmission) seal(keys *packetKeys, path pathID) {
	start := 0
	for i := range t.count {
		end := t.ends[i]
		keys.seal(t.buf[start:end-aeadOverhead:end], shortHeaderLen, path, t.numbers[i])
		start = end
	}
}

// flush sends all that may be sent now, sets the timer and unlocks the
// session. One goroutine at a time sends; others leave their work to it.
func (s *Session) flush(now time.Time) {
	if s.flushing {
		s.unlock()
		return
	}
	s.flushing = true
	var t *transmission
	for s.state != sessionGone {
		if t == nil {
			t = transmissions.Get().(*transmission)
		}
		p := s.buildBurst(now, t)
		if p == nil {
			if s.state == sessionLingering && s.lingerDone() {
				s.drain(now, closeFrame{code: codeNoError})
				continue
			}
			break
		}
		s.burstSent(now, p, t)
		link, remote, id, keys := p.link, p.remote, p.id, s.keys.keys
		// A path that does not answer may be one that loses bursts only.
		whole := t.count > 1 && p.ptoCount == 0 && p.canary.allows(now)
		if whole {
			p.loss.sentInBurst(t.numbers[:t.count])
		}
		s.unlock()
		t.seal(keys, id)
		unreachable := link.sendBurst(t.buf, t.size, remote, whole)
		now = time.Now()
		s.mu.Lock()
		if unreachable {
			s.unreachable(p, now)
		}
	}
	s.flushing = false
	if s.resting {
		s.restAgain()
	}
	s.flushed(now)
	s.dropOutcome()
	early, at := s.deadline(now)
	s.endpoint.timers.setBetween(&s.timer, early, at)
	s.unlock()
	if t != nil {
		transmissions.Put(t)
	}
}

// buildBurst fills t with what one path has to send, and returns that path,
// or nil when nothing may be sent.
func (s *Session) buildBurst(now time.Time, t *transmission) *path {
	if s.state < sessionDraining && s.keys.packets >= s.keys.most {
		s.updateKeys(now)
	}
	if s.state == sessionDraining {
		if s.keys.packets >= maxKeyPackets+closeReserve {
			return nil
		}
		return s.buildClose(now, t)
	}
	for _, p := range s.paths {
		p.limited = false
	}
	target, what := s.schedule(now)
	for _, p := range s.paths { // what paths need for themselves, and copies
		if p != s.sending && s.buildPackets(p, now, t, load{copies: p.copies.list.len() > 0}) {
			return p
		}
	}
	if p := s.sending; p != nil {
		l := load{session: true, copies: p.copies.list.len() > 0}
		if p == target {
			l.streams, l.policy, l.freshOnly, l.bulkOnly = true, what.policy, what.freshOnly, what.bulkOnly
		}
		if s.buildPackets(p, now, t, l) {
			return p
		}
	}
	if target != nil && target != s.sending && s.buildPackets(target, now, t, what) {
		return target
	}
	if s.tailDue && len(s.sendQueue) == 0 {
		if s.copyTails(now); s.copiesWait() {
			return s.buildBurst(now, t)
		}
	}
	for _, p := range s.paths {
		if (p.carries || p == s.sending) && !p.limited && p.loss.bytesInFlight()+p.packetSize() <= p.cc.Cwnd() {
			p.loss.setAppLimited()
		}
	}
	return nil
}

// updateKeys moves to the next keys when it is time, and ends the session when
// it never is.
func (s *Session) updateKeys(now time.Time) {
	k := &s.keys
	if k.confirmed && now.Sub(k.rotatedAt) >= 3*s.maxPTO() && s.rotateSendKeys(now) {
		return
	}
	if k.packets >= maxKeyPackets {
		s.violated(now, &violation{codeAEADLimit, "too many packets under one key"})
	}
}

func (s *Session) rotateSendKeys(now time.Time) bool {
	if err := s.keys.rotate(now); err != nil {
		return false
	}
	s.endpoint.counters.keyUpdates.Add(1)
	for _, p := range s.paths {
		p.phaseAt = p.loss.ring.next
	}
	return true
}

func (s *Session) maxPTO() time.Duration {
	longest := minPTOWait
	for _, p := range s.paths {
		longest = max(longest, p.rtt.pto(maxAckDelay))
	}
	return longest
}

// ptosAtFullSize is how many probe time-outs in a row may have packets of full
// size for probes. Later ones have the base size: the path may have ceased to
// carry more, and without any ACK nobody would notice (RFC 8899, section 4.3).
const ptosAtFullSize = 3

func (s *Session) buildPackets(p *path, now time.Time, t *transmission, l load) bool {
	p.followCarrier()
	size := p.packetSize()
	if p.probes > 0 && p.ptoCount >= ptosAtFullSize {
		size = min(size, p.link.baseSize())
	}
	t.reset(size)
	if p.loss.ring.len() > starvedRecords {
		s.acksStarved(p, now)
	}
	for t.room() && s.buildPacket(p, now, t, l) {
	}
	if t.count == 1 && len(t.buf) < t.size && l.session && s.fillsPacket(t, now) {
		// Datagrams leave room in their packets. Those of a burst are as
		// large as its first, so that they can leave as one.
		t.size, t.narrow = len(t.buf), true
		for t.room() && s.buildPacket(p, now, t, l) {
		}
	}
	return t.count > 0 || s.buildMTUProbe(p, now, t)
}

// maxDatagramPadding is the part of a packet, one in so many, that may be
// padding so that a burst of datagrams goes on.
const maxDatagramPadding = 16

// fillsPacket reports whether the next datagram all but fills a packet of the
// size of t's first one.
func (s *Session) fillsPacket(t *transmission, now time.Time) bool {
	if s.datagrams.len() == 0 {
		return false
	}
	n := s.datagrams.peekSize(now)
	if n < 0 {
		return false // what was queued is too old by now
	}
	room := t.ends[0] - shortHeaderLen - aeadOverhead
	need := datagramHeaderLen(n, false) + n
	return need <= room && need >= room-room/maxDatagramPadding
}

// buildMTUProbe makes a packet of the size that the path's search wants to
// know about. Its loss is no sign of congestion, and the congestion window
// does not hold it back (RFC 8899, section 4.1).
func (s *Session) buildMTUProbe(p *path, now time.Time, t *transmission) bool {
	size := p.pmtu.probe(now)
	if size == 0 || !p.proven || !p.loss.canSend() || p.state != PathActive && p.state != PathStandby {
		return false
	}
	t.reset(size)
	b := append(t.buf, zeroHeader[:]...)
	b = appendPingFrame(b)
	b = appendPadding(b, size-aeadOverhead-len(b))
	refs := append(s.refs[:0], frameRef{kind: refMTUProbe, length: uint32(size)})
	s.commit(p, now, t, b, true, refs)
	p.pmtu.sent(size)
	return true
}

// buildClose makes the packet that ends the session.
func (s *Session) buildClose(now time.Time, t *transmission) *path {
	p := s.closedBy
	if p == nil {
		p = s.sending
	}
	if s.closesDue == 0 || p == nil || !p.loss.canSend() {
		return nil
	}
	s.closesDue--
	t.reset(p.packetSize())
	if p.allowance() < t.size {
		return nil
	}
	b := append(t.buf, make([]byte, shortHeaderLen)...)
	b = appendCloseFrame(b, s.closeFrame)
	s.commit(p, now, t, b, false, nil)
	return p
}

// buildPacket appends one packet for p to t, and reports whether there was
// something to send. Besides what the path needs itself it takes what l says.
func (s *Session) buildPacket(p *path, now time.Time, t *transmission, l load) bool {
	if !p.loss.canSend() || p.allowance() < t.size {
		return false
	}
	if t.narrow && !s.fillsPacket(t, now) {
		return false
	}
	down := p.state == PathSuspect || p.state == PathFailed
	inFlight := p.loss.bytesInFlight()
	open := p.probes > 0 || inFlight+t.size <= p.cc.Cwnd()
	ackNow := !down && (p.acks.needsAckNow() || isDue(p.acks.deadline(), now))
	if l.session {
		for _, q := range s.paths { // a suspect path's ACKs take another way
			ackNow = ackNow || q != p && s.acksTravel(q) && (q.acks.needsAckNow() || isDue(q.acks.deadline(), now))
		}
	}
	challenge := isDue(p.challengeAt, now) && p.challenges < s.challengeTries(p)
	// Responses wait for no congestion window, but nobody gets them who
	// acknowledges none.
	answering := len(p.responses) > 0 && inFlight <= p.cc.Cwnd()+maxResponses*t.size
	probing := challenge || answering
	copies := l.copies && open && p.copies.front(now) != nil
	datagrams := l.session && open && s.datagramsDue(now)
	streams := l.streams && open && len(s.sendQueue) > 0
	data := copies || datagrams || streams
	control := l.session && open && (data || !now.Before(s.controlAt)) && s.controlDue()
	if data && p.probes == 0 && p.sendBudget(now) < t.size {
		copies, datagrams, streams, data = false, false, false, false
		p.limited = true
	}
	ping := p.ping || p.probes > 0 && !data && !control
	if !ackNow && !probing && !control && !data && !ping {
		return false
	}

	start := len(t.buf)
	limit := start + t.size - aeadOverhead
	b := append(t.buf, zeroHeader[:]...)
	refs := s.refs[:0]

	if p.acks.wantsAck() && !down {
		b = s.appendAck(b, p, now)
		b = s.appendReports(b, limit, p, now)
	}
	if l.session {
		for _, q := range s.paths {
			if q != p && s.acksTravel(q) && q.acks.wantsAck() && limit-len(b) > 200 {
				b = s.appendAck(b, q, now)
			}
		}
	}
	if p.numbers.gaps() >= manyRanges && !p.ackAsked && now.Sub(p.ackAskedAt) >= p.rtt.srtt() && len(b) > start+shortHeaderLen {
		ping, p.ackAsked, p.ackAskedAt = true, true, now
	}
	for answering && len(p.responses) > 0 && limit-len(b) >= 9 {
		b = appendPathResponseFrame(b, pathResponseFrame{p.responses[0]})
		p.responses = p.responses[1:]
		refs = append(refs, frameRef{kind: refPathProbe})
	}
	if challenge {
		b = appendPathChallengeFrame(b, pathChallengeFrame{p.challenge})
		p.challenges++
		p.challengeAt = now.Add(challengeInterval << min(p.challenges-1, 3))
		refs = append(refs, frameRef{kind: refPathProbe})
	}
	if control {
		b, refs = s.appendControl(b, limit, refs)
	}
	if data {
		if n := p.ackThreshold(); p.wantsAckEvery(n) {
			b = appendAckFreqFrame(b, ackFreqFrame{threshold: uint64(n), delay: maxAckDelay, reorder: 1})
			refs = append(refs, frameRef{kind: refAckFreq, length: uint32(n)})
			p.ackEvery = n
		}
		switch {
		case copies && len(refs) == 0:
			b, refs = s.appendCopies(p, now, b, limit, refs)
		default:
			if datagrams {
				b, refs = s.appendDatagrams(p, b, limit, refs, now)
			}
			if streams {
				b, refs = s.appendStreams(p, l, b, limit, refs, now)
			}
		}
	}
	if ping || p.probes > 0 {
		if len(refs) == 0 {
			b = appendPingFrame(b)
			refs = append(refs, frameRef{kind: refPing})
		}
		p.ping = false
	}
	if p.ackAsked && len(refs) > 0 && p.acks.wantsNone() && p.acks.largest > p.forgetBy {
		refs = append(refs, frameRef{kind: refAck, id: uint64(p.id), offset: uint64(p.acks.largest)})
		p.ackAsked = false
	}
	s.refs = refs[:0]
	if len(b) == start+shortHeaderLen {
		return false // what was due turned out to be blocked by credit
	}
	// The peer may see us at another address, where it may send three times what
	// has come from there: enough for a challenge.
	widen := p.probes > 0 && p.ptoCount > 1 && p.ptoCount%2 == 1
	if probing || widen {
		if pad := limit - len(b); pad > 0 {
			b = appendPadding(b, pad)
		}
	}
	if len(refs) > 0 {
		if pad := start + minResetTrigger - aeadOverhead - len(b); pad > 0 {
			b = appendPadding(b, pad)
		}
		if p.probes > 0 {
			p.probes--
		}
	}
	if pad := limit - len(b); t.narrow && pad > 0 && s.fillsPacket(t, now) {
		b = appendPadding(b, pad)
	}
	s.commit(p, now, t, b, len(refs) > 0, refs)
	clear(refs)
	return true
}

var (
	zeroHeader [shortHeaderLen]byte
	zeroTag    [aeadOverhead]byte
)

func isDue(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// acksTravel reports whether the ACKs of q's packets leave on another path.
func (s *Session) acksTravel(q *path) bool {
	return q.state == PathSuspect || q.state == PathFailed || q.peerSuspects
}

func (s *Session) appendAck(b []byte, p *path, now time.Time) []byte {
	var scratch [32]ackRange
	ranges := p.numbers.appendRanges(scratch[:0], len(scratch))
	if len(ranges) == 0 {
		return b
	}
	b = appendAckFrame(b, ackFrame{path: p.id, delay: p.acks.delay(now), ranges: ranges})
	p.acks.sent()
	p.ackedTo = ranges[0].largest
	s.ackedUpdates = max(s.ackedUpdates, p.updates)
	return b
}

// commit gives the packet in b, which extends t.buf, its number and header,
// and records it.
func (s *Session) commit(p *path, now time.Time, t *transmission, b []byte, eliciting bool, refs []frameRef) {
	start := len(t.buf)
	number := p.loss.nextPacketNumber()
	redundant := len(refs) > 0 && refs[0].kind == refCopy
	appendShortHeader(b[start:start], shortHeader{keyPhase: s.keys.phase, redundant: redundant, dcid: p.remoteID, pn: uint32(number)})
	b = append(b, zeroTag[:]...)
	size := len(b) - start
	t.buf = b
	if s.trace != nil {
		s.trace.packetSent(now, p, number, size, b[start+shortHeaderLen:len(b)-aeadOverhead])
	}
	t.numbers[t.count] = number
	t.ends[t.count] = len(b)
	t.count++

	var first frameRef
	if len(refs) > 0 {
		first, refs = refs[0], refs[1:]
	}
	// What is sent on a path that is down finds out whether it is back; its
	// loss is no sign of congestion.
	down := p.state == PathSuspect || p.state == PathFailed
	probe := first.kind == refMTUProbe || down && p != s.sending
	p.loss.sent(now, number, size, eliciting, probe, first, refs)
	if eliciting && p.owedSince.IsZero() {
		p.owedSince = now
	}
	if eliciting && !probe {
		p.cc.OnSent(now, size, p.loss.bytesInFlight())
		p.pacer.sent(size)
	}
	s.keys.packets++
	p.sent += size
	p.packetsSent++
	p.bytesSent += uint64(size)
	p.lastSent = now
	s.resting = s.resting && (first.kind == refNone || first.kind == refPing) && len(refs) == 0
}

// controlDue reports whether session or stream control frames wait.
func (s *Session) controlDue() bool {
	if s.doneDue || s.maxDataDue || s.maxStreamsDue || s.maxPathsDue || len(s.abandons) > 0 || len(s.controlQueue) > 0 {
		return true
	}
	for _, p := range s.paths {
		if p.statusDue {
			return true
		}
	}
	return false
}

// maxControlFrame is more than any control frame needs, in bytes.
const maxControlFrame = 48

func (s *Session) appendControl(b []byte, limit int, refs []frameRef) ([]byte, []frameRef) {
	room := func() bool { return limit-len(b) >= maxControlFrame }
	if s.doneDue && room() {
		b = appendHandshakeDoneFrame(b)
		refs = append(refs, frameRef{kind: refHandshakeDone})
		s.doneDue = false
	}
	if s.maxDataDue && room() {
		b = appendMaxDataFrame(b, maxDataFrame{s.recvCredit})
		refs = append(refs, frameRef{kind: refMaxData, offset: s.recvCredit})
		s.maxDataDue = false
	}
	if s.maxStreamsDue && room() {
		b = appendMaxStreamsFrame(b, maxStreamsFrame{limit: s.peerLimit})
		refs = append(refs, frameRef{kind: refMaxStreams, offset: s.peerLimit})
		s.maxStreamsDue = false
	}
	if s.maxPathsDue && room() {
		b = appendMaxPathsFrame(b, maxPathsFrame{s.localLimit})
		refs = append(refs, frameRef{kind: refMaxPaths, id: uint64(s.localLimit)})
		s.maxPathsDue = false
	}
	for len(s.abandons) > 0 && room() {
		f := s.abandons[0]
		s.abandons = s.abandons[1:]
		b = appendPathAbandonFrame(b, f)
		refs = append(refs, frameRef{kind: refPathAbandon, id: uint64(f.path), offset: f.code})
	}
	for _, p := range s.paths {
		if p.statusDue && room() {
			if p.statusSeq == 0 {
				s.setStatus(p)
			}
			b = appendPathStatusFrame(b, pathStatusFrame{
				path: p.id, seq: p.statusSeq, status: p.status,
				resetToken: statelessResetToken(&s.endpoint.resetKey, p.localID),
			})
			refs = append(refs, frameRef{kind: refPathStatus, id: uint64(p.id), offset: p.statusSeq})
			p.statusDue = false
		}
	}
	for len(s.controlQueue) > 0 && room() {
		st := s.controlQueue[0]
		if b, refs = st.appendControl(b, refs, room); !st.controlDue() {
			st.controlQueued = false
			s.controlQueue = dropFirst(s.controlQueue)
		}
	}
	return b, refs
}

// datagramsDue reports whether datagrams wait to be sent.
func (s *Session) datagramsDue(now time.Time) bool {
	return s.datagrams.len() > 0 && s.datagrams.peekSize(now) >= 0
}

func (s *Session) appendDatagrams(p *path, b []byte, limit int, refs []frameRef, now time.Time) ([]byte, []frameRef) {
	for s.datagrams.len() > 0 {
		n := s.datagrams.peekSize(now)
		if n < 0 || datagramHeaderLen(n, false)+n > limit-len(b) {
			break
		}
		d, ok := s.datagrams.pop(now, n)
		if !ok {
			break
		}
		refs = append(refs, frameRef{kind: refDatagram, length: uint32(n)})
		if f, ok := s.numbered(p, d, limit-len(b), now); ok {
			b = appendDatagramNumberedFrame(b, f)
			s.copyDatagram(p, f, now)
		} else {
			b = appendDatagramFrame(b, datagramFrame{data: d})
		}
		s.datagrams.release(d)
	}
	return b, refs
}

// minStreamRoom keeps stream frames from being cut into crumbs.
const minStreamRoom = 64

// appendStreams adds stream data for p, of the streams that l names.
func (s *Session) appendStreams(p *path, l load, b []byte, limit int, refs []frameRef, now time.Time) ([]byte, []frameRef) {
	passed := 0 // streams that have nothing for this packet, at the end of the queue
	for len(s.sendQueue) > passed && limit-len(b) >= minStreamRoom {
		st := s.sendQueue[0]
		pol := s.policyOf(st)
		if l.policy != policyInherit && l.policy != pol || l.bulkOnly && !st.hasMuch() || l.freshOnly && !st.send.hasFresh(st.creditLimit()) {
			passed++
			s.turn()
			continue
		}
		next := st.send.next
		if l.freshOnly {
			next = st.send.nextFresh
		}
		header := 1 + varintLen(st.id) + varintLen(st.send.end) + 2
		off, n, fin, fresh, ok := next(limit-len(b)-header, st.creditLimit())
		if !ok {
			st.queued = false
			s.sendQueue = dropFirst(s.sendQueue)
			s.noteCredit(st)
			continue
		}
		if fresh {
			s.sendUsed += uint64(n)
		}
		b = appendStreamHeader(b, st.id, off, n, true, fin)
		at := len(b)
		b = b[:at+n] // the buffer of a transmission is never too small
		st.send.copyRange(b[at:], off)
		refs = append(refs, frameRef{kind: refStream, stream: st, offset: off, length: uint32(n), fin: fin})
		s.tailDue = true
		if k := pol.copies(); k > 1 {
			var scratch [maxPaths]*path
			for _, q := range s.otherCarriers(scratch[:0], p, k-1, now) {
				s.copyTo(q, copyRange{stream: st, off: off, n: uint32(n), fin: fin})
			}
		}
		s.turn()
	}
	return b, refs
}

// dropFirst removes the first of q in place. An empty queue keeps its memory if
// that is little, so that one that empties often does not allocate each time.
func dropFirst[T any](q []T) []T {
	var zero T
	n := copy(q, q[1:])
	q[n] = zero
	if n == 0 && cap(q) > fifoKeep {
		return nil
	}
	return q[:n]
}

// turn lets the next stream send.
func (s *Session) turn() {
	if n := len(s.sendQueue); n > 1 {
		st := s.sendQueue[0]
		copy(s.sendQueue, s.sendQueue[1:])
		s.sendQueue[n-1] = st
	}
}

// requeue makes lost frames due again.
func (s *Session) requeue(lost []frameRef) {
	for _, r := range lost {
		s.requeueOne(r)
	}
}

func (s *Session) requeueOne(r frameRef) {
	switch r.kind {
	case refStream:
		r.stream.send.onLost(r.offset, int(r.length), r.fin)
		s.queueStream(r.stream)
	case refHandshakeDone:
		s.doneDue = true
	case refMaxData:
		s.maxDataDue = true
	case refMaxStreams:
		s.maxStreamsDue = true
	case refMaxPaths:
		s.maxPathsDue = true
	case refMaxStreamData:
		r.stream.maxDataDue = !r.stream.recvDone()
		s.queueControl(r.stream)
	case refResetStream:
		r.stream.resetDue = !r.stream.resetAcked
		s.queueControl(r.stream)
	case refStopSending:
		r.stream.stopDue = !r.stream.recvDone()
		s.queueControl(r.stream)
	case refPathStatus:
		if p := s.pathByID(pathID(r.id)); p != nil && r.offset == p.statusSeq {
			p.statusDue = true
		}
	case refPathAbandon:
		s.abandons = append(s.abandons, pathAbandonFrame{path: pathID(r.id), code: r.offset})
	}
}

// queueStream lets st take part in sending if it has something to send.
func (s *Session) queueStream(st *Stream) {
	if !st.queued && st.send.hasNext(st.creditLimit()) {
		st.queued = true
		s.sendQueue = append(s.sendQueue, st)
	}
	s.noteCredit(st)
}

func (s *Session) queueControl(st *Stream) {
	if !st.controlQueued && st.controlDue() {
		st.controlQueued = true
		s.controlQueue = append(s.controlQueue, st)
	}
}
