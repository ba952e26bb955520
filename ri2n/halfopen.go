package ri2n

import (
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
	tuples map[tupleKey]*handshake // to find the owner of early 1-RTT packets
	early  int                     // of these, held for all handshakes

	prefixes   map[netip.Prefix]int
	tombstones int // finished handshakes that keep their connection IDs

	second   int64
	initials int // in that second
	before   int // in the second before it
	admission
}

func (t *halfOpenTable) init() {
	t.tuples = make(map[tupleKey]*handshake)
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
		datagram := append([]byte(nil), b...)
		e.enqueue(func() { e.acceptInitial(l, from, datagram, start, now) })
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
	e.counters.earlyPacketsDropped.Add(uint64(len(e.takeEarly(h))))
	h.err = ErrHandshakeTimeout
	e.dropHalfOpen(h)
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
	token := e.tokens.issue(now, from, h.dcid)
	if len(token) == 0 {
		return
	}
	packet := appendRetry(make([]byte, 0, longPrefixLen+2+retryTokenLen+mac1Len), h.scid, e.newConnID(), token, e.mac1)
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
		e.dropHalfOpen(h)
		return false
	}
	if !e.routes.addLong(h.scid, h) {
		e.routes.removeLong(h.firstDCID, h)
		e.dropHalfOpen(h)
		return false
	}
	return true
}

// dropHalfOpen takes h out of the count and forgets its early packets.
func (e *Endpoint) dropHalfOpen(h *handshake) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.halfOpen.count--
	if n := e.halfOpen.prefixes[h.prefix]; n > 1 {
		e.halfOpen.prefixes[h.prefix] = n - 1
	} else {
		delete(e.halfOpen.prefixes, h.prefix)
	}
	for key, owner := range e.halfOpen.tuples {
		if owner == h {
			delete(e.halfOpen.tuples, key)
		}
	}
}

// watchEarly makes 1-RTT packets from key wait for h, since the client may
// send its first data before we know the connection IDs for it.
func (e *Endpoint) watchEarly(key tupleKey, h *handshake) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.halfOpen.tuples[key]; !taken {
		e.halfOpen.tuples[key] = h
	}
}

// holdEarly keeps a copy of b for the handshake that its sender has in
// progress, if there is one.
func (e *Endpoint) holdEarly(l *Link, from netip.AddrPort, b []byte) bool {
	e.mu.Lock()
	h := e.halfOpen.tuples[tupleKey{l, from}]
	if h == nil {
		e.mu.Unlock()
		return false
	}
	if len(h.early) >= maxEarlyPackets || e.halfOpen.early >= maxEarlyTotal || len(b) > maxEarlySize {
		e.counters.earlyPacketsDropped.Add(1)
	} else {
		e.halfOpen.early++
		h.early = append(h.early, earlyPacket{l, from, append([]byte(nil), b...)})
	}
	e.mu.Unlock()
	return true
}

// takeEarly returns what holdEarly kept for h.
func (e *Endpoint) takeEarly(h *handshake) []earlyPacket {
	e.mu.Lock()
	defer e.mu.Unlock()
	early := h.early
	h.early = nil
	e.halfOpen.early -= len(early)
	return early
}

// refund gives back what a handshake was charged.
func (e *Endpoint) refund(charged time.Duration) {
	e.mu.Lock()
	e.halfOpen.refund(charged)
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
