package punch

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
)

const (
	// offerRetry is the first wait for an answer to an offer; it doubles.
	offerRetry   = 300 * time.Millisecond
	offerTries   = 5
	maxStartWait = time.Second
	// startFallback is when the controlled side begins without a START.
	startFallback = 1500 * time.Millisecond
	// defaultCheckTime covers two seconds of checks and the answers of a slow
	// path.
	defaultCheckTime = 4 * time.Second
	// reasonGrace is how long the controlled side waits for the reason of the
	// controlling side after its own checks ended.
	reasonGrace = 2 * time.Second
	// linger is how long an agent goes on after selection, so that the peer's
	// last checks are answered.
	linger = 3 * time.Second
)

// A Pair is a remote transport address that works, or seems to, from a link.
type Pair struct {
	Link       uint16 // ours, as in [Link]
	PeerLink   uint16 // the peer's
	Remote     netip.AddrPort
	Stage      Stage
	Generation uint32
	// Conn is the socket that the pair is on, where it is not the link's own: a
	// search through hard NATs may end on a fresh one. It belongs to the one who
	// is told of the pair.
	Conn net.PacketConn
}

// A Result is how an attempt ended.
type Result struct {
	Pair                 // of a direct result
	Asked  LinkPair      // as the attempt was begun
	Reason Reason        // Direct, or why not
	Took   time.Duration // since the offer left or arrived
	// LocalBehavior and RemoteBehavior are what both sides saw of themselves.
	LocalBehavior, RemoteBehavior Behavior
}

// phase of an attempt.
type phase uint8

const (
	phaseOffering phase = iota + 1 // controlling: no answer yet
	phaseWaiting                   // descriptions exchanged, checks not begun
	phaseChecking
	phasePlanning   // plans for a search are exchanged
	phaseSearching  // probes leave
	phaseConcluding // controlled: waits for the other side's reason
	phaseLingering  // result known, agent still answers
	phaseOver
)

// attemptConfig is what an attempt is given.
type attemptConfig struct {
	id          uint64
	controlling bool
	peer        string
	mux         *Mux
	log         *slog.Logger
	checkTime   time.Duration
	rtt         time.Duration // of the session; zero: unknown
	local       Description
	signal      func(message)
	onPair      func(Pair)   // may be nil
	onResult    func(Result) // may be nil

	// Of the search through hard NATs.
	listen      func() (net.PacketConn, error) // nil: no further sockets
	servers     []netip.AddrPort
	prove       func()                // have our address proven to the peer; nil: cannot
	proven      func(netip.Addr) bool // the peer has proven this address
	admitSearch func() bool           // nil: no searches
	searched    func(found bool)      // a search that was admitted has ended
	searchStats *searchCounters
	entropy     io.Reader
}

// An attempt tries one pair of links once: one exchange of descriptions, one
// ICE agent, one result.
type attempt struct {
	attemptConfig
	gate *attemptGate

	messages chan message
	events   chan attemptEvent
	closing  chan struct{} // asked to end
	ending   chan struct{} // the loop takes no more events
	stopOnce sync.Once
	decided  atomic.Bool // there is a result

	// The loop goroutine owns the rest.

	phase    phase
	timer    *time.Timer
	due      time.Time // of the current phase; zero: never
	began    time.Time
	exchange exchange
	remote   Description
	agent    *ice.Agent
	best     Pair // of the highest stage so far

	searching searching
	helpers   sync.WaitGroup // goroutines that end soon after the loop
}

// An exchange is the state of the signalling of one attempt.
type exchange struct {
	// Controlling side.
	offers int
	wait   time.Duration         // until the next offer
	sent   [offerTries]time.Time // when each copy of the offer left
	// Controlled side.
	answered   bool
	toldDirect bool // the controlling side selected a pair
}

// An attemptEvent comes from the gate or from the ICE agent.
type attemptEvent struct {
	remote netip.AddrPort
	stage  Stage
}

// maxEvents holds every event that an attempt can have: three stages for each
// candidate and each peer-reflexive address.
const maxEvents = 3 * (maxCandidates + maxPeerReflexive)

// newAttempt opens the mux for an attempt; run starts it.
func newAttempt(cfg attemptConfig) (*attempt, error) {
	a := &attempt{
		attemptConfig: cfg,
		messages:      make(chan message, 8),
		events:        make(chan attemptEvent, maxEvents),
		closing:       make(chan struct{}),
		ending:        make(chan struct{}),
		phase:         phaseOffering,
	}
	a.searching.samples = make(chan []PortSample)
	a.searching.probes = make(chan probeEvent, 64)
	a.gate = &attemptGate{
		filter:   &a.mux.filter,
		localPwd: a.local.Pwd,
		report:   a.post,
		remotes:  make(map[netip.AddrPort]*remoteState),
	}
	if err := a.mux.open(a.local.Ufrag, a.peer, a.gate); err != nil {
		return nil, err
	}
	return a, nil
}

// asked returns the links that the attempt was begun for.
func (a *attempt) asked() LinkPair { return LinkPair{a.local.Link, a.local.PeerLink} }

// post hands an event to the loop. There is room for all that can happen.
func (a *attempt) post(remote netip.AddrPort, s Stage) {
	select {
	case a.events <- attemptEvent{remote, s}:
	case <-a.ending:
	default:
	}
}

// receive hands a message to the loop; what does not fit is as good as lost.
func (a *attempt) receive(m message) {
	select {
	case a.messages <- m:
	default:
	}
}

// stop asks the loop to end without a result.
func (a *attempt) stop() { a.stopOnce.Do(func() { close(a.closing) }) }

// run is the loop of the attempt. The controlled side starts with the offer
// among its messages.
func (a *attempt) run() {
	a.began = time.Now()
	a.timer = time.NewTimer(time.Hour)
	defer a.timer.Stop()
	defer a.end()
	if a.controlling {
		a.exchange.wait = offerRetry
		a.offer(a.began)
	}
	for a.phase != phaseOver {
		if a.due.IsZero() {
			a.timer.Stop()
		} else {
			a.timer.Reset(time.Until(a.due))
		}
		select {
		case m := <-a.messages:
			a.handle(time.Now(), m)
		case e := <-a.events:
			a.see(time.Now(), e)
		case samples := <-a.searching.samples:
			if a.phase == phasePlanning && a.searching.sampling {
				a.planned(time.Now(), samples)
			}
		case e := <-a.searching.probes:
			a.takeProbe(time.Now(), e)
		case <-a.timer.C:
			if now := time.Now(); !a.due.IsZero() && !now.Before(a.due) {
				a.advance(now)
			}
		case <-a.closing:
			return
		}
	}
}

// end closes the agent and the mux's conns.
func (a *attempt) end() {
	close(a.ending)
	a.dropSearch()
	a.helpers.Wait()
	if a.agent != nil {
		if err := a.agent.GracefulClose(); err != nil {
			a.log.Debug("punch: close ICE agent", "err", err)
		}
	}
	a.mux.RemoveConnByUfrag(a.local.Ufrag)
}

// offer sends the offer, again if need be.
func (a *attempt) offer(now time.Time) {
	n := a.exchange.offers
	a.exchange.offers++
	a.exchange.sent[n] = now
	a.due = now.Add(max(a.exchange.wait, 2*a.rtt))
	a.exchange.wait *= 2
	a.signal(message{kind: messageOffer, attempt: a.id, copy: uint8(n), rtt: a.rtt, description: a.local})
}

// handle takes a message of the peer.
func (a *attempt) handle(now time.Time, m message) {
	switch {
	case m.kind == messageOffer && !a.controlling:
		a.answer(now, m)
	case m.kind == messageAnswer && a.phase == phaseOffering && int(m.copy) < a.exchange.offers:
		a.remote = m.description
		a.prepare()
		if a.rtt > 0 {
			// The other side counts half a round trip from its answer.
			a.begin(now)
			return
		}
		a.signal(message{kind: messageStart, attempt: a.id})
		a.phase = phaseWaiting
		a.due = now.Add(min(now.Sub(a.exchange.sent[m.copy])/2, maxStartWait))
	case m.kind == messageStart && !a.controlling && a.phase == phaseWaiting:
		a.begin(now)
	case m.kind == messagePlan:
		a.takePlan(now, m.plan)
	case m.kind == messageReason && a.controlling:
		if m.reason == PeerTooOld && a.phase == phaseOffering {
			a.finish(now, PeerTooOld)
		}
	case m.kind == messageReason && a.phase < phaseLingering:
		switch {
		case m.reason == Direct:
			a.exchange.toldDirect = true
		case a.best.Stage < Valid:
			a.finish(now, m.reason)
		}
	}
}

// answer answers an offer. The checks of both sides begin together: half a
// round trip after the answer left, which is when it arrives. Were ours
// earlier, they could reach the other NAT before it expects them, and some
// routers then give its own checks another port.
func (a *attempt) answer(now time.Time, m message) {
	a.signal(message{kind: messageAnswer, attempt: a.id, copy: m.copy, description: a.local})
	if a.exchange.answered {
		return
	}
	a.exchange.answered = true
	a.remote = m.description
	a.prepare()
	a.phase = phaseWaiting
	if m.rtt > 0 {
		a.due = now.Add(min(m.rtt/2, maxStartWait))
	} else {
		a.due = now.Add(startFallback)
	}
}

// prepare makes the agent and gives it the peer's candidates, so that only
// begin is left to do when the time has come.
func (a *attempt) prepare() {
	candidates := a.gate.learn(a.remote, sameOutside(a.local, a.remote), a.mux.local)
	agent, err := newICEAgent(a.mux, a.local.Ufrag, a.local.Pwd, a.log)
	if err != nil {
		a.log.Warn("punch: no ICE agent", "err", err)
		return
	}
	a.agent = agent
	if err := a.load(agent, candidates); err != nil {
		a.log.Warn("punch: prepare ICE agent", "err", err)
	}
}

func (a *attempt) load(agent *ice.Agent, candidates []Candidate) error {
	if err := agent.OnCandidate(func(ice.Candidate) {}); err != nil {
		return err
	}
	err := agent.OnSelectedCandidatePairChange(func(_, remote ice.Candidate) {
		if addr, err := netip.ParseAddr(remote.Address()); err == nil {
			a.post(netip.AddrPortFrom(addr.Unmap(), uint16(remote.Port())), Selected)
		}
	})
	if err != nil {
		return err
	}
	if err := agent.GatherCandidates(); err != nil {
		return err
	}
	for _, c := range candidates {
		ic, err := iceCandidate(c)
		if err != nil {
			return fmt.Errorf("candidate %v: %w", c.Addr, err)
		}
		if err := agent.AddRemoteCandidate(ic); err != nil {
			return fmt.Errorf("candidate %v: %w", c.Addr, err)
		}
	}
	return nil
}

// sameOutside reports whether both sides name one outside address.
func sameOutside(a, b Description) bool {
	for _, x := range a.Candidates {
		for _, y := range b.Candidates {
			if x.Kind == KindServerReflexive && y.Kind == KindServerReflexive &&
				x.Addr.Addr().Unmap() == y.Addr.Addr().Unmap() {
				return true
			}
		}
	}
	return false
}

// begin starts the checks.
func (a *attempt) begin(now time.Time) {
	a.phase = phaseChecking
	a.due = now.Add(a.checkTime)
	a.searching.checksEnd = a.due
	if a.controlling && a.hard() {
		a.due = now.Add(min(searchAfter+4*a.rtt, a.checkTime))
	}
	if a.agent == nil {
		a.fail(now)
		return
	}
	start := a.agent.StartAccept
	if a.controlling {
		start = a.agent.StartDial
	}
	if _, err := start(a.remote.Ufrag, a.remote.Pwd); err != nil {
		a.log.Warn("punch: start ICE agent", "err", err)
		a.fail(now)
	}
}

// see takes a sign that a pair works.
func (a *attempt) see(now time.Time, e attemptEvent) {
	p := Pair{
		Link: a.local.Link, PeerLink: a.remote.Link, Generation: a.local.Generation,
		Remote: e.remote, Stage: e.stage,
	}
	if e.stage > a.best.Stage {
		a.best = p
	}
	if a.onPair != nil {
		a.onPair(p)
	}
	if e.stage == Selected && (a.phase == phaseChecking || a.phase == phaseConcluding || a.phase == phasePlanning || a.phase == phaseSearching) {
		a.dropSearch()
		a.finish(now, Direct)
	}
}

// advance does what is due in the current phase.
func (a *attempt) advance(now time.Time) {
	switch a.phase {
	case phaseOffering:
		if a.exchange.offers < offerTries {
			a.offer(now)
			return
		}
		a.finish(now, NoValidPair)
	case phaseWaiting:
		a.begin(now)
	case phaseChecking:
		if now.Before(a.searching.checksEnd) {
			if a.best.Stage < Valid && a.searching.round == 0 {
				a.plan(now, 1)
			} else {
				a.due = a.searching.checksEnd
			}
			return
		}
		a.fail(now)
	case phasePlanning:
		s := &a.searching
		switch {
		case s.ready && s.answered:
			a.arrange(now)
		case a.controlling && s.ready && s.tries < planTries:
			a.sendPlan(now)
		case s.ready:
			a.resume(now)
		}
	case phaseSearching:
		a.step(now)
	case phaseConcluding:
		if a.exchange.toldDirect && a.best.Stage > 0 {
			// Our checks were lost, theirs were not.
			a.finish(now, Direct)
			return
		}
		a.finish(now, a.explain())
	case phaseLingering:
		a.phase = phaseOver
	}
}

// fail ends the checks without a selected pair.
func (a *attempt) fail(now time.Time) {
	switch {
	case a.best.Stage == Valid:
		// Answered but never nominated: the pair works all the same.
		a.finish(now, Direct)
	case a.controlling:
		a.finish(now, a.explain())
	default:
		a.phase = phaseConcluding
		a.due = now.Add(reasonGrace)
	}
}

// explain names the cause of a failure as far as both behaviors tell.
func (a *attempt) explain() Reason {
	if r := Explain(a.local.Behavior, a.remote.Behavior); r != Direct {
		return r
	}
	return NoValidPair
}

// finish reports the result; the controlling side tells the other.
func (a *attempt) finish(now time.Time, r Reason) {
	if a.controlling && a.phase != phaseOffering {
		a.signal(message{kind: messageReason, attempt: a.id, reason: r})
	}
	result := Result{
		Pair:   Pair{Link: a.local.Link, PeerLink: a.remote.Link, Generation: a.local.Generation},
		Asked:  a.asked(),
		Reason: r, Took: now.Sub(a.began),
		LocalBehavior: a.local.Behavior, RemoteBehavior: a.remote.Behavior,
	}
	a.decided.Store(true)
	a.phase, a.due = phaseOver, time.Time{}
	if r == Direct {
		result.Pair = a.best
		a.phase, a.due = phaseLingering, now.Add(linger)
	}
	if a.onResult != nil {
		a.onResult(result)
	}
}
