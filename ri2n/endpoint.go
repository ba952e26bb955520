package ri2n

import (
	"context"
	"crypto/hkdf"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// Config configures an [Endpoint]. Only Identity is required.
type Config struct {
	// Identity is the key that this endpoint proves to its peers.
	Identity *Identity

	// Authorize decides whether peer may open a session to this endpoint. It
	// is called on a handshake worker once the peer has proven its key, and
	// must not block. Nil refuses everybody: default is closed.
	Authorize func(peer PeerID) error

	// Logger receives what an operator should know, never a line for a bad
	// packet. Nil is silent.
	Logger *slog.Logger

	// Rand is the source of keys and identifiers. Nil means crypto/rand.
	Rand io.Reader

	// HandshakeTimeout bounds a handshake on both sides. Zero means 10 s.
	HandshakeTimeout time.Duration

	// IdleTimeout is the silence of the peer, on all paths together, after
	// which a session ends. Zero means 60 s. The lower value of both ends
	// holds.
	IdleTimeout time.Duration

	// KeepaliveInterval is the longest silence of ours on a path, so that
	// NAT mappings stay alive. Zero means 15 s (Tr in RFC 8445, section 11);
	// a negative value sends none.
	KeepaliveInterval time.Duration

	// Congestion is the congestion control algorithm of every path. Zero
	// means CongestionDefault, which is BBR.
	Congestion Congestion

	// NewCongestion makes the congestion controller of each path, in place of
	// the algorithm that Congestion names. Nil means that algorithm, as does
	// a nil controller. It is called under the lock of a session, and so must
	// not block; see [CongestionController].
	NewCongestion func(CongestionParams) CongestionController

	// Policy says which paths carry what this end sends. Zero means
	// PolicyAggregate. [Session.SetPolicy] and [Stream.SetPolicy] change it.
	Policy Policy

	// Trace is asked for the tracer of each session once its handshake is
	// complete; it may return nil and must not call the session beyond Peer
	// and IsClient. Nil traces nothing.
	Trace func(*Session) Tracer

	// MaxSessions bounds the sessions that peers may open. Zero means 16384.
	MaxSessions int

	// AcceptQueue bounds the sessions that wait for Accept; the peer of one
	// more learns that it is refused. Zero means 1024.
	AcceptQueue int

	// BufferBudget bounds, in bytes, what the sessions of the endpoint may
	// together promise to buffer for their peers beyond what each promises at
	// its start, 1 MiB. While it is used up, flow control windows do not grow;
	// none ever shrinks below what was promised. Zero means 1 GiB, a negative
	// value that no window grows.
	BufferBudget int64
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = cryptorand.Reader
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 60 * time.Second
	}
	if c.KeepaliveInterval == 0 {
		c.KeepaliveInterval = 15 * time.Second
	}
	if !c.Policy.valid() {
		c.Policy = PolicyAggregate
	}
	if c.AcceptQueue == 0 {
		c.AcceptQueue = 1024
	}
	if c.BufferBudget == 0 {
		c.BufferBudget = 1 << 30
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 16384
	}
}

// An Endpoint owns the local links and the sessions that run over them. Its
// methods may be called concurrently.
type Endpoint struct {
	cfg      Config
	resetKey [32]byte    // of stateless reset tokens; the same after a restart
	macKey   [32]byte    // of packets that name us as responder
	mac1     *mac1Hasher // under macKey
	tokens   *retryTokens
	retries  sync.Pool // of *retryScratch
	counters counters
	timers   *timerQueue
	work     chan func() // handshake jobs, which run crypto/tls
	accepted chan *Session
	initials waitingQueue
	buffers  bufferBudget

	certificates certificateCache
	ready        readyHello
	done         chan struct{} // closed by Close
	running      sync.WaitGroup

	routes routeTable

	mu       sync.Mutex // guards what follows
	closed   bool
	links    map[*Link]struct{}
	sessions map[*Session]struct{}
	halfOpen halfOpenTable
	resets   resetLimiter
	random   *rand.Rand
}

// NewEndpoint starts an endpoint without links. It fails if cfg has no
// identity or Rand fails.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Identity == nil {
		return nil, errors.New("ri2n: endpoint needs an identity")
	}
	cfg.setDefaults()
	var seed [32]byte
	if _, err := io.ReadFull(cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("ri2n: read random seed: %w", err)
	}
	e := &Endpoint{
		cfg:      cfg,
		macKey:   mac1Key(cfg.Identity.PeerID()),
		tokens:   newRetryTokens(cfg.Rand),
		timers:   newTimerQueue(),
		work:     make(chan func(), maxHandshakeJobs),
		accepted: make(chan *Session, cfg.AcceptQueue),
		done:     make(chan struct{}),
		links:    make(map[*Link]struct{}),
		sessions: make(map[*Session]struct{}),
		random:   rand.New(rand.NewChaCha8(seed)),
	}
	reset, err := hkdf.Key(sha256.New, cfg.Identity.key.Seed(), nil, "ri2n stateless reset", len(e.resetKey))
	if err != nil {
		return nil, fmt.Errorf("ri2n: derive reset key: %w", err)
	}
	copy(e.resetKey[:], reset)
	e.buffers.limit, e.buffers.held = cfg.BufferBudget, &e.counters.windowsHeld
	e.initials.dropped = &e.counters.handshakeJobsDropped
	e.mac1 = newMAC1Hasher(e.macKey)
	e.retries.New = func() any { return new(retryScratch) }
	e.routes.init()
	e.halfOpen.init()
	e.ready.expiry.fire = func(time.Time) { e.enqueue(e.ready.drop) }
	for range max(2, runtime.GOMAXPROCS(0)) {
		e.running.Go(e.handshakeWorker)
	}
	e.running.Go(func() { e.timers.run(e.done) })
	return e, nil
}

// maxHandshakeJobs bounds the queue of handshake work; what exceeds it is
// dropped, as the network might have dropped it.
const maxHandshakeJobs = 512

func (e *Endpoint) handshakeWorker() {
	for {
		select {
		case job := <-e.work:
			job()
		case <-e.done:
			return
		}
	}
}

// enqueue hands a handshake job to the workers and reports whether there was
// room.
func (e *Endpoint) enqueue(job func()) bool {
	select {
	case e.work <- job:
		return true
	default:
		e.counters.handshakeJobsDropped.Add(1)
		return false
	}
}

// PeerID returns the endpoint's own peer ID.
func (e *Endpoint) PeerID() PeerID { return e.cfg.Identity.PeerID() }

// AddLink makes pc, one UDP socket bound to one local network attachment, a
// link of the endpoint, which owns pc from here on. Name appears in path
// information and errors.
//
// The socket is read with ReadFromUDPAddrPort where pc has that method, as
// *net.UDPConn does.
func (e *Endpoint) AddLink(name string, pc net.PacketConn) (*Link, error) {
	l := newLink(e, name)
	l.socket = newSocket(pc)
	l.other = newOtherConn(l)
	l.interfaceMTU = interfaceMTUOf(addrPortOf(l.LocalAddr()).Addr())
	if err := e.register(l); err != nil {
		return nil, err
	}
	if l.socket.kernel() {
		e.timers.useKernel()
	}
	e.running.Go(l.read)
	return l, nil
}

// AddCarrier makes c, a relay channel to one peer, a link of the endpoint.
// What arrives on the channel is handed to [Link.Deliver].
func (e *Endpoint) AddCarrier(name string, c Carrier) (*Link, error) {
	l := newLink(e, name)
	l.carrier = c
	if err := e.register(l); err != nil {
		return nil, err
	}
	return l, nil
}

func (e *Endpoint) register(l *Link) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("ri2n: add link %s: %w", l.name, net.ErrClosed)
	}
	e.links[l] = struct{}{}
	return nil
}

// A Remote is where a path leads: a transport address reached from a link. For
// a carrier Addr is the zero AddrPort.
type Remote struct {
	Link *Link
	Addr netip.AddrPort
}

func (r Remote) String() string {
	if r.Link.IsCarrier() {
		return r.Link.name
	}
	return r.Addr.String()
}

// Dial opens a session to peer. The same Initial goes to every candidate, the
// first at once and the others 20, 50, 100 ... ms later, and the session
// starts on the one that answers first.
//
// Dial returns once the first application byte can be sent, one round trip
// after the call at best. It returns a *[DialError] that wraps
// [ErrHandshakeTimeout], a *[PeerMismatchError], a *[VersionError], or ctx's
// error. A refusal by the peer's Authorize is known half a round trip later
// and ends the session with an error that is [ErrRefused].
func (e *Endpoint) Dial(ctx context.Context, peer PeerID, candidates ...Remote) (*Session, error) {
	fail := func(err error) (*Session, error) {
		tried := make([]string, len(candidates))
		for i, c := range candidates {
			tried[i] = c.String()
		}
		return nil, &DialError{Peer: peer, Tried: tried, Err: err}
	}
	if len(candidates) == 0 {
		return fail(errors.New("ri2n: no candidate address"))
	}
	if peer.IsZero() {
		return fail(errors.New("ri2n: no peer ID to dial"))
	}
	h, err := e.newClientHandshake(peer, candidates)
	if err != nil {
		return fail(err)
	}
	e.prepareHello()
	h.attend(ctx)
	if h.session == nil {
		return fail(h.err)
	}
	return h.session, nil
}

// Accept returns the next session that a peer opened and Authorize let in. It
// returns [net.ErrClosed] once the endpoint is closed.
func (e *Endpoint) Accept(ctx context.Context) (*Session, error) {
	select {
	case s := <-e.accepted:
		return s, nil
	default:
	}
	select {
	case s := <-e.accepted:
		return s, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("ri2n: accept session: %w", ctx.Err())
	case <-e.done:
		return nil, fmt.Errorf("ri2n: accept session: %w", net.ErrClosed)
	}
}

// Close closes every session, giving written data up to 5 s to be
// acknowledged, then every link. It may be called twice and returns when all
// goroutines of the endpoint have ended.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.running.Wait()
		return nil
	}
	e.closed = true
	sessions := make([]*Session, 0, len(e.sessions))
	for s := range e.sessions {
		sessions = append(sessions, s)
	}
	e.mu.Unlock()

	for _, s := range sessions {
		s.Close()
	}
	for _, s := range sessions {
		<-s.Ended()
	}
	close(e.done)
	e.timers.interrupt()

	e.mu.Lock()
	links := make([]*Link, 0, len(e.links))
	for l := range e.links {
		links = append(links, l)
	}
	e.mu.Unlock()
	for _, l := range links {
		l.closeSocket()
	}
	e.abortHandshakes()
	e.running.Wait()
	e.ready.close()
	return nil
}

// addSession registers an established session, whose mutex the caller holds,
// unless the endpoint is closed or full.
func (e *Endpoint) addSession(s *Session) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if !s.client && len(e.sessions) >= e.cfg.MaxSessions {
		e.counters.sessionsRefused.Add(1)
		return ErrTooManySessions
	}
	e.sessions[s] = struct{}{}
	e.counters.sessions.Add(1)
	return nil
}

func (e *Endpoint) removeSession(s *Session) {
	e.mu.Lock()
	delete(e.sessions, s)
	e.mu.Unlock()
}

// newRand returns a generator for jitter and skipped numbers of one session.
func (e *Endpoint) newRand() *rand.Rand {
	e.mu.Lock()
	defer e.mu.Unlock()
	return rand.New(rand.NewPCG(e.random.Uint64(), e.random.Uint64()))
}

// randomBytes fills b from the configured source.
func (e *Endpoint) randomBytes(b []byte) {
	if _, err := io.ReadFull(e.cfg.Rand, b); err != nil {
		panic("ri2n: the random source that worked at start must go on: " + err.Error())
	}
}
