package overlay

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
)

// Services of routing that the overlay itself has (docs/overlay-protocol.md,
// section 11).
const (
	serviceNames     routing.Service = 2 // announcements at the keys of names
	serviceIntroduce routing.Service = 3 // a word to a member that we have no session with
	serviceMail      routing.Service = 4 // sealed frames on their way to a process
)

const (
	// nameCopies is how many of the members nearest to a name keep its
	// announcement.
	nameCopies = 5
	// publishEvery is how often an announcement is stored anew, nameLife how
	// long it is kept.
	publishEvery = 10 * time.Minute
	nameLife     = 40 * time.Minute
	// lookAtLinks is how often a node looks whether its addresses have changed.
	lookAtLinks = 3 * time.Second
	// moreGreetings is how often a peer is given our announcement again when
	// our addresses are looked at: the first may come before it knows us.
	moreGreetings = 1
	// introduceTime is how long a dial waits for the answer of a member that
	// it has asked to open its NAT.
	introduceTime = 2 * time.Second
	// openNATTime is how long a node sends toward a member that wants to dial
	// it, and maxOpenNAT to how many of its addresses.
	openNATTime = 3 * time.Second
	maxOpenNAT  = 4
	// maxIntroductions bounds the introductions served each second: each sends
	// a few small packets where a member wants them.
	maxIntroductions = 8
)

// A nameOp is what a request to serviceNames wants.
type nameOp byte

const (
	namePut nameOp = 1 // keep this announcement; answered by nothing
	nameGet nameOp = 2 // what is at this key? answered by an announcement, or nothing
)

// nameKey returns where the announcement of the member called label is kept.
func nameKey(label string) Key {
	return sha256.Sum256(append([]byte(nameDomain), label...))
}

// A named announcement is one that was verified.
type named struct {
	*announcement
	record *membership.Record
	until  time.Time // it is forgotten then
}

// A nameService finds members by name, and opens the way to them, without a
// rendezvous. The loop owns it.
type nameService struct {
	r         *router
	own       *announcement
	publishAt time.Time
	lookAt    time.Time                 // when our own addresses are looked at again
	stored    map[Key]*named            // kept for the grid, by key of the name
	known     map[routing.PeerID]*named // of members that we talk to or have looked for
	waiting   map[routing.PeerID][]chan []netip.AddrPort
	served    int // introductions in the second that began at servedAt
	servedAt  time.Time

	published, forged, refused uint64
}

func (s *nameService) init(r *router) {
	*s = nameService{
		r: r, stored: make(map[Key]*named), known: make(map[routing.PeerID]*named),
		waiting: make(map[routing.PeerID][]chan []netip.AddrPort),
	}
	r.routing.Handle(serviceNames, routing.Handler{Ask: s.ask})
	r.routing.Handle(serviceIntroduce, routing.Handler{Deliver: s.introduced})
}

// verify returns b as an announcement that a member has signed, whoever brings
// it; nil if it is none.
func (s *nameService) verify(now time.Time, b []byte) *named {
	a, err := parseAnnouncement(b)
	if err != nil {
		s.r.malformed.Add(1)
		return nil
	}
	rec, err := s.r.recordOf(a.member)
	if err != nil || !a.signed() || a.issued > uint64(now.Add(membership.Tolerance).UnixMilli()) {
		s.forged++
		return nil
	}
	return &named{a, rec, now.Add(nameLife)}
}

// learn keeps an announcement for ourselves, unless a newer one is known.
func (s *nameService) learn(a *named) {
	peer := a.member.Peer
	old := s.known[peer]
	if old != nil && old.issued > a.issued {
		return
	}
	if old == nil && len(s.known) >= maxKnown {
		for other := range s.known {
			delete(s.known, other) // any; it can be looked for again
			break
		}
	}
	s.known[peer] = a
	if old != nil && !sameHosts(old.addresses, a.addresses) {
		s.moved(peer)
	}
	if old == nil || siteOf(old) != siteOf(a) {
		s.r.told(peer)
	}
}

// moved says that we, or peer, have other addresses than before.
func (s *nameService) moved(peer routing.PeerID) {
	if x := s.r.carrier.sessions[peer]; x != nil {
		x.a.paths.moved(time.Now())
	}
}

// sameHosts reports whether two lists have the same addresses, their ports aside:
// a NAT that maps by destination gives others all the time.
func sameHosts(a, b []netip.AddrPort) bool {
	has := func(list []netip.AddrPort, x netip.AddrPort) bool {
		return slices.ContainsFunc(list, func(y netip.AddrPort) bool { return x.Addr() == y.Addr() })
	}
	for _, x := range a {
		if !has(b, x) {
			return false
		}
	}
	for _, y := range b {
		if !has(a, y) {
			return false
		}
	}
	return true
}

// announced takes the announcement of a peer with which there is a session.
func (s *nameService) announced(now time.Time, from *routing.Member, b []byte) {
	if a := s.verify(now, b); a != nil && a.member.Peer == from.Peer {
		s.learn(a)
	}
}

// greet gives our announcement to a peer.
func (s *nameService) greet(peer routing.PeerID) {
	if s.own != nil {
		s.r.carrier.sendNow(peer, protocolAnnounce, appendAnnouncement(nil, s.own))
	}
}

// ask serves members that keep their announcement here, or look for one.
func (s *nameService) ask(now time.Time, from *routing.Member, b []byte) ([]byte, error) {
	if len(b) < 1 {
		return nil, errMalformed
	}
	switch body := b[1:]; nameOp(b[0]) {
	case namePut:
		a := s.verify(now, body)
		if a == nil {
			return nil, errMalformed
		}
		s.keep(a)
		return nil, nil
	case nameGet:
		if len(body) != len(Key{}) {
			return nil, errMalformed
		}
		if a := s.stored[Key(body)]; a != nil {
			return appendAnnouncement(nil, a.announcement), nil
		}
		return nil, nil
	}
	return nil, errMalformed
}

// keep stores a for the grid. There is one place for each name, and names are
// the ledger's, so that a member cannot take more than one.
func (s *nameService) keep(a *named) {
	key := nameKey(a.record.Name)
	old := s.stored[key]
	if old != nil && !newer(a, old) {
		return
	}
	if old == nil && len(s.stored) >= maxKnown {
		s.refused++
		return
	}
	s.stored[key] = a
}

// newer reports whether a holds rather than b: of two members that had a name
// one after the other, the later; of one member's, what it said last.
func newer(a, b *named) bool {
	if a.member.Peer != b.member.Peer {
		return a.record.Issued.After(b.record.Issued)
	}
	return a.issued >= b.issued
}

// keepHouse forgets what is old, and announces ourselves.
func (s *nameService) keepHouse(now time.Time) {
	for key, a := range s.stored {
		if now.After(a.until) {
			delete(s.stored, key)
		}
	}
	for peer, a := range s.known {
		if now.After(a.until) && s.r.carrier.sessions[peer] == nil {
			delete(s.known, peer)
		}
	}
	if now.Before(s.lookAt) {
		return
	}
	s.lookAt = now.Add(lookAtLinks)
	var addresses []netip.AddrPort
	if s.r.node.cfg.Path != PathRelayOnly { // which hides them
		addresses = s.r.node.links.announced()
	}
	if s.own == nil || !slices.Equal(addresses, s.own.addresses) || string(s.own.member.Proof) != string(s.r.routing.Self().Proof) {
		if s.own != nil && !sameHosts(addresses, s.own.addresses) {
			for peer := range s.r.carrier.sessions {
				s.moved(peer)
			}
		}
		s.own = &announcement{member: s.r.routing.Self(), issued: uint64(now.UnixMilli()), addresses: addresses}
		s.own.sign(s.r.key)
		for peer := range s.r.carrier.sessions {
			s.greet(peer)
		}
		s.publishAt = now
	}
	for peer, x := range s.r.carrier.sessions {
		if x.greets > 0 {
			x.greets--
			s.greet(peer)
		}
	}
	if !now.Before(s.publishAt) && s.r.routing.Len() > 0 {
		s.publishAt = now.Add(publishEvery)
		s.publish(now)
	}
}

// publish stores our announcement at the key of our name.
func (s *nameService) publish(now time.Time) {
	s.own.issued = uint64(now.UnixMilli())
	s.own.sign(s.r.key)
	body := appendAnnouncement([]byte{byte(namePut)}, s.own)
	own := *s.own
	key := nameKey(s.r.own.Name)
	s.r.routing.Lookup(now, key, func(now time.Time, found routing.Result) {
		for i, m := range found.Closest {
			if i < nameCopies {
				s.r.routing.Ask(now, m, serviceNames, body, func(time.Time, []byte, error) {}) // the next time is soon
			}
		}
		s.keep(&named{&own, s.r.own, now.Add(nameLife)})
		s.published++
	})
}

// announced returns where others may reach this node: what each link has
// outside, and its own addresses.
func (ls *nodeLinks) announced() (list []netip.AddrPort) {
	add := func(a netip.AddrPort) {
		if a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()); a.IsValid() && len(list) < maxAnnounced && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	links := ls.all()
	for _, l := range links {
		if m := l.mapped(); m.IsValid() {
			add(m)
		}
		if o := l.outside(); o.IsValid() {
			add(o)
		}
	}
	for _, l := range links {
		for _, h := range l.hosts() {
			add(h)
		}
	}
	return list
}

// find looks for the announcement at key and calls done once, with nil if there
// is none.
func (s *nameService) find(now time.Time, key Key, done func(a *named)) {
	best := s.stored[key]
	s.r.routing.Lookup(now, key, func(now time.Time, found routing.Result) {
		ask := append(slices.Clone(found.Closest[:min(len(found.Closest), 2*nameCopies)]), found.Beyond[:min(len(found.Beyond), nameCopies)]...)
		left := len(ask)
		if left == 0 {
			done(best)
			return
		}
		body := append([]byte{byte(nameGet)}, key[:]...)
		for _, m := range ask {
			s.r.routing.Ask(now, m, serviceNames, body, func(now time.Time, answer []byte, err error) {
				if err == nil && len(answer) > 0 {
					if a := s.verify(now, answer); a != nil && nameKey(a.record.Name) == key && (best == nil || newer(a, best)) {
						best = a
					}
				}
				if left--; left == 0 {
					if best != nil {
						s.learn(best)
					}
					done(best)
				}
			})
		}
	})
}

// findName returns the announcement of the member called label, nil if nobody
// has one.
func (r *router) findName(ctx context.Context, label string) (*named, error) {
	result := make(chan *named, 1)
	if err := r.do(ctx, func(now time.Time) {
		r.names.find(now, nameKey(label), func(a *named) { result <- a })
	}); err != nil {
		return nil, err
	}
	select {
	case a := <-result:
		return a, nil
	case <-r.node.ctx.Done():
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An introduceKind is what a message of serviceIntroduce is.
type introduceKind byte

const (
	introduceMe  introduceKind = 1 // the sender is about to dial: open the way for it
	introduceYou introduceKind = 2 // the answer: it is open
)

// introduce asks p, by way of other members, to open its NAT toward us, and
// returns the addresses where it is. It takes at most introduceTime.
func (r *router) introduce(ctx context.Context, id ri2n.PeerID) []netip.AddrPort {
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, introduceTime)
	defer cancel()
	answer := make(chan []netip.AddrPort, 1)
	peer := routing.PeerID(id)
	err := r.do(ctx, func(now time.Time) {
		m := r.names.memberOf(now, peer)
		if m == nil || r.names.own == nil || len(r.carrier.sessions) == 0 {
			answer <- nil
			return
		}
		if len(r.names.waiting) < maxKnown {
			r.names.waiting[peer] = append(r.names.waiting[peer], answer)
		}
		r.routing.Route(now, m.Position(), serviceIntroduce, appendAnnouncement([]byte{byte(introduceMe)}, r.names.own))
	})
	if err != nil {
		return nil
	}
	select {
	case list := <-answer:
		return list
	case <-ctx.Done():
	}
	// What was heard of it earlier is better than nothing.
	_ = r.do(context.WithoutCancel(ctx), func(now time.Time) {
		r.names.waiting[peer] = slices.DeleteFunc(r.names.waiting[peer], func(c chan []netip.AddrPort) bool { return c == answer })
		if len(r.names.waiting[peer]) == 0 {
			delete(r.names.waiting, peer)
		}
		var list []netip.AddrPort
		if a := r.names.known[peer]; a != nil {
			list = a.addresses
		}
		select {
		case answer <- list:
		default:
		}
	})
	select {
	case list := <-answer:
		return list
	case <-r.node.ctx.Done():
		return nil
	}
}

// memberOf returns peer with its position, from whoever has told us.
func (s *nameService) memberOf(now time.Time, peer routing.PeerID) *routing.Member {
	if info := s.r.member(now, peer); info != nil {
		return info.m
	}
	if a := s.known[peer]; a != nil {
		return a.member
	}
	if o := s.r.carrier.openings[peer]; o != nil && o.member != nil && len(o.member.Proof) > 0 {
		return o.member
	}
	return nil
}

// introduced takes a message of serviceIntroduce that was routed to us, or to
// somebody near us who is not there.
func (s *nameService) introduced(now time.Time, d routing.Delivery) {
	if d.Key != s.r.routing.Self().Position() || len(d.Payload) < 1 {
		return
	}
	a := s.verify(now, d.Payload[1:])
	if a == nil {
		return
	}
	s.learn(a)
	peer := a.member.Peer
	switch introduceKind(d.Payload[0]) {
	case introduceMe:
		if now.Sub(s.servedAt) >= time.Second {
			s.servedAt, s.served = now, 0
		}
		if s.served++; s.served > maxIntroductions || s.own == nil {
			s.refused++
			return
		}
		s.r.node.openNAT(a.addresses)
		s.r.routing.Route(now, a.member.Position(), serviceIntroduce, appendAnnouncement([]byte{byte(introduceYou)}, s.own))
	case introduceYou:
		for _, c := range s.waiting[peer] {
			c <- a.addresses
		}
		delete(s.waiting, peer)
	}
}

// openNAT sends a few Bindings from each link toward the addresses of somebody
// who is about to dial us, so that its packets are let in (RFC 4787, section 5).
func (n *Node) openNAT(addresses []netip.AddrPort) {
	if n.cfg.Path == PathRelayOnly {
		return
	}
	for _, l := range n.links.all() {
		filter := punch.Filter{Own: l.own}
		sent := 0
		for _, addr := range addresses {
			if _, err := filter.Check(addr, false); err != nil || !l.reaches(addr.Addr()) || sent >= maxOpenNAT {
				continue
			}
			sent++
			n.spawn(func() {
				ctx, cancel := context.WithTimeout(n.ctx, openNATTime)
				defer cancel()
				_, _ = l.mux.Bind(ctx, addr) // no answer is expected
			})
		}
	}
}

// introduced returns candidates for a dial to p that no rendezvous helps with.
func (n *Node) introduced(ctx context.Context, p *Peer) (list []ri2n.Remote) {
	if n.router == nil || n.cfg.Path == PathRelayOnly {
		return nil
	}
	for _, addr := range n.router.introduce(ctx, p.id) {
		for _, l := range n.links.all() {
			filter := punch.Filter{Own: l.own}
			if _, err := filter.Check(addr, false); err == nil && l.reaches(addr.Addr()) && len(list) < maxDirectCandidates {
				list = append(list, ri2n.Remote{Link: l.link, Addr: addr})
			}
		}
	}
	return list
}

// An Announced is what routing knows of a member: it needs no rendezvous.
type Announced struct {
	Contact
	Addresses []netip.AddrPort `json:"addresses"` // outside ones first
	Time      time.Time        `json:"time"`      // when the member said so
}

// NameKey returns where the announcement of the member called name ("alice",
// "alice.lab", "alice.lab.grid") is kept. The error is a [*NameError].
func (n *Node) NameKey(name string) (Key, error) {
	label, err := n.grid.label(name)
	if err != nil {
		return Key{}, err
	}
	return nameKey(label), nil
}

// FindName finds a member by name through routing alone. The error is a
// [*NameError], [ErrNoRouting], [ErrClosed] or ctx's.
func (n *Node) FindName(ctx context.Context, name string) (Announced, error) {
	label, err := n.grid.label(name)
	if err != nil {
		return Announced{}, err
	}
	a, err := n.router.findName(ctx, label)
	if err != nil {
		return Announced{}, err
	}
	if a == nil {
		return Announced{}, &NameError{Name: name, Problem: "no member that can be reached knows it", Member: true}
	}
	return Announced{contactOf(a.member), a.addresses, time.UnixMilli(int64(a.issued)).UTC()}, nil
}
