package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/relay"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxLegs bounds the relays that a node is registered with, and maxSought
	// those of them that it has connected to for that alone.
	maxLegs   = 8
	maxSought = 4
	// legsKept is with how many relays a node stays registered at any time: with
	// one, since it can only be found while the rendezvous still runs.
	// legsNeeded is the same for a node that is likely to need one: the second is
	// for the failure of the first. A relay keeps legsOfRelay, so that others
	// learn from it where further relays are.
	legsKept    = 1
	legsNeeded  = 2
	legsOfRelay = 4
	// legsTime is the pause between two looks at the relays.
	legsTime = 5 * time.Second
	// legPatience is how long a relay is not asked again after it failed, at
	// first; it doubles up to legPatienceMost.
	legPatience     = 10 * time.Second
	legPatienceMost = 10 * time.Minute
	// soughtLife is how long a relay of a peer's is kept on that peer's account.
	soughtLife = 2 * time.Minute
	// expandTime bounds the search for a relay that a peer is registered with.
	expandTime = 3 * time.Second
)

// A leg is our registration with one relay: half of a path through it.
type leg struct {
	relay  *Peer
	client *rendezvous.Client
}

func (l *leg) registered() bool { return l.client.Status().Registered }

// rtt returns the round trip time to the relay, zero if it is not known.
func (l *leg) rtt() time.Duration {
	if a := l.relay.best(); a != nil {
		return a.paths.rtt()
	}
	return 0
}

// addr returns where the relay is reached directly, if it is.
func (l *leg) addr() netip.AddrPort {
	if a := l.relay.best(); a != nil {
		for _, p := range a.session.Paths() {
			if p.Sending {
				return p.Remote
			}
		}
	}
	return netip.AddrPort{}
}

// A trouble is how a relay has failed lately.
type trouble struct {
	until time.Time     // it is not tried before
	pause time.Duration // the last one
}

// later notes one more failure. The first pause is that long.
func (t *trouble) later(now time.Time, first time.Duration) {
	t.pause = min(max(2*t.pause, first), legPatienceMost)
	t.until = now.Add(t.pause)
}

// A legKeeper keeps the node registered with relays: with those that it has a
// session with anyway, and with some that it connects to for that. It asks no
// relay to which it has no way but another relay.
type legKeeper struct {
	node *Node
	take func(via ri2n.PeerID, ch *rendezvous.Channel) // a channel of somebody's toward us
	kick chan struct{}                                 // capacity 1: something has changed

	mu      sync.Mutex // guards what follows
	closed  bool
	legs    map[ri2n.PeerID]*leg
	sought  map[ri2n.PeerID]time.Time // relays of peers, until when they are kept
	trying  map[ri2n.PeerID]struct{}  // connections under way
	trouble map[ri2n.PeerID]*trouble
	told    []relayAt                      // what peers were told last
	addrs   map[ri2n.PeerID]netip.AddrPort // where members reach relays
	changed chan struct{}
}

func newLegKeeper(n *Node) *legKeeper {
	take := n.onPeerChannel
	if n.cfg.onRelayed != nil {
		take = n.cfg.onRelayed
	}
	return &legKeeper{
		node: n, take: take, kick: make(chan struct{}, 1), legs: make(map[ri2n.PeerID]*leg), sought: make(map[ri2n.PeerID]time.Time),
		trying: make(map[ri2n.PeerID]struct{}), trouble: make(map[ri2n.PeerID]*trouble), addrs: make(map[ri2n.PeerID]netip.AddrPort), changed: make(chan struct{}),
	}
}

func (k *legKeeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// run looks at the relays until the node ends.
func (k *legKeeper) run() {
	ticker := time.NewTicker(legsTime)
	defer ticker.Stop()
	for {
		k.look(time.Now())
		select {
		case <-ticker.C:
		case <-k.kick:
		case <-k.node.ctx.Done():
			return
		}
	}
}

// close ends all registrations.
func (k *legKeeper) close() {
	k.mu.Lock()
	k.closed = true
	legs := k.legs
	k.legs = nil
	k.mu.Unlock()
	for _, l := range legs {
		l.client.Close()
	}
}

// look registers where that is wanted, and ends what is not.
func (k *legKeeper) look(now time.Time) {
	n := k.node
	if !n.grid.member() {
		return
	}
	relays := n.relays(now)
	wanted := legsKept
	switch {
	case n.relayHost.serves():
		wanted = legsOfRelay
	case n.needsRelay():
		wanted = legsNeeded
	}

	k.mu.Lock()
	for id, until := range k.sought {
		if !now.Before(until) {
			delete(k.sought, id)
		}
	}
	for id, t := range k.trouble {
		if now.After(t.until.Add(legPatienceMost)) {
			delete(k.trouble, id)
		}
	}
	var over []*leg
	good := 0
	for id, l := range k.legs {
		switch {
		case !slices.Contains(relays, id), l.relay.best() == nil && l.relay.isQuiet():
			delete(k.legs, id)
			over = append(over, l)
		case l.registered():
			good++
		}
	}
	var begin []*Peer
	var connect []ri2n.PeerID
	for _, id := range relays {
		if k.legs[id] != nil || !k.mayLocked(now, id) || len(k.legs)+len(begin) >= maxLegs {
			continue
		}
		p := n.peerIfKnown(id)
		switch _, sought := k.sought[id]; {
		case p != nil && p.canBeLeg():
			begin = append(begin, p)
		case (p == nil || p.best() == nil) && (sought || good+len(begin)+len(connect) < wanted) && len(k.trying)+len(connect) < maxSought:
			connect = append(connect, id)
			k.trying[id] = struct{}{}
		}
	}
	k.mu.Unlock()

	for _, l := range over {
		k.end(l.client)
	}
	for _, p := range begin {
		k.begin(p)
	}
	for _, id := range connect {
		n.spawn(func() { k.connect(n.peerByID(id)) })
	}
	k.tell(now)
}

// mayLocked reports whether the relay may be tried at now.
func (k *legKeeper) mayLocked(now time.Time, id ri2n.PeerID) bool {
	t := k.trouble[id]
	_, trying := k.trying[id]
	return !trying && (t == nil || !now.Before(t.until))
}

// seeks reports whether a session with the relay is being made for a leg.
func (k *legKeeper) seeks(id ri2n.PeerID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, trying := k.trying[id]
	return trying
}

// connect makes a session with a relay, for a leg.
func (k *legKeeper) connect(p *Peer) {
	ctx, cancel := context.WithTimeout(k.node.ctx, dialTime)
	defer cancel()
	_, err := p.connect(ctx)
	k.mu.Lock()
	delete(k.trying, p.id)
	if err != nil {
		k.failedLocked(time.Now(), p.id)
	}
	k.mu.Unlock()
	k.notify()
	k.wake()
}

func (k *legKeeper) failedLocked(now time.Time, id ri2n.PeerID) {
	t := k.trouble[id]
	if t == nil {
		t = new(trouble)
		k.trouble[id] = t
	}
	t.later(now, legPatience)
}

// begin registers with a relay that there is a session with.
func (k *legKeeper) begin(p *Peer) {
	n := k.node
	name := p.id.Short()
	if m := n.grid.memberOf(time.Now(), p.id); m != nil {
		name = m.Name
	}
	c, err := rendezvous.NewClient(rendezvous.Config{
		Server:    rendezvous.Address{Host: name, Peer: p.id},
		Endpoint:  n.endpoint,
		Dial:      func(ctx context.Context) (rendezvous.Session, error) { return k.dial(p) },
		Header:    []byte{byte(datagramRelay), toRelay},
		OnChannel: func(ch *rendezvous.Channel) { k.take(p.id, ch) },
	})
	if err != nil {
		n.log.Warn("no leg", "relay", p.id.Short(), "err", err)
		return
	}
	l := &leg{relay: p, client: c}
	k.mu.Lock()
	if k.closed || k.legs[p.id] != nil {
		k.mu.Unlock()
		k.end(c)
		return
	}
	k.legs[p.id] = l
	k.mu.Unlock()
	n.spawn(func() { k.watch(l) })
}

var (
	errNoSession = errors.New("overlay: there is no session with the relay")
	errNested    = errors.New("overlay: the relay is reached through another relay")
)

// dial makes a registration on the session that there is with a relay.
func (k *legKeeper) dial(p *Peer) (rendezvous.Session, error) {
	a := p.best()
	if a == nil {
		return nil, errNoSession
	}
	if !p.beginLeg() {
		k.node.counters.relaysNested.Add(1)
		return nil, errNested
	}
	s := &legSession{a: a, done: make(chan struct{}), release: p.endLeg}
	if !k.node.spawn(func() {
		select {
		case <-a.session.Done():
			s.CloseWithError(0, "")
		case <-s.done:
		}
	}) {
		s.CloseWithError(0, "")
		return nil, ErrClosed
	}
	return s, nil
}

// watch tells everybody that a leg has changed, and gives up one that does not
// come up.
func (k *legKeeper) watch(l *leg) {
	was := false
	var seen netip.AddrPort
	for {
		changed := l.client.Changed()
		st := l.client.Status()
		if seen.IsValid() && st.Observed.IsValid() && st.Observed != seen {
			k.node.networkMoved()
		}
		seen = st.Observed
		if st.Registered != was {
			was = st.Registered
			if was {
				k.mu.Lock()
				delete(k.trouble, l.relay.id)
				k.mu.Unlock()
			}
			k.notify()
			k.node.eachPeer(func(p *Peer) { p.wakePaths() })
			k.wake()
		}
		if !st.Registered && st.LastError != nil && !errors.Is(st.LastError, errNoSession) {
			k.drop(l)
			return
		}
		select {
		case <-changed:
		case <-k.node.ctx.Done():
			return
		}
		k.mu.Lock()
		here := k.legs[l.relay.id] == l
		k.mu.Unlock()
		if !here {
			k.notify()
			return
		}
	}
}

// end closes a client without waiting for it, unless the node is ending.
func (k *legKeeper) end(c *rendezvous.Client) {
	if !k.node.spawn(func() { c.Close() }) {
		c.Close()
	}
}

// drop ends a leg that failed. It is tried again later.
func (k *legKeeper) drop(l *leg) {
	k.mu.Lock()
	if k.legs[l.relay.id] == l {
		delete(k.legs, l.relay.id)
		k.failedLocked(time.Now(), l.relay.id)
	}
	k.mu.Unlock()
	l.client.Close()
	k.notify()
	k.wake()
}

// notify wakes whoever waits for a leg.
func (k *legKeeper) notify() {
	k.mu.Lock()
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
}

// ready returns the legs that are registered now, the nearest relay first.
func (k *legKeeper) ready() []*leg {
	k.mu.Lock()
	var list []*leg
	for _, l := range k.legs {
		if l.registered() {
			list = append(list, l)
		}
	}
	k.mu.Unlock()
	far := make(map[*leg]time.Duration, len(list))
	for _, l := range list {
		far[l] = l.rtt()
	}
	slices.SortFunc(list, func(a, b *leg) int {
		if far[a] != far[b] {
			return int(far[a] - far[b])
		}
		return slices.Compare(a.relay.id[:], b.relay.id[:])
	})
	return list
}

// leg returns the registration with a relay, nil if there is none now.
func (k *legKeeper) leg(id ri2n.PeerID) *leg {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.legs[id]; l != nil && l.registered() {
		return l
	}
	return nil
}

// seek has the node register with relays that a peer is registered with.
func (k *legKeeper) seek(now time.Time, ids []ri2n.PeerID) {
	k.mu.Lock()
	added := false
	for _, id := range ids {
		if _, known := k.sought[id]; !known && len(k.sought) >= maxSought {
			continue
		} else if !known {
			added = true
		}
		k.sought[id] = now.Add(soughtLife)
	}
	k.mu.Unlock()
	if added {
		k.wake()
	}
}

// expand registers with relays that p may be registered with, those first that p
// has named, and reports whether that gave us any that was not asked.
func (k *legKeeper) expand(ctx context.Context, p *Peer, asked []ri2n.PeerID) bool {
	n, now := k.node, time.Now()
	if !n.grid.member() || n.grid.memberOf(now, p.id) == nil {
		return false
	}
	if slices.ContainsFunc(k.ready(), func(l *leg) bool { return !slices.Contains(asked, l.relay.id) }) {
		return true // it came meanwhile
	}
	p.mu.Lock()
	ids := slices.Clone(p.relays)
	p.mu.Unlock()
	for _, id := range n.relays(now) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	k.mu.Lock()
	ids = slices.DeleteFunc(ids, func(id ri2n.PeerID) bool {
		return id == p.id || id == n.PeerID() || k.legs[id] != nil && k.legs[id].registered()
	})
	ids = ids[:min(len(ids), maxSought)]
	k.mu.Unlock()
	if len(ids) == 0 {
		return false
	}
	k.seek(now, ids)
	timer := time.NewTimer(expandTime)
	defer timer.Stop()
	for {
		k.mu.Lock()
		changed := k.changed
		waiting, found := false, false
		for _, id := range ids {
			l := k.legs[id]
			switch t := k.trouble[id]; {
			case l != nil && l.registered():
				found = true
			case t == nil || !now.Before(t.until):
				waiting = true
			}
		}
		k.mu.Unlock()
		if !waiting {
			return found
		}
		select {
		case <-changed:
		case <-timer.C:
			return found
		case <-ctx.Done():
			return false
		}
	}
}

// observed returns where relays see one of our links that their sessions use.
func (k *legKeeper) observed(link string) (list []netip.AddrPort) {
	for _, l := range k.ready() {
		a := l.relay.best()
		if a == nil {
			continue
		}
		from := l.client.Status().Observed
		for _, p := range a.session.Paths() {
			if p.Sending && p.Link == link && from.IsValid() && !slices.Contains(list, from) && len(list) < maxObserved {
				list = append(list, from)
			}
		}
	}
	return list
}

// maxObserved bounds the addresses of one link that relays tell.
const maxObserved = 2

// heard notes where a member reaches relays. Only public addresses count: a dial
// sends there (docs/wire-format-punch.md, on candidates).
func (k *legKeeper) heard(list []relayAt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var public punch.Filter
	for _, r := range list {
		if _, err := public.Check(r.addr, false); err != nil {
			continue
		}
		if _, known := k.addrs[r.relay]; !known && len(k.addrs) >= maxAddrs {
			continue
		}
		k.addrs[r.relay] = r.addr
	}
}

// addrOf returns where a member reaches a relay, if one has said so.
func (k *legKeeper) addrOf(id ri2n.PeerID) (netip.AddrPort, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, known := k.addrs[id]
	return a, known
}

// maxAddrs bounds the relays whose address members have told.
const maxAddrs = 256

// doubt has every relay prove that it still hears us.
func (k *legKeeper) doubt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.legs {
		l.client.Retry()
	}
}

// tell tells members with which relays we are registered, when that has
// changed.
func (k *legKeeper) tell(now time.Time) {
	var list []relayAt
	for _, l := range k.ready() {
		if len(list) < maxRelaysTold {
			list = append(list, relayAt{l.relay.id, l.rtt(), l.addr()})
		}
	}
	k.mu.Lock()
	news := !sameRelays(k.told, list)
	if news {
		k.told = list
	}
	k.mu.Unlock()
	if !news {
		return
	}
	k.node.eachPeer(func(p *Peer) {
		for _, a := range p.all() {
			a.tellRelays()
		}
	})
}

// tellRelays tells a member with which relays we are registered.
func (a *association) tellRelays() {
	n := a.node
	if !isClosed(a.ready) || !a.isProven() || n.grid.memberOf(time.Now(), a.peer.id) == nil {
		return
	}
	n.legs.mu.Lock()
	list := n.legs.told
	n.legs.mu.Unlock()
	if len(list) > 0 || a.toldRelays.Load() {
		a.toldRelays.Store(a.send(relayList{list}))
	}
}

// sameRelays reports whether two lists say the same, small changes of the round
// trip times aside.
func sameRelays(a, b []relayAt) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		i := slices.IndexFunc(b, func(y relayAt) bool { return y.relay == x.relay })
		if i < 0 || x.addr != b[i].addr || (x.rtt-b[i].rtt).Abs() > max(switchRelay, x.rtt/4) {
			return false
		}
	}
	return true
}

// relays returns the members with the role: those first that we could reach
// without a rendezvous, and then by the distance of their peer IDs from ours, so
// that each node begins with others.
func (n *Node) relays(now time.Time) []ri2n.PeerID {
	list, self := n.grid.relays(now), n.PeerID()
	known := make(map[ri2n.PeerID]bool, len(list))
	for _, id := range list {
		known[id] = n.remembered.count(id) > 0
	}
	slices.SortFunc(list, func(a, b ri2n.PeerID) int {
		if known[a] != known[b] {
			if known[a] {
				return -1
			}
			return 1
		}
		for i := range self {
			if x, y := a[i]^self[i], b[i]^self[i]; x != y {
				return int(x) - int(y)
			}
		}
		return 0
	})
	return list
}

// relays returns the members with the role, other than ourselves, in no order.
func (t *gridTable) relays(now time.Time) []ri2n.PeerID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []ri2n.PeerID
	for id, k := range t.members {
		if id != t.self && k.member.Roles.Has(membership.Relay) && t.validLocked(k.member, now) {
			list = append(list, id)
		}
	}
	return list
}

// needsRelay reports whether the node is likely to need a relay: it has no
// rendezvous now, or a NAT that few peers get through.
func (n *Node) needsRelay() bool {
	home, _ := n.homeClient()
	if home == nil {
		return true
	}
	st := home.Status()
	return !st.Registered && time.Since(st.Since) >= legsTime || n.links.hard()
}

// hard reports whether some link's NAT maps by destination, or lets no UDP
// through.
func (ls *nodeLinks) hard() bool {
	for _, l := range ls.all() {
		l.mu.Lock()
		b := l.behavior
		l.mu.Unlock()
		if b.UDPBlocked == punch.Yes || b.Mapping != punch.Unknown && b.Mapping&punch.EndpointIndependent == 0 {
			return true
		}
	}
	return false
}

// beginLeg has a session with the peer carry one end of relayed paths, and
// reports whether that may be: a peer that is reached through a relay is none
// itself, so that no packet passes two.
func (p *Peer) beginLeg() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carriers > 0 {
		return false
	}
	p.legs++
	return true
}

func (p *Peer) endLeg() {
	p.mu.Lock()
	p.legs--
	p.mu.Unlock()
}

// isLeg reports whether a session with the peer carries relayed paths.
func (p *Peer) isLeg() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.legs > 0
}

// canBeLeg reports whether there is a session that a leg could use.
func (p *Peer) canBeLeg() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.bestLocked()
	return a != nil && p.carriers == 0 && a.isProven() && isClosed(a.ready)
}

// isQuiet reports whether nobody is making a session with the peer.
func (p *Peer) isQuiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attempt == nil
}

// A legSession is the part of an association that our registration with a relay
// uses.
type legSession struct {
	a       *association
	done    chan struct{}
	once    sync.Once
	control *ri2n.Stream
	release func()
}

var _ rendezvous.Session = (*legSession)(nil)

func (s *legSession) OpenControl(ctx context.Context) (net.Conn, error) {
	st, err := s.a.openService(ctx, serviceRelay)
	if err != nil {
		return nil, err
	}
	s.control = st
	return st, nil
}

func (s *legSession) Remote() netip.AddrPort { return relay.OverRI2N(s.a.session).Remote() }

// flowOfLeg keeps what a relay is to pass on apart from our own datagrams to it.
const flowOfLeg = 1 << 61

func (s *legSession) SendDatagrams(flow uint64, list [][]byte) (int, error) {
	return s.a.session.SendDatagrams(flow|flowOfLeg, list)
}

func (s *legSession) Datagrams(ctx context.Context, deliver func([][]byte)) {
	receiveFrom(ctx, &s.a.relaying, s.done, deliver)
}

func (s *legSession) MaxDatagramSize() int  { return s.a.session.MaxDatagramSize() - relayHeaderLen }
func (s *legSession) Done() <-chan struct{} { return s.done }
func (s *legSession) Err() error            { return s.a.session.Err() }

// CloseWithError ends the registration, not the session.
func (s *legSession) CloseWithError(uint64, string) error {
	s.once.Do(func() {
		if s.control != nil {
			s.control.Close()
		}
		close(s.done)
		s.release()
	})
	return nil
}
