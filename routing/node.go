package routing

import (
	"math/rand/v2"
	"time"
)

// A Node is this node's part in the routing of a grid: a state machine that
// one goroutine owns. Messages and the time go in; messages leave through
// [Config.Messenger], results through callbacks.
//
// Callbacks are made on the owner's goroutine, from within the method that
// brought the event, and may call the node. Some come before the method that
// asked for them returns.
type Node struct {
	cfg   Config
	rand  *rand.Rand
	self  *Member
	table table

	limiter  limiter
	verified verifiedCache
	requests requests
	lookups  int // under way

	services map[Service]Handler
	routes   routeMemory

	checkAt   time.Time // next PING to the oldest contact; zero: not armed
	refreshAt time.Time // next look for a bucket to refresh; zero: not armed
	repairAt  time.Time // next lookup of what is near, after a loss; zero: not armed

	counters Counters
}

// New returns a node that knows nobody. The error says what cfg lacks.
func New(cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		rand:    cfg.Rand,
		self:    cfg.Self,
		table:   table{self: cfg.Self.position, k: cfg.K, near: cfg.Near},
		limiter: limiter{rate: cfg.RequestRate, burst: cfg.RequestBurst},
	}
	n.verified.max = cfg.VerifiedCache
	return n, nil
}

// Self returns this node as others know it.
func (n *Node) Self() *Member { return n.self }

// SetSelf replaces what others get to know of this node, after the ledger has
// renewed its record. It panics when the peer ID or the nonce differ, since
// the node would have to move.
func (n *Node) SetSelf(m *Member) {
	if m.position != n.self.position || m.Peer != n.self.Peer {
		panic("routing: a node keeps its peer ID and its nonce")
	}
	n.self = m
}

// Counters returns what was counted so far.
func (n *Node) Counters() Counters { return n.counters }

// Len returns the number of contacts in the table.
func (n *Node) Len() int { return n.table.size }

// Changed returns a number that grows with every change of the table.
func (n *Node) Changed() uint64 { return n.table.changed }

// Estimate returns about how many nodes the grid has, this one included. It
// is exact in a grid of fewer than K, and within about a quarter otherwise.
func (n *Node) Estimate() float64 { return n.table.estimate() }

// Closest returns the members of the table that are nearest to key, the
// nearest first, at most max; the node itself is never among them.
func (n *Node) Closest(key Key, max int) []*Member {
	return n.table.closest(nil, &key, max, nil)
}

// Known returns the contact of that peer ID and position.
func (n *Node) Known(peer PeerID, position Key) (*Member, bool) {
	if c := n.table.find(peer, position); c != nil {
		return c.m, true
	}
	return nil, false
}

// Gone takes peer out of the table: it was revoked, left, or was found dead by
// somebody who knows better. It comes back when it is heard from.
func (n *Node) Gone(now time.Time, m *Member) {
	if n.table.remove(now, m.Peer, m.position) {
		n.lost(now, m)
	}
}

// Forget drops every verdict of Config.Verify, and the contacts that it now
// refuses: call it after the list of revocations changed.
func (n *Node) Forget(now time.Time) {
	n.verified = verifiedCache{max: n.cfg.VerifiedCache}
	var refused []*Member
	for i := range n.table.buckets {
		b := &n.table.buckets[i]
		b.spare = nil
		for _, c := range b.contacts {
			if n.cfg.Verify(c.m) != nil {
				refused = append(refused, c.m)
			}
		}
	}
	for _, m := range refused {
		n.counters.Impostors++
		n.Gone(now, m)
	}
}

// Receive handles a message of from, who must be proven by the session that
// brought it, and whose record the caller holds. Handlers may keep parts of
// msg, so it must not be changed afterwards.
func (n *Node) Receive(now time.Time, from *Member, msg []byte) {
	n.counters.Received++
	m, err := parseMessage(msg)
	if err != nil {
		n.counters.Malformed++
		return
	}
	from = n.verify(from)
	if from == nil || from.Peer == n.self.Peer {
		return
	}
	n.heard(now, from)
	switch m.kind {
	case kindPing, kindFind, kindRoute, kindAsk:
		if !n.limiter.allow(now, from.Peer) {
			n.counters.Limited++
			n.refuse(from, m.request, ReasonBusy)
			return
		}
	}
	switch m.kind {
	case kindPing:
		n.send(from, &message{kind: kindPong, request: m.request})
	case kindFind:
		n.find(from, &m)
	case kindRoute:
		n.routed(now, from, &m)
	case kindAsk:
		n.asked(now, from, &m)
	case kindPong, kindFound, kindRouted, kindAnswer, kindRefuse:
		n.answered(now, from, &m)
	}
}

// heard puts from, who is verified, into the table.
func (n *Node) heard(now time.Time, from *Member) {
	n.arm(now)
	if question := n.table.seen(now, from); question != nil {
		err := n.request(now, question, &message{kind: kindPing}, func(now time.Time, _ *message, err error) {
			n.table.questioned(question)
		})
		if err != nil {
			n.table.questioned(question)
		}
	}
}

// find answers FIND with the members nearest to the key that live as far as
// this node knows.
func (n *Node) find(from *Member, m *message) {
	var buf [96]*Member
	alive := func(c *contact) bool {
		return c.fails == 0 && c.m.Peer != from.Peer && beyond(&m.key, &m.floor, &c.m.position)
	}
	n.send(from, &message{kind: kindFound, request: m.request, members: n.table.closest(buf[:0], &m.key, n.cfg.K, alive)})
}

// beyond reports whether position is farther from key than floor, which is a
// distance; none is nearer than the floor zero, which lies below all.
func beyond(key, floor, position *Key) bool {
	return floor.IsZero() || key.Xor(*position).Compare(*floor) > 0
}

// send hands m to the messenger.
func (n *Node) send(to *Member, m *message) {
	n.counters.Sent++
	size := headerSize + 64 + len(m.payload)
	for _, member := range m.members {
		size += memberOverhead + len(member.Proof)
	}
	if m.origin != nil {
		size += memberOverhead + len(m.origin.Proof)
	}
	n.cfg.Messenger.Send(to, appendMessage(make([]byte, 0, size), m))
}

func (n *Node) refuse(to *Member, request uint64, reason Reason) {
	n.send(to, &message{kind: kindRefuse, request: request, reason: reason})
}

// lost notes that m is no longer in the table. When it was near, the node
// looks for who took its place.
func (n *Node) lost(now time.Time, m *Member) {
	if n.repairAt.IsZero() && n.table.size > 0 {
		if i, _ := n.table.bucketOf(m.position); i+1 >= len(n.table.buckets)-4 {
			n.repairAt = now.Add(repairDelay)
		}
	}
}

// repairDelay collects the losses that one lookup mends.
const repairDelay = 10 * time.Second

// arm starts the timers of a node that knows somebody.
func (n *Node) arm(now time.Time) {
	if n.checkAt.IsZero() && n.cfg.CheckInterval > 0 {
		n.checkAt = now.Add(n.jitter(n.cfg.CheckInterval))
	}
	if n.refreshAt.IsZero() && n.cfg.RefreshInterval > 0 {
		n.refreshAt = now.Add(n.jitter(n.cfg.RefreshInterval / refreshSteps))
	}
}

// jitter returns a duration between half of d and one and a half.
func (n *Node) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(n.rand.Int64N(int64(d)+1))
}

// Deadline returns when Advance must be called next, or zero for never.
func (n *Node) Deadline() (d time.Time) {
	d = earliest(n.requests.deadline(n.cfg.HedgeAfter, n.cfg.RequestTimeout), n.checkAt)
	return earliest(earliest(d, n.refreshAt), n.repairAt)
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due reports whether the timer at has run out, and stops it.
func due(now time.Time, at *time.Time) bool {
	if at.IsZero() || now.Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// Advance does what has fallen due at now.
func (n *Node) Advance(now time.Time) {
	n.expire(now)
	if due(now, &n.checkAt) {
		if m, seen := n.table.oldest(); m != nil {
			if now.UnixNano()-seen > int64(n.cfg.CheckInterval) {
				n.request(now, m, &message{kind: kindPing}, func(time.Time, *message, error) {})
			}
			n.arm(now)
		}
	}
	if due(now, &n.repairAt) {
		n.Lookup(now, n.self.position, func(time.Time, Result) {})
	}
	if due(now, &n.refreshAt) {
		n.refresh(now)
		if n.table.size > 0 {
			n.arm(now)
		}
	}
}

// A verifiedCache remembers members outside the table that Config.Verify has
// accepted.
type verifiedCache struct {
	max     int
	members map[PeerID]*Member
	order   ring[PeerID]
}

// recall returns the Member of the same content as m that was verified
// before, if there is one.
func (n *Node) recall(m *Member) *Member {
	if c := n.table.find(m.Peer, m.position); c != nil && c.m.same(m) {
		return c.m
	}
	if o := n.verified.members[m.Peer]; o != nil && o.same(m) {
		return o
	}
	return nil
}

// verify returns m, or a Member of the same content that was verified before,
// or nil when it is no member of the grid.
func (n *Node) verify(m *Member) *Member {
	if o := n.recall(m); o != nil {
		return o
	}
	if err := n.cfg.Verify(m); err != nil {
		n.counters.Impostors++
		return nil
	}
	if v := &n.verified; v.max > 0 {
		if v.members == nil {
			v.members = make(map[PeerID]*Member)
		}
		if v.members[m.Peer] == nil {
			if old, full := v.order.push(m.Peer, v.max); full {
				delete(v.members, old)
			}
		}
		v.members[m.Peer] = m
	}
	return m
}

// verifyParsed does the same for a member whose proof aliases a message; what
// it returns does not.
func (n *Node) verifyParsed(m *Member) *Member {
	if o := n.recall(m); o != nil {
		return o
	}
	return n.verify(m.clone())
}

// Verified returns the member encoded at the front of b and the bytes after
// it, once it is verified: for services whose messages carry members. The
// error is [ErrMalformed] or [ErrNoMember].
func (n *Node) Verified(b []byte) (m *Member, rest []byte, err error) {
	m, rest, err = ParseMember(b)
	if err != nil {
		return nil, nil, err
	}
	if m = n.verifyParsed(m); m == nil {
		return nil, nil, ErrNoMember
	}
	return m, rest, nil
}

// Met puts m into the table as if it had been heard: a session has proven who
// is at its other end, and nothing was said yet.
func (n *Node) Met(now time.Time, m *Member) {
	if m = n.verify(m); m != nil && m.Peer != n.self.Peer {
		n.heard(now, m)
	}
}
