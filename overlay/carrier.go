package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/shortcut"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// A protocol is the first byte of every routing message between two nodes
// (docs/overlay-protocol.md, section 11).
type protocol byte

const (
	protocolRouting  protocol = 1 // docs/routing-protocol.md, section 4
	protocolSwim     protocol = 2 // section 8
	protocolMail     protocol = 3 // section 9, sealed
	protocolAnnounce protocol = 4 // docs/overlay-protocol.md, section 11.2
)

// A carried message has arrived from a peer that was let in.
type carried struct {
	from     ri2n.PeerID
	protocol protocol
	msg      []byte
}

// maxCarried is the largest message, without its protocol.
const maxCarried = routing.MaxMessage

// take takes a datagram for the router: the handler of datagramRouting.
func (r *router) take(a *association, b []byte) {
	if len(b) == 0 {
		r.malformed.Add(1)
		return
	}
	select {
	case r.inbox <- carried{a.peer.id, protocol(b[0]), b[1:]}:
	default:
		r.dropped.Add(1)
	}
}

// serveStream reads the messages that are too large for datagrams: each with
// its length (4) before it. A peer that is faster than the loop waits.
func (r *router) serveStream(ctx context.Context, a *association, st *ri2n.Stream) {
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { st.Reset(resetHeader) })
	defer stop()
	var size [4]byte
	for {
		if _, err := io.ReadFull(st, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n < 1 || n > 1+maxCarried {
			r.malformed.Add(1)
			st.Reset(resetHeader)
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(st, b); err != nil {
			return
		}
		select {
		case r.inbox <- carried{a.peer.id, protocol(b[0]), b[1:]}:
		case <-ctx.Done():
			return
		}
	}
}

const (
	// maxLarge bounds the large messages that wait for a session's stream.
	maxLarge = 64
	// largeIdle is how long that stream stays open without one.
	largeIdle = 10 * time.Second
	// maxQueued bounds the messages that wait for a session which is being
	// opened.
	maxQueued = 16
	// openTime bounds the opening of a session for routing.
	openTime = 8 * time.Second
	// A peer that could not be reached is left alone for reachFirst, twice
	// that after the second failure, and so on up to reachLast.
	reachFirst = 2 * time.Second
	reachLast  = 2 * time.Minute
	// A session that routing opened is closed when routing has not used it for
	// sessionIdle, or for sessionMin when its place is wanted.
	sessionIdle = 3 * time.Minute
	sessionMin  = 5 * time.Second
	// nearSessions is how many of the members nearest to the node keep their
	// sessions whatever happens.
	nearSessions = 8
)

// A routed session is one with a member that routing may use.
type routedSession struct {
	greets   int // more of our announcement to send
	a        *association
	member   *routing.Member
	opened   bool      // by us, for routing
	shortcut bool      // it is one now
	last     time.Time // when routing used it
	accrual  swim.Accrual

	// What tells whether the failure detector is to ask its member.
	heard    time.Time   // when it brought anything
	timeouts uint64      // probe time-outs of its paths until then
	doubted  bool        // since then
	moved    uint64      // data of users, in no unit
	movedAt  time.Time   // when that last grew, or mail came or went
	large    chan []byte // to the goroutine that writes the stream; nil: none
}

// An opening is a session that is being made.
type opening struct {
	member   *routing.Member // nil, or with nothing but a peer ID: where it lives is not known
	shortcut bool
	queue    []carried
}

// A reach is what is remembered of a peer that could not be reached.
type reach struct {
	failures uint
	until    time.Time
}

// A carrier brings the router's messages to members: over the sessions that
// there are, or over new ones as far as the cap goes. The loop owns it.
type carrier struct {
	r        *router
	sessions map[routing.PeerID]*routedSession
	openings map[routing.PeerID]*opening
	reaches  map[routing.PeerID]reach

	opened, refused, failed, closed uint64
}

func (c *carrier) init(r *router) {
	*c = carrier{
		r: r, sessions: make(map[routing.PeerID]*routedSession),
		openings: make(map[routing.PeerID]*opening), reaches: make(map[routing.PeerID]reach),
	}
}

// A protocolCarrier is the carrier as one of the protocols sees it.
type protocolCarrier struct {
	r        *router
	protocol protocol
}

func (p protocolCarrier) Send(to *routing.Member, msg []byte) {
	p.r.carrier.send(time.Now(), to, p.protocol, msg)
}

// send brings msg to a member, opening a session if need be and possible.
// Otherwise it says at once that the member cannot be reached.
func (c *carrier) send(now time.Time, to *routing.Member, p protocol, msg []byte) {
	peer := to.Peer
	if p == protocolRouting {
		c.used(now, peer)
	}
	if c.sendNow(peer, p, msg) {
		return
	}
	if o := c.openings[peer]; o != nil {
		o.push(p, msg)
		return
	}
	if !c.mayOpen(now, peer) {
		c.refused++
		c.unreachable(peer)
		return
	}
	o := c.open(peer, false)
	o.member = to
	o.push(p, msg)
}

func (o *opening) push(p protocol, msg []byte) {
	if len(o.queue) < maxQueued {
		o.queue = append(o.queue, carried{protocol: p, msg: msg})
	}
}

// sendNow sends msg over a session that exists, and reports whether there is
// one.
func (c *carrier) sendNow(peer routing.PeerID, p protocol, msg []byte) bool {
	s := c.sessions[peer]
	if s == nil || s.a.session.Err() != nil {
		return false
	}
	if p == protocolMail {
		s.movedAt = time.Now()
	}
	b := append(make([]byte, 0, 2+len(msg)), byte(datagramRouting), byte(p))
	b = append(b, msg...)
	err := s.a.session.SendDatagram(routingFlow|uint64(p), b)
	if errors.Is(err, ri2n.ErrDatagramTooLarge) {
		c.sendLarge(s, b[1:])
		return true
	}
	return err == nil
}

// routingFlow marks the flows of routing's datagrams among those of a session.
const routingFlow = uint64(datagramRouting) << 56

// sendLarge queues b for the session's stream. What exceeds the queue is
// dropped, as a network would.
func (c *carrier) sendLarge(s *routedSession, b []byte) {
	if s.large == nil {
		s.large = make(chan []byte, maxLarge)
		a, queue := s.a, s.large
		if !c.r.node.spawn(func() { writeLarge(a, queue) }) {
			return
		}
	}
	select {
	case s.large <- b:
	default:
		c.r.large.Add(1)
	}
}

// writeLarge writes what is queued for a session until the session ends. The
// stream goes when nothing came for a while.
func writeLarge(a *association, queue <-chan []byte) {
	var st *ri2n.Stream
	idle := time.NewTimer(largeIdle)
	defer idle.Stop()
	for {
		select {
		case b := <-queue:
			if st == nil {
				var err error
				if st, err = a.openService(a.node.ctx, serviceRouting); err != nil {
					st = nil
					if a.session.Err() != nil {
						return
					}
					continue
				}
			}
			idle.Reset(largeIdle)
			out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
			if _, err := st.Write(append(out, b...)); err != nil {
				st.Reset(resetHeader)
				st = nil
			}
		case <-idle.C:
			if st != nil {
				st.Close()
				st = nil
			}
		case <-a.session.Done():
			return
		}
	}
}

// used notes that routing needs the session with peer.
func (c *carrier) used(now time.Time, peer routing.PeerID) {
	if s := c.sessions[peer]; s != nil {
		s.last = now
	}
}

// mailed notes that mail has come over the session with peer.
func (c *carrier) mailed(now time.Time, peer routing.PeerID) {
	if s := c.sessions[peer]; s != nil {
		s.movedAt = now
	}
}

// heard returns when the session with peer brought anything.
func (c *carrier) heard(peer routing.PeerID) time.Time {
	if s := c.sessions[peer]; s != nil {
		return lastReceived(s.a.session)
	}
	return time.Time{}
}

func lastReceived(s *ri2n.Session) time.Time {
	at, _ := signsOfLife(s)
	return at
}

// signsOfLife returns when a session brought anything, and how often its paths
// have waited for an acknowledgement in vain.
func signsOfLife(s *ri2n.Session) (at time.Time, timeouts uint64) {
	for _, p := range s.Paths() {
		timeouts += p.ProbeTimeouts
		if p.LastReceived.After(at) {
			at = p.LastReceived
		}
	}
	return at, timeouts
}

const (
	// engagedTime is for how long after the last data the failure detector asks
	// a member again and again; with an open connection it always does.
	engagedTime = 30 * time.Second
	// silenceAsk is the silence of a session after which its member is asked
	// whether it lives: longer than a keepalive takes to come and be answered.
	silenceAsk = 18 * time.Second
	// silenceTimeout is the silence after which it is asked if timeoutsAsk
	// probe time-outs have passed.
	silenceTimeout = time.Second
	timeoutsAsk    = 2
)

// judge tells the failure detector what the session with peer says about it:
// whether data is exchanged, so that a death has to be known soon, and
// whether its silence is unusual.
func (c *carrier) judge(now time.Time, peer routing.PeerID, s *routedSession) {
	at, timeouts := signsOfLife(s.a.session)
	if at.After(s.heard) {
		s.heard, s.timeouts, s.doubted = at, timeouts, false
		s.accrual.Heard(at)
	}
	moved := s.a.peer.sent.Load() + s.a.peer.received.Load() + s.a.packetBatches.Load()
	if moved != s.moved {
		s.moved, s.movedAt = moved, now
	}
	engaged := s.a.idleSince().IsZero() || !s.movedAt.IsZero() && now.Sub(s.movedAt) < engagedTime
	c.r.swim.Engage(now, peer, engaged)
	silence := now.Sub(s.heard)
	if !s.doubted && (silence > silenceAsk || silence > silenceTimeout && timeouts >= s.timeouts+timeoutsAsk) {
		s.doubted = true
		c.r.swim.Doubt(now, peer)
	}
}

// unreachable tells routing that peer cannot be reached, once it listens.
func (c *carrier) unreachable(peer routing.PeerID) {
	c.r.later = append(c.r.later, func(now time.Time) { c.r.routing.Unreachable(now, peer) })
}

// limit returns how many sessions routing may open.
func (c *carrier) limit() int {
	if c.r.cfg.MaxSessions > 0 {
		return c.r.cfg.MaxSessions
	}
	return shortcut.Cap(int(c.r.routing.Estimate()))
}

// mayOpen reports whether a session with peer may be opened now. Where the
// limit is reached it closes the session that was used the longest ago.
func (c *carrier) mayOpen(now time.Time, peer routing.PeerID) bool {
	if now.Before(c.reaches[peer].until) || !c.r.leftAt[peer].IsZero() || c.r.node.grid.isRevoked(ri2n.PeerID(peer)) || peer == c.r.routing.Self().Peer {
		return false
	}
	if c.ours() < c.limit() {
		return true
	}
	least := c.least(now, sessionMin, true)
	if least == nil {
		return false
	}
	c.close(least)
	return true
}

// ours returns the number of sessions that routing opened or is opening.
func (c *carrier) ours() (n int) {
	for _, s := range c.sessions {
		if s.opened && !s.shortcut {
			n++
		}
	}
	for _, o := range c.openings {
		if !o.shortcut {
			n++
		}
	}
	return n
}

// least returns the session that routing used the longest ago, at least idle
// ago, and that nothing else needs. Ours says that only those count which
// routing opened.
func (c *carrier) least(now time.Time, idle time.Duration, ours bool) (least *routedSession) {
	near := c.near()
	for peer, s := range c.sessions {
		if ours && !s.opened || s.shortcut || near[peer] || now.Sub(s.last) < idle || s.a.idleSince().IsZero() {
			continue
		}
		if least == nil || s.last.Before(least.last) {
			least = s
		}
	}
	return least
}

// near returns the members whose sessions stay: those nearest to the node.
func (c *carrier) near() map[routing.PeerID]bool {
	near := make(map[routing.PeerID]bool, nearSessions)
	for _, m := range c.r.routing.Closest(c.r.routing.Self().Position(), min(nearSessions, c.limit()/2)) {
		near[m.Peer] = true
	}
	return near
}

// close ends a session that routing needs no longer.
func (c *carrier) close(s *routedSession) {
	c.closed++
	s.a.session.CloseWithError(closeIdle, "routing needs it no longer")
	c.forget(s.member.Peer)
}

// open makes a session with peer.
func (c *carrier) open(peer routing.PeerID, asShortcut bool) *opening {
	c.opened++
	o := &opening{shortcut: asShortcut}
	c.openings[peer] = o
	n := c.r.node
	p := n.peerByID(ri2n.PeerID(peer))
	if !n.spawn(func() {
		ctx, cancel := context.WithTimeout(n.ctx, openTime)
		defer cancel()
		a, err := p.connect(ctx)
		if err == nil {
			err = a.awaitUsable(ctx)
		}
		_ = c.r.do(n.ctx, func(now time.Time) { c.wasOpened(now, peer, err) }) // it fails when the node ends
	}) {
		delete(c.openings, peer)
	}
	return o
}

// awaitUsable waits until routing may use the session, or will never.
func (a *association) awaitUsable(ctx context.Context) error {
	for _, c := range []<-chan struct{}{a.proven, a.ready} {
		select {
		case <-c:
		case <-a.session.Done():
			return a.session.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !a.routes.Load() {
		return errNoPart
	}
	return nil
}

var errNoPart = errors.New("overlay: the peer takes no part in routing")

// usable reports whether both sides have let each other in, and the peer takes
// part in routing.
func (a *association) usable() bool {
	return a.isProven() && isClosed(a.ready) && a.routes.Load() && a.session.Err() == nil
}

// wasOpened goes on after an attempt to open a session.
func (c *carrier) wasOpened(now time.Time, peer routing.PeerID, err error) {
	o := c.openings[peer]
	delete(c.openings, peer)
	if o == nil {
		return
	}
	c.look(now)
	s := c.sessions[peer]
	if err != nil || s == nil {
		c.failed++
		f := c.reaches[peer]
		f.until = now.Add(min(reachFirst<<min(f.failures, 8), reachLast))
		f.failures++
		if len(c.reaches) < maxKnown {
			c.reaches[peer] = f
		}
		if o.shortcut {
			c.r.shortcuts.Closed(now, peer)
		}
		c.r.routing.Unreachable(now, peer)
		return
	}
	s.opened = true
	if o.shortcut {
		s.shortcut = true
		c.r.shortcuts.Connected(now, peer)
	}
	for _, m := range o.queue {
		c.sendNow(peer, m.protocol, m.msg)
	}
}

// look makes the sessions true again: those with members that may be used. A
// member that has said farewell is back before farewellTime is over if it dials.
func (c *carrier) look(now time.Time) {
	current := make(map[routing.PeerID]bool, len(c.sessions))
	c.r.node.eachPeer(func(p *Peer) {
		a := p.best()
		if a == nil || !a.usable() {
			return
		}
		peer := routing.PeerID(p.id)
		info := c.r.member(now, peer)
		if info == nil {
			return
		}
		s := c.sessions[peer]
		if left := c.r.leftAt[peer]; s == nil && !left.IsZero() && (a.client || !a.since.After(left)) {
			return // we dialed as it left, and it is about to end this session too
		}
		current[peer] = true
		switch {
		case s == nil:
			c.met(now, a, info)
		case s.a != a:
			s.a, s.large = a, nil
			s.greets = moreGreetings
			c.r.names.greet(peer) // who has begun anew has forgotten us
		}
		if s != nil {
			s.member = info.m
		}
	})
	for peer := range c.sessions {
		if !current[peer] {
			c.forget(peer)
			if c.openings[peer] == nil {
				c.r.shortcuts.Closed(now, peer)
			}
		}
	}
}

// met takes a new session into use.
func (c *carrier) met(now time.Time, a *association, info *memberInfo) {
	c.sessions[info.m.Peer] = &routedSession{a: a, member: info.m, greets: moreGreetings, last: now, heard: now, moved: a.peer.sent.Load() + a.peer.received.Load() + a.packetBatches.Load()}
	delete(c.reaches, info.m.Peer)
	delete(c.r.leftAt, info.m.Peer)
	c.r.routing.Met(now, info.m)
	c.r.watchMember(now, info.m)
	c.r.names.greet(info.m.Peer)
}

// forget drops a session that has ended, or is about to. One that was closed
// for want of use says nothing about its member, which is watched no longer.
func (c *carrier) forget(peer routing.PeerID) {
	s := c.sessions[peer]
	delete(c.sessions, peer)
	if s == nil {
		return
	}
	var local *ri2n.LocalError
	var remote *ri2n.RemoteError
	err := s.a.session.Err()
	if errors.As(err, &local) && local.Code == closeIdle || errors.As(err, &remote) && remote.Code == closeIdle {
		c.r.later = append(c.r.later, func(time.Time) { c.r.swim.Drop(peer) })
		return
	}
	c.r.later = append(c.r.later, func(now time.Time) { c.r.swim.Doubt(now, peer) })
}

// keepHouse closes sessions that have been idle, and brings each session's
// failure detector up to date.
func (c *carrier) keepHouse(now time.Time) {
	c.look(now)
	for peer, s := range c.sessions {
		c.judge(now, peer, s)
	}
	for peer, f := range c.reaches {
		if now.Sub(f.until) > reachLast {
			delete(c.reaches, peer)
		}
	}
	if s := c.least(now, sessionIdle, true); s != nil {
		c.close(s)
	}
	// Others open sessions toward us as well, and each costs a mapping here too.
	if len(c.sessions) > 2*c.limit() {
		if s := c.least(now, sessionMin, false); s != nil {
			c.close(s)
		}
	}
}

// connectShortcut opens a session for traffic that has earned one.
func (c *carrier) connectShortcut(now time.Time, peer routing.PeerID) {
	if s := c.sessions[peer]; s != nil {
		s.shortcut = true
		c.r.later = append(c.r.later, func(now time.Time) { c.r.shortcuts.Connected(now, peer) })
		return
	}
	if o := c.openings[peer]; o != nil {
		o.shortcut = true
		return
	}
	if now.Before(c.reaches[peer].until) {
		c.r.later = append(c.r.later, func(now time.Time) { c.r.shortcuts.Closed(now, peer) })
		return
	}
	c.open(peer, true)
}

// closeShortcut gives back a session that is not worth its place any more.
func (c *carrier) closeShortcut(_ time.Time, peer routing.PeerID) {
	s := c.sessions[peer]
	if s == nil {
		return
	}
	s.shortcut = false
	if s.opened && !s.a.idleSince().IsZero() && !c.near()[peer] && c.ours() > c.limit() {
		c.r.later = append(c.r.later, func(time.Time) {
			if c.sessions[peer] == s && !s.shortcut {
				c.close(s)
			}
		})
	}
}
