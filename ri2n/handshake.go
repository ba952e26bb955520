package ri2n

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	alpn = "ri2n/1"

	maxHandshakeTuples = 8

	// maxHandshakeDatagrams bounds the datagrams that are looked at for one
	// handshake. Ten seconds of repeated flights on eight paths are fewer.
	maxHandshakeDatagrams = 256

	maxHeldPackets  = 4        // a server's flight is two or three
	maxCryptoBuffer = 16 << 10 // of one level, in bytes

	// At most two certificates and 8 KiB of them are looked at.
	maxCertificates     = 2
	maxCertificateBytes = 8 << 10

	// handshakePTO is the wait for an answer before a round trip has been
	// seen. RFC 9002 begins with 1 s; a home link answers far sooner, and a
	// repeated flight costs the wait of one packet.
	handshakePTO    = 300 * time.Millisecond
	maxHandshakePTO = time.Second

	// tombstone is how long a finished handshake answers to its connection
	// IDs, so that a late copy of its Initials begins no second one.
	tombstone = 10 * time.Second
)

var errEndpointClosed = fmt.Errorf("ri2n: endpoint closed: %w", net.ErrClosed)

// A handshake is an association in the making: crypto/tls driven over long
// packets on every candidate transport address at once. It runs on the
// endpoint's handshake workers under its own mutex, never on a reader, since
// crypto/tls computes while it is called.
type handshake struct {
	endpoint  *Endpoint
	client    bool
	firstDCID connID // names the handshake at the responder at first
	scid      connID // our long connection ID
	finished  chan struct{}

	// written before finished is closed
	session *Session
	err     error

	watched   []tupleKey    // guarded by the endpoint's mutex
	waiting   waitingList   // guarded by the endpoint's waitingQueue
	awaited   chan struct{} // capacity 1: something waits for attend; nil: a responder's
	timer     timer
	prefix    netip.Prefix // responder: of whom it was begun with; invalid: came over a carrier
	charged   time.Duration
	datagrams atomic.Int32 // that have been queued for it
	over      atomic.Bool  // responder: finished, so that datagrams change nothing

	mu        sync.Mutex // guards what follows
	state     handshakeState
	peer      PeerID // wanted by the client, proven to the server
	refusal   error  // what verify said; crypto/tls tells it less well
	macKey    [32]byte
	dcid      connID // the peer's long connection ID
	answered  bool   // client: the server has chosen dcid
	odcid     connID
	retrySCID connID
	retried   bool
	token     []byte
	tls       *tls.QUICConn
	tlsDone   bool
	spaces    [2]cryptoSpace // Initial, Handshake
	secrets   applicationSecrets
	params    transportParams // the peer's
	held      []heldPacket
	tuples    []*tuple
	path      *tuple // client: where the answer came; server: where the end came
	started   time.Time
	rtt       time.Duration // zero until an answer has come
	next      time.Time     // retransmission; zero: none
	attempts  int
	small     bool      // datagrams have the floor's size
	ackAt     time.Time // when an ACK leaves alone; zero: none waits
	expires   time.Time
	tombstone bool // finished, and counted as such
}

type handshakeState uint8

const (
	handshakeRunning handshakeState = iota
	handshakeComplete
	handshakeDead
)

// A tuple is one candidate transport address of a handshake, with the ledger
// that keeps us from sending an unproven address more than three times what
// it sent (RFC 9000, section 8.1).
type tuple struct {
	link           *Link
	addr           netip.AddrPort
	due            time.Time // client: first use
	used           bool
	proven         bool
	received, sent int
	largest        int // datagram that came from it, in bytes
}

// A cryptoSpace is one encryption level of the handshake.
type cryptoSpace struct {
	read, write *packetKeys
	in          recvBuffer
	out         []byte
	outSent     int // below: has been sent at least once
	acked       intervalSet
	nextNumber  uint16
	received    receivedPackets
	ackDue      bool
	sent        []sentCrypto
}

// A heldPacket came before the keys that open it (RFC 9001, section 5.7).
type heldPacket struct {
	tuple     *tuple
	hdr       longHeader
	packet    []byte
	headerLen int
}

// sentCrypto remembers which part of out a packet carried.
type sentCrypto struct {
	number     packetNumber
	start, end int
}

// applicationSecrets are TLS's secrets of the level after the handshake.
type applicationSecrets struct {
	suite       uint16
	read, write []byte
}

func (e *Endpoint) newHandshake(client bool) *handshake {
	h := &handshake{
		endpoint: e,
		client:   client,
		scid:     e.newConnID(),
		finished: make(chan struct{}),
	}
	h.timer.fire = h.onTimer
	return h
}

// start begins the handshake's time.
func (h *handshake) start(now time.Time) {
	h.started, h.expires = now, now.Add(h.endpoint.cfg.HandshakeTimeout)
}

// newClientHandshake sends the first Initial before it returns.
func (e *Endpoint) newClientHandshake(peer PeerID, candidates []Remote) (*handshake, error) {
	h := e.ready.take()
	if h == nil {
		var err error
		if h, err = e.makeHello(); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(now)
	h.peer = peer
	h.macKey = mac1Key(peer)
	for i, c := range candidates {
		if i == maxHandshakeTuples {
			break
		}
		h.tuples = append(h.tuples, &tuple{link: c.Link, addr: c.Addr, due: now.Add(candidateDelay(i)), proven: true})
	}
	if !e.routes.addLong(h.scid, h) {
		h.release()
		return nil, errors.New("ri2n: connection ID collision")
	}
	e.counters.handshakesStarted.Add(1)
	h.flush(now, true)
	return h, nil
}

// attend waits for the end of a dial, and meanwhile handles what arrives for
// it: the goroutine that waits anyway saves the change to a worker and back.
func (h *handshake) attend(ctx context.Context) {
	for ended := false; !ended; {
		select {
		case <-h.awaited:
			h.receiveWaiting()
			continue
		case <-h.finished:
		case <-ctx.Done():
			h.abort(ctx.Err())
		case <-h.endpoint.done:
			h.abort(net.ErrClosed)
		}
		ended = true
	}
	<-h.finished
	// From here on it is for the workers; what was left to us is still ours.
	if h.endpoint.initials.leave(&h.waiting) {
		h.receiveWaiting()
	}
}

// candidateDelay is when candidate i joins the dial: 0, 20, 50, 100, 150 ... ms.
func candidateDelay(i int) time.Duration {
	switch i {
	case 0:
		return 0
	case 1:
		return 20 * time.Millisecond
	}
	return time.Duration(i-1) * 50 * time.Millisecond
}

// newServerHandshake makes the state for an Initial that opened.
func (e *Endpoint) newServerHandshake(hdr longHeader, start initialStart, client, server *packetKeys, prefix netip.Prefix, now time.Time) (*handshake, error) {
	h := e.newHandshake(false)
	h.start(now)
	h.prefix = prefix
	h.macKey = e.macKey
	h.firstDCID = hdr.dcid
	h.dcid = hdr.scid
	h.odcid, h.retried, h.retrySCID = start.odcid, start.retried, start.retrySCID
	h.spaces[0].read, h.spaces[0].write = client, server
	h.mu.Lock()
	defer h.mu.Unlock()
	if !e.addHalfOpen(h, now) {
		return nil, errors.New("ri2n: no room for another handshake")
	}
	e.counters.handshakesStarted.Add(1)
	h.tls = tls.QUICServer(&tls.QUICConfig{TLSConfig: e.tlsConfig(h)})
	h.tls.SetTransportParameters(e.transportParams(h))
	if err := h.tls.Start(context.Background()); err != nil {
		h.fail(now, err)
		return nil, err
	}
	return h, nil
}

func (e *Endpoint) tlsConfig(h *handshake) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{e.cfg.Identity.cert},
		NextProtos:             []string{alpn},
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // verify pins the key instead of a chain
		VerifyConnection:       h.verify,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		SessionTicketsDisabled: true,
		Rand:                   e.cfg.Rand,
	}
}

func (e *Endpoint) transportParams(h *handshake) []byte {
	p := transportParams{
		version:        version1,
		originalDCID:   h.odcid,
		initialSCID:    h.scid,
		maxData:        initialSessionWindow,
		maxStreamData:  initialStreamWindow,
		maxStreamsBidi: maxOpenStreams,
		maxDatagram:    maxDatagramPayload,
		maxPaths:       initialMaxPathID,
		maxIdle:        e.cfg.IdleTimeout,
		maxAckDelay:    maxAckDelay,
	}
	if !h.client && h.retried {
		p.hasRetrySCID, p.retrySCID = true, h.retrySCID
	}
	return appendTransportParams(nil, p)
}

// verify is called by crypto/tls once the peer has proven that it holds the
// key of its certificate.
func (h *handshake) verify(cs tls.ConnectionState) error {
	h.refusal = h.check(cs.PeerCertificates, time.Now())
	return h.refusal
}

func (h *handshake) check(certs []*x509.Certificate, now time.Time) error {
	total := 0
	for _, c := range certs {
		total += len(c.Raw)
	}
	if len(certs) > maxCertificates || total > maxCertificateBytes {
		return fmt.Errorf("ri2n: peer sent %d certificates of %d bytes", len(certs), total)
	}
	id, err := peerIDOfCertificates(certs)
	if err != nil {
		return err
	}
	leaf := certs[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("ri2n: certificate of %s is valid from %s to %s only", id.Short(),
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	if !h.endpoint.certificates.ownSignature(leaf) {
		return fmt.Errorf("ri2n: certificate of %s is not signed by its own key", id.Short())
	}
	if h.client {
		if id != h.peer {
			return &PeerMismatchError{Want: h.peer, Got: id}
		}
		return nil
	}
	h.peer = id
	if authorize := h.endpoint.cfg.Authorize; authorize == nil {
		return ErrRefused
	} else if err := authorize(id); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
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
		if err == nil {
			if err = h.endpoint.addSession(s); err != nil {
				s.mu.Lock()
				s.leave()
				s.mu.Unlock()
			}
		}
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

// tuple returns the ledger of a transport address. A server learns new ones
// from Initials, a client knows all of its own.
func (h *handshake) tuple(l *Link, addr netip.AddrPort) *tuple {
	for _, t := range h.tuples {
		if t.link == l && t.addr == addr {
			return t
		}
	}
	if h.client || len(h.tuples) == maxHandshakeTuples {
		return nil
	}
	t := &tuple{link: l, addr: addr}
	h.tuples = append(h.tuples, t)
	h.endpoint.watchEarly(tupleKey{l, addr}, h)
	return t
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

func (s *cryptoSpace) acknowledge(ranges []ackRange) {
	kept := s.sent[:0]
	for _, p := range s.sent {
		covered := false
		for _, r := range ranges {
			covered = covered || p.number >= r.smallest && p.number <= r.largest
		}
		if covered {
			s.acked.add(uint64(p.start), uint64(p.end))
		} else {
			kept = append(kept, p)
		}
	}
	s.sent = kept
}

// outstanding calls f for the parts of out that the peer has not acknowledged
// and, unless all is set, that have not been sent yet.
func (s *cryptoSpace) outstanding(all bool, f func(start, end int)) {
	at := s.outSent
	if all {
		at = 0
	}
	for at < len(s.out) {
		end := len(s.out)
		skip := false
		for _, iv := range s.acked.list {
			if int(iv.end) <= at {
				continue
			}
			if int(iv.start) <= at {
				at, skip = int(iv.end), true
			} else {
				end = min(end, int(iv.start))
			}
			break
		}
		if skip {
			continue
		}
		f(at, end)
		at = end
	}
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

// feedTLS passes contiguous handshake bytes to crypto/tls.
func (h *handshake) feedTLS() error {
	for i := range h.spaces {
		s := &h.spaces[i]
		for s.in.readable() > 0 {
			buf := make([]byte, s.in.readable())
			s.in.read(buf)
			if err := h.tls.HandleData(levels[i], buf); err != nil {
				return err
			}
			if err := h.drainTLS(); err != nil {
				return err
			}
		}
	}
	return nil
}

var levels = [2]tls.QUICEncryptionLevel{tls.QUICEncryptionLevelInitial, tls.QUICEncryptionLevelHandshake}

// drainTLS carries out what crypto/tls asks for.
func (h *handshake) drainTLS() error {
	for {
		ev := h.tls.NextEvent()
		switch ev.Kind {
		case tls.QUICNoEvent:
			return nil
		case tls.QUICWriteData:
			for i, level := range levels {
				if ev.Level == level {
					h.spaces[i].out = append(h.spaces[i].out, ev.Data...)
				}
			}
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			if err := h.setSecret(ev); err != nil {
				return err
			}
		case tls.QUICHandshakeDone:
			h.tlsDone = true
		case tls.QUICTransportParameters:
			p, err := parseTransportParams(ev.Data)
			if err != nil {
				return &violation{codeTransportParameter, err.Error()}
			}
			if err := h.checkParams(p); err != nil {
				return err
			}
			h.params = p
		}
	}
}

func (h *handshake) setSecret(ev tls.QUICEvent) error {
	read := ev.Kind == tls.QUICSetReadSecret
	switch ev.Level {
	case tls.QUICEncryptionLevelHandshake:
		keys, err := newPacketKeys(ev.Suite, ev.Data)
		if err != nil {
			return err
		}
		if read {
			h.spaces[1].read = keys
		} else {
			h.spaces[1].write = keys
		}
	case tls.QUICEncryptionLevelApplication:
		secret := append([]byte(nil), ev.Data...)
		h.secrets.suite = ev.Suite
		if read {
			h.secrets.read = secret
		} else {
			h.secrets.write = secret
		}
	}
	return nil
}

// checkParams binds the connection IDs and the version of the packets to the
// TLS transcript (RFC 9000, section 7.3).
func (h *handshake) checkParams(p transportParams) error {
	ok := p.version == version1 && p.initialSCID == h.dcid && p.originalDCID == h.odcid
	if h.client {
		ok = ok && p.hasRetrySCID == h.retried && (!h.retried || p.retrySCID == h.retrySCID)
	}
	if !ok {
		return &violation{codeTransportParameter, "connection IDs or version do not match the handshake"}
	}
	return nil
}

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

// onTimer runs on the timer goroutine and moves the work to a worker.
func (h *handshake) onTimer(now time.Time) {
	if !h.endpoint.enqueue(func() { h.advance(time.Now()) }) {
		h.endpoint.timers.set(&h.timer, now.Add(50*time.Millisecond))
	}
}

// advance does what is due at now.
func (h *handshake) advance(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !now.Before(h.expires) && h.state == handshakeRunning:
		h.fail(now, ErrHandshakeTimeout)
		return
	case !now.Before(h.expires):
		h.bury()
		return
	case h.state == handshakeDead:
		return
	}
	if isDue(h.ackAt, now) {
		h.ackAt = time.Time{}
		h.flushAll(now, false, true)
		return
	}
	if !h.next.IsZero() && !now.Before(h.next) {
		h.attempts++
		h.flush(now, true)
		return
	}
	h.flush(now, false)
}

// arm sets the timer for the earliest of expiry, retransmission and the next
// candidate's turn.
func (h *handshake) arm() {
	at := h.expires
	if !h.next.IsZero() && h.next.Before(at) {
		at = h.next
	}
	if !h.ackAt.IsZero() && h.ackAt.Before(at) {
		at = h.ackAt
	}
	if h.client && !h.answered {
		for _, t := range h.tuples {
			if !t.used && t.due.Before(at) {
				at = t.due
			}
		}
	}
	h.endpoint.timers.set(&h.timer, at)
}

// pto is the wait until the flight is repeated.
func (h *handshake) pto() time.Duration {
	base := handshakePTO
	if h.rtt > 0 {
		base = max(2*h.rtt, 50*time.Millisecond)
	}
	return min(base<<min(h.attempts, 4), maxHandshakePTO)
}
