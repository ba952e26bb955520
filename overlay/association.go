package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	headerTime = 10 * time.Second // for the header of a stream, and the control stream
	proofTime  = 5 * time.Second  // for a stranger's proof (security.md, section 1, rule 10)

	// maxOpening bounds the streams of one peer whose header has not been
	// dealt with, and those that a service has.
	maxOpening = 256
	// outboxLen bounds the messages that wait for the control stream. What
	// exceeds it is dropped: everything there may be lost but the hello,
	// which comes first.
	outboxLen = 64
	// duplicateGrace is how long a session that is to end stays without
	// streams, so that a stream that the peer is just opening is not lost.
	duplicateGrace = 5 * time.Second
)

// software is what we call ourselves in HELLO.
var software = "instantgrid/" + runtime.GOOS

// An association is one session with a peer and all that the overlay keeps for
// it: the control stream, the streams of users, and the search for a direct
// path.
type association struct {
	node    *Node
	peer    *Peer
	session *ri2n.Session
	client  bool // we dialed: we open the control stream and decide on reasons
	since   time.Time
	log     *slog.Logger

	out    chan message
	proven chan struct{} // closed once we accept the peer
	ready  chan struct{} // closed once the peer has said hello
	ended  chan struct{} // closed when everything of the association is over

	opening chan struct{} // a token for each stream whose header is read
	silent  atomic.Bool   // the peer has not answered a check

	paths    pathKeeper
	fetch    listFetch
	halves   halves       // readDatagrams'
	refusals refusalCount // readDatagrams'
	doubted  atomic.Int64 // when packets last asked for a check, in ns

	toldLinks  atomic.Bool // the client has a list of our links
	toldRelays atomic.Bool // the peer has a list of our relays

	relayed  atomic.Pointer[func([][]byte)] // takes what the peer has us relay; nil: it is not registered
	relaying atomic.Pointer[func([][]byte)] // takes what the peer relays to us; nil: we are not registered
	routes   atomic.Bool                    // the peer takes part in routing

	packetBatches atomic.Uint64 // of IP packets, both ways

	mu      sync.Mutex // guards what follows
	accept  bool       // proven is closed
	greeted bool       // ready is closed
	answers bool       // the peer says so when it takes a stream
	streams int
	idleAt  time.Time // since when streams is zero
	pings   map[uint64]chan struct{}
	checked chan struct{} // closed when the check under way has ended; nil: none
}

func newAssociation(p *Peer, s *ri2n.Session) *association {
	a := &association{
		node:    p.node,
		peer:    p,
		session: s,
		client:  s.IsClient(),
		since:   time.Now(),
		log:     p.node.log.With("peer", p.id.Short()),
		out:     make(chan message, outboxLen),
		proven:  make(chan struct{}),
		ready:   make(chan struct{}),
		ended:   make(chan struct{}),
		opening: make(chan struct{}, maxOpening),
		idleAt:  time.Now(),
		pings:   make(map[uint64]chan struct{}),
	}
	a.paths.init(a)
	return a
}

// startClient opens the control stream and runs the association. Proof, if not
// nil, is the first thing that the peer sees.
func (a *association) startClient(ctx context.Context, proofOf *rendezvous.Key) error {
	control, err := a.session.OpenStream(ctx)
	if err != nil {
		return err
	}
	started := false
	defer func() {
		if !started {
			a.paths.close()
		}
	}()
	first := appendHeader(nil, header{network: networkTCP, port: portControl})
	if proofOf != nil {
		m, err := a.makeProof(*proofOf)
		if err != nil {
			return err
		}
		first = appendMessage(first, m)
	} else if own := a.node.grid.ownProof(); own != nil {
		first = appendMessage(first, memberMessage{membership.AppendProof(nil, own)})
	}
	first = appendMessage(first, a.hello())
	a.paths.open()
	if a.paths.begin() {
		timer := time.NewTimer(offerTime)
		select {
		case m := <-a.out:
			first = appendMessage(first, m)
		case <-timer.C:
		}
		timer.Stop()
	}
	if _, err := control.Write(first); err != nil {
		return err
	}
	a.authorize()
	a.peer.join(a)
	started = true
	a.node.running.Go(func() { a.run(control) })
	return nil
}

// offerTime is how long the first packet waits for the offer of an attempt that
// has just begun: the making of two random strings.
const offerTime = 2 * time.Millisecond

// startServer runs the association of a session that the peer opened. Trusted
// says that the peer needs no token.
func (a *association) startServer(trusted bool) {
	if trusted {
		a.authorize()
	} else {
		a.node.running.Go(func() {
			select {
			case <-a.proven:
			case <-a.session.Done():
			}
			a.node.invitations.release(a.peer.id)
			a.node.grid.release(a.peer.id)
		})
	}
	a.node.running.Go(func() { a.run(nil) })
}

func (a *association) hello() hello {
	h := hello{version: protocolVersion, capabilities: canAwait, policy: a.node.cfg.Path, software: software}
	if a.node.router != nil {
		h.capabilities |= capabilityRouting
	}
	return h
}

func (a *association) makeProof(key rendezvous.Key) (proof, error) {
	exporter, err := a.session.Export(rendezvous.ExporterLabel, nil, 32)
	if err != nil {
		return proof{}, err
	}
	return proof{mac: rendezvous.Proof(key, exporter)}, nil
}

// authorize lets the peer in.
func (a *association) authorize() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.accept {
		a.accept = true
		close(a.proven)
	}
}

// canAwait is the capability of a node that knows streams of networkAwaited.
const canAwait = 1 << 0

// greet notes that the peer has said hello.
func (a *association) greet(m hello) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers = m.capabilities&canAwait != 0
	if !a.greeted {
		a.greeted = true
		close(a.ready)
		a.node.router.poke()
	}
}

func (a *association) isProven() bool { return isClosed(a.proven) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// run serves the session until it ends.
func (a *association) run(control *ri2n.Stream) {
	defer close(a.ended)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(a.node.ctx)
	defer running.Wait()
	defer cancel()

	arrived := make(chan *ri2n.Stream, 1)
	running.Go(func() { a.acceptStreams(ctx, &running, arrived) })
	running.Go(func() { a.readDatagrams(ctx) })
	if control == nil {
		if control = a.awaitControl(arrived); control == nil {
			<-a.session.Done()
			a.peer.leave(a)
			return
		}
	}
	a.paths.open()
	running.Go(func() { a.write(control) })
	running.Go(func() { a.read(control) })
	select {
	case <-a.proven:
		if !a.client {
			a.send(a.hello())
			if own := a.node.grid.ownProof(); own != nil {
				a.send(memberMessage{membership.AppendProof(nil, own)})
			}
			a.tellLinks()
		}
		a.peer.join(a)
		running.Go(func() { a.paths.run(ctx) })
	case <-a.session.Done():
	}
	<-a.session.Done()
	a.peer.leave(a)
	a.paths.close()
}

// awaitControl returns the control stream that the peer opens.
func (a *association) awaitControl(arrived <-chan *ri2n.Stream) *ri2n.Stream {
	patience := headerTime
	if !a.isProven() {
		patience = proofTime
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case control := <-arrived:
		if !a.isProven() {
			a.node.running.Go(a.expectProof)
		}
		return control
	case <-timer.C:
		a.session.CloseWithError(closeProof, "no control stream came")
	case <-a.session.Done():
	}
	return nil
}

// expectProof ends the session of a stranger that shows nothing.
func (a *association) expectProof() {
	timer := time.NewTimer(time.Until(a.since.Add(proofTime)))
	defer timer.Stop()
	select {
	case <-a.proven:
	case <-a.session.Done():
	case <-timer.C:
		a.node.counters.proofsRefused.Add(1)
		a.session.CloseWithError(closeProof, "no proof came")
	}
}

// acceptStreams takes every stream that the peer opens.
func (a *association) acceptStreams(ctx context.Context, running *sync.WaitGroup, control chan<- *ri2n.Stream) {
	for {
		st, err := a.session.AcceptStream(ctx)
		if err != nil {
			if ctx.Err() != nil && a.session.Err() == nil {
				a.session.Close()
			}
			return
		}
		select {
		case a.opening <- struct{}{}:
		default:
			a.node.counters.streamsRefused.Add(1)
			st.Reset(resetBusy)
			continue
		}
		running.Go(func() {
			defer func() { <-a.opening }()
			a.take(ctx, st, control)
		})
	}
}

// take reads the header of a stream and hands the stream to whom it is for.
func (a *association) take(ctx context.Context, st *ri2n.Stream, control chan<- *ri2n.Stream) {
	var b [headerLen]byte
	st.SetReadDeadline(time.Now().Add(headerTime))
	if _, err := io.ReadFull(st, b[:]); err != nil {
		st.Reset(resetHeader)
		return
	}
	st.SetReadDeadline(time.Time{})
	h, _, err := parseHeader(b[:])
	switch {
	case err != nil:
		a.node.counters.malformed.Add(1)
		st.Reset(resetHeader)
		return
	case h.network == networkTCP && h.port == portControl:
		select {
		case control <- st:
		default: // there is one already
			st.Reset(resetHeader)
		}
		return
	}
	// A stream may overtake the proof that admits it.
	select {
	case <-a.proven:
	case <-a.session.Done():
		st.Reset(resetRefused)
		return
	}
	if h.network == networkService {
		a.serve(ctx, h.port, st)
		return
	}
	if !a.node.mayOpen(a.peer.id, h.port) {
		a.node.counters.portsRefused.Add(1)
		st.Reset(resetPolicy)
		return
	}
	if err := a.mayCarry(ctx); err != nil {
		st.Reset(resetIndirect)
		return
	}
	a.node.counters.streamsAccepted.Add(1)
	a.streamOpened()
	c := newConn(a, st, h.port, ephemeral(st))
	n := a.node
	n.mu.Lock()
	l := n.listeners[h.port]
	n.mu.Unlock()
	room := l != nil && l.offer(c, h.network == networkAwaited)
	switch {
	case l == nil:
		n.counters.streamsRefused.Add(1)
		c.refuse(resetRefused)
	case !room:
		n.counters.backlogOverflows.Add(1)
		c.refuse(resetBusy)
	}
}

// dial opens a stream to a port. The header leaves at once. With await it
// returns when the peer has taken the stream, or refused it.
func (a *association) dial(ctx context.Context, port uint16, await bool) (*conn, error) {
	if err := a.mayCarry(ctx); err != nil {
		return nil, err
	}
	h := header{network: networkTCP, port: port}
	if await && a.awaitsAnswers(ctx) {
		h.network = networkAwaited
	}
	st, err := a.session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := st.Write(appendHeader(nil, h)); err != nil {
		st.Reset(resetHeader)
		return nil, err
	}
	a.streamOpened()
	c := newConn(a, st, ephemeral(st), port)
	if h.network == networkAwaited {
		if err := c.awaitTaken(ctx); err != nil {
			c.refuse(resetRefused)
			return nil, err
		}
	}
	return c, nil
}

// awaitsAnswers waits for the peer's hello, which tells whether it says so when
// it takes a stream.
func (a *association) awaitsAnswers(ctx context.Context) bool {
	select {
	case <-a.ready:
	case <-a.session.Done():
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answers
}

// mayCarry waits until the policy lets streams of users through.
func (a *association) mayCarry(ctx context.Context) error {
	select {
	case <-a.ready:
	default:
		if a.node.cfg.Path != PathDirectOnly {
			return nil
		}
	}
	if a.paths.policy() != PathDirectOnly {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, directOnlyTime)
	defer cancel()
	_, err := a.waitDirect(ctx)
	return err
}

// directOnlyTime is how long a stream waits for a direct path where it may use
// no other: an attempt of punch and its offer.
const directOnlyTime = 10 * time.Second

func (a *association) streamOpened() {
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
}

func (a *association) streamClosed() {
	a.mu.Lock()
	a.streams--
	if a.streams == 0 {
		a.idleAt = time.Now()
	}
	a.mu.Unlock()
}

// idleSince returns since when no stream of users is open; zero: one is.
func (a *association) idleSince() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams > 0 {
		return time.Time{}
	}
	return a.idleAt
}

// send queues m for the peer and reports whether there was room.
func (a *association) send(m message) bool {
	select {
	case a.out <- m:
		return true
	default:
		a.node.counters.signalsDropped.Add(1)
		return false
	}
}

// write sends what is queued until the session ends.
func (a *association) write(control *ri2n.Stream) {
	var b []byte
	for {
		select {
		case m := <-a.out:
			b = appendMessage(b[:0], m)
		case <-a.session.Done():
			return
		}
		for more := true; more; {
			select {
			case m := <-a.out:
				b = appendMessage(b, m)
			default:
				more = false
			}
		}
		if _, err := control.Write(b); err != nil {
			return
		}
	}
}

// read handles the peer's messages until the control stream ends, and the
// session with it.
func (a *association) read(control *ri2n.Stream) {
	for {
		m, err := readMessage(control)
		if err == nil {
			a.silent.Store(false)
			err = a.handle(m)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errMalformed) {
			a.node.counters.malformed.Add(1)
			a.session.CloseWithError(closeProtocol, err.Error())
		} else {
			a.session.Close()
		}
		return
	}
}

// errProof ends the session of a peer whose proof does not hold.
var errProof = errors.New("overlay: the token's proof does not hold")

// handle takes one message. An error ends the session.
func (a *association) handle(m message) error {
	switch m := m.(type) {
	case proof:
		return a.prove(m)
	case memberMessage:
		if a.node.grid.member() || !a.isProven() {
			return a.node.admitMember(a, m.proof)
		}
		return nil
	}
	if !a.isProven() {
		// Whatever comes before the proof is from somebody who has none.
		a.node.refuseProof(a)
		a.session.CloseWithError(closeProof, "a proof was expected")
		return errProof
	}
	switch m := m.(type) {
	case hello:
		if m.version < protocolVersion {
			return fmt.Errorf("%w: version %d", errMalformed, m.version)
		}
		a.paths.greeted(m.policy)
		a.routes.Store(m.capabilities&capabilityRouting != 0)
		a.greet(m)
		a.node.legs.wake()
		a.tellRelays()
		if sequence, _ := a.node.grid.listed(); sequence > 0 {
			a.send(listAt{sequence})
		}
	case listAt:
		a.offered(time.Now(), m)
	case listGet:
		a.give(m)
	case listPart:
		a.given(time.Now(), m)
	case punchMessage:
		a.paths.signalled(m.data)
	case ping:
		a.send(pong(m))
	case pong:
		a.mu.Lock()
		answered := a.pings[m.nonce]
		delete(a.pings, m.nonce)
		a.mu.Unlock()
		if answered != nil {
			close(answered)
		}
	case report:
		if a.client {
			return fmt.Errorf("%w: a report from the TLS server", errMalformed)
		}
		a.paths.told(m.reason)
	case relayList:
		a.paths.peerRelays(m.relays)
	case linkList:
		if a.client {
			a.paths.peerHas(m.ids)
		}
	}
	return nil
}

// prove checks a token's proof and lets its holder in.
func (a *association) prove(m proof) error {
	exporter, err := a.session.Export(rendezvous.ExporterLabel, nil, 32)
	if err != nil {
		return err
	}
	if err := a.node.checkProof(a, exporter, m.mac); err != nil {
		a.session.CloseWithError(closeProof, "the proof does not hold")
		return errProof
	}
	a.authorize()
	return nil
}

// maxPings bounds the pings without an answer.
const maxPings = 64

// ping measures one round trip on the control stream.
func (a *association) ping(ctx context.Context) (time.Duration, error) {
	nonce := a.node.newNonce()
	answered := make(chan struct{})
	a.mu.Lock()
	full := len(a.pings) >= maxPings
	if !full {
		a.pings[nonce] = answered
	}
	a.mu.Unlock()
	if full || !a.send(ping{nonce}) {
		return 0, errors.New("overlay: too many pings wait for an answer")
	}
	defer func() {
		a.mu.Lock()
		delete(a.pings, nonce)
		a.mu.Unlock()
	}()
	start := time.Now()
	select {
	case <-answered:
		return time.Since(start), nil
	case <-a.session.Done():
		return 0, a.peer.explain(a.session.Err())
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

const (
	// silenceDoubt is the silence after which a session is checked before new
	// streams rely on it, silenceWait the one after which they wait for the
	// outcome: more than a keepalive interval of 15 s.
	silenceDoubt = 3 * time.Second
	silenceWait  = 20 * time.Second
	checkTime    = 3 * time.Second
)

// check finds out whether the peer of a session that has been silent still has
// it: a restarted peer does not, and its old sessions end only when their idle
// time-out comes. It waits for the answer after a long silence only, so that a
// dial on a session in use takes no time.
func (a *association) check(ctx context.Context) {
	checked, silence := a.checkSoon()
	if silence < silenceWait {
		return
	}
	select {
	case <-checked:
	case <-ctx.Done():
	}
}

// checkSoon begins a check of a session that has been silent for some time, and
// returns what is closed at its end, and the silence.
func (a *association) checkSoon() (checked chan struct{}, silence time.Duration) {
	heard := a.since
	for _, p := range a.session.Paths() {
		if p.LastReceived.After(heard) {
			heard = p.LastReceived
		}
	}
	silence = time.Since(heard)
	if silence < silenceDoubt {
		return nil, silence
	}
	a.mu.Lock()
	checked = a.checked
	if checked == nil {
		checked = make(chan struct{})
		a.checked = checked
		if !a.node.spawn(func() {
			ctx, cancel := context.WithTimeout(a.node.ctx, checkTime)
			defer cancel()
			if _, err := a.ping(ctx); err != nil {
				a.silent.Store(true)
				a.peer.notify()
			}
			a.mu.Lock()
			a.checked = nil
			a.mu.Unlock()
			close(checked)
		}) {
			close(checked)
		}
	}
	a.mu.Unlock()
	return checked, silence
}

// notDirect explains why streams may not use the session.
func (a *association) notDirect(err error) error {
	reason := a.paths.reason()
	if reason == punch.Direct {
		reason = punch.Policy
	}
	return newNotDirectError(a.peer.id, reason, err)
}
