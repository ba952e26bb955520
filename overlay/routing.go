package overlay

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/object"
	"github.com/instantgrid/instantgrid/routing/shortcut"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// RoutingConfig bounds a node's part in key-based routing. The zero value
// works.
type RoutingConfig struct {
	// Off keeps a member out of routing: it is found through the rendezvous
	// alone, and Closest, Objects and the rest return [ErrNoRouting].
	Off bool

	// MaxSessions bounds the sessions that routing opens, besides those that
	// exist for other reasons: a home NAT keeps few mappings. Zero means 16 + 2
	// log2 of the number of nodes.
	MaxSessions int

	// MaxShortcuts bounds the sessions opened for traffic between processes.
	// Zero means as many as MaxSessions.
	MaxShortcuts int
}

const (
	// maxCalls and maxInbox bound what waits for the loop: calls of this
	// process wait their turn, and messages beyond it are dropped.
	maxCalls = 64
	maxInbox = 1024
	// houseEvery is how often the loop looks at sessions that no event
	// concerns.
	houseEvery = 500 * time.Millisecond
	// maxKnown bounds members and announcements that the loop remembers.
	maxKnown = 4096
)

// A router is the node's part in routing: one goroutine that owns the state
// machines of package routing and those above it. What others call is do, poke
// and take; everything else runs on the loop.
type router struct {
	node *Node
	cfg  RoutingConfig

	ledgerless bool // positions are those of the peer IDs alone

	dirty chan struct{} // sessions or members have changed
	calls chan func(now time.Time)
	inbox chan carried
	seen  atomic.Pointer[RoutingStatus]
	watch hub[MemberEvent]

	dropped, strangers, malformed, large, mailForged, mailFull atomic.Uint64 // RoutingCounters

	// The loop owns what follows.
	own       *membership.Record
	key       ed25519.PrivateKey
	routing   *routing.Node
	objects   *object.Service
	swim      *swim.Detector
	shortcuts *shortcut.Policy
	carrier   carrier
	names     nameService
	members   map[routing.PeerID]*memberInfo
	mailboxes map[Key]*Mailbox
	boot      bootstrap
	later     []func(now time.Time) // what a state machine must not be told from within
	houseAt   time.Time
	leftAt    map[routing.PeerID]time.Time // who said farewell a moment ago
}

// A memberInfo is a member as the state machines know it.
type memberInfo struct {
	m     *routing.Member
	key   ed25519.PublicKey
	proof *membership.Proof
	name  string
	roles membership.Roles
}

// newRouter returns the router of a node that belongs to a grid, and has the
// node hand over what peers send for it.
func newRouter(n *Node) (*router, error) {
	r := &router{
		node: n, cfg: n.cfg.Routing, ledgerless: n.grid.ledgerless(),
		dirty: make(chan struct{}, 1), calls: make(chan func(time.Time), maxCalls), inbox: make(chan carried, maxInbox),
		key:     ed25519.NewKeyFromSeed(n.identity.Seed()),
		members: make(map[routing.PeerID]*memberInfo), mailboxes: make(map[Key]*Mailbox),
		leftAt: make(map[routing.PeerID]time.Time),
	}
	r.carrier.init(r)
	if r.own = n.grid.ownProof().Record; r.ledgerless {
		r.own = recordWithoutLedger(n.grid.ownMember())
	}
	self := r.placeOf(r.own)
	var err error
	r.routing, err = routing.New(routing.Config{
		Self: self, Messenger: protocolCarrier{r, protocolRouting}, Verify: r.verify, KnownOnly: r.ledgerless,
		// Sessions are watched by the failure detector; asking contacts that
		// have none would open sessions for nothing.
		CheckInterval: -1,
		Connected:     func(peer routing.PeerID) bool { return r.carrier.sessions[peer] != nil },
	})
	if err != nil {
		return nil, err
	}
	r.objects = object.New(r.routing, object.Config{})
	r.swim, err = swim.New(swim.Config{
		Self: self, Messenger: protocolCarrier{r, protocolSwim},
		Sign:    func(msg []byte) [64]byte { return [64]byte(ed25519.Sign(r.key, msg)) },
		Verify:  r.signedBy,
		Changed: r.stateChanged,
		Heard:   r.carrier.heard,
		// Keepalives tell of the others: an idle grid is silent (decision 0030).
		OnDemand: true,
		// A member heard just before it died is asked a period later; with what
		// the probes take at most, 1.35 s, that leaves a margin to 2 s.
		Period: 500 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	r.shortcuts, err = shortcut.New(shortcut.Config{
		Connect: r.carrier.connectShortcut, Close: r.carrier.closeShortcut,
		Cap: r.cfg.MaxShortcuts, Nodes: n.grid.count(time.Now()),
	})
	if err != nil {
		return nil, err
	}
	r.names.init(r)
	r.routing.Handle(serviceMail, routing.Handler{Deliver: r.mailRouted})
	n.handlers.datagrams[datagramRouting] = r.take
	n.handlers.services[serviceRouting] = r.serveStream
	r.seen.Store(r.snapshot(time.Now()))
	return r, nil
}

// recordWithoutLedger stands for the ledger's record in a grid without a ledger:
// nobody has signed it, and its nonce is zero. It never leaves the node.
func recordWithoutLedger(m *membership.Member) *membership.Record {
	return &membership.Record{Peer: m.Peer, Invite: m.Invite, Name: m.Name, Address: m.Address, Issued: m.Issued, Expires: m.Expires}
}

// ownMember returns the node as a member, nil while its membership does not hold.
func (t *gridTable) ownMember() *membership.Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.me
}

// placeOf returns the member that a record makes.
func (r *router) placeOf(rec *membership.Record) *routing.Member {
	if r.ledgerless {
		return routing.NewMember(routing.PeerID(rec.Peer), routing.Nonce{}, nil)
	}
	return memberOfRecord(rec)
}

// memberOfRecord returns the member that a ledger's record makes.
func memberOfRecord(rec *membership.Record) *routing.Member {
	return routing.NewMember(routing.PeerID(rec.Peer), routing.Nonce(rec.Nonce), membership.AppendRecord(nil, rec))
}

// count returns how many members are known.
func (t *gridTable) count(now time.Time) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.members {
		if t.validLocked(k.member, now) {
			n++
		}
	}
	return max(n, 1)
}

// proofOf returns the proof of a member at now, nil if peer is none that we
// know.
func (t *gridTable) proofOf(now time.Time, peer ri2n.PeerID) (*membership.Member, *membership.Proof) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.members[peer]; k != nil && t.validLocked(k.member, now) {
		return k.member, k.proof
	}
	return nil, nil
}

// checkRecord reports whether a ledger of the grid has signed rec, it holds now,
// and nobody has revoked it. It admits nobody: for that it takes the chain too.
func (t *gridTable) checkRecord(now time.Time, rec *membership.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.info == nil:
		return errNoGrid
	case rec.Grid != t.info.ID():
		return &membership.Error{Problem: membership.OtherGrid, What: "a record"}
	case !t.info.IsLedger(rec.Ledger()):
		return &membership.Error{Problem: membership.NotLedger, What: "a record"}
	case t.revoked.Has(rec.Peer) || t.revoked.Has(rec.Invite):
		return &membership.Error{Problem: membership.Revoked, What: "a record"}
	case rec.Expires.Sub(rec.Issued) > membership.RecordLife:
		return &membership.Error{Problem: membership.WrongTime, What: "a record"}
	case now.Add(membership.Tolerance).Before(rec.Issued):
		return &membership.Error{Problem: membership.NotYet, What: "a record", From: rec.Issued, Until: rec.Expires, Now: now}
	case now.Add(-membership.Tolerance).After(rec.Expires):
		return &membership.Error{Problem: membership.Expired, What: "a record", From: rec.Issued, Until: rec.Expires, Now: now}
	}
	return nil
}

// errUnknownMember reports a member of whom nothing but a message of routing says
// that it is one, in a grid without a ledger.
var errUnknownMember = errors.New("overlay: a member that has not shown its certificates here")

// verify reports why m is no member: routing's Config.Verify.
func (r *router) verify(m *routing.Member) error {
	_, err := r.recordOf(m)
	return err
}

// recordOf returns the ledger's record of m, once it holds and says the same as
// m does. In a grid without a ledger m has none, and its proof is the one that it
// has shown us in a session, or on the local network.
func (r *router) recordOf(m *routing.Member) (*membership.Record, error) {
	if r.ledgerless {
		known, _ := r.node.grid.proofOf(time.Now(), ri2n.PeerID(m.Peer))
		if ri2n.PeerID(m.Peer) == r.own.Peer {
			known = r.node.grid.ownMember()
		}
		if known == nil || len(m.Proof) > 0 || m.Nonce != (routing.Nonce{}) {
			return nil, errUnknownMember
		}
		return recordWithoutLedger(known), nil
	}
	rec, err := membership.ParseRecord(m.Proof)
	if err != nil {
		return nil, err
	}
	if ri2n.PeerID(m.Peer) != rec.Peer || membership.Nonce(m.Nonce) != rec.Nonce {
		return nil, &membership.Error{Problem: membership.OtherKey, What: "a record"}
	}
	return rec, r.node.grid.checkRecord(time.Now(), rec)
}

// member returns what is known of peer as a member, nil if it is none.
func (r *router) member(now time.Time, peer routing.PeerID) *memberInfo {
	m, proof := r.node.grid.proofOf(now, ri2n.PeerID(peer))
	if proof == nil || proof.Record == nil && !r.ledgerless {
		delete(r.members, peer)
		return nil
	}
	if old := r.members[peer]; old != nil && old.proof == proof {
		return old
	}
	key := keyOfChain(proof.Chain)
	if key == nil {
		return nil
	}
	if len(r.members) >= maxKnown {
		clear(r.members) // they are made again as they are needed
	}
	rec := proof.Record
	if r.ledgerless {
		rec = recordWithoutLedger(m)
	}
	info := &memberInfo{m: r.placeOf(rec), key: key, proof: proof, name: m.Name, roles: m.Roles}
	r.members[peer] = info
	return info
}

// keyOfChain returns the node's key of a chain that was verified.
func keyOfChain(c *membership.Chain) ed25519.PublicKey {
	cert, err := x509.ParseCertificate(c.Node)
	if err != nil {
		return nil
	}
	key, _ := cert.PublicKey.(ed25519.PublicKey)
	return key
}

// signedBy reports whether signature is by's for msg: swim's Config.Verify.
func (r *router) signedBy(by *routing.Member, msg []byte, signature [64]byte) bool {
	if by.Peer == r.routing.Self().Peer {
		return ed25519.Verify(r.key.Public().(ed25519.PublicKey), msg, signature[:])
	}
	info := r.member(time.Now(), by.Peer)
	return info != nil && ed25519.Verify(info.key, msg, signature[:])
}

// poke has the loop look at sessions and members. It may be called with any
// lock held, and on a nil router.
func (r *router) poke() {
	if r == nil {
		return
	}
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

// do runs f on the loop, soon. It waits for its turn and not for f.
func (r *router) do(ctx context.Context, f func(now time.Time)) error {
	if r == nil {
		return ErrNoRouting
	}
	select {
	case r.calls <- f:
		return nil
	case <-r.node.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the loop.
func (r *router) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var now time.Time
		select {
		case f := <-r.calls:
			now = time.Now()
			f(now)
		case m := <-r.inbox:
			now = time.Now()
			r.receive(now, m)
		case <-r.dirty:
			now = time.Now()
			r.carrier.look(now)
		case <-timer.C:
			now = time.Now()
		case <-r.node.ctx.Done():
			r.end()
			return
		}
		r.advance(now)
		timer.Reset(time.Until(r.deadline()))
	}
}

// end tells whoever waits that there is nothing more to come.
func (r *router) end() {
	for _, m := range r.mailboxes {
		m.end(ErrClosed)
	}
	r.watch.close()
}

// deadline returns when something falls due next.
func (r *router) deadline() time.Time {
	at := r.houseAt
	for _, d := range [...]time.Time{r.routing.Deadline(), r.objects.Deadline(), r.swim.Deadline(), r.shortcuts.Deadline()} {
		at = sooner(at, d)
	}
	for _, m := range r.mailboxes {
		at = sooner(at, m.deadline())
	}
	return at
}

// sooner returns the earlier of two deadlines, of which zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// advance does what has fallen due, and what was put off until nothing else ran.
func (r *router) advance(now time.Time) {
	for {
		for len(r.later) > 0 {
			list := r.later
			r.later = nil
			for _, f := range list {
				f(now)
			}
		}
		r.routing.Advance(now)
		r.objects.Advance(now)
		r.swim.Advance(now)
		r.shortcuts.Advance(now)
		for _, m := range r.mailboxes {
			m.advance(now)
		}
		if !now.Before(r.houseAt) {
			r.houseAt = now.Add(houseEvery)
			r.keepHouse(now)
		}
		if len(r.later) == 0 {
			return
		}
	}
}

// keepHouse does what no event brings about.
func (r *router) keepHouse(now time.Time) {
	if own := r.node.grid.ownProof().Record; own != nil && own != r.own {
		r.own = own
		if m := memberOfRecord(own); m.Position() == r.routing.Self().Position() {
			r.routing.SetSelf(m)
		}
	}
	for peer, at := range r.leftAt {
		if now.Sub(at) > farewellTime {
			delete(r.leftAt, peer)
		}
	}
	r.carrier.keepHouse(now)
	r.boot.advance(now, r)
	r.names.keepHouse(now)
	r.seen.Store(r.snapshot(now))
}

// farewellTime is how long what still arrives of a member that has left does
// not bring it back.
const farewellTime = 5 * time.Second

// receive hands a message of a member to the protocol that it is for.
func (r *router) receive(now time.Time, c carried) {
	from := routing.PeerID(c.from)
	info := r.member(now, from)
	if info == nil {
		r.strangers.Add(1)
		return
	}
	switch c.protocol {
	case protocolRouting:
		r.carrier.used(now, from)
		r.routing.Receive(now, info.m, c.msg)
	case protocolSwim:
		if r.swim.State(from) == 0 && r.leftAt[from].IsZero() {
			r.watchMember(now, info.m)
		}
		r.swim.Receive(now, from, c.msg)
	case protocolMail:
		r.carrier.used(now, from)
		r.carrier.mailed(now, from)
		r.mailArrived(now, info.m, c.msg)
	case protocolAnnounce:
		r.names.announced(now, info.m, c.msg)
	default:
		r.malformed.Add(1)
	}
}

// watchMember begins to watch m. At the detector's limit it stays unwatched.
func (r *router) watchMember(now time.Time, m *routing.Member) {
	if r.swim.State(m.Peer) == 0 && r.swim.Add(now, m) == nil {
		r.tell(now, m, swim.Alive)
	}
}

// revoked forgets whom the newest revocation list names.
func (r *router) revoked(ctx context.Context) {
	_ = r.do(ctx, func(now time.Time) { // without routing there is nothing to forget
		r.routing.Forget(now)
		for _, m := range r.carrier.watched() {
			if r.node.grid.isRevoked(ri2n.PeerID(m.Peer)) {
				r.swim.Drop(m.Peer)
				r.tell(now, m, swim.Removed)
			}
		}
	})
}

// stateChanged is told of a member by the failure detector.
func (r *router) stateChanged(now time.Time, m *routing.Member, s swim.State) {
	switch s {
	case swim.Left:
		r.leftAt[m.Peer] = now
		fallthrough
	case swim.Removed:
		r.later = append(r.later, func(now time.Time) { r.routing.Gone(now, m) })
	}
	r.tell(now, m, s)
}

// leave says farewell to those who watch this node, before its sessions end.
func (r *router) leave() {
	if r == nil {
		return
	}
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := r.do(ctx, func(now time.Time) {
		r.swim.Leave(now)
		close(done)
	})
	if err == nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}
