package ri2n

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Limits of handshakes that strangers may have in progress.
const (
	maxHalfOpen        = 256
	retryAboveHalfOpen = 64  // from here on an address proves itself first
	retryAboveRate     = 500 // Initials a second
	evictAfter         = time.Second
	maxEarlyPackets    = 32 // 1-RTT packets held for one handshake
	maxEarlyTotal      = 1024
	maxEarlySize       = 2048 // bytes of one of them
	maxTombstones      = 2048
)

// A tupleKey is a transport address as seen from one link.
type tupleKey struct {
	link *Link
	addr netip.AddrPort
}

// halfOpenTable counts the handshakes that others have begun with us. The
// endpoint's mutex guards it.
type halfOpenTable struct {
	count  int
	tuples map[tupleKey]*earlyTuple
	early  int // packets held in all of tuples

	prefixes   map[netip.Prefix]int
	tombstones int // finished handshakes that keep their connection IDs

	second   int64
	initials int // in that second
	before   int // in the second before it
	admission
}

// An earlyTuple is a transport address from which handshakes are in progress,
// several when one endpoint dials often. A 1-RTT packet from there that belongs
// to no session may belong to any of them.
type earlyTuple struct {
	handshakes int
	packets    []earlyPacket
}

func (t *halfOpenTable) init() {
	t.tuples = make(map[tupleKey]*earlyTuple)
	t.prefixes = make(map[netip.Prefix]int)
}

// countInitial counts an Initial that would begin a handshake. It reports a
// flood, and the first time in each second that this is one.
func (t *halfOpenTable) countInitial(now time.Time) (flood, first bool) {
	if second := now.Unix(); second != t.second {
		t.before = 0
		if second == t.second+1 {
			t.before = t.initials
		}
		t.second, t.initials = second, 0
	}
	t.initials++
	flood = t.initials > retryAboveRate || t.before > retryAboveRate
	return flood, flood && (t.initials == 1 || t.initials == retryAboveRate+1 && t.before <= retryAboveRate)
}

// hasRoom reports whether somebody of the given prefix may have one more
// handshake in progress: a prefix has at most half of what others leave free,
// so that there is always something left for the next one.
func (t *halfOpenTable) hasRoom(prefix netip.Prefix) bool {
	free := maxHalfOpen - t.count
	return free > 0 && (!prefix.IsValid() || t.prefixes[prefix] <= free/2)
}

// longDatagram handles a datagram that begins with a long header. The reader
// looks at no more than the header and its mac1; what remains happens on a
// worker.
func (e *Endpoint) longDatagram(l *Link, from netip.AddrPort, b []byte, now time.Time) {
	typ, version, dcid, scid, ok := peekLong(b)
	if !ok {
		e.counters.malformed.Add(1)
		return
	}
	if h := e.routes.findLong(dcid); h != nil {
		h.enqueueDatagram(l, from, b, now)
		return
	}
	if typ != longInitial || version == 0 {
		e.counters.unknownConnection.Add(1)
		return
	}
	if len(b) < minBaseSize {
		e.counters.undersizedInitials.Add(1)
		return
	}
	h, _, _, err := parseLongHeader(b)
	if err != nil && err != errVersion {
		e.counters.malformed.Add(1)
		return
	}
	if !e.mac1.check(b, h) {
		e.counters.mac1Failed.Add(1)
		return
	}
	var prefix netip.Prefix // of carriers, which lead to one peer each, none
	if !l.IsCarrier() {
		prefix = limitPrefix(from.Addr())
	}
	if err == errVersion {
		if !e.mayReply(now, prefix) {
			return
		}
		reply := appendVersionNegotiation(nil, versionNegotiation{dcid: scid, scid: dcid, versions: []uint32{version1}})
		l.send(reply, len(reply), from)
		return
	}

	start := initialStart{odcid: dcid}
	switch odcid, err := e.openToken(h.token, from, now); {
	case err != nil:
		e.counters.tokensRefused.Add(1)
		return
	case len(h.token) > 0:
		start = initialStart{odcid: odcid, retried: true, retrySCID: dcid}
	}

	e.mu.Lock()
	t := &e.halfOpen
	flood, first := t.countInitial(now)
	retry := !start.retried && !l.IsCarrier() && (flood || t.count >= retryAboveHalfOpen || t.short(now))
	closed, room := e.closed, t.hasRoom(prefix)
	admitted := !closed && !retry && room && t.admits(now, prefix)
	e.mu.Unlock()
	if first {
		e.enqueue(e.evictUnproven)
	}
	switch {
	case closed:
	case retry:
		if e.mayReply(now, prefix) {
			e.sendRetry(l, from, h, now)
		}
	case !room:
		e.counters.halfOpenRefused.Add(1)
	case !admitted:
		e.counters.handshakesHeld.Add(1)
	default:
		d := waitingDatagram{link: l, from: from, data: append([]byte(nil), b...), at: now, start: start}
		if e.initials.pushFirst(dcid, d) && !e.enqueue(func() { e.acceptInitials(dcid) }) {
			e.initials.takeFirst(dcid)
		}
	}
}

// mayReply reports whether an address that has proven nothing is answered, and
// counts it if not.
func (e *Endpoint) mayReply(now time.Time, prefix netip.Prefix) bool {
	e.mu.Lock()
	allowed := !prefix.IsValid() || e.halfOpen.repliesTo(now, prefix)
	e.mu.Unlock()
	if !allowed {
		e.counters.repliesHeld.Add(1)
	}
	return allowed
}

// evictUnproven ends the handshakes that were begun with unproven addresses
// before a flood was noticed: from then on everybody proves itself, and these
// would hold memory until they time out.
func (e *Endpoint) evictUnproven() {
	now := time.Now()
	for _, h := range e.routes.handshakes() {
		h.evict(now)
	}
}

// evict ends a responder's handshake whose client has proven nothing.
func (h *handshake) evict(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client || h.state != handshakeRunning || h.retried || now.Sub(h.started) < evictAfter {
		return
	}
	for _, t := range h.tuples {
		if t.proven {
			return
		}
	}
	e := h.endpoint
	e.counters.halfOpenEvicted.Add(1)
	e.counters.handshakesFailed.Add(1)
	h.err = ErrHandshakeTimeout
	early := e.dropHalfOpen(h, false)
	e.counters.earlyPacketsDropped.Add(uint64(len(early)))
	h.bury()
	close(h.finished)
}

// openToken returns the original connection ID of a Retry token; none at all
// is no error.
func (e *Endpoint) openToken(token []byte, from netip.AddrPort, now time.Time) (connID, error) {
	if len(token) == 0 {
		return 0, nil
	}
	return e.tokens.open(now, from, token)
}

func (e *Endpoint) sendRetry(l *Link, from netip.AddrPort, h longHeader, now time.Time) {
	scratch := e.retries.Get().(*retryScratch)
	defer e.retries.Put(scratch)
	token := e.tokens.issueIn(scratch, now, from, h.dcid)
	if len(token) == 0 {
		return
	}
	// The token's nonce is as random as a connection ID has to be.
	scid := connID(binary.BigEndian.Uint64(token[1:]))
	packet := appendRetry(scratch.packet[:0], h.scid, scid, token, e.mac1)
	e.counters.retriesSent.Add(1)
	l.send(packet, len(packet), from)
}

// newConnID returns a random connection ID for long packets.
func (e *Endpoint) newConnID() connID {
	var b [8]byte
	e.randomBytes(b[:])
	var id connID
	for _, x := range b {
		id = id<<8 | connID(x)
	}
	return id
}

// initialStart says how the first Initial of a handshake came.
type initialStart struct {
	odcid     connID // the client's first choice of DCID
	retried   bool   // it carries a valid Retry token
	retrySCID connID // DCID of the Initial then
}

// acceptInitials runs on a worker, for all that has come under one unknown
// connection ID.
func (e *Endpoint) acceptInitials(id connID) {
	for _, d := range e.initials.takeFirst(id) {
		e.acceptInitial(d.link, d.from, d.data, d.start, d.at)
	}
}

// acceptInitial runs on a worker. It keeps nothing unless the packet opens
// under the Initial keys.
func (e *Endpoint) acceptInitial(l *Link, from netip.AddrPort, datagram []byte, start initialStart, now time.Time) {
	hdr, headerLen, _, err := parseLongHeader(datagram)
	if err != nil {
		return
	}
	h := e.routes.findLong(hdr.dcid)
	if h == nil {
		client, server := initialKeys(hdr.dcid)
		packet := append([]byte(nil), datagram[:headerLen-2+int(hdr.length)]...)
		if _, err := client.open(packet, headerLen, 0, packetNumber(hdr.pn)); err != nil {
			e.counters.authenticationFailed.Add(1)
			return
		}
		var prefix netip.Prefix
		if !l.IsCarrier() {
			prefix = limitPrefix(from.Addr())
		}
		h, err = e.newServerHandshake(hdr, start, client, server, prefix, now)
		if err != nil {
			// Another worker may have begun it with the flight's other half.
			if h = e.routes.findLong(hdr.dcid); h == nil {
				e.counters.halfOpenRefused.Add(1)
				return
			}
		}
	}
	h.receive(l, from, datagram, start.retried, now)
}

// addHalfOpen counts h and registers its connection IDs.
func (e *Endpoint) addHalfOpen(h *handshake, now time.Time) bool {
	e.mu.Lock()
	t := &e.halfOpen
	if e.closed || !t.hasRoom(h.prefix) {
		e.mu.Unlock()
		return false
	}
	t.count++
	if h.prefix.IsValid() {
		t.prefixes[h.prefix]++
	}
	h.charged = t.charge(now)
	e.mu.Unlock()
	if !e.routes.addLong(h.firstDCID, h) {
		e.dropHalfOpen(h, false)
		return false
	}
	if !e.routes.addLong(h.scid, h) {
		e.routes.removeLong(h.firstDCID, h)
		e.dropHalfOpen(h, false)
		return false
	}
	return true
}

// dropHalfOpen takes h out of the count. It returns the early packets that
// nobody else can be waiting for, or all from its addresses if h has become a
// session: what belongs to another handshake is then held again.
func (e *Endpoint) dropHalfOpen(h *handshake, established bool) (early []earlyPacket) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := &e.halfOpen
	t.count--
	if n := t.prefixes[h.prefix]; n > 1 {
		t.prefixes[h.prefix] = n - 1
	} else {
		delete(t.prefixes, h.prefix)
	}
	for _, key := range h.watched {
		from := t.tuples[key]
		if from.handshakes--; from.handshakes == 0 {
			delete(t.tuples, key)
		}
		if established || from.handshakes == 0 {
			early = append(early, from.packets...)
			from.packets = nil
		}
	}
	h.watched = nil
	t.early -= len(early)
	return early
}

// watchEarly makes 1-RTT packets from key wait for h, since the client may
// send its first data before we know the connection IDs for it.
func (e *Endpoint) watchEarly(key tupleKey, h *handshake) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.halfOpen.tuples[key]
	if t == nil {
		t = new(earlyTuple)
		e.halfOpen.tuples[key] = t
	}
	t.handshakes++
	h.watched = append(h.watched, key)
}

// holdEarly keeps a copy of b for the handshakes that its sender has in
// progress, if there are any.
func (e *Endpoint) holdEarly(l *Link, from netip.AddrPort, b []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.halfOpen.tuples[tupleKey{l, from}]
	if t == nil {
		return false
	}
	if len(t.packets) >= maxEarlyPackets*t.handshakes || e.halfOpen.early >= maxEarlyTotal || len(b) > maxEarlySize {
		e.counters.earlyPacketsDropped.Add(1)
		return true
	}
	e.halfOpen.early++
	t.packets = append(t.packets, earlyPacket{l, from, append([]byte(nil), b...)})
	return true
}

// refund gives back what a handshake was charged.
func (e *Endpoint) refund(h *handshake) {
	e.mu.Lock()
	e.halfOpen.refund(h.charged, h.prefix)
	// The two Initials of a dial that succeeds are no part of a flood, or
	// thousands who come back at once would keep each other out.
	e.halfOpen.initials = max(0, e.halfOpen.initials-2)
	e.mu.Unlock()
}

// handshakeTook tells the admission how long crypto/tls has computed.
func (e *Endpoint) handshakeTook(d time.Duration) {
	e.mu.Lock()
	e.halfOpen.measured(d)
	e.mu.Unlock()
}

// addTombstone reports whether one more finished handshake may keep its
// connection IDs for a while.
func (e *Endpoint) addTombstone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.halfOpen.tombstones >= maxTombstones {
		return false
	}
	e.halfOpen.tombstones++
	return true
}

func (e *Endpoint) dropTombstone() {
	e.mu.Lock()
	e.halfOpen.tombstones--
	e.mu.Unlock()
}

type earlyPacket struct {
	link *Link
	from netip.AddrPort
	data []byte
}

// abortHandshakes ends every handshake at Close.
func (e *Endpoint) abortHandshakes() {
	for _, h := range e.routes.handshakes() {
		h.abort(errEndpointClosed)
	}
}
