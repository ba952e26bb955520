package overlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	proofPatience = 5 * time.Second // for the full-size proof of one address
	maxProofs     = 32              // addresses of one attempt that are remembered

	// freshDial and freshAgain are how old candidates may be at a first
	// attempt and at one that follows a loss, when the network has probably
	// changed. 27 s is below the shortest mapping lifetime in use, 30 s.
	freshDial  = 27 * time.Second
	freshAgain = 3 * time.Second
	gatherTime = 500 * time.Millisecond

	// fillSoon is how long after its start a session takes its candidates to
	// be those that it began with.
	fillSoon = 5 * time.Second

	// relayRetry is the pause between two attempts to bring the relay back.
	relayRetry = 5 * time.Second
	// messageGap tells one attempt's messages from the next one's.
	messageGap = time.Second
)

// moreAgain are the pauses between attempts to bring further links into a
// session that is direct already; the last one repeats.
var moreAgain = [...]time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 60 * time.Second, 5 * time.Minute}

// punchAgain are the pauses between attempts while a session is relayed; the
// last one repeats.
var punchAgain = [...]time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 60 * time.Second}

// A pathKeeper looks for a direct path of one session, has it proven, watches
// it, and keeps the relay as its backup. The session's TLS client decides what
// counts, and tells the other side.
type pathKeeper struct {
	a    *association
	kick chan struct{} // capacity 1: something has changed

	mu        sync.Mutex // guards what follows
	closed    bool
	agent     *punch.Agent                // nil: policy, or not started
	remote    PathPolicy                  // the peer's
	why       punch.Reason                // Direct, or why not
	direct    bool                        // this side sends on a direct path
	trying    map[punch.LinkPair]struct{} // attempts under way, as asked for
	starting  bool                        // candidates are gathered for some
	result    punch.Reason                // of the last attempt
	tooOld    bool                        // the peer does not speak our version of punch
	failures  int                         // attempts since the last direct path
	again     time.Time                   // of the next attempt; zero: none
	movedAt   time.Time                   // when one end was somewhere else last
	proofs    map[proofKey]*proofState
	relayDue  time.Time // before it the relay is not tried again
	relaying  bool
	lastHeard time.Time // the last message of punch
	offers    int       // runs of messages so far

	// Of sessions with several links on either side; see links of paths.
	peerLinks    []uint16            // the peer's, as told; none: it has one
	routes       map[proofKey]uint16 // the peer's link that an address leads to
	more         time.Time           // of the next attempt on links without a path; zero: none
	moreFailures int                 // such attempts since the last change of links

	relay relayChoice // among members
}

// A proofKey is one remote transport address on one of our links.
type proofKey struct {
	link   uint16
	remote netip.AddrPort
}

type proofState struct {
	running bool
	proven  bool
	stage   punch.Stage // at which the last proof began
	wanted  punch.Stage // a later stage came while it ran
}

func (k *pathKeeper) init(a *association) {
	k.a = a
	k.kick = make(chan struct{}, 1)
	k.why = punch.Connecting
	k.proofs = make(map[proofKey]*proofState)
	k.trying = make(map[punch.LinkPair]struct{})
	k.routes = make(map[proofKey]uint16)
}

// policy returns the stricter policy of both sides.
func (k *pathKeeper) policy() PathPolicy {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.policyLocked()
}

func (k *pathKeeper) policyLocked() PathPolicy {
	own := k.a.node.cfg.Path
	if own == PathRelayOnly || k.remote == PathRelayOnly {
		return PathRelayOnly
	}
	return max(own, k.remote)
}

func (k *pathKeeper) reason() punch.Reason {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.why
}

func (k *pathKeeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// open makes the agent, before any message for it is read.
func (k *pathKeeper) open() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.policyLocked() != PathRelayOnly && k.agent == nil {
		k.makeAgent()
	}
}

// begin starts the first attempt, if our candidates are true now, and reports
// whether its offer is about to be sent. The offer then leaves with the first
// packet, before any data of users that would fill the window.
func (k *pathKeeper) begin() bool {
	direct := slices.ContainsFunc(k.a.session.Paths(), func(p ri2n.PathInfo) bool { return !p.Carrier })
	k.mu.Lock()
	agent := k.agent
	if agent == nil || direct || !k.a.node.links.fresh(freshDial) {
		k.mu.Unlock()
		return false
	}
	ids := k.a.node.links.ids()
	if len(ids) == 0 {
		k.mu.Unlock()
		return false
	}
	// The links that are left wait until the peer has told its own.
	pair := punch.LinkPair{Link: ids[0]}
	k.trying[pair] = struct{}{}
	k.mu.Unlock()
	return k.attempt(agent, []punch.LinkPair{pair})
}

// attempt begins an attempt on each pair, which is in trying, and reports
// whether all have begun.
func (k *pathKeeper) attempt(agent *punch.Agent, pairs []punch.LinkPair) bool {
	begun, err := agent.PunchPairs(pairs)
	if err != nil {
		k.a.log.Debug("punch", "err", err)
	}
	for _, p := range pairs {
		if !slices.Contains(begun, p) {
			k.onResult(punch.Result{Asked: p, Reason: punch.NoValidPair})
		}
	}
	return len(begun) == len(pairs)
}

// run keeps the paths until ctx ends or the session does.
func (k *pathKeeper) run(ctx context.Context) {
	s := k.a.session
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		changed := s.PathsChanged()
		next := k.look(ctx, time.Now())
		timer.Reset(next)
		select {
		case <-changed:
		case <-k.kick:
		case <-timer.C:
		case <-s.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// close ends the search.
func (k *pathKeeper) close() {
	k.mu.Lock()
	k.closed = true
	agent := k.agent
	k.agent = nil
	k.mu.Unlock()
	if agent != nil {
		agent.Close()
	}
}

// makeAgent is called with the mutex held.
func (k *pathKeeper) makeAgent() {
	a := k.a
	agent, err := punch.NewAgent(punch.AgentConfig{
		Peer:        a.peer.id.Short(),
		Controlling: a.client,
		Links:       a.node.links.punchLinks,
		Signaler: punch.SignalFunc(func(msg []byte) error {
			a.send(punchMessage{data: append([]byte(nil), msg...)})
			return nil
		}),
		RTT:      k.rtt,
		OnPair:   k.onPair,
		OnResult: k.onResult,
		OnReason: k.onReason,
		Logger:   a.log,
	})
	if err != nil {
		a.log.Warn("no NAT traversal", "err", err)
		return
	}
	k.agent = agent
}

// rtt returns the round trip time of the path that sends.
func (k *pathKeeper) rtt() time.Duration {
	for _, p := range k.a.session.Paths() {
		if p.Sending {
			return p.RTT
		}
	}
	return 0
}

// look compares the session's paths with what is wanted, starts what is
// missing and returns how long nothing else will be due.
func (k *pathKeeper) look(ctx context.Context, now time.Time) time.Duration {
	a := k.a
	paths := a.session.Paths()
	direct, carrier := false, false
	var sending ri2n.PathInfo
	for _, p := range paths {
		if p.Link == linkRelay {
			carrier = true
		}
		if p.Sending {
			sending = p
			direct = !p.Carrier && p.State != ri2n.PathProbing
		}
	}

	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return time.Hour
	}
	policy := k.policyLocked()
	was, before := k.direct, k.why
	k.direct = direct
	moved := !was && !direct && k.relay.over != "" && k.relay.over != sending.Link
	k.relay.over = sending.Link
	died := was && !direct
	if a.client {
		switch {
		case direct:
			k.why = punch.Direct
			k.failures, k.again = 0, time.Time{}
		case policy == PathRelayOnly:
			k.why = punch.Policy
			k.again = time.Time{}
		case died:
			k.why = punch.PathDied
			k.failures = 0
			k.again = now
		case k.why == punch.Direct:
			k.why = punch.Connecting
			k.again = now
		case k.why == punch.Policy:
			k.why = punch.Connecting
			k.again = now
		case k.again.IsZero() && len(k.trying) == 0 && !k.starting && !k.provingLocked():
			k.again = now // the first attempt
			if len(k.proofs) > 0 || k.failures > 0 {
				k.again = now.Add(punchAgain[0]) // a path came and went
			}
		}
	}
	why := k.why
	punchNow := a.client && !direct && policy != PathRelayOnly && k.agent != nil &&
		len(k.trying) == 0 && !k.starting && !k.again.IsZero() && !now.Before(k.again)
	var pairs []punch.LinkPair
	if punchNow {
		k.again = time.Time{}
		k.starting = true
		pairs = k.allPairsLocked()
	}
	fill := !punchNow && a.client && policy != PathRelayOnly && k.agent != nil && k.fillLocked(paths, now)
	if fill {
		k.starting = true
		pairs = k.idlePairsLocked(paths)
		k.moreFailures++ // unless a path comes of it
	}
	redundant, drop := uint32(0), false
	if a.client && direct {
		redundant, drop = k.redundantLocked(paths)
	}
	first := k.failures == 0 && !died && why == punch.Connecting
	relayNow := a.client && !carrier && policy != PathDirectOnly && !k.relaying && !now.Before(k.relayDue)
	if relayNow {
		relayNow = a.node.relayReady(a.peer)
	}
	if relayNow {
		k.relaying = true
		k.relayDue = now.Add(relayRetry)
	}
	dropRelay := policy == PathDirectOnly && direct && carrier
	next := time.Hour
	if !k.again.IsZero() && len(k.trying) == 0 && !k.starting && k.agent != nil {
		next = min(next, k.again.Sub(now))
	}
	if !k.more.IsZero() && !k.starting && k.agent != nil && (direct || len(k.trying) > 0 || k.provingLocked()) {
		next = min(next, k.more.Sub(now))
	}
	if a.client && !carrier && policy != PathDirectOnly {
		next = min(next, max(k.relayDue.Sub(now), relayRetry))
	}
	k.mu.Unlock()
	next = min(next, k.lookAtRelays(ctx, paths, now))

	if punchNow || fill {
		a.node.running.Go(func() { k.punch(ctx, first || fill && now.Sub(a.since) < fillSoon, pairs, fill) })
	}
	if relayNow {
		a.node.running.Go(func() { k.addRelay(ctx) })
	}
	if drop {
		a.session.AbandonPath(redundant)
	}
	if dropRelay {
		for _, p := range paths {
			if p.Carrier { // also of members: direct only
				a.session.AbandonPath(p.ID)
			}
		}
	}
	if died {
		// Our mapping at the rendezvous may be gone as well, and with it the
		// way in: whatever leaves opens it again.
		a.node.networkDoubt()
	}
	if direct && !was {
		a.node.remembered.add(now, a.peer.id, sending.Remote)
	}
	if a.client && why != before {
		a.send(report{reason: why})
	}
	if was != direct || why != before || moved {
		a.peer.notify()
		status := a.pathStatus()
		a.node.emit(Event{Kind: EventPath, Peer: a.peer.id, Path: &status})
		a.log.Info("path", "kind", status.Kind, "reason", status.Reason, "remote", status.Remote)
	}
	return max(next, 0)
}

// punch starts an attempt on each pair, with candidates that are true now.
// Fill says that the session may have direct paths already.
func (k *pathKeeper) punch(ctx context.Context, first bool, pairs []punch.LinkPair, fill bool) {
	age := freshAgain
	if first {
		age = freshDial
	}
	k.a.node.links.gather(ctx, age, gatherTime)
	k.mu.Lock()
	agent := k.agent
	k.starting = false
	if agent == nil {
		k.mu.Unlock()
		return
	}
	if !fill {
		k.proofs = make(map[proofKey]*proofState)
	}
	for key, st := range k.proofs {
		link := k.a.node.links.byID(key.link)
		if !st.running && (link == nil || !k.hasDirect(link, key.remote)) {
			delete(k.proofs, key)
		}
	}
	for _, p := range pairs {
		k.trying[p] = struct{}{}
	}
	k.mu.Unlock()
	if len(pairs) == 0 { // there is no link
		k.conclude(punch.NoValidPair)
		return
	}
	k.attempt(agent, pairs)
	k.wake()
}

// onPair has a transport address that seems to work proven by the session,
// from the first sign on.
func (k *pathKeeper) onPair(p punch.Pair) { k.prove(p) }

func (k *pathKeeper) prove(p punch.Pair) (begun bool) {
	link := k.a.node.links.byID(p.Link)
	if link == nil {
		return false
	}
	key := proofKey{p.Link, p.Remote}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.noteRouteLocked(key, p.PeerLink)
	if k.closed || k.policyLocked() == PathRelayOnly {
		return false
	}
	st := k.proofs[key]
	switch {
	case st == nil && len(k.proofs) >= maxProofs:
		k.a.node.counters.proofsDropped.Add(1)
		return false
	case st == nil:
		st = new(proofState)
		k.proofs[key] = st
	case st.running:
		st.wanted = max(st.wanted, p.Stage)
		return true
	case st.proven, p.Stage <= st.stage:
		return false
	}
	st.running, st.stage = true, p.Stage
	ctx := k.a.node.ctx
	k.a.node.running.Go(func() { k.runProof(ctx, p, link, st) })
	return true
}

// runProof adds the path, once more if a surer sign came while it ran.
func (k *pathKeeper) runProof(ctx context.Context, p punch.Pair, link *nodeLink, st *proofState) {
	for {
		ctx, cancel := context.WithTimeout(ctx, proofPatience)
		_, err := k.a.session.AddPath(ctx, ri2n.Remote{Link: link.link, Addr: p.Remote})
		cancel()
		if err != nil && k.hasDirect(link, p.Remote) {
			err = nil // the peer's path to the same address was faster
		}
		k.mu.Lock()
		if err != nil && st.wanted > st.stage && !k.closed && k.a.session.Err() == nil {
			st.stage = st.wanted
			k.mu.Unlock()
			continue
		}
		st.running, st.proven = false, err == nil
		failed := err != nil && len(k.trying) == 0 && !k.anyProofLocked()
		result := k.result
		k.mu.Unlock()
		k.a.log.Debug("proof", "remote", p.Remote, "stage", p.Stage.String(), "err", err)
		if failed {
			if result == punch.Direct {
				result = punch.ProofFailed
			}
			k.conclude(result)
		}
		k.wake()
		return
	}
}

// hasDirect reports whether the session has a proven path from link to remote.
func (k *pathKeeper) hasDirect(link *nodeLink, remote netip.AddrPort) bool {
	return slices.ContainsFunc(k.a.session.Paths(), func(p ri2n.PathInfo) bool {
		return !p.Carrier && p.Remote == remote && p.Link == link.link.Name() && (p.State == ri2n.PathActive || p.State == ri2n.PathStandby)
	})
}

// anyProofLocked reports whether an address is proven, or may still be.
func (k *pathKeeper) anyProofLocked() bool {
	for _, st := range k.proofs {
		if st.running || st.proven {
			return true
		}
	}
	return false
}

func (k *pathKeeper) provingLocked() bool {
	for _, st := range k.proofs {
		if st.running {
			return true
		}
	}
	return false
}

// onResult takes the end of an attempt.
func (k *pathKeeper) onResult(r punch.Result) {
	k.mu.Lock()
	delete(k.trying, r.Asked)
	k.result = r.Reason
	others := len(k.trying) > 0
	k.mu.Unlock()
	if r.Reason != punch.Direct {
		if others {
			k.wake()
			return
		}
		k.conclude(r.Reason)
		return
	}
	r.Pair.Stage = punch.Selected
	k.prove(r.Pair)
	k.mu.Lock()
	failed := !k.anyProofLocked() && len(k.trying) == 0
	k.mu.Unlock()
	if failed {
		k.conclude(punch.ProofFailed)
	}
	k.wake()
}

// onReason takes the one reason that punch's messages bring from outside of an
// attempt: reports carry all others.
func (k *pathKeeper) onReason(r punch.Reason) {
	if r != punch.PeerTooOld {
		return
	}
	k.mu.Lock()
	k.tooOld = true
	k.mu.Unlock()
	k.conclude(r)
}

// moved has a relayed session try again for a direct path, as one end is somewhere
// else now: what failed before says little. It does so at most once in
// movedTime, as the peer may say so as often as it likes.
func (k *pathKeeper) moved(now time.Time) {
	k.mu.Lock()
	if k.a.client && !k.direct && now.Sub(k.movedAt) >= movedTime {
		k.movedAt, k.failures = now, 0
		if !k.again.IsZero() {
			k.again = now
		}
	}
	k.mu.Unlock()
	k.wake()
}

const movedTime = 10 * time.Second

// conclude notes why an attempt gave no path, and when the next one begins.
func (k *pathKeeper) conclude(r punch.Reason) {
	k.mu.Lock()
	if k.tooOld {
		r = punch.PeerTooOld
	}
	if k.a.client && !k.direct && k.policyLocked() != PathRelayOnly && !k.anyProofLocked() {
		pause := punchAgain[min(k.failures, len(punchAgain)-1)]
		k.failures++
		k.again = time.Now().Add(pause)
		if k.why != r {
			k.why = r
			k.mu.Unlock()
			k.publish(r)
			k.wake()
			return
		}
	}
	k.mu.Unlock()
	k.wake()
}

// publish tells everybody a reason that look does not find by itself.
func (k *pathKeeper) publish(r punch.Reason) {
	a := k.a
	a.send(report{reason: r})
	a.peer.notify()
	status := a.pathStatus()
	a.node.emit(Event{Kind: EventPath, Peer: a.peer.id, Path: &status})
	a.log.Info("path", "kind", status.Kind, "reason", status.Reason)
}

// told takes the decision of the TLS client.
func (k *pathKeeper) told(r punch.Reason) {
	k.mu.Lock()
	changed := k.why != r
	k.why = r
	k.mu.Unlock()
	if !changed {
		return
	}
	a := k.a
	a.peer.notify()
	status := a.pathStatus()
	a.node.emit(Event{Kind: EventPath, Peer: a.peer.id, Path: &status})
	a.log.Info("path", "kind", status.Kind, "reason", status.Reason, "remote", status.Remote)
}

// greeted takes the peer's policy.
func (k *pathKeeper) greeted(policy PathPolicy) {
	k.mu.Lock()
	k.remote = policy
	var agent *punch.Agent
	if k.policyLocked() == PathRelayOnly {
		agent, k.agent = k.agent, nil
		clear(k.trying)
	}
	k.mu.Unlock()
	if agent != nil {
		k.a.node.running.Go(func() { agent.Close() })
	}
	k.wake()
}

// signalled hands a message of punch to the agent. An attempt after the first
// means that the network has changed, at this end perhaps too: what we say of
// ourselves must be true now.
func (k *pathKeeper) signalled(msg []byte) {
	now := time.Now()
	k.mu.Lock()
	fresh := now.Sub(k.lastHeard) > messageGap
	k.lastHeard = now
	if fresh {
		k.offers++
	}
	again := fresh && k.offers > 1 && !k.a.client
	agent := k.agent
	if fresh && !k.a.client {
		k.proofs = make(map[proofKey]*proofState)
	}
	k.mu.Unlock()
	if agent == nil {
		return
	}
	if again {
		k.a.node.links.gather(k.a.node.ctx, freshAgain, gatherTime)
	}
	if err := agent.Receive(msg); err != nil {
		k.a.log.Debug("signal", "err", err)
	}
}

// networkChanged begins a new attempt at once.
func (k *pathKeeper) networkChanged() {
	k.mu.Lock()
	if k.a.client && !k.direct {
		k.failures = 0
		k.again = time.Now()
		k.relayDue = time.Time{}
	}
	k.mu.Unlock()
	k.wake()
}

// addRelay gives the session a path through the rendezvous.
func (k *pathKeeper) addRelay(ctx context.Context) {
	defer func() {
		k.mu.Lock()
		k.relaying = false
		k.mu.Unlock()
	}()
	relay, err := k.a.node.keepRelay(k.a.peer)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proofPatience)
	defer cancel()
	if _, err := k.a.session.AddPath(ctx, ri2n.Remote{Link: relay.link}); err != nil && !errors.Is(err, context.Canceled) {
		k.a.log.Debug("relay path", "err", err)
	}
}
