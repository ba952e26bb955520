package punch

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	// searchAfter is how long connectivity checks have the field to themselves,
	// besides four round trips: most pairs need no more than two.
	searchAfter = 300 * time.Millisecond
	// planRetry is the pause before a plan is sent again, and planTries how
	// often it is sent.
	planRetry = 400 * time.Millisecond
	planTries = 3
	// provenWait is how long a search waits for the peer to prove its address.
	provenWait = time.Second
	// provenCheck is how often it looks.
	provenCheck = 20 * time.Millisecond
)

// searching is the part of an attempt that looks for a path through hard NATs.
// The attempt's loop owns it, save for the channels.
type searching struct {
	samples chan []PortSample // of the round under way
	probes  chan probeEvent

	sampling    bool
	local       plan
	ready       bool // local is true
	tries       int
	remote      plan
	answered    bool // remote is true
	begins      time.Time
	search      *search
	sockets     []*searchSocket
	taken       int // places of the node's count
	round       uint8
	checksEnd   time.Time
	unproven    time.Time // since when the peer's address is awaited
	searchedAny bool
}

type probeEvent struct {
	hit  hit
	kind probeKind
}

// hard reports whether one side surely maps by destination, so that a search
// may find what connectivity checks cannot.
func (a *attempt) hard() bool {
	l, r := a.local.Behavior, a.remote.Behavior
	return l.UDPBlocked != Yes && r.UDPBlocked != Yes && a.admitSearch != nil &&
		(l.Mapping.must(byDestination) || r.Mapping.must(byDestination))
}

// plan begins round of a search, in which this side first finds out what its
// ports will be.
func (a *attempt) plan(now time.Time, round uint8) {
	s := &a.searching
	a.dropSearch()
	a.gate.pause(true)
	a.phase, a.due = phasePlanning, time.Time{}
	s.round, s.ready, s.answered, s.tries = round, false, false, 0
	s.local = plan{round: round}
	s.unproven = time.Time{}
	if a.prove != nil {
		a.prove()
	}
	if round == 1 && !a.admitSearch() {
		a.count(searchTooSoon)
		a.planned(now, nil)
		return
	}
	s.searchedAny = true
	if !a.local.Behavior.Mapping.must(byDestination) || a.listen == nil || len(a.servers) == 0 {
		a.planned(now, nil)
		return
	}
	s.sampling = true
	ctx, cancel := context.WithCancel(context.Background())
	server := a.servers[0]
	a.helpers.Go(func() {
		defer cancel()
		a.helpers.Go(func() {
			select {
			case <-a.ending:
				cancel()
			case <-ctx.Done():
			}
		})
		samples := samplePorts(ctx, a.listen, server, portSamples, a.mux.pace.budget)
		select {
		case s.samples <- samples:
		case <-a.ending:
		}
	})
}

// outside returns our reflexive transport address, or that of a socket that
// nothing translates.
func (a *attempt) outside() netip.AddrPort {
	for _, kind := range []Kind{KindServerReflexive, KindHost} {
		for _, c := range a.local.Candidates {
			if c.Kind == kind && (kind == KindServerReflexive || a.local.Behavior.Translated == No) {
				return c.Addr
			}
		}
	}
	return netip.AddrPort{}
}

// planned makes the plan and sends it, with the samples that a hard side took.
func (a *attempt) planned(now time.Time, samples []PortSample) {
	s := &a.searching
	s.sampling = false
	s.ready = true
	outside := a.outside()
	p := plan{round: s.round, outside: outside.Addr()}
	switch ports := ClassifyPorts(samples); {
	case !s.searchedAny || !outside.IsValid():
	case !a.local.Behavior.Mapping.must(byDestination):
		p.kind, p.ports = planFixed, []uint16{outside.Port()}
	case ports.Allocation == AllocationPreserving:
		if a.openSockets(burstSockets) {
			p.kind = planListed
			for _, x := range s.sockets {
				p.ports = append(p.ports, x.port())
			}
		}
	case ports.Allocation == AllocationSequential && ports.Next >= leastPort:
		p.kind, p.first, p.step = planStepped, ports.Next, ports.Delta
	case ports.Allocation == AllocationRandom:
		p.kind, p.low, p.high = planRandom, ports.Low, ports.High
	}
	if p.kind == planNone || !p.valid() {
		p = plan{round: s.round}
	}
	s.local = p
	a.sendPlan(now)
	if !a.controlling {
		a.arrange(now)
	}
}

func (a *attempt) sendPlan(now time.Time) {
	s := &a.searching
	s.tries++
	a.signal(message{kind: messagePlan, attempt: a.id, plan: s.local})
	if a.controlling {
		a.due = now.Add(max(planRetry, 3*a.rtt))
	}
}

// takePlan takes the peer's plan.
func (a *attempt) takePlan(now time.Time, p plan) {
	s := &a.searching
	switch {
	case a.controlling:
		if a.phase != phasePlanning || !s.ready || s.answered || p.round != s.round {
			return
		}
		s.remote, s.answered = p, true
		a.arrange(now)
	case p.round == s.round && s.ready && a.phase != phaseConcluding:
		a.sendPlan(now) // the answer was lost
	case p.round == s.round+1 && p.round <= searchRounds && a.hard() &&
		(a.phase == phaseWaiting || a.phase == phaseChecking || a.phase == phaseSearching || a.phase == phaseConcluding):
		a.plan(now, p.round)
		s.remote, s.answered = p, true
		if s.ready {
			a.arrange(now)
		}
	}
}

// arrange begins the search of the round as soon as both plans are known and
// the peer has proven its address. The controlled side waits for its plan to
// arrive.
func (a *attempt) arrange(now time.Time) {
	s := &a.searching
	if !s.ready || !s.answered || a.phase != phasePlanning {
		return
	}
	ours := shots(s.local, s.remote, a.controlling, a.random())
	theirs := shots(s.remote, s.local, !a.controlling, a.random())
	_, refused := a.gate.filter.Check(netip.AddrPortFrom(s.remote.outside, leastPort), false)
	switch {
	case ours == nil || theirs == nil:
		a.resume(now)
		return
	case refused != nil:
		a.count(searchRefused)
		a.resume(now)
		return
	case !a.proven(s.remote.outside):
		if s.unproven.IsZero() {
			s.unproven = now
		}
		if now.Sub(s.unproven) >= provenWait {
			a.count(searchUnproven)
			a.resume(now)
			return
		}
		a.due = now.Add(provenCheck)
		return
	case !a.controlling && s.begins.IsZero() && a.rtt > 0:
		s.begins = now.Add(min(a.rtt/2, maxStartWait))
		a.due = s.begins
		return
	}
	s.begins = time.Time{}
	if n := s.local.sockets(s.remote); n > len(s.sockets) && !a.openSockets(n) {
		a.resume(now)
		return
	}
	s.search = newSearch(now, a.controlling, s.remote.outside, ours, len(theirs), a.rtt)
	a.mux.watchProbes(a.id, func(b []byte, from netip.AddrPort) {
		if p, ok := parseProbe(b, a.local.Pwd); ok {
			a.postProbe(probeEvent{hit{mainSocket, from}, p.kind})
		} else {
			a.count(searchForged)
		}
	})
	a.count(searchBegun)
	a.phase = phaseSearching
	a.step(now)
}

// openSockets opens the sockets of a round.
func (a *attempt) openSockets(n int) bool {
	s := &a.searching
	if a.listen == nil || !a.mux.pace.budget.sockets.take(n-len(s.sockets)) {
		a.count(searchRefused)
		return false
	}
	s.taken += n - len(s.sockets)
	for i := len(s.sockets); i < n; i++ {
		x, err := openSearchSocket(a.listen, a.local.Pwd, a.id, func(from netip.AddrPort, kind probeKind) {
			a.postProbe(probeEvent{hit{i, from}, kind})
		})
		if err != nil {
			a.log.Debug("punch: no socket for a search", "err", err)
			return false
		}
		s.sockets = append(s.sockets, x)
	}
	return true
}

// postProbe hands a probe to the loop; what does not fit is as good as lost.
func (a *attempt) postProbe(e probeEvent) {
	select {
	case a.searching.probes <- e:
	default:
	}
}

// takeProbe takes an authenticated probe.
func (a *attempt) takeProbe(now time.Time, e probeEvent) {
	s := &a.searching
	if s.search == nil || a.phase != phaseSearching {
		return
	}
	for _, out := range s.search.heard(now, e.hit, e.kind) {
		a.fire(now, out)
	}
	a.step(now)
}

// fire sends one probe, if the node's budget has room; it is lost otherwise.
func (a *attempt) fire(now time.Time, out sending) {
	s := &a.searching
	b := appendProbe(nil, probe{out.kind, a.id}, a.remote.Pwd)
	if a.mux.pace.budget.take(now) > 0 {
		a.mux.counters.overBudget.Add(1)
		return
	}
	a.count(searchProbes)
	if out.socket == mainSocket {
		_ = a.mux.send(b, out.to)
		return
	}
	if out.socket < len(s.sockets) {
		// A failed send counts as a lost packet.
		_, _ = s.sockets[out.socket].pc.WriteTo(b, net.UDPAddrFromAddrPort(out.to))
	}
}

// step does what a search has due.
func (a *attempt) step(now time.Time) {
	s := &a.searching
	for {
		out, ok := s.search.next(now)
		if !ok {
			break
		}
		a.fire(now, out)
	}
	h, found, over := s.search.result(now)
	switch {
	case found:
		a.won(now, h)
	case over:
		if a.controlling && s.local.kind != planRandom && s.remote.kind != planRandom && s.round < searchRounds {
			a.plan(now, s.round+1)
			return
		}
		if !a.controlling && s.local.kind != planRandom && s.remote.kind != planRandom && s.round < searchRounds {
			// The other side begins another round, or tells why not.
			a.dropSearch()
			a.phase, a.due = phaseConcluding, now.Add(reasonGrace)
			return
		}
		a.searched(false)
		a.dropSearch()
		a.fail(now)
	default:
		a.due = s.search.deadline()
	}
}

// won ends the search with a pair, whose socket goes to the owner.
func (a *attempt) won(now time.Time, h hit) {
	s := &a.searching
	p := Pair{
		Link: a.local.Link, PeerLink: a.remote.Link, Generation: a.local.Generation,
		Remote: h.from, Stage: Selected,
	}
	if h.socket != mainSocket {
		x := s.sockets[h.socket]
		s.sockets[h.socket] = nil
		pc, err := x.release()
		if err != nil || a.onPair == nil {
			x.pc.Close()
		} else {
			p.Conn = pc
		}
	}
	a.searched(true)
	a.count(searchWon)
	a.dropSearch()
	a.best = p
	a.best.Conn = nil
	if a.onPair != nil {
		a.onPair(p)
	}
	a.finish(now, Direct)
}

// resume lets the connectivity checks go on for the time that they are due.
func (a *attempt) resume(now time.Time) {
	a.dropSearch()
	a.gate.pause(false)
	a.phase = phaseChecking
	if a.due = a.searching.checksEnd; !a.due.After(now) {
		a.fail(now)
	}
}

// dropSearch closes what a search has open.
func (a *attempt) dropSearch() {
	s := &a.searching
	a.mux.watchProbes(a.id, nil)
	for _, x := range s.sockets {
		if x != nil {
			x.pc.Close()
		}
	}
	for _, x := range s.sockets {
		if x != nil {
			<-x.done
		}
	}
	a.mux.pace.budget.sockets.give(s.taken)
	s.sockets, s.taken, s.search = nil, 0, nil
	for len(s.probes) > 0 {
		<-s.probes
	}
}

// random returns a source that nobody outside can foresee.
func (a *attempt) random() *rand.Rand {
	var seed [16]byte
	_, _ = io.ReadFull(a.entropy, seed[:]) // zeros only make the order known
	return rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:])))
}
