package ri2n

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	initialSessionWindow = 2 << 20
	initialStreamWindow  = 1 << 20
	maxSessionWindow     = 32 << 20
	maxStreamWindow      = 16 << 20
	maxOpenStreams       = 1024 // that a peer may have open
	maxDatagramPayload   = 65535
	maxAckDelay          = 5 * time.Millisecond

	lingerTime = 5 * time.Second
	minPTOWait = 10 * time.Millisecond

	// maxDrainTime bounds three PTOs, which a peer that acknowledges late on
	// purpose can make long.
	maxDrainTime = 5 * time.Second
	stuckWait    = 5 * time.Millisecond

	exporterLabel = "EXPORTER-ri2n"
)

// A Session is the encrypted association with one peer over one or more
// paths. Its methods may be called concurrently.
//
// The session has no goroutine: the protocol is a state machine that its
// mutex owns and that readers, writers and the endpoint's timer drive. A
// parameter now means that the mutex is held.
type Session struct {
	endpoint  *Endpoint
	peer      PeerID
	readKeys  receiveKeys
	exporter  []byte
	random    *rand.Rand
	localIDs  cidDeriver // of connection IDs that we receive
	remoteIDs cidDeriver
	timer     timer
	done      chan struct{} // closed when the session has ended for its users
	client    bool

	mu        sync.Mutex // guards what follows
	state     sessionState
	flushing  bool
	unstored  bool          // the packet in hand carried data that found no room
	unblocked bool          // it carried credit that streams wait for
	waking    uint8         // how many of wakes
	resting   bool          // see rest
	err       error         // why the session ended
	lingered  chan struct{} // closed when nothing more will be sent for it; nil: nobody has asked
	openable  wakeup        // a stream may be opened
	incoming  wakeup        // a stream has come
	arrived   wakeup        // a datagram has come

	handshake    *handshake // the client's, until the server has confirmed it
	keys         sendKeys
	ackedUpdates uint64 // key updates of the peer that it has an ACK for
	peerTakes    peerTakes

	pathTable
	streamTable
	credit
	owed

	datagrams *datagramQueue // nil: none was ever sent
	inbox     datagramInbox

	datagramNumber  uint64          // of the next one that goes on several paths
	datagramNumbers receivedPackets // of the peer's

	lastReceived time.Time
	idleTimeout  time.Duration
	endsAt       time.Time // of lingering or draining

	// What observers are shown.
	past    *pathCounters   // of closed paths; nil: none was closed
	stalls  *StallHistogram // nil: there was none
	limited limitedTimes
	blocked int           // streams that wait for the peer's credit alone
	trace   *sessionTrace // nil: nobody traces

	wakes   [4]chan struct{} // to be signalled when the mutex is released
	outcome *ackOutcome      // scratch, until flush has ended; see takeOutcome
	refs    []frameRef       // scratch
}

// peerTakes is what the peer's transport parameters say for the whole session.
type peerTakes struct {
	streamData uint64 // initial credit of each stream
	datagram   uint64 // bytes of one DATAGRAM's data
}

// A pathTable holds the paths of a session and the limits on their number.
type pathTable struct {
	paths        []*path
	sending      *path // the first choice: carries control frames and datagrams
	policy       Policy
	ownPolicies  bool   // of some streams
	tailDue      bool   // stream data have been sent since the last look at the tails
	tailCopied   uint64 // bytes that copyTails has sent again
	nextPath     pathID // of our parity
	pathLimit    pathID // the peer's: the highest ID that we may open
	localLimit   pathID // ours
	pathOpens    int    // by the peer, in pathSecond
	pathSecond   int64
	pathsChanged chan struct{} // nil: nobody waits
	abandoned    *path         // by us, lately: the peer may have abandoned the others
	abandonedAt  time.Time
	retired      []pathID // closed; their routes stay for late packets
}

// A streamTable holds the streams of a session that are not over, and the
// limits on their number (RFC 9000, section 4.6).
type streamTable struct {
	streams      streamSet
	sendQueue    []*Stream // have data or a FIN to send
	controlQueue []*Stream // have control frames to send
	acceptQueue  []*Stream
	nextStream   uint64
	streamLimit  uint64 // the peer's: how many we may open
	opened       uint64 // by us
	peerOpened   uint64
	peerClosed   uint64
	peerLimit    uint64 // told to the peer
}

// credit is the flow control of all streams of a session together (RFC 9000,
// section 4.1), in bytes.
type credit struct {
	sendCredit   uint64 // the peer's MAX_DATA
	sendUsed     uint64
	recvCredit   uint64 // our MAX_DATA
	recvHighest  uint64 // sum of the highest offsets
	recvConsumed uint64
	recvWindow   creditWindow
}

// owed are the frames of the session itself that wait to be sent, first or
// again.
type owed struct {
	doneDue, maxDataDue, maxStreamsDue, maxPathsDue bool
	abandons                                        []pathAbandonFrame

	controlAt time.Time // until then control frames wait for data to travel with

	closeFrame closeFrame
	closesDue  int
	closeAgain time.Time // when CLOSE, which nobody acknowledges, is repeated; zero: never
	closeEvery time.Duration
	closedBy   *path // where CLOSE is answered
}

type sessionState uint8

const (
	sessionOpen      sessionState = iota
	sessionLingering              // closed by us; written data is still on its way
	sessionDraining               // CLOSE sent or received
	sessionGone
)

// newSession makes the session of a completed handshake and registers its
// connection IDs.
func newSession(h *handshake, now time.Time) (*Session, error) {
	e := h.endpoint
	cs := h.tls.ConnectionState()
	material, err := cs.ExportKeyingMaterial(exporterLabel, nil, 64)
	if err != nil {
		return nil, fmt.Errorf("ri2n: export keys: %w", err)
	}
	clientIDs, serverIDs := newCIDDeriver([16]byte(material[:16])), newCIDDeriver([16]byte(material[16:32]))
	s := &Session{
		endpoint:  e,
		client:    h.client,
		peer:      h.peer,
		exporter:  material[32:],
		random:    e.newRand(),
		localIDs:  serverIDs,
		remoteIDs: clientIDs,
		done:      make(chan struct{}),
		peerTakes: peerTakes{h.params.maxStreamData, h.params.maxDatagram},
		pathTable: pathTable{
			policy:     e.cfg.Policy,
			nextPath:   1, // path 0 is the handshake's
			pathLimit:  h.params.maxPaths,
			localLimit: initialMaxPathID,
		},
		streamTable: streamTable{
			nextStream:  1,
			streamLimit: h.params.maxStreamsBidi,
			peerLimit:   maxOpenStreams,
		},
		credit: credit{
			sendCredit: h.params.maxData,
			recvCredit: initialSessionWindow,
			recvWindow: creditWindow{size: initialSessionWindow, cap: maxSessionWindow, budget: &e.buffers},
		},
		owed:         owed{doneDue: !h.client},
		lastReceived: now,
		idleTimeout:  e.cfg.IdleTimeout,
	}
	if h.params.maxIdle > 0 {
		s.idleTimeout = min(s.idleTimeout, h.params.maxIdle)
	}
	if s.client {
		s.localIDs, s.remoteIDs = clientIDs, serverIDs
		s.nextPath, s.nextStream = 2, 0
		s.handshake = h
	}
	s.timer.fire = s.onTimer
	if err := s.keys.init(h.secrets.suite, h.secrets.write); err != nil {
		return nil, err
	}
	if err := s.readKeys.init(h.secrets.suite, h.secrets.read); err != nil {
		return nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	// Before there are routes: a packet that comes for a session which is then
	// refused would have the handshake confirmed.
	if err := e.addSession(s); err != nil {
		return nil, err
	}
	s.addFirstRoutes()
	p := s.newPath(0, h.path.link, h.path.addr, now)
	p.mtu = h.datagramSize(h.path)
	p.cc.SetMaxDatagramSize(p.mtu)
	p.received, p.sent = h.path.received, h.path.sent
	// Several candidates have carried Initials: which one the keys came back
	// on says little about the others.
	p.proven = s.client || len(h.tuples) == 1
	if !p.proven {
		p.prove(s, now)
	} else {
		p.state = PathActive
		p.searchMTU(now)
		p.settled = settledAlready
	}
	p.statusDue = true
	if h.rtt > 0 {
		p.rtt.sample(h.rtt, 0, 0)
	}
	s.paths = append(s.paths, p)
	s.sending = p
	s.startTrace(now)
	return s, nil
}

// ours reports whether path id is for this side to open.
func (s *Session) ours(id pathID) bool { return id%2 == 0 == s.client }

// addRoute registers our connection ID of path id. It reports false for a
// collision with another session's, which costs this session that ID.
func (s *Session) addRoute(id pathID) bool {
	return s.endpoint.routes.addShort(s.localIDs.cid(id, 0), &route{session: s, path: id})
}

// begin sends the first packets: with the first data, if those come soon.
func (s *Session) begin(now time.Time) {
	s.mu.Lock()
	s.controlAt = now.Add(firstControlWait)
	s.flush(now)
}

// firstControlWait is how long what a new session has to say of itself waits
// for an application that writes, or answers, at once.
const firstControlWait = time.Millisecond

// Peer returns the verified peer ID of the other side.
func (s *Session) Peer() PeerID { return s.peer }

// IsClient reports whether this side dialed.
func (s *Session) IsClient() bool { return s.client }

// Done is closed when the session has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns nil while the session lives. Afterwards it is a *[LocalError],
// a *[RemoteError], [ErrIdleTimeout], [ErrStatelessReset], or an error that
// wraps [net.ErrClosed] after Close.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Paths returns a snapshot of the paths that are not closed.
func (s *Session) Paths() []PathInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]PathInfo, 0, len(s.paths))
	for _, p := range s.paths {
		infos = append(infos, p.info(p == s.sending))
	}
	return infos
}

// PathsChanged returns a channel that is closed when next a path is added or
// closed, changes its state or address, or another one becomes the sending
// path. Call it again for the change after that.
func (s *Session) PathsChanged() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pathsChanged == nil {
		s.pathsChanged = make(chan struct{})
	}
	return s.pathsChanged
}

func (s *Session) notePathChange() {
	if s.pathsChanged != nil {
		close(s.pathsChanged)
		s.pathsChanged = nil
	}
}

// Export derives n bytes that only the two ends of this session know, as the
// exporter of RFC 8446, section 7.5. Both ends get the same bytes for the
// same label and context.
func (s *Session) Export(label string, context []byte, n int) ([]byte, error) {
	salt := sha256.Sum256(context)
	key, err := hkdf.Key(sha256.New, s.exporter, salt[:], "ri2n export "+label, n)
	if err != nil {
		return nil, fmt.Errorf("ri2n: export %q: %w", label, err)
	}
	return key, nil
}

// OpenStream opens a bidirectional stream. It waits while the peer's limit on
// open streams is reached. The peer learns of the stream with its first
// bytes, or with its end.
func (s *Session) OpenStream(ctx context.Context) (*Stream, error) {
	for {
		s.mu.Lock()
		if s.err != nil {
			err := s.err
			s.mu.Unlock()
			return nil, err
		}
		if s.opened < s.streamLimit {
			st := s.newStream(s.nextStream)
			s.nextStream += 4
			s.opened++
			if s.opened < s.streamLimit {
				s.openable.signal()
			}
			s.mu.Unlock()
			return st, nil
		}
		openable := s.openable.wait()
		s.mu.Unlock()
		select {
		case <-openable:
		case <-s.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("ri2n: open stream: %w", ctx.Err())
		}
	}
}

// AcceptStream returns the next stream that the peer opened.
func (s *Session) AcceptStream(ctx context.Context) (*Stream, error) {
	for {
		s.mu.Lock()
		if len(s.acceptQueue) > 0 {
			st := s.acceptQueue[0]
			s.acceptQueue[0] = nil
			s.acceptQueue = s.acceptQueue[1:]
			if len(s.acceptQueue) == 0 {
				s.acceptQueue = nil
			} else {
				s.incoming.signal()
			}
			st.accepted = true
			if st.retired {
				s.streamOver()
			}
			if s.maxStreamsDue {
				s.flush(time.Now())
			} else {
				s.mu.Unlock()
			}
			return st, nil
		}
		err := s.err
		incoming := s.incoming.wait()
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-incoming:
		case <-s.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("ri2n: accept stream: %w", ctx.Err())
		}
	}
}

// MaxDatagramSize is the largest payload in bytes that SendDatagram takes
// now. It changes with the sending path.
func (s *Session) MaxDatagramSize() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxDatagramSize()
}

func (s *Session) maxDatagramSize() int {
	room := s.sending.packetSize() - shortHeaderLen - aeadOverhead
	header := datagramHeaderLen(room, false)
	if s.policy == PolicyLatency || s.policy.copies() > 1 {
		header = maxDatagramNumberedHeader
	}
	return min(room-header, int(s.peerTakes.datagram))
}

// SendDatagram queues one unreliable datagram (RFC 9221); b is copied. The
// datagrams of one flow keep their order, and flows share the session fairly.
// A flow queues what the path carries in 50 ms, at least 64 datagrams, each for
// at most 50 ms, and drops from its head.
func (s *Session) SendDatagram(flow uint64, b []byte) error {
	one := [1][]byte{b}
	_, err := s.SendDatagrams(flow, one[:])
	return err
}

// SendDatagrams is SendDatagram for several of one flow, at the cost of little
// more than one. It returns how many it took: those before the first that is
// too large.
func (s *Session) SendDatagrams(flow uint64, list [][]byte) (int, error) {
	now := time.Now()
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return 0, s.err
	}
	if s.datagrams == nil {
		s.datagrams = new(datagramQueue)
	}
	s.datagrams.share = s.datagramShare()
	largest := s.maxDatagramSize()
	dropped, taken := 0, 0
	for _, b := range list {
		if len(b) > largest {
			break
		}
		dropped += s.datagrams.push(now, flow, b)
		taken++
	}
	if dropped > 0 {
		s.endpoint.counters.datagramQueueDropped.Add(uint64(dropped))
	}
	if taken == 0 {
		s.mu.Unlock()
	} else {
		s.flush(now)
	}
	if taken < len(list) {
		return taken, ErrDatagramTooLarge
	}
	return taken, nil
}

// datagramShare is how many bytes of one flow may wait: what the sending path
// carries before they are too old.
func (s *Session) datagramShare() int {
	rate := 0.0
	if p := s.sending; p != nil && p.rtt.srtt() > 0 {
		rate = float64(p.cc.Cwnd()) / p.rtt.srtt().Seconds()
	}
	return int(min(max(rate*maxFlowDelay.Seconds(), minFlowBytes), maxFlowBytes))
}

// ReceiveDatagram returns the next datagram of the peer. At most 256 wait; the
// oldest are dropped.
func (s *Session) ReceiveDatagram(ctx context.Context) (b []byte, err error) {
	err = s.awaitDatagrams(ctx, func() bool {
		var ok bool
		b, ok = s.inbox.pop()
		return ok
	})
	return b, err
}

// DatagramRoom is how many bytes before its datagram a buffer has for its
// holder to write to.
const DatagramRoom = 16

// ReceiveDatagrams fills the front of list with buffers of datagrams, at least
// one, and returns their number. The datagram is what follows the first
// [DatagramRoom] bytes of its buffer. The caller may change the buffers, and
// hands them back with [ReleaseDatagrams]. From the first call on, 4096
// datagrams may wait, of at most 6 MiB.
func (s *Session) ReceiveDatagrams(ctx context.Context, list [][]byte) (n int, err error) {
	err = s.awaitDatagrams(ctx, func() bool {
		s.inbox.batches = true
		n = s.inbox.popBatch(list)
		return n > 0
	})
	return n, err
}

// ReleaseDatagrams takes back buffers that ReceiveDatagrams returned, in full
// length, and clears list.
func ReleaseDatagrams(list [][]byte) {
	for i, b := range list {
		putDatagram(b)
		list[i] = nil
	}
}

// awaitDatagrams calls take, with the mutex held, whenever there may be a
// datagram, until it reports that it has found one.
func (s *Session) awaitDatagrams(ctx context.Context, take func() bool) error {
	for {
		s.mu.Lock()
		ok := take()
		if s.inbox.len() > 0 {
			s.arrived.signal()
		}
		err := s.err
		var arrived <-chan struct{}
		if !ok {
			arrived = s.arrived.wait()
		}
		s.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-arrived:
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("ri2n: receive datagram: %w", ctx.Err())
		}
	}
}

// wakeLater signals c once the mutex is released, so that whoever waits there
// does not wake up to wait for the mutex.
func (s *Session) wakeLater(c chan struct{}) {
	if c == nil {
		return // nobody has ever waited
	}
	for _, w := range s.wakes[:s.waking] {
		if w == c {
			return
		}
	}
	if int(s.waking) == len(s.wakes) {
		signal(c)
		return
	}
	s.wakes[s.waking] = c
	s.waking++
}

// unlock releases the mutex and wakes whom wakeLater has named.
func (s *Session) unlock() {
	n := s.waking
	if n == 0 {
		s.mu.Unlock()
		return
	}
	wakes := s.wakes
	s.waking = 0
	s.mu.Unlock()
	for _, c := range wakes[:n] {
		signal(c)
	}
}

// signal wakes one waiter, now or when it comes, if it waits on a channel of
// capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close ends the session in order: streams that have been closed or
// half-closed get up to 5 s for their written data to be acknowledged, then
// the peer is told. It returns at once; [Endpoint.Close] waits.
func (s *Session) Close() error {
	now := time.Now()
	s.mu.Lock()
	if s.state != sessionOpen {
		s.mu.Unlock()
		return nil
	}
	s.end(fmt.Errorf("ri2n: session closed: %w", net.ErrClosed))
	s.state = sessionLingering
	s.endsAt = now.Add(lingerTime)
	s.flush(now)
	return nil
}

// CloseWithError ends the session at once, telling the peer code and reason.
// Codes of applications begin at 0x1000.
func (s *Session) CloseWithError(code uint64, reason string) error {
	now := time.Now()
	s.mu.Lock()
	if s.state <= sessionLingering {
		s.end(&LocalError{Code: code, Reason: reason})
		s.drain(now, closeFrame{code: code, reason: reason})
	}
	s.flush(now)
	return nil
}

// end makes every blocked call return err.
func (s *Session) end(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	close(s.done)
	if h := s.handshake; h != nil {
		s.handshake = nil
		// Not here: confirm takes the handshake's mutex, which is never below
		// ours. If there is no room the handshake's own time-out does it.
		s.endpoint.enqueue(h.confirm)
	}
}

// lingerDone reports whether all that was written before Close is acknowledged.
func (s *Session) lingerDone() bool {
	for st := range s.streams.all() {
		if st.send.finished() && !st.send.done() {
			return false
		}
	}
	return true
}

// drain sends CLOSE, once more after each PTO since it may get lost, and keeps
// answering with it for three PTOs.
func (s *Session) drain(now time.Time, f closeFrame) {
	s.closeFrame = f
	s.closesDue = 1
	s.startDraining(now)
	s.closeEvery = s.endsAt.Sub(now) / 3
	s.closeAgain = now.Add(s.closeEvery)
}

func (s *Session) startDraining(now time.Time) {
	s.state = sessionDraining
	s.endsAt = now.Add(min(3*max(s.sending.rtt.pto(maxAckDelay), minPTOWait), maxDrainTime))
	for st := range s.streams.all() {
		st.send.reset()
	}
	s.sendQueue, s.controlQueue = nil, nil
	s.datagrams = nil
}

// violated closes the session for a breach of the protocol.
func (s *Session) violated(now time.Time, v *violation) {
	if s.state >= sessionDraining {
		return
	}
	s.endpoint.counters.violations.Add(1)
	s.end(&LocalError{Code: uint64(v.code), Reason: v.reason})
	s.drain(now, closeFrame{code: uint64(v.code), reason: v.reason})
}

// forgeryLimit ends the session, since more guesses at its keys have come in
// than these are good for (RFC 9001, section 6.6).
func (s *Session) forgeryLimit(now time.Time) {
	s.mu.Lock()
	s.violated(now, &violation{codeAEADLimit, "too many packets that do not open"})
	s.flush(now)
}

// closedInHandshake ends a session whose server said no to the last flight of
// the handshake.
func (s *Session) closedInHandshake(err error, now time.Time) {
	s.mu.Lock()
	if s.state <= sessionLingering {
		s.end(err)
		s.startDraining(now)
	}
	s.flush(now)
}

// statelessReset ends the session: its peer has forgotten it.
func (s *Session) statelessReset(now time.Time) {
	s.mu.Lock()
	if s.state <= sessionLingering {
		err := ErrStatelessReset
		if s.handshake != nil {
			// The peer had the keys for it and has never confirmed the handshake:
			// it has refused us, and its saying so comes later or is lost.
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		s.end(err)
		s.startDraining(now)
		s.endsAt = now
	}
	s.flush(now)
}

// leave removes the session from the endpoint's tables.
func (s *Session) leave() {
	s.state = sessionGone
	e := s.endpoint
	for _, p := range s.paths {
		p.markClosed()
		if p.hasToken {
			e.routes.removeReset(p.resetToken, s)
		}
	}
	ids := s.localIDs.open()
	for id := range max(s.localLimit, s.nextPath) + 1 {
		e.routes.removeShort(ids.cid(id, 0), s)
	}
	s.notePathChange()
	e.timers.set(&s.timer, time.Time{})
	e.buffers.give(s.recvWindow.size - initialSessionWindow)
	s.recvWindow.size = initialSessionWindow
	e.removeSession(s)
	if s.lingered != nil {
		close(s.lingered)
	}
}

// markClosed ends a path and whoever waits for its validation.
func (p *path) markClosed() {
	p.state = PathClosed
	p.settle()
}

// settle tells who waits for the path's first validation that it is over.
func (p *path) settle() {
	if !isClosed(p.settled) {
		close(p.settled)
	}
	p.settled = settledAlready
}

// settledAlready stands for the channel of every path whose first validation
// is over, so that a path that lives on holds none.
var settledAlready = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// onTimer is called by the endpoint's timer goroutine.
func (s *Session) onTimer(now time.Time) {
	s.mu.Lock()
	s.advance(now)
	s.flush(now)
}

// advance does what is due at now; flush sends what follows from it.
func (s *Session) advance(now time.Time) {
	switch s.state {
	case sessionGone:
		return
	case sessionDraining:
		if !now.Before(s.endsAt) {
			s.leave()
		} else if isDue(s.closeAgain, now) {
			s.closesDue = 1
			s.closeAgain = s.closeAgain.Add(s.closeEvery)
		}
		return
	case sessionLingering:
		if !now.Before(s.endsAt) {
			s.drain(now, closeFrame{code: codeNoError})
			return
		}
	}
	if s.idleTimeout > 0 && now.Sub(s.lastReceived) >= s.idleTimeout {
		s.end(ErrIdleTimeout)
		s.startDraining(now)
		s.leave()
		return
	}
	s.readKeys.expire(now)
	if !s.resting && !now.Before(s.restAt().Add(-restSlack)) {
		s.rest()
	}
	var scratch [maxPaths]*path // advancePath may drop paths
	for _, p := range append(scratch[:0], s.paths...) {
		s.advancePath(p, now)
	}
	s.choosePath()
}

// deadline returns when advance has work again, and from when on it may do it
// if that saves waking up for it.
func (s *Session) deadline(now time.Time) (early, at time.Time) {
	if s.state == sessionGone {
		return time.Time{}, time.Time{}
	}
	if s.state == sessionDraining {
		if !s.closeAgain.IsZero() && s.closeAgain.Before(s.endsAt) {
			return s.closeAgain, s.closeAgain
		}
		return s.endsAt, s.endsAt
	}
	within := func(t time.Time, slack time.Duration) {
		if t.IsZero() {
			return
		}
		if at.IsZero() || t.Before(at) {
			at = t
		}
		if t = t.Add(-slack); early.IsZero() || t.Before(early) {
			early = t
		}
	}
	sooner := func(t time.Time) { within(t, 0) }
	sooner(s.endsAt)
	if s.idleTimeout > 0 {
		sooner(s.lastReceived.Add(s.idleTimeout))
	}
	if s.controlAt.After(now) {
		sooner(s.controlAt)
	}
	if !s.resting {
		within(s.restAt(), restSlack)
	}
	if g := s.readKeys.current.Load(); g.previous != nil {
		sooner(g.previousUntil)
	}
	for _, p := range s.paths {
		if t := p.loss.lossTime(); !t.IsZero() && p.loss.idle() { // to give back memory
			within(t.Add(restSlack), restSlack)
		} else {
			sooner(t)
		}
		sooner(p.ptoDeadline())
		sooner(s.stallDeadline(p))
		if p.previous.Link != nil {
			sooner(p.returnAt)
		}
		if p.allowance() < p.packetSize() {
			continue // until more arrives from the unproven address
		}
		sooner(p.challengeAt)
		sooner(p.acks.deadline())
		sooner(p.silenceAt)
		if p.proven && (p.state == PathActive || p.state == PathStandby) {
			sooner(p.pmtu.due)
		}
		if k := s.endpoint.cfg.KeepaliveInterval; k > 0 && p.state != PathFailed {
			within(p.lastSent.Add(k), keepaliveSlack(k))
		}
		if p.state == PathSuspect {
			sooner(p.rescueAt)
			if p.loss.ackElicitingInFlight() == 0 {
				sooner(p.probeAt)
			}
		}
		if p.state == PathFailed {
			sooner(p.probeAt)
			if s.alternative(p) {
				sooner(p.suspectSince.Add(abandonAfter))
			}
		}
		if p.limited {
			sooner(p.pacer.nextTime(now, p.pacer.worthWaking(p.packetSize())))
		}
	}
	if !at.IsZero() && !at.After(now) {
		at = now.Add(stuckWait) // what is due cannot be sent: do not spin
		early = at
	}
	return early, at
}

// keepaliveSlack is how much before its time a keepalive may leave together
// with those of other sessions.
func keepaliveSlack(interval time.Duration) time.Duration {
	return min(interval/32, 500*time.Millisecond)
}

var errPathAbandoned = errors.New("ri2n: path abandoned")
