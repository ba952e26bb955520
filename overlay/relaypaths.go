package overlay

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// linkPeerRelay begins the name of a channel through a member; the relay's
	// peer ID follows.
	linkPeerRelay = "peer-relay "
	// maxVias bounds the channels through members that we open to one peer, and
	// the relays of one dial.
	maxVias = 3

	// switchRelay is how much nearer another relay must be, a fourth of the
	// round trip at least, and switchAfter for how long, before it takes over.
	switchRelay = 10 * time.Millisecond
	switchAfter = 30 * time.Second
	// relayKept is how long a path through a member is kept that nobody needs
	// any more.
	relayKept = time.Minute
	// relayKeptByRelay is the same at one that relays, or with one: it can be a
	// relay for the other as soon as the path is gone.
	relayKeptByRelay = 5 * time.Second
	// relaySilent is how long such a path may fail to answer, or be later than
	// its two halves explain by relayLate, before another relay is used. Queues
	// explain 50 ms for each time that a packet is queued: twice each way.
	relaySilent = 2 * time.Second
	relayLate   = 500 * time.Millisecond
	// relayLoss is the share of lost packets, over relaySample and at least
	// relaySampled packets, that another relay should do better than.
	relayLoss    = 0.2
	relaySample  = 5 * time.Second
	relaySampled = 64
	// relayLook is the pause between two looks at the path while it sends, and
	// relayLookSpare while it stands by.
	relayLook      = time.Second
	relayLookSpare = 10 * time.Second
	// viaPatience is how long a session does not try a relay again that did not
	// carry it, at first; it doubles up to legPatienceMost. A full queue loses all
	// probes of a path within less than a second.
	viaPatience = 2 * time.Second
	// unknownHalf is what a relay counts as that the peer has not named.
	unknownHalf = time.Second
)

// relayOf returns the member that a link leads through, false if it is no such
// link.
func relayOf(link string) (ri2n.PeerID, bool) {
	text, found := strings.CutPrefix(link, linkPeerRelay)
	if !found {
		return ri2n.PeerID{}, false
	}
	id, err := ri2n.ParsePeerID(text)
	return id, err == nil
}

// openVia returns our channel to p through a relay, opening one if there is
// none.
func (n *Node) openVia(p *Peer, l *leg) (*relayLink, error) {
	p.mu.Lock()
	for _, r := range p.vias {
		if r.via == l.relay.id && !r.channel.IsIncoming() && !isClosed(r.channel.Done()) {
			p.mu.Unlock()
			return r, nil
		}
	}
	p.mu.Unlock()
	ch, err := l.client.OpenChannel(p.id)
	if err != nil {
		return nil, err
	}
	return n.attach(p, ch, l.relay.id)
}

// openVias opens channels to p through members that relay for us, those first that
// p has named and then the nearest, and returns whom it asks. It asks nobody if p
// is no member, or relays for us itself. A relay is sought by other ways if it is
// to relay for us, or the rendezvous may know one.
func (n *Node) openVias(p *Peer, except []ri2n.PeerID) (list []*relayLink, asked []ri2n.PeerID) {
	now := time.Now()
	if n.grid.isRelay(now, p.id) && (n.relayReady(p) || n.legs.seeks(p.id)) {
		return nil, nil
	}
	if n.cfg.Path == PathDirectOnly || n.grid.memberOf(now, p.id) == nil || p.isLeg() {
		return nil, nil
	}
	p.mu.Lock()
	named := slices.Clone(p.relays)
	p.mu.Unlock()
	legs := n.legs.ready()
	slices.SortStableFunc(legs, func(a, b *leg) int {
		switch x, y := slices.Contains(named, a.relay.id), slices.Contains(named, b.relay.id); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	for _, l := range legs {
		if len(list) == maxVias {
			break
		}
		if slices.Contains(except, l.relay.id) {
			continue
		}
		if r, err := n.openVia(p, l); err == nil {
			list, asked = append(list, r), append(asked, r.via)
		}
	}
	return list, asked
}

// closeUnused ends the channels of a dial that s, which may be nil, does not
// use.
func closeUnused(vias []*relayLink, s *ri2n.Session) {
	for _, r := range vias {
		if s == nil || !slices.ContainsFunc(s.Paths(), func(p ri2n.PathInfo) bool { return p.Link == r.link.Name() }) {
			r.channel.Close()
		}
	}
}

// onPeerChannel takes a channel that a peer opened through a relay of ours.
func (n *Node) onPeerChannel(via ri2n.PeerID, ch *rendezvous.Channel) {
	id := ch.Peer()
	if !n.admits(id) {
		n.counters.channelsRefused.Add(1)
		ch.Close()
		return
	}
	p := n.peerByID(id)
	if _, err := n.attach(p, ch, via); err != nil {
		return
	}
	p.mu.Lock()
	p.lastUsed = time.Now()
	var oldest *relayLink
	incoming := 0
	for _, r := range p.vias {
		if r.channel.IsIncoming() {
			if incoming++; oldest == nil {
				oldest = r
			}
		}
	}
	p.mu.Unlock()
	if incoming > maxIncomingRelays {
		oldest.channel.Close()
	}
}

// carry notes a link through a relay, unless a session with the peer carries
// relayed paths itself.
func (p *Peer) carry() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.legs > 0 {
		return false
	}
	p.carriers++
	return true
}

func (p *Peer) carryNoMore() {
	p.mu.Lock()
	p.carriers--
	p.mu.Unlock()
	p.node.legs.wake()
}

// closeVia ends our channel to the peer through a relay.
func (p *Peer) closeVia(id ri2n.PeerID) {
	p.mu.Lock()
	var found *relayLink
	for _, r := range p.vias {
		if r.via == id && !r.channel.IsIncoming() {
			found = r
		}
	}
	p.mu.Unlock()
	if found != nil {
		found.channel.Close()
	}
}

// A relayChoice is through which member a session has a path, and why not
// through another. The pathKeeper's mutex guards it.
type relayChoice struct {
	over    string                   // the link that sends
	told    []relayAt                // with whom the peer is registered
	now     ri2n.PeerID              // zero: none
	since   time.Time                // of that
	adding  bool                     // a path is being opened
	trouble map[ri2n.PeerID]*trouble // relays that did not carry this session
	better  time.Time                // since when another one has been clearly nearer; zero: none is
	sample  time.Time                // when sent and lost were noted
	sent    uint64                   // packets of the path
	lost    uint64                   // of these, declared lost
	lossy   bool                     // the last sample lost more than relayLoss
	silent  time.Time                // since when the path does not answer as it should; zero: it does
	spare   time.Time                // since when nobody needs it; zero: somebody does
}

// use notes that the session has a path through a relay now; zero: none.
func (c *relayChoice) use(id ri2n.PeerID, now time.Time) {
	*c = relayChoice{over: c.over, told: c.told, trouble: c.trouble, adding: c.adding, now: id, since: now}
}

// peerRelays takes the peer's list of the relays that it is registered with.
// Only relays of the grid count.
func (k *pathKeeper) peerRelays(list []relayAt) {
	now := time.Now()
	grid := k.a.node.grid
	list = slices.DeleteFunc(list, func(r relayAt) bool {
		m := grid.memberOf(now, r.relay)
		return r.relay != grid.self && (m == nil || !m.Roles.Has(membership.Relay))
	})
	k.mu.Lock()
	k.relay.told = list
	k.mu.Unlock()
	k.a.node.legs.heard(list)
	k.a.peer.noteRelays(list)
	k.wake()
}

// noteRelays remembers where the peer was registered, for the next dial.
func (p *Peer) noteRelays(list []relayAt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.relays = p.relays[:0]
	for _, r := range list {
		p.relays = append(p.relays, r.relay)
	}
}

// A ways tells over what a session could go on.
type ways struct{ direct, rendezvous, member bool }

func (w ways) any() bool { return w.direct || w.rendezvous || w.member }

// lookAtRelays gives the session a path through a member where it needs one,
// and moves it to a better one. It returns how long nothing else will be due.
func (k *pathKeeper) lookAtRelays(ctx context.Context, paths []ri2n.PathInfo, now time.Time) time.Duration {
	n, p := k.a.node, k.a.peer
	if !k.a.client || !n.grid.member() || n.grid.memberOf(now, p.id) == nil {
		return time.Hour
	}
	legs := n.legs.ready()
	// A session's only path counts as active, also when nothing answers on it.
	registered := n.relayReady(p)
	k.mu.Lock()
	c := &k.relay
	var via *ri2n.PathInfo
	var have ways
	for i := range paths {
		usable := (paths[i].State == ri2n.PathActive || paths[i].State == ri2n.PathStandby) && !(paths[i].Sending && paths[i].Carrier && unanswered(&paths[i], now))
		id, member := relayOf(paths[i].Link)
		switch {
		case member:
			have.member = have.member || usable
			if c.now.IsZero() && !c.adding && usable && p.opened(id) {
				c.use(id, now) // the dial came this way
			}
			if id == c.now {
				via = &paths[i]
			}
		case paths[i].Carrier:
			have.rendezvous = have.rendezvous || usable && registered
		default:
			have.direct = have.direct || usable
		}
	}
	policy := k.policyLocked()
	// With a relay a direct session is more useful as one end of others' paths.
	kept := relayKept
	if n.grid.isRelay(now, p.id) || n.relayHost.serves() {
		kept = relayKeptByRelay
		have.rendezvous = have.rendezvous || have.direct
	}
	needed := policy != PathDirectOnly && !(have.direct && have.rendezvous)
	leave := k.judgeLocked(via, needed, kept, now)
	var add *leg
	if needed && !c.adding {
		add = k.pickLocked(legs, have, now)
	}
	var seek []ri2n.PeerID
	if needed && add == nil && c.now.IsZero() && !c.adding {
		for _, r := range c.told {
			if r.relay != n.PeerID() && c.trouble[r.relay] == nil && len(seek) < 2 {
				seek = append(seek, r.relay)
			}
		}
	}
	if add != nil {
		c.adding = true
	}
	next := time.Hour
	switch {
	case !c.now.IsZero() && via != nil && via.Sending:
		next = relayLook
	case needed || !c.now.IsZero():
		next = relayLookSpare
	}
	if needed && c.now.IsZero() && !c.adding {
		for _, t := range c.trouble {
			if now.Before(t.until) {
				next = min(next, t.until.Sub(now))
			}
		}
	}
	k.mu.Unlock()

	if leave != (ri2n.PeerID{}) {
		n.running.Go(func() { p.closeVia(leave) })
	}
	if len(seek) > 0 {
		n.legs.seek(now, seek)
	}
	if add != nil {
		n.running.Go(func() { k.addVia(ctx, add) })
	}
	return next
}

// opened reports whether a channel of ours leads to the peer through a relay.
func (p *Peer) opened(via ri2n.PeerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.vias, func(r *relayLink) bool { return r.via == via && !r.channel.IsIncoming() })
}

// judgeLocked decides whether the path through a member stays, and returns the
// relay that is to be left.
func (k *pathKeeper) judgeLocked(via *ri2n.PathInfo, needed bool, kept time.Duration, now time.Time) (leave ri2n.PeerID) {
	c := &k.relay
	if c.now.IsZero() {
		return leave
	}
	end := func(t *time.Time, bad bool, patience time.Duration) bool {
		if !bad {
			*t = time.Time{}
		} else if t.IsZero() {
			*t = now
			time.AfterFunc(patience, k.wake)
		}
		return bad && now.Sub(*t) >= patience
	}
	bad := via == nil || via.State == ri2n.PathSuspect || via.State == ri2n.PathFailed || via.State == ri2n.PathClosed ||
		unanswered(via, now)
	if half := k.halvesLocked(c.now); !bad && half > 0 {
		bad = via.RTT > half+relayLate
	}
	if !bad && k.losesLocked(via, now) {
		// A queue that is too long loses much as well: only where there is
		// another way to try.
		bad = slices.ContainsFunc(c.told, func(r relayAt) bool {
			return r.relay != c.now && c.trouble[r.relay] == nil && k.a.node.legs.leg(r.relay) != nil
		})
	}
	failed := via == nil || end(&c.silent, bad, relaySilent)
	if !failed && !end(&c.spare, !needed, kept) {
		return leave
	}
	leave = c.now
	if failed {
		k.troubledLocked(leave, now)
		k.a.node.counters.relaysLeft.Add(1)
	}
	c.use(ri2n.PeerID{}, now)
	return leave
}

// unanswered reports whether nothing answers on a path though it should: the last
// path that there is stays active.
func unanswered(p *ri2n.PathInfo, now time.Time) bool {
	return p.BytesInFlight > 0 && now.Sub(p.LastReceived) >= relaySilent/2
}

// losesLocked reports whether the path lost many packets lately.
func (k *pathKeeper) losesLocked(via *ri2n.PathInfo, now time.Time) bool {
	c := &k.relay
	if sent := via.PacketsSent - c.sent; now.Sub(c.sample) >= relaySample || via.PacketsSent < c.sent {
		lost := float64(via.PacketsLost - via.PacketsSpurious - c.lost)
		c.lossy = !c.sample.IsZero() && sent >= relaySampled && lost > relayLoss*float64(sent)
		c.sample, c.sent, c.lost = now, via.PacketsSent, via.PacketsLost-via.PacketsSpurious
	}
	return c.lossy
}

func (k *pathKeeper) troubledLocked(id ri2n.PeerID, now time.Time) {
	c := &k.relay
	if c.trouble == nil {
		c.trouble = make(map[ri2n.PeerID]*trouble)
	}
	t := c.trouble[id]
	if t == nil {
		t = new(trouble)
		c.trouble[id] = t
	}
	t.later(now, viaPatience)
}

// halvesLocked returns the round trip to the peer through a relay as both
// halves were measured, zero if one is not known.
func (k *pathKeeper) halvesLocked(id ri2n.PeerID) time.Duration {
	l := k.a.node.legs.leg(id)
	i := slices.IndexFunc(k.relay.told, func(r relayAt) bool { return r.relay == id })
	if l == nil || i < 0 {
		return 0
	}
	own, theirs := l.rtt(), k.relay.told[i].rtt
	if own == 0 || theirs == 0 {
		return 0
	}
	return own + theirs
}

// pickLocked returns the relay to open a path through: the nearest where there
// is none, or one that has been clearly nearer than the present one for a
// while.
func (k *pathKeeper) pickLocked(legs []*leg, have ways, now time.Time) *leg {
	c := &k.relay
	for id, t := range c.trouble {
		if now.After(t.until.Add(legPatienceMost)) {
			delete(c.trouble, id)
		}
	}
	var best *leg
	var far time.Duration
	for _, l := range legs {
		id := l.relay.id
		if t := c.trouble[id]; id == k.a.peer.id || t != nil && now.Before(t.until) {
			continue
		}
		i := slices.IndexFunc(c.told, func(r relayAt) bool { return r.relay == id })
		sum := l.rtt() + unknownHalf
		if i >= 0 {
			sum = l.rtt() + c.told[i].rtt
		} else if have.any() {
			continue // the peer is not there, as far as it says
		}
		if best == nil || sum < far {
			best, far = l, sum
		}
	}
	if c.now.IsZero() {
		return best
	}
	mine := k.halvesLocked(c.now)
	if best == nil || best.relay.id == c.now || mine == 0 || far+max(switchRelay, mine/4) >= mine {
		c.better = time.Time{}
		return nil
	}
	if c.better.IsZero() {
		c.better = now
	}
	if now.Sub(c.better) < switchAfter || now.Sub(c.since) < switchAfter {
		return nil
	}
	c.better = time.Time{}
	return best
}

// addVia gives the session a path through a member, in place of the one that it
// may have.
func (k *pathKeeper) addVia(ctx context.Context, l *leg) {
	n, p := k.a.node, k.a.peer
	r, err := n.openVia(p, l)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, proofPatience)
		stop := context.AfterFunc(n.ctx, cancel)
		go func() {
			select {
			case <-r.channel.Done(): // the relay says no
				cancel()
			case <-ctx.Done():
			}
		}()
		_, err = k.a.session.AddPath(ctx, ri2n.Remote{Link: r.link})
		stop()
		cancel()
		if err != nil {
			r.channel.Close()
		}
	}
	now := time.Now()
	k.mu.Lock()
	c := &k.relay
	c.adding = false
	old := c.now
	if err != nil {
		k.troubledLocked(l.relay.id, now)
	} else {
		c.use(l.relay.id, now)
		delete(c.trouble, l.relay.id)
	}
	k.mu.Unlock()
	if err != nil {
		k.a.log.Debug("path through a member", "relay", l.relay.id.Short(), "err", err)
	} else if !old.IsZero() && old != l.relay.id {
		p.closeVia(old)
	}
	k.wake()
}

// isRelay reports whether peer is a member with the role.
func (t *gridTable) isRelay(now time.Time, peer ri2n.PeerID) bool {
	m := t.memberOf(now, peer)
	return m != nil && m.Roles.Has(membership.Relay)
}
