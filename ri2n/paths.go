package ri2n

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// AddPath opens a path to r and returns once the peer has answered full-size
// probes on it, or with the reason why not: [ErrNoPath] when they went
// unanswered, [ErrTooManyPaths], ctx's error, or the session's end. Either
// side may call it. For a path that exists already it waits for that one's
// validation.
func (s *Session) AddPath(ctx context.Context, r Remote) (PathInfo, error) {
	now := time.Now()
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return PathInfo{}, s.err
	}
	p := s.findPath(r.Link, r.Addr)
	if p == nil {
		if s.nextPath > s.pathLimit || len(s.paths) >= maxPaths {
			s.mu.Unlock()
			return PathInfo{}, ErrTooManyPaths
		}
		id := s.nextPath
		s.nextPath += 2
		if !s.addRoute(id) {
			s.mu.Unlock()
			return PathInfo{}, fmt.Errorf("%w: %v: connection ID collision", ErrNoPath, r)
		}
		p = s.newPath(id, r.Link, r.Addr, now)
		p.chosen = true
		p.prove(s, now)
		s.paths = append(s.paths, p)
		s.notePathChange()
	} else if p.state == PathFailed {
		p.prove(s, now)
		p.settled = make(chan struct{})
	}
	settled := p.settled
	s.flush(now)

	select {
	case <-settled:
	case <-s.done:
	case <-ctx.Done():
		s.mu.Lock()
		if p.state == PathProbing {
			s.abandon(p, time.Now(), codeNoError)
		}
		s.flush(time.Now())
		return PathInfo{}, fmt.Errorf("ri2n: add path to %v: %w", r, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return PathInfo{}, s.err
	case !p.proven:
		return PathInfo{}, fmt.Errorf("%w: %v", ErrNoPath, r)
	case p.state == PathClosed:
		// The peer opened the same path at the same time and that one stays.
		if q := s.findPath(r.Link, r.Addr); q != nil {
			return q.info(q == s.sending), nil
		}
		return PathInfo{}, errPathAbandoned
	}
	return p.info(p == s.sending), nil
}

// AbandonPath closes one path and tells the peer. It returns [ErrLastPath]
// for the only one, and nil for one that is gone already.
func (s *Session) AbandonPath(id uint32) error {
	now := time.Now()
	s.mu.Lock()
	if p := s.pathByID(pathID(id)); p != nil {
		if len(s.paths) == 1 {
			s.mu.Unlock()
			return ErrLastPath
		}
		s.abandon(p, now, codeNoError)
		s.choosePath()
	}
	s.flush(now)
	return nil
}

// linkClosed takes the paths of a closed link out of use.
func (s *Session) linkClosed(l *Link) {
	now := time.Now()
	s.mu.Lock()
	for _, p := range append([]*path(nil), s.paths...) {
		if p.link == l && s.state <= sessionLingering {
			if len(s.paths) > 1 {
				s.abandon(p, now, codeNoError)
			} else {
				s.failPath(p, now)
			}
		}
	}
	if s.state <= sessionLingering {
		s.choosePath()
	}
	s.flush(now)
}

func (s *Session) pathByID(id pathID) *path {
	for _, p := range s.paths {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (s *Session) findPath(l *Link, addr netip.AddrPort) *path {
	for _, p := range s.paths {
		if p.link == l && p.remote == addr {
			return p
		}
	}
	return nil
}

// peerOpensPath makes the state of a path whose first packet has been
// authenticated, or returns nil if the peer opens too many.
func (s *Session) peerOpensPath(pkt *receivedPacket, l *Link, now time.Time) *path {
	if second := now.Unix(); second != s.pathSecond {
		s.pathSecond, s.pathOpens = second, 0
	}
	if s.ours(pkt.path) || len(s.paths) >= maxPaths || s.pathOpens >= maxPathOpens {
		s.endpoint.counters.pathsRefused.Add(1)
		return nil
	}
	s.pathOpens++
	p := s.newPath(pkt.path, l, pkt.from, now)
	if !l.IsCarrier() {
		// It begins with a challenge as large as the peer thinks that fits.
		p.setMTU(min(p.mtu, max(pkt.size, smallBaseSize)))
	}
	p.prove(s, now)
	s.paths = append(s.paths, p)
	s.notePathChange()
	return p
}

// rebound moves p to the address that its newest packet came from: a NAT has
// chosen another mapping, or the peer another link. Keys and packet numbers
// go on; the address is validated again (RFC 9000, section 9).
func (s *Session) rebound(p *path, l *Link, from netip.AddrPort, now time.Time) {
	if p.proven {
		p.previous = Remote{p.link, p.remote}
		p.returnAt = now.Add(max(3*p.rtt.pto(maxAckDelay), returnWait))
	}
	p.link, p.remote = l, from
	p.received, p.sent = 0, 0
	p.proven, p.chosen = false, false
	s.reinject(p) // what is lost on the old route says nothing of the new one
	p.rtt.reset()
	p.cc.Reset()
	if p.pmtu.base > 0 && p.mtu > p.pmtu.base { // nobody knows what the new route carries
		p.setMTU(p.pmtu.base)
	}
	p.pmtu = pmtuSearch{}
	p.prove(s, now)
	s.notePathChange()
}

// returnWait is the least time that a new address of a path has to answer.
const returnWait = 500 * time.Millisecond

// returnPath takes p back to the address that was proven, since nobody has
// proven the new one: somebody else sent a copy of the peer's packet from
// there (RFC 9000, section 9.3.2).
func (s *Session) returnPath(p *path) {
	s.reinject(p)
	p.link, p.remote, p.previous = p.previous.Link, p.previous.Addr, Remote{}
	p.proven = true
	p.challengeAt = time.Time{}
	p.ping = true
	s.choosePath()
	s.notePathChange()
}

// validated is called when the peer has answered a challenge on p.
func (s *Session) validated(p *path, now time.Time) {
	first := !isClosed(p.settled)
	p.proven = true
	p.previous = Remote{}
	p.challengeAt = time.Time{}
	p.suspectSince, p.probeWait = time.Time{}, 0
	p.rescueAt = time.Time{}
	p.ptoCount = 0
	if p.state == PathProbing || p.state == PathFailed || p.state == PathSuspect {
		p.state = PathStandby
	}
	if p == s.sending {
		p.state = PathActive
	}
	if p.pmtu.base == 0 { // a later proof of the same address begins no new search
		p.searchMTU(now)
	}
	s.setStatus(p)
	if first {
		// Both sides may have opened the same path: the lower ID survives.
		for _, q := range append([]*path(nil), s.paths...) {
			if q != p && q.link == p.link && q.remote == p.remote && q.proven && q.state != PathFailed {
				loser := p
				if q.id > p.id {
					loser = q
				}
				s.abandon(loser, now, codeNoError)
			}
		}
		p.settle()
	}
	s.notePathChange()
	before := s.sending
	s.choosePath()
	if before != nil && before != s.sending && before.state == PathFailed {
		s.reinject(before) // what left on it while there was no other
	}
}

// setStatus makes PATH_STATUS due if what the peer should know has changed.
func (s *Session) setStatus(p *path) {
	status := pathStatusAvailable
	switch {
	case p.state == PathSuspect || p.state == PathFailed:
		status = pathStatusSuspect
	case s.isSpare(p):
		status = pathStatusBackup
	}
	if status != p.status || p.statusSeq == 0 {
		p.status = status
		p.statusSeq++
		p.statusDue = true
	}
}

// suspect moves the load of p elsewhere at once. What left since the path fell
// silent is lost if the path is dead, and is sent again first. What left before
// may be on its way still, in a queue beyond what broke: it is sent again as
// soon as the peer's reports on other paths show no more of it. Suspicion is
// fast and reversible.
func (s *Session) suspect(p *path, now time.Time) {
	if p.state == PathSuspect || p.state == PathFailed {
		return
	}
	if p.stallSince.IsZero() {
		p.stallSince = p.loss.oldestSent()
	}
	s.stalled(p.stallSince, now)
	p.stallSince = time.Time{}
	p.state = PathSuspect
	p.suspectSince = now
	p.rtt.outdate()
	p.failovers++
	s.endpoint.counters.pathFailovers.Add(1)
	out := s.takeOutcome()
	p.loss.markLostSince(p.heardAt.Add(-p.rtt.min/2), out)
	s.requeue(out.lost)
	p.rescueAt = now.Add(p.rescueWait())
	p.probeAt = now.Add(p.rtt.pto(maxAckDelay))
	p.ping = true
	p.stallSeen = time.Time{}
	s.setStatus(p)
	s.choosePath()
	s.notePathChange()
}

// shun moves our load off p, which the peer suspects, or back. A path on which
// our packets are being acknowledged is not shunned: the peer, who has few of
// its own in flight, may take a queue for silence.
func (s *Session) shun(p *path, shunned bool) {
	if shunned != p.shunned {
		p.shunned = shunned
		p.ptoCount = 0
		if s.alternative(p) {
			// What is in flight was lost with the path, or before it came back:
			// a PING tells whether our direction lives now.
			s.reinject(p)
			p.ping = true
		}
	}
	s.choosePath()
}

// rescueWait is how long the peer's reports may pause before all that left on
// a suspect path is sent again.
func (p *path) rescueWait() time.Duration {
	return 3*reportInterval/2 + min(p.rtt.min, maxReportWait)
}

// rescue sends again what left on p before it fell silent, once nothing more of
// it is reported to arrive.
func (s *Session) rescue(p *path, now time.Time) {
	if p.loss.heardSince(p.rescueAt.Add(-p.rescueWait())) && p.loss.ackElicitingInFlight() > 0 && now.Sub(p.suspectSince) < failAfter {
		p.rescueAt = now.Add(p.rescueWait())
		return
	}
	p.rescueAt = time.Time{}
	s.reinject(p)
}

// unreachable is called when the system has said that no way leads to p's
// address: its data need not wait for a time-out.
func (s *Session) unreachable(p *path, now time.Time) {
	if s.state <= sessionLingering && p.state != PathClosed && s.alternative(p) {
		s.suspect(p, now)
	}
}

// reinject makes everything in flight on p eligible for other paths. The
// congestion window is not cut: nobody said that the path is congested.
func (s *Session) reinject(p *path) {
	out := s.takeOutcome()
	p.loss.markAllLost(out)
	p.packetsReinjected += uint64(out.newlyLost)
	s.endpoint.counters.packetsReinjected.Add(uint64(out.newlyLost))
	s.requeue(out.lost)
}

// revive ends suspicion: the peer has acknowledged a packet of the path, on
// which something has arrived since. If nothing has, the path is dead in our
// direction's way back, and would be suspect again at the next time-out.
func (s *Session) revive(p *path, now time.Time) {
	if p.state != PathSuspect && p.state != PathFailed {
		p.ptoCount = 0
		return
	}
	if p.lastReceived.Before(p.suspectSince) {
		p.probeAt = now.Add(min(backoffPTO(p.rtt.pto(maxAckDelay), p.ptoCount), suspectProbe))
		return
	}
	since, stood := p.suspectSince, s.sending
	p.ptoCount = 0
	p.rescueAt = time.Time{}
	p.suspectSince, p.probeWait = time.Time{}, 0
	p.state = PathStandby
	s.setStatus(p)
	s.notePathChange()
	s.choosePath()
	if stood != nil && stood != p && s.sending == p && stood.lastReceived.Before(since) {
		// The path that stood in has never answered: what left there would wait
		// for time-outs of a path that may be dead, and whose round trip nobody knows now.
		s.reinject(stood)
	}
}

// failPath stops to expect anything of p; rare probes go on.
func (s *Session) failPath(p *path, now time.Time) {
	if p.state == PathFailed {
		return
	}
	if p.suspectSince.IsZero() {
		p.suspectSince = now
	}
	s.reinject(p)
	p.state = PathFailed
	p.probeWait = time.Second / 2
	p.probeAt = now
	p.ptoCount = 0
	p.ping = false
	p.probes = 0
	p.challengeAt = time.Time{}
	s.setStatus(p)
	s.choosePath()
	s.notePathChange()
}

// abandon closes p for good. The peer hears of it on another path.
func (s *Session) abandon(p *path, now time.Time, code uint64) {
	s.abandons = append(s.abandons, pathAbandonFrame{path: p.id, code: code})
	s.dropPath(p)
	if p.proven && !p.link.closed.Load() {
		s.abandoned, s.abandonedAt = p, now
		p.challengeAt = time.Time{}
	}
}

// reopenWait is how long after abandoning a path we may have to take it back.
const reopenWait = 10 * time.Second

// lastAbandoned settles what becomes of p, our only path, which the peer has
// abandoned. If we have abandoned another one at the same time, the one with
// the lower ID stays, on both sides: nobody meant to end the session.
func (s *Session) lastAbandoned(p *path, now time.Time) {
	q := s.abandoned
	if q == nil || now.Sub(s.abandonedAt) > reopenWait || q.link.closed.Load() {
		s.failPath(p, now)
		return
	}
	if q.id > p.id {
		return // the peer takes p back
	}
	s.abandoned = nil
	s.abandons = slices.DeleteFunc(s.abandons, func(f pathAbandonFrame) bool { return f.path == q.id })
	s.retired = slices.DeleteFunc(s.retired, func(id pathID) bool { return id == q.id })
	if q.hasToken {
		s.endpoint.routes.addReset(q.resetToken, s)
	}
	q.state = PathStandby
	q.suspectSince, q.rescueAt, q.ptoCount = time.Time{}, time.Time{}, 0
	q.setStatusAgain()
	q.ping = true
	s.paths = append(s.paths, q)
	s.dropPath(p)
}

// setStatusAgain makes PATH_STATUS due.
func (p *path) setStatusAgain() { p.statusSeq, p.statusDue = p.statusSeq+1, true }

// dropPath forgets p and lets the peer use another ID in its place.
func (s *Session) dropPath(p *path) {
	s.reinject(p)
	for i, q := range s.paths {
		if q == p {
			s.paths = append(s.paths[:i:i], s.paths[i+1:]...)
			break
		}
	}
	p.markClosed()
	s.keepCounters(p)
	if p.hasToken {
		s.endpoint.routes.removeReset(p.resetToken, s)
	}
	s.retirePath(p.id)
	p.copies.clear()
	p.carries = false
	if s.sending == p {
		s.sending = nil
	}
	s.choosePath()
	s.notePathChange()
}

// retirePath ends the use of a path ID and gives the peer another one in the
// place of its own. The route stays for a while: a late packet that found no
// session would be answered with a stateless reset.
func (s *Session) retirePath(id pathID) {
	if len(s.retired) == maxRetiredPaths {
		s.endpoint.routes.removeShort(s.localIDs.cid(s.retired[0], 0), s)
		s.retired = append(s.retired[:0], s.retired[1:]...)
	}
	s.retired = append(s.retired, id)
	if s.ours(id) {
		return
	}
	s.localLimit += 2
	next := s.localLimit
	if s.ours(next) {
		next--
	}
	s.addRoute(next)
	s.maxPathsDue = true
}

// maxRetiredPaths bounds the closed paths whose late packets are recognised.
const maxRetiredPaths = 32

// choosePath picks the paths that carry our data.
func (s *Session) choosePath() {
	s.chooseFirst()
	s.shareOut()
}

// chooseFirst picks the first choice among the paths: a direct one before a
// relay, then the one with the lower least RTT. A path that is in use stays unless
// another is clearly better; when none is usable the present one stays and
// recovery goes on there.
func (s *Session) chooseFirst() {
	var best *path
	if s.sending != nil && s.sending.usable() {
		best = s.sending
	}
	for _, p := range s.paths {
		if p != best && p.usable() && (best == nil || p.better(best)) {
			best = p
		}
	}
	if best == nil {
		best = s.sending
	}
	if best == nil && len(s.paths) > 0 {
		best = s.paths[0]
		for _, p := range s.paths {
			if p.proven && !best.proven {
				best = p
			}
		}
	}
	if best != nil && best != s.sending {
		s.sending = best
		s.notePathChange()
	}
}

// alternative reports whether a path other than p could carry data.
func (s *Session) alternative(p *path) bool {
	for _, q := range s.paths {
		if q != p && q.usable() {
			return true
		}
	}
	return false
}

// advancePath does what is due on p at now.
func (s *Session) advancePath(p *path, now time.Time) {
	if t := p.loss.lossTime(); !t.IsZero() && !now.Before(t) {
		out := s.takeOutcome()
		p.loss.onTimer(now, &p.rtt, out)
		s.applyOutcome(p, now, out)
	}
	s.checkStall(p, now)
	if p.state == PathSuspect {
		if isDue(p.rescueAt, now) {
			s.rescue(p, now)
		}
		if p.loss.ackElicitingInFlight() == 0 && !p.ping && isDue(p.probeAt, now) {
			s.onPTO(p, now) // what was in flight has been reported on another path
		}
	}
	if t := p.ptoDeadline(); !t.IsZero() && !now.Before(t) {
		s.onPTO(p, now)
	}
	if !p.challengeAt.IsZero() && !now.Before(p.challengeAt) && p.challenges >= s.challengeTries(p) {
		s.challengeFailed(p, now)
		if p.state == PathClosed {
			return
		}
	}
	if p.previous.Link != nil && !now.Before(p.returnAt) {
		s.returnPath(p)
	}
	if !p.silenceAt.IsZero() && !now.Before(p.silenceAt) {
		p.silenceAt = time.Time{}
		p.ping = true
	}
	if k := s.endpoint.cfg.KeepaliveInterval; k > 0 && p.state != PathFailed && now.Sub(p.lastSent) >= k-keepaliveSlack(k) {
		p.ping = true
	}
	if p.state == PathFailed {
		switch {
		case now.Sub(p.suspectSince) >= abandonAfter && len(s.paths) > 1 && s.alternative(p):
			s.abandon(p, now, codeNoError)
		case !now.Before(p.probeAt):
			if p.challengeAt.IsZero() {
				p.prove(s, now)
			}
			p.probeWait = min(2*p.probeWait, maxProbeWait)
			p.probeAt = now.Add(p.probeWait)
		}
	}
}

// bearing reports whether a packet in flight carries more than a probe.
func (p *path) bearing() (data bool) {
	p.loss.outstanding(func(sp *sentPacket) {
		data = data || sp.first.kind != refPing && sp.first.kind != refPathProbe && sp.first.kind != refMTUProbe
	})
	return data
}

// onPTO is the probe time-out (RFC 9002, section 6.2), with the addition that
// a path with alternatives becomes suspect.
func (s *Session) onPTO(p *path, now time.Time) {
	p.ptoCount++
	p.probeTimeouts++
	s.endpoint.counters.probeTimeouts.Add(1)
	bearing := p.bearing()
	if p.stallSince.IsZero() && bearing && p.state != PathSuspect {
		p.stallSince = p.loss.oldestSent()
	}
	// With data in flight a living path is never quiet for long; what arrived
	// since the last packet left may have been on its way when the path died.
	silent := now.Sub(p.lastReceived) >= p.rtt.srtt()/2
	if s.alternative(p) && (bearing && (silent || p.ptoCount > 1) || p.ptoCount > 1) {
		s.suspect(p, now)
	}
	if p.state == PathSuspect && p.ptoCount >= failAfterPTOs && now.Sub(p.suspectSince) >= failAfter && s.alternative(p) {
		s.failPath(p, now)
		return
	}
	if p.state == PathSuspect {
		p.ping = true
		p.probes = 1
		p.probeAt = now.Add(min(backoffPTO(p.rtt.pto(maxAckDelay), p.ptoCount), suspectProbe))
		return
	}
	// Send the oldest data again as the probe, which also repairs a tail loss.
	p.probes = 2
	n := 0
	p.loss.outstanding(func(sp *sentPacket) {
		if n < 2 {
			s.requeueOne(sp.first)
			for _, r := range sp.extra {
				s.requeueOne(r)
			}
			n++
		}
	})
	p.ping = true
}

// suspectProbe is the longest time between the PINGs on a suspect path with a
// shorter PTO, so that a link that was gone for a moment is soon in use again.
const suspectProbe = 100 * time.Millisecond

// ptoDeadline returns when the path's probe time-out is due, or zero.
func (p *path) ptoDeadline() time.Time {
	count := p.ptoCount
	if pto := p.rtt.pto(maxAckDelay); p.state == PathSuspect {
		for count > 0 && backoffPTO(pto, count) > suspectProbe {
			count--
		}
	}
	return p.loss.ptoDeadline(&p.rtt, maxAckDelay, count)
}

// challengeTries is how many challenges go unanswered before p is given up.
func (s *Session) challengeTries(p *path) int {
	if p.mtu > smallBaseSize && !p.link.IsCarrier() {
		return 2
	}
	return maxChallenges
}

// challengeFailed tries smaller challenges, then gives up.
func (s *Session) challengeFailed(p *path, now time.Time) {
	switch {
	case p.state == PathFailed:
		p.challengeAt = time.Time{}
	case p.mtu > smallBaseSize && !p.link.IsCarrier() && p.state == PathProbing:
		p.mtu = smallBaseSize
		p.cc.SetMaxDatagramSize(p.mtu)
		p.challenges, p.challengeAt = 0, now
	case p.state == PathProbing && len(s.paths) > 1:
		s.abandon(p, now, codeNoError)
	case p.previous.Link != nil:
		p.challengeAt = p.returnAt
	default:
		p.challenges, p.challengeAt = 0, now.Add(time.Second)
	}
}
