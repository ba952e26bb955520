package overlay

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// A Liveness is what this node thinks of another member.
type Liveness string

const (
	// MemberAlive: nothing speaks against it. Also told when a suspicion was
	// refuted, and when the member's role or site changes.
	MemberAlive Liveness = "alive"
	// MemberSuspected: nobody could reach it for up to 2 s. It may refute that.
	MemberSuspected Liveness = "suspected"
	// MemberRemoved: it has not refuted a suspicion for 30 s.
	MemberRemoved Liveness = "removed"
	// MemberLeft: it said farewell.
	MemberLeft Liveness = "left"
)

// A MemberEvent tells of a change of one member, as this node sees it.
type MemberEvent struct {
	Time  time.Time        `json:"time"`
	State Liveness         `json:"state"`
	Peer  ri2n.PeerID      `json:"peer"`
	Name  string           `json:"name"`
	Roles membership.Roles `json:"roles"`

	// Site is the outside address of the member's network: members with the
	// same site are behind the same NAT, and likely near each other. Empty:
	// not known yet.
	Site string `json:"site,omitempty"`
}

// Watch tells what becomes of the members that this node watches: first who is
// there, then every change, until ctx or the node ends; then the channel is
// closed. A dead member is suspected within 2 s where data is exchanged with it,
// and within 20 s otherwise, and removed after 30 s more; only members with which
// there is or was a session are watched. At most 64 events
// wait, and of a slow reader the oldest are dropped. The error is
// [ErrNoRouting], [ErrClosed] or ctx's.
func (n *Node) Watch(ctx context.Context) (<-chan MemberEvent, error) {
	type subscription struct {
		c   chan MemberEvent
		end func()
	}
	subscribed := make(chan subscription, 1)
	err := n.router.do(ctx, func(now time.Time) {
		c, end := n.router.watch.subscribe()
		for _, m := range n.router.carrier.watched() {
			if len(c) < cap(c) { // only the loop sends
				c <- n.router.eventOf(now, m, n.router.swim.State(m.Peer))
			}
		}
		subscribed <- subscription{c, end}
	})
	if err != nil {
		return nil, err
	}
	select {
	case s := <-subscribed:
		context.AfterFunc(ctx, s.end)
		return s.c, nil
	case <-n.ctx.Done():
		return nil, ErrClosed
	}
}

// watched returns the members that the failure detector watches: those with a
// session, and those who had one.
func (c *carrier) watched() (list []*routing.Member) {
	for peer, s := range c.sessions {
		if c.r.swim.State(peer) == swim.Alive {
			list = append(list, s.member)
		}
	}
	return append(list, c.r.swim.Suspects()...)
}

// livenessOf spells a state of the failure detector.
func livenessOf(s swim.State) Liveness {
	switch s {
	case swim.Suspected:
		return MemberSuspected
	case swim.Removed:
		return MemberRemoved
	case swim.Left:
		return MemberLeft
	}
	return MemberAlive
}

func (r *router) eventOf(now time.Time, m *routing.Member, s swim.State) MemberEvent {
	e := MemberEvent{Time: now, State: livenessOf(s), Peer: ri2n.PeerID(m.Peer)}
	if info := r.member(now, m.Peer); info != nil {
		e.Name, e.Roles = info.name, info.roles
	} else if rec, err := membership.ParseRecord(m.Proof); err == nil {
		e.Name = rec.Name
	}
	if a := r.names.known[m.Peer]; a != nil {
		e.Site = siteOf(a)
	}
	return e
}

// siteOf returns the outside address that a member announces.
func siteOf(a *named) string { return siteAt(a.addresses) }

// siteAt returns the site of a member that announces these addresses.
func siteAt(announced []netip.AddrPort) string {
	if len(announced) == 0 {
		return ""
	}
	return announced[0].Addr().String()
}

// Site returns the outside address of our own network, as the events of other
// members name it. Empty: it is not known yet, or hidden, or the node takes no part
// in routing. It changes when the node moves.
func (n *Node) Site() string {
	if n.router == nil || n.cfg.Path == PathRelayOnly {
		return ""
	}
	return siteAt(n.links.announced())
}

// tell tells watchers that m has changed.
func (r *router) tell(now time.Time, m *routing.Member, s swim.State) {
	r.node.counters.eventsDropped.Add(uint64(r.watch.emit(r.eventOf(now, m, s))))
}

// told tells watchers that what is known of peer has changed, if it is watched.
func (r *router) told(peer routing.PeerID) {
	if s := r.swim.State(peer); s != 0 {
		r.later = append(r.later, func(now time.Time) {
			if info := r.member(now, peer); info != nil && r.swim.State(peer) == s {
				r.tell(now, info.m, s)
			}
		})
	}
}

// A hub passes events to those who listen. The zero value has nobody.
type hub[E any] struct {
	mu      sync.Mutex // guards what follows, and sends
	closed  bool
	readers map[chan E]struct{}
}

func (h *hub[E]) emit(e E) (dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.readers {
		for {
			select {
			case c <- e:
			default:
				// The reader is slow: the oldest event goes.
				select {
				case <-c:
					dropped++
				default:
				}
				continue
			}
			break
		}
	}
	return dropped
}

// subscribe returns a channel of events, and what ends it.
func (h *hub[E]) subscribe() (c chan E, end func()) {
	c = make(chan E, maxEvents)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(c)
		return c, func() {}
	}
	if h.readers == nil {
		h.readers = make(map[chan E]struct{})
	}
	h.readers[c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, here := h.readers[c]; here {
			delete(h.readers, c)
			close(c)
		}
	}
}

func (h *hub[E]) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.readers {
		close(c)
	}
	h.readers = nil
}
