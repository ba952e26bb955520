package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxHeardDials is how many addresses that were heard a dial begins with, and
	// maxHeardInAll those together with what is heard while it lasts.
	maxHeardDials = 3
	maxHeardInAll = 6
	// heardHead is how long an address that was heard has a dial to itself: less
	// than anybody notices, and more than a local network takes.
	heardHead = 20 * time.Millisecond
	// hearTime is how long somebody who is not heard yet is waited for.
	hearTime = 1500 * time.Millisecond
)

// A lanKeeper is what a node says and hears on local networks. The zero value is
// silent.
type lanKeeper struct {
	finder atomic.Pointer[discovery.Finder] // nil: silent
	state  atomic.Uint32                    // a discovery.State
	why    atomic.Pointer[string]           // why it is silent though it should not be
}

func (k *lanKeeper) close() {
	if f := k.finder.Load(); f != nil {
		f.Close()
	}
}

// announce says again where we are.
func (k *lanKeeper) announce() {
	if f := k.finder.Load(); f != nil {
		f.Announce()
	}
}

// startLAN begins to announce and to listen, if that is wanted. OwnLinks says that
// the node opens its own sockets. A computer whose port for multicast DNS cannot
// be had does without.
func (n *Node) startLAN(ownLinks bool) {
	open := n.cfg.LAN
	if open == nil && ownLinks {
		open = func() (discovery.Wire, error) { return discovery.System(isTunnel) }
	}
	n.grid.mu.Lock()
	info, me := n.grid.info, n.grid.me
	n.grid.mu.Unlock()
	if open == nil || me == nil || n.cfg.NoDiscovery || n.cfg.Path == PathRelayOnly {
		return
	}
	wire, err := open()
	if err != nil {
		why := err.Error()
		n.lan.why.Store(&why)
		n.log.Warn("not announced on local networks", "err", err)
		return
	}
	f := discovery.Start(discovery.Config{
		Self: discovery.Self{
			Grid: info.ID(), Peer: n.PeerID(), Name: me.Name, State: discovery.State(n.lan.state.Load()), Port: n.links.portAt,
		},
		Wire:   wire,
		Known:  func(p ri2n.PeerID) bool { return n.grid.memberOf(time.Now(), p) != nil },
		Seed:   rand.Uint64(),
		Logger: n.log,
	})
	n.lan.finder.Store(f)
	if info.Ledgerless() {
		n.running.Go(func() { n.meetNeighbours(f) })
	}
}

// SetState says on local networks what the node does now: its old service is
// withdrawn and the one of state announced. A node that is silent there only
// remembers it.
func (n *Node) SetState(state discovery.State) error {
	if !state.Valid() {
		return fmt.Errorf("overlay: %v is not a state", state)
	}
	n.lan.state.Store(uint32(state))
	if f := n.lan.finder.Load(); f != nil {
		f.SetState(state)
	}
	return nil
}

// portAt returns the port at which the node is reached at one of this computer's
// addresses, zero if it is not.
func (ls *nodeLinks) portAt(addr netip.Addr) uint16 {
	for _, l := range ls.all() {
		if a := l.local.Addr(); a == addr || a.IsUnspecified() && l.reaches(addr) {
			return l.local.Port()
		}
	}
	return 0
}

// heardCandidates returns the transport addresses that p was heard at, each on
// the link that is in its network. Whoever is on that network could have said
// so; the handshake decides.
func (n *Node) heardCandidates(p ri2n.PeerID) (list []ri2n.Remote) {
	f := n.lan.finder.Load()
	if f == nil || n.cfg.Path == PathRelayOnly {
		return nil
	}
	for _, addr := range f.Of(p) {
		for _, l := range n.links.all() {
			filter := punch.Filter{Own: l.own}
			if _, err := filter.Check(addr, false); err == nil && l.reaches(addr.Addr()) && l.isIn(addr.Addr()) && len(list) < maxHeardDials {
				list = append(list, ri2n.Remote{Link: l.link, Addr: addr})
				break
			}
		}
	}
	return list
}

// isIn reports whether the link is attached to the network of addr.
func (l *nodeLink) isIn(addr netip.Addr) bool {
	return l.own != nil && slices.ContainsFunc(l.own(), func(p netip.Prefix) bool { return p.Contains(addr) })
}

// awaitWay waits for a way to a peer of whom no address is known: until the
// rendezvous knows us, or the peer is heard on a local network.
func (n *Node) awaitWay(ctx context.Context, p *Peer) ([]ri2n.Remote, error) {
	client := n.clientFor(p)
	f := n.lan.finder.Load()
	switch {
	case f == nil && client == nil:
		return nil, &NoWayError{Peer: p.id}
	case f == nil || client != nil && client.Status().Registered:
		return nil, waitRegistered(ctx, client)
	}
	ctx, cancel := context.WithCancel(ctx)
	registered := make(chan error, 1)
	if client != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			registered <- waitRegistered(ctx, client)
		}()
		defer func() { <-done }()
	}
	defer cancel()
	f.Ask()
	patience := time.After(hearTime)
	for {
		changed := f.Changed()
		if list := n.heardCandidates(p.id); len(list) > 0 {
			return list, nil
		}
		select {
		case <-changed:
		case err := <-registered:
			return nil, err
		case <-patience:
			if client == nil {
				return nil, &NoWayError{Peer: p.id, Discovery: true}
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// race dials p at what was heard and at the usual candidates. What was heard
// anybody may have said, so that each such address has a handshake of its own:
// one that answers with another key, or does not go on, costs the others
// nothing. They begin one after the other, or when the one before has failed;
// what is heard meanwhile joins them. The first session stays.
func (n *Node) race(ctx context.Context, p ri2n.PeerID, heard, usual []ri2n.Remote) (*ri2n.Session, error) {
	f := n.lan.finder.Load()
	if f == nil {
		return n.endpoint.Dial(ctx, p, usual...)
	}
	type outcome struct {
		session *ri2n.Session
		err     error
		heard   bool
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome)
	running := 0
	begin := func(isHeard bool, group ...ri2n.Remote) {
		running++
		go func() {
			s, err := n.endpoint.Dial(ctx, p, group...)
			outcomes <- outcome{s, err, isHeard}
		}()
	}
	var tried []ri2n.Remote // that were heard
	var best outcome
	timer := time.NewTimer(0) // of the next one
	defer timer.Stop()
	for {
		waiting := best.session == nil && ctx.Err() == nil && (len(heard) > 0 || len(usual) > 0)
		if running == 0 && !waiting {
			break
		}
		var start <-chan time.Time
		if waiting {
			start = timer.C
		}
		changed := f.Changed()
		for _, h := range n.heardCandidates(p) {
			if !slices.Contains(tried, h) && !slices.Contains(heard, h) && len(tried)+len(heard) < maxHeardInAll && best.session == nil {
				if heard = append(heard, h); !waiting {
					timer.Reset(0)
					waiting, start = true, timer.C
				}
			}
		}
		select {
		case <-start:
			if len(heard) > 0 {
				tried = append(tried, heard[0])
				begin(true, heard[0])
				heard = heard[1:]
			} else {
				begin(false, usual...)
				usual = nil
			}
			timer.Reset(heardHead)
		case <-changed:
		case o := <-outcomes:
			running--
			switch {
			case o.session != nil && best.session == nil:
				best = o
				cancel() // the others
			case o.session != nil:
				o.session.Close()
			case best.session == nil:
				if o.heard && ctx.Err() == nil {
					n.counters.heardDialsFailed.Add(1)
				}
				if best.err == nil || best.heard {
					best = o // what the usual candidates say counts more
				}
				timer.Reset(0)
			}
		}
	}
	if best.session == nil && best.err == nil {
		best.err = ctx.Err()
	}
	return best.session, best.err
}

const (
	// maxNeighbours is how many sessions a node of a grid without a ledger keeps
	// with those that it hears, so that revocations spread.
	maxNeighbours = 8
	// maxMeetings is how many of them it gets to know at a time.
	maxMeetings = 4
	meetTime    = 5 * time.Second // for one of them
	meetRetry   = 5 * time.Second // after the first failure, doubled up to
	meetRetryAt = 10 * time.Minute
	// meetLater is how much later the one with the higher peer ID begins, so that
	// two do not dial each other at the same moment.
	meetLater = 3 * time.Second
)

// A meeting is somebody who was heard and is not known as a member.
type meeting struct {
	due   time.Time
	pause time.Duration
}

// meetNeighbours gets to know the members that are heard, in a grid without a
// ledger to ask, until the node ends.
func (n *Node) meetNeighbours(f *discovery.Finder) {
	meetings := make(map[ri2n.PeerID]*meeting)
	running := 0
	type outcome struct {
		peer ri2n.PeerID
		err  error
	}
	outcomes := make(chan outcome, maxMeetings)
	for {
		changed := f.Changed()
		now := time.Now()
		heard := make(map[ri2n.PeerID]bool)
		sessions := n.sessionCount()
		var next time.Time
		for _, h := range f.Heard() {
			if heard[h.Peer] {
				continue
			}
			heard[h.Peer] = true
			if n.grid.memberOf(now, h.Peer) != nil && (sessions+running >= maxNeighbours || n.hasSession(h.Peer)) || n.grid.isRevoked(h.Peer) {
				delete(meetings, h.Peer)
				continue
			}
			m := meetings[h.Peer]
			if m == nil {
				m = &meeting{due: now, pause: meetRetry}
				if n.PeerID().String() > h.Peer.String() {
					m.due = now.Add(meetLater)
				}
				meetings[h.Peer] = m
			}
			if m.due.IsZero() { // under way
				continue
			}
			if now.Before(m.due) {
				if next.IsZero() || m.due.Before(next) {
					next = m.due
				}
				continue
			}
			if running == maxMeetings {
				continue
			}
			m.due = time.Time{}
			running++
			n.running.Go(func() { outcomes <- outcome{h.Peer, n.meet(n.ctx, h.Peer)} })
		}
		for id := range meetings {
			if !heard[id] && !meetings[id].due.IsZero() {
				delete(meetings, id)
			}
		}
		timer := time.NewTimer(time.Minute) // a session may have ended meanwhile
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-changed:
		case <-timer.C:
		case o := <-outcomes:
			running--
			if m := meetings[o.peer]; o.err == nil || m == nil {
				delete(meetings, o.peer)
			} else {
				m.due = time.Now().Add(m.pause)
				m.pause = min(2*m.pause, meetRetryAt)
				n.log.Debug("not met", "peer", o.peer.Short(), "err", o.err)
			}
		case <-n.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// errNotMember reports somebody who was heard as a member and is none.
var errNotMember = errors.New("overlay: it shows no membership that holds")

// meet connects to somebody who was heard, and returns once it has shown that it
// is a member. Without need the session does not stay.
func (n *Node) meet(ctx context.Context, peer ri2n.PeerID) error {
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	p, err := n.Connect(ctx, peer)
	if err != nil {
		return err
	}
	// Its proof follows its hello, and so comes about when it answers.
	for pause := time.Millisecond; n.grid.memberOf(time.Now(), peer) == nil; pause *= 2 {
		if _, _, err := p.Ping(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errNotMember
		}
	}
	if a := p.best(); a != nil && n.sessionCount() > maxNeighbours && !a.idleSince().IsZero() && a.client {
		p.Close()
	}
	return nil
}

// sessionCount returns with how many peers there are sessions.
func (n *Node) sessionCount() (count int) {
	n.eachPeer(func(p *Peer) {
		if p.best() != nil {
			count++
		}
	})
	return count
}

func (n *Node) hasSession(id ri2n.PeerID) bool {
	n.mu.Lock()
	p := n.peers[id]
	n.mu.Unlock()
	return p != nil && p.best() != nil
}

// maxNamesakes is how many of those who go by a name are asked who they are.
const maxNamesakes = 3

// meetNamed gets to know those who are heard under a name, which is a claim until
// they have shown their membership. It reports whether somebody has.
func (n *Node) meetNamed(ctx context.Context, label string) bool {
	f := n.lan.finder.Load()
	if f == nil {
		return false
	}
	f.Ask()
	patience := time.After(hearTime)
	tried := make(map[ri2n.PeerID]bool)
	for {
		changed := f.Changed()
		for _, h := range f.Heard() {
			if h.Name == label && !tried[h.Peer] && len(tried) < maxNamesakes {
				tried[h.Peer] = true
				if err := n.meet(ctx, h.Peer); err != nil {
					n.log.Debug("not met", "peer", h.Peer.Short(), "err", err)
				}
			}
		}
		if _, found := n.grid.lookup(time.Now(), label); found {
			return true
		}
		select {
		case <-changed:
		case <-patience:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// meetAll waits until those who are heard now are known, though not for long.
func (n *Node) meetAll(ctx context.Context) {
	f := n.lan.finder.Load()
	if f == nil {
		return
	}
	f.Ask()
	patience := time.After(hearTime)
	for {
		unknown := n.sessionCount() == 0
		for _, h := range f.Heard() {
			unknown = unknown || n.grid.memberOf(time.Now(), h.Peer) == nil
		}
		if !unknown {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond): // proofs come on sessions, not here
		case <-patience:
			return
		case <-ctx.Done():
			return
		}
	}
}

// LANStatus is what a node says and hears on local networks.
type LANStatus struct {
	State      discovery.State    `json:"state"`
	Name       string             `json:"name"`       // it is announced under
	Interfaces []string           `json:"interfaces"` // it is announced on
	Error      string             `json:"error,omitempty"`
	Heard      []HeardStatus      `json:"heard"`
	Counters   discovery.Counters `json:"counters"`
}

// HeardStatus is somebody who was heard.
type HeardStatus struct {
	discovery.Heard
	Member string `json:"member,omitempty"` // its name, if its membership is known
}

// lanStatus returns nil for a node that is to be silent.
func (n *Node) lanStatus() *LANStatus {
	f := n.lan.finder.Load()
	if f == nil {
		if why := n.lan.why.Load(); why != nil {
			return &LANStatus{State: discovery.State(n.lan.state.Load()), Interfaces: []string{}, Error: *why, Heard: []HeardStatus{}}
		}
		return nil
	}
	st := f.Status()
	s := &LANStatus{State: st.State, Name: st.Name, Interfaces: st.Interfaces, Heard: []HeardStatus{}, Counters: st.Counters}
	for _, h := range st.Heard {
		x := HeardStatus{Heard: h}
		if m := n.grid.memberOf(time.Now(), h.Peer); m != nil {
			x.Member = m.Name
		}
		s.Heard = append(s.Heard, x)
	}
	slices.SortStableFunc(s.Heard, func(a, b HeardStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// IsLedgerless reports whether the node whose state is in dir belongs to a grid
// without a ledger, and so needs no rendezvous.
func IsLedgerless(dir string) (bool, error) {
	t, err := loadGrid(directory(dir), ri2n.PeerID{}, time.Now())
	return err == nil && t.member() && t.ledgerless(), err
}
