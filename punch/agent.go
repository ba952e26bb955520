package punch

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxAttempts bounds the attempts with one peer, like ri2n's paths.
	maxAttempts = 8
	// maxRecent is how many attempt IDs are remembered, so that a late copy of
	// an offer starts nothing.
	maxRecent = 4 * maxAttempts
	// offerSpacing and offerBurst limit the attempts that a peer can make us
	// start.
	offerSpacing = time.Second
	offerBurst   = 8
)

// A Link is one of our links as attempts see it. Candidates and behavior are
// found beforehand, by [Mux.Gather].
type Link struct {
	ID         uint16 // not zero
	Mux        *Mux
	Candidates []Candidate // at most 16 are signalled
	Behavior   Behavior

	// Listen opens one more socket on the link, on a port that the system
	// chooses. A NAT that maps by destination is only overcome with several.
	// Nil: there are no others.
	Listen func() (net.PacketConn, error)
	// Servers are the STUN servers that tell how a NAT picks ports, asked from
	// such sockets. Empty: nobody tells.
	Servers []netip.AddrPort
}

// A Signaler carries messages to the peer over the encrypted session that
// already runs. Messages may be lost, repeated or reordered.
type Signaler interface {
	// Signal sends one message of at most about 2 KiB. It must not block long
	// and must not keep msg.
	Signal(msg []byte) error
}

// SignalFunc makes a function a [Signaler].
type SignalFunc func(msg []byte) error

// Signal calls f.
func (f SignalFunc) Signal(msg []byte) error { return f(msg) }

// AgentConfig configures an [Agent]. Links and Signaler are required.
type AgentConfig struct {
	// Peer names the peer for pacing and logs.
	Peer string
	// Controlling is the ICE role (RFC 8445, section 6.1.1): true at the TLS
	// client of the session, false at its server.
	Controlling bool
	// Links returns our links as they are now, the preferred one first. It is
	// called at the start of every attempt.
	Links    func() []Link
	Signaler Signaler
	// RTT returns the round trip time of the session now, if known; it saves
	// one round trip at the start of the checks. Nil or zero: unknown.
	RTT func() time.Duration
	// OnPair is told of every sign that a remote transport address works, from
	// [Heard] over [Valid] to [Selected], and may be told of several
	// addresses. The caller begins its own proof at the first one and repeats
	// it at a later stage if it failed.
	//
	// OnPair, OnResult and OnReason are called from the agent's goroutines.
	// They must not block, and must not call Close.
	OnPair func(Pair)
	// OnResult is told how each attempt ended.
	OnResult func(Result)
	// OnReason is told a reason that the controlling side's owner sent with
	// [Agent.Tell].
	OnReason func(Reason)
	// Prove asks the rendezvous to tell the peer where it sees us. Nil: nobody
	// vouches for addresses, so that no search through hard NATs is made; see
	// [Agent.Proven].
	Prove func()
	// CheckTime is how long checks go on without success. Zero means 4 s.
	CheckTime time.Duration
	Logger    *slog.Logger // nil: silent
	Rand      io.Reader    // of credentials; nil: crypto/rand
}

// An Agent does all NAT traversal with one peer. It runs attempts, at most one
// for each pair of links and generation, and keeps none of them once they have
// ended. It is safe for concurrent use.
type Agent struct {
	cfg     AgentConfig
	dropped atomic.Uint64
	search  searchCounters

	mu             sync.Mutex
	closed         bool
	generation     uint32
	attempts       []*attempt   // oldest first
	recent         []uint64     // IDs of the latest attempts, running or over
	proven         []netip.Addr // of the peer, the latest last
	searchDue      time.Time    // before it no search begins
	searchFailures int
	offersDue      time.Time // generic cell rate algorithm for the peer's offers
	done           sync.WaitGroup
}

// NewAgent returns an agent that waits for offers, or for Punch. Callers hand
// it the peer's messages with Receive and end it with Close.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	if cfg.Links == nil || cfg.Signaler == nil {
		return nil, errors.New("punch: an agent needs links and a signaler")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.CheckTime <= 0 {
		cfg.CheckTime = defaultCheckTime
	}
	return &Agent{cfg: cfg}, nil
}

// errNoLink reports that Links returned none that can be used.
var errNoLink = errors.New("punch: no local link")

// A LinkPair names one of our links and one of the peer's; zero for the peer's
// leaves the choice to it.
type LinkPair struct{ Link, PeerLink uint16 }

// Punch starts an attempt of a new generation on each of our links. Attempts
// under way go on until the new ones have a result, and paths in use are not
// touched: make before break. The controlled side asks the other to do it.
func (a *Agent) Punch() error {
	if !a.cfg.Controlling {
		return a.signal(message{kind: messageAgain})
	}
	links := a.cfg.Links()
	if len(links) == 0 {
		return errNoLink
	}
	pairs := make([]LinkPair, len(links))
	for i, l := range links {
		pairs[i].Link = l.ID
	}
	_, err := a.punch(links, pairs)
	return err
}

// PunchPairs starts an attempt of a new generation for each pair, at most
// eight, and returns those begun: each of them has a result, unless the agent
// is closed. It is for the controlling side.
func (a *Agent) PunchPairs(pairs []LinkPair) ([]LinkPair, error) {
	if !a.cfg.Controlling {
		return nil, errors.New("punch: the controlled side names no links")
	}
	return a.punch(a.cfg.Links(), pairs)
}

func (a *Agent) punch(links []Link, pairs []LinkPair) (begun []LinkPair, err error) {
	a.mu.Lock()
	a.generation++
	generation := a.generation
	a.mu.Unlock()
	var errs []error
	for _, pair := range pairs[:min(len(pairs), maxAttempts)] {
		i := slices.IndexFunc(links, func(l Link) bool { return l.ID == pair.Link })
		if i < 0 {
			errs = append(errs, errNoLink)
			continue
		}
		var id [8]byte
		if _, err := io.ReadFull(a.cfg.Rand, id[:]); err != nil {
			return begun, fmt.Errorf("punch: read attempt ID: %w", err)
		}
		_, err := a.start(links[i], binary.BigEndian.Uint64(id[:])|1, generation, pair.PeerLink)
		errs = append(errs, err)
		if err == nil {
			begun = append(begun, pair)
		}
	}
	return begun, errors.Join(errs...)
}

// start makes and runs one attempt.
func (a *Agent) start(l Link, id uint64, generation uint32, peerLink uint16) (*attempt, error) {
	if l.Mux == nil {
		return nil, errNoLink
	}
	ufrag, pwd, err := a.credentials()
	if err != nil {
		return nil, err
	}
	d := Description{
		Generation: generation, Link: l.ID, PeerLink: peerLink,
		Ufrag: ufrag, Pwd: pwd, Behavior: l.Behavior,
	}
	for _, c := range l.Candidates {
		known := c.Kind == KindHost || c.Kind == KindServerReflexive
		// An address with a zone means nothing elsewhere.
		if !known || !c.Addr.IsValid() || c.Addr.Addr().Zone() != "" || len(d.Candidates) == maxCandidates {
			continue
		}
		c.Addr = canonical(c.Addr)
		c.Priority = c.priority(len(d.Candidates))
		d.Candidates = append(d.Candidates, c)
	}
	var rtt time.Duration
	if a.cfg.RTT != nil {
		rtt = max(0, a.cfg.RTT())
	}
	var at *attempt
	at, err = newAttempt(attemptConfig{
		id: id, controlling: a.cfg.Controlling, peer: a.cfg.Peer, mux: l.Mux,
		log: a.cfg.Logger.With("peer", a.cfg.Peer, "generation", generation), checkTime: a.cfg.CheckTime,
		local: d, rtt: rtt, onPair: a.cfg.OnPair,
		listen: l.Listen, servers: l.Servers, prove: a.cfg.Prove, proven: a.isProven, searched: a.searched,
		admitSearch: a.admitter(), searchStats: &a.search, entropy: a.cfg.Rand,
		signal: func(m message) {
			if err := a.signal(m); err != nil {
				a.cfg.Logger.Debug("punch: signal", "peer", a.cfg.Peer, "err", err)
			}
		},
		onResult: func(r Result) { a.concluded(id, r) },
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		err = errAgentClosed
	case slices.Contains(a.recent, id):
		err = errRepeated
	}
	if err != nil {
		l.Mux.RemoveConnByUfrag(ufrag)
		return nil, err
	}
	if len(a.recent) == maxRecent {
		a.recent = append(a.recent[:0], a.recent[1:]...)
	}
	a.recent = append(a.recent, id)
	if len(a.attempts) == maxAttempts {
		// One that has its result only answers late checks.
		i := max(0, slices.IndexFunc(a.attempts, func(at *attempt) bool { return at.decided.Load() }))
		a.attempts[i].stop()
		a.attempts = slices.Delete(a.attempts, i, i+1)
	}
	a.attempts = append(a.attempts, at)
	a.done.Go(func() {
		at.run()
		a.forget(at)
	})
	return at, nil
}

var (
	errAgentClosed = errors.New("punch: the agent is closed")
	errRepeated    = errors.New("punch: this offer was taken before")
)

// credentials makes an ICE ufrag and password of 6 random bits a character.
func (a *Agent) credentials() (ufrag, pwd string, err error) {
	raw := make([]byte, (ufragLength+pwdLength)*6/8)
	if _, err := io.ReadFull(a.cfg.Rand, raw); err != nil {
		return "", "", fmt.Errorf("punch: read ICE credentials: %w", err)
	}
	text := base64.RawStdEncoding.EncodeToString(raw) // exactly the ice-chars
	return text[:ufragLength], text[ufragLength:], nil
}

// concluded passes a result on and ends older attempts on the same pair of
// links.
func (a *Agent) concluded(id uint64, r Result) {
	a.each(func(at *attempt) {
		if at.id != id && at.asked() == r.Asked && at.local.Generation < r.Generation {
			at.stop()
		}
	})
	if a.cfg.OnResult != nil {
		a.cfg.OnResult(r)
	}
}

// each calls f for every attempt.
func (a *Agent) each(f func(*attempt)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.attempts {
		f(at)
	}
}

// Busy reports whether an attempt is under way that has no result yet, which is
// what [Connecting] means.
func (a *Agent) Busy() (busy bool) {
	a.each(func(at *attempt) { busy = busy || !at.decided.Load() })
	return busy
}

func (a *Agent) forget(at *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, x := range a.attempts {
		if x == at {
			a.attempts = append(a.attempts[:i], a.attempts[i+1:]...)
			return
		}
	}
}

// Receive takes one message of the peer, as the other side's Signaler sent it,
// and keeps no reference to msg. A message that makes no sense is dropped and
// counted; the error tells why, for a debug log.
func (a *Agent) Receive(msg []byte) error {
	err := a.receive(msg)
	if err != nil {
		a.dropped.Add(1)
	}
	return err
}

func (a *Agent) receive(msg []byte) error {
	m, err := parseMessage(msg)
	if errors.Is(err, ErrVersion) && messageType(msg[0]) == messageOffer && a.admitOffer(time.Now()) {
		// The sender is newer than we are and cannot know that yet.
		return errors.Join(err, a.signal(message{kind: messageReason, reason: PeerTooOld}))
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	var known *attempt
	for _, at := range a.attempts {
		if at.id == m.attempt {
			known = at
		}
	}
	over := known == nil && slices.Contains(a.recent, m.attempt)
	a.mu.Unlock()
	switch {
	case known != nil:
		known.receive(m)
		return nil
	case over:
		return errRepeated
	case m.kind == messageOffer && !a.cfg.Controlling:
		return a.accept(m)
	case m.kind == messageAgain && a.cfg.Controlling:
		if !a.admitOffer(time.Now()) {
			return errors.New("punch: the peer asks for attempts too often")
		}
		return a.Punch()
	case m.kind == messageReason && m.attempt == 0:
		if m.reason == PeerTooOld {
			a.each(func(at *attempt) { at.receive(m) })
		}
		if a.cfg.OnReason != nil {
			a.cfg.OnReason(m.reason)
		}
		return nil
	default:
		return fmt.Errorf("punch: message of type %d for no attempt", m.kind)
	}
}

// accept starts the attempt that an offer asks for.
func (a *Agent) accept(m message) error {
	if !a.admitOffer(time.Now()) {
		return errors.New("punch: the peer offers too often")
	}
	links := a.cfg.Links()
	if len(links) == 0 {
		return errNoLink
	}
	l := links[0]
	for _, x := range links {
		if x.ID == m.description.PeerLink {
			l = x
		}
	}
	at, err := a.start(l, m.attempt, m.description.Generation, m.description.Link)
	if err != nil {
		return err
	}
	at.receive(m)
	return nil
}

// admitOffer reports whether the peer may make us start one more attempt.
func (a *Agent) admitOffer(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	due := a.offersDue
	if due.Before(now) {
		due = now
	}
	if due.Sub(now) > (offerBurst-1)*offerSpacing {
		return false
	}
	a.offersDue = due.Add(offerSpacing)
	return true
}

// Tell sends a reason that the owner of the controlling side found outside of
// attempts, such as [ProofFailed] or [PathDied], to the other side's OnReason.
func (a *Agent) Tell(r Reason) error {
	if _, ok := r.code(); !ok {
		return fmt.Errorf("punch: %q is no reason", string(r))
	}
	return a.signal(message{kind: messageReason, reason: r})
}

func (a *Agent) signal(m message) error {
	return a.cfg.Signaler.Signal(appendMessage(nil, m))
}

// Dropped returns how many messages of the peer were dropped.
func (a *Agent) Dropped() uint64 { return a.dropped.Load() }

// Close ends all attempts without results and waits for them. It may be called
// twice.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	for _, at := range a.attempts {
		at.stop()
	}
	a.mu.Unlock()
	a.done.Wait()
	return nil
}
