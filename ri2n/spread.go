package ri2n

import (
	"math"
	"net/netip"
	"time"
)

// A load says what a burst may carry besides what its path itself needs.
type load struct {
	session   bool // control frames, datagrams, and ACKs of suspect paths
	streams   bool // stream data, of the streams that follow policy
	policy    Policy
	freshOnly bool // stream data that have not been sent before
	bulkOnly  bool // stream data of streams that have much to send
	copies    bool // what another path has sent already
}

// SetPolicy changes which paths carry what this end sends, save for streams
// with a policy of their own. An unknown policy is taken as the default.
func (s *Session) SetPolicy(p Policy) {
	if !p.valid() {
		p = PolicyAggregate
	}
	s.mu.Lock()
	s.policy = p
	s.choosePath()
	s.flush(time.Now())
}

// Policy returns what SetPolicy or the configuration has set.
func (s *Session) Policy() Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy
}

// SetPolicy changes which paths carry what this end sends on the stream, in
// place of the session's policy. An unknown policy is taken as the session's.
func (st *Stream) SetPolicy(p Policy) {
	if !p.valid() {
		p = policyInherit
	}
	s := st.session
	s.mu.Lock()
	st.policy = p
	s.ownPolicies = s.ownPolicies || p != policyInherit
	s.flush(time.Now())
}

func (s *Session) policyOf(st *Stream) Policy {
	if st.policy == policyInherit {
		return s.policy
	}
	return st.policy
}

// sameBottleneck reports whether p and q share the local attachment and the
// peer's address: there is nothing to gain from both, and two congestion
// windows would take more than one flow's share.
func (p *path) sameBottleneck(q *path) bool {
	if p.link.IsCarrier() || q.link.IsCarrier() {
		return p.link.IsCarrier() && q.link.IsCarrier()
	}
	return p.remote.Addr() == q.remote.Addr() && (p.link == q.link || p.localAddr() == q.localAddr())
}

// localAddr is the address that the path's packets leave from, as far as the
// socket tells.
func (p *path) localAddr() netip.Addr {
	if a := p.link.LocalAddr(); a != nil {
		return addrPortOf(a).Addr()
	}
	return netip.Addr{}
}

// shareOut says which paths carry data beside the first choice, and so which
// are Active and which Standby.
func (s *Session) shareOut() {
	first := s.sending
	for _, p := range s.paths {
		p.second = p != first && s.isSecond(p)
		carries := p == first || p.second
		p.carries = carries && (p == first || p.usable())
		if !p.carries && p.state != PathSuspect && !p.shunned {
			p.copies.clear()
		}
		state := p.state
		switch {
		case p.state != PathActive && p.state != PathStandby:
		case p == first, p.carries && s.policy != PolicyBackup:
			state = PathActive
		default:
			state = PathStandby
		}
		if state != p.state {
			p.state = state
			s.notePathChange()
		}
		s.setStatus(p)
	}
}

// isSecond reports whether p may carry data beside the first choice: not if it
// is a relay, the peer has asked for none, or it shares its bottleneck with a
// path that does.
func (s *Session) isSecond(p *path) bool {
	if !p.usable() || p.link.IsCarrier() || p.peerBackup || s.sending == nil || s.sending.link.IsCarrier() {
		return false
	}
	return !s.isSpare(p)
}

// isSpare reports whether p shares its bottleneck with a path that was there
// first, or is a relay.
func (s *Session) isSpare(p *path) bool {
	if p.link.IsCarrier() {
		return true
	}
	for _, q := range s.paths {
		if q != p && q.usable() && p.sameBottleneck(q) && (q == s.sending || p != s.sending && q.id < p.id) {
			return true
		}
	}
	return false
}

// copiesWait reports whether something waits to be sent once more.
func (s *Session) copiesWait() bool {
	for _, p := range s.paths {
		if p.copies.list.len() > 0 {
			return true
		}
	}
	return false
}

// carriers counts the paths that may carry data.
func (s *Session) carriers() (n int) {
	for _, p := range s.paths {
		if p.carries {
			n++
		}
	}
	return n
}

// sendBudget is how many bytes may leave on p now, as far as the pacer is
// concerned.
func (p *path) sendBudget(now time.Time) int {
	size := p.packetSize()
	budget := p.pacer.budget(now, p.cc.PacingRate(), size, p.cc.Cwnd())
	if p.loss.bytesInFlight() == 0 && budget < math.MaxInt32 {
		budget = p.pacer.quiet(size, p.cc.Cwnd())
	}
	return budget
}

// view describes p to a scheduler.
func (p *path) view(s *Session, now time.Time) pathView {
	size, cwnd, inFlight := p.packetSize(), p.cc.Cwnd(), p.loss.bytesInFlight()
	v := pathView{srtt: p.rtt.srtt(), rttvar: p.rtt.variance, favored: p == s.sending}
	v.rate = max(float64(cwnd)/max(v.srtt, time.Microsecond).Seconds(), 1)
	if r := p.cc.PacingRate(); r > 0 {
		v.rate = min(v.rate, r)
	}
	// What an RTT has above the least is our own queue, on the way there. It is
	// no longer than what is in flight: an RTT is old news on a path that has
	// been idle since.
	least := min(p.rtt.min, v.srtt)
	if p.rtt.samples == 0 {
		least = v.srtt
	}
	queue := time.Duration(float64(inFlight)/v.rate*1e9) - least
	v.oneWay = least/2 + min(max(queue, 0), v.srtt-least)
	switch budget := p.sendBudget(now); {
	case p.probes > 0:
		v.room = p.probes * size
	case !p.loss.canSend() || p.allowance() < size:
		v.wait = v.srtt
	case inFlight+size > cwnd:
		v.wait = min(time.Duration(float64(inFlight+size-cwnd)/v.rate*1e9), v.srtt)
	case budget < size:
		p.limited = true
		v.wait = time.Duration(float64(size-budget) / v.rate * 1e9)
	default:
		v.room = min(cwnd-inFlight, budget)
	}
	if v.room == 0 {
		v.wait = max(v.wait, time.Microsecond)
	}
	return v
}

// schedule chooses the path of the next burst of stream data, or nil when none
// waits for which there is a path.
func (s *Session) schedule(now time.Time) (*path, load) {
	if len(s.sendQueue) == 0 || s.sending == nil {
		return nil, load{}
	}
	if s.carriers() < 2 {
		return s.sending, load{streams: true, policy: policyInherit}
	}
	var (
		scratch [maxPaths]pathView
		paths   [maxPaths]*path
		tried   [maxCopies + int(policyRedundant)]bool
	)
	views := scratch[:0]
	for _, p := range s.paths {
		if p.carries {
			paths[len(views)] = p
			views = append(views, p.view(s, now))
		}
	}
	for i, st := range s.sendQueue {
		pol := s.policyOf(st)
		if tried[pol] {
			continue
		}
		tried[pol] = true
		l := load{streams: true, policy: pol}
		d, little := s.demand(pol, s.sendQueue[i:])
		c := choice{path: -1}
		if pol == PolicyAggregate && little > 0 {
			c.path = single(views, little)
			l.bulkOnly = c.path >= 0 && views[c.path].room == 0
		}
		if c.path < 0 || l.bulkOnly {
			c = pol.pick(views, d)
			l.freshOnly = c.freshOnly
		}
		if c.path >= 0 {
			if views[c.path].room > 0 {
				return paths[c.path], l
			}
		}
		if !s.ownPolicies || i == maxDemandStreams {
			break
		}
	}
	return nil, load{}
}

// maxDemandStreams bounds the streams that a decision looks at.
const maxDemandStreams = 64

// demand sums up what waits on streams that follow pol. Where some of them have
// little to send beside others that have much, little is what the former have
// outstanding: their readers wait for each message, so it takes one path, the
// soonest, while the others spread over all.
func (s *Session) demand(pol Policy, streams []*Stream) (d demand, little int) {
	for i, st := range streams {
		if i == maxDemandStreams {
			break
		}
		if s.policyOf(st) != pol {
			continue
		}
		limit := st.creditLimit()
		d.lost += int(st.send.lost.total())
		if sent := st.send.sentOffset(); limit > sent {
			d.window += int(limit - sent)
			d.fresh += int(min(st.send.end, limit) - min(sent, st.send.end))
		}
		outstanding := st.send.buffered()
		d.outstanding += outstanding
		if !st.hasMuch() {
			little += max(outstanding, 1) // a FIN alone, too
		}
	}
	if little >= singlePathBytes || d.outstanding < singlePathBytes {
		little = 0
	}
	d.window = min(d.window, int(s.sendCredit-s.sendUsed))
	return d, little
}

// hasMuch reports whether what the peer has not acknowledged of st is worth
// several paths.
func (st *Stream) hasMuch() bool { return st.send.buffered() >= singlePathBytes }
