package overlay

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxMembers bounds the members that a node knows.
	maxMembers = 65_536
	// maxCandidates bounds the sessions of peers that have yet to show their
	// membership, and candidateLife how long a place is kept.
	maxCandidates = 64
	candidateLife = strangerLife
	// staleTime is how old the confirmation of the revocation list may be
	// (security.md, section 2).
	staleTime = 10 * time.Minute
)

// A known is a member whose proof was verified.
type known struct {
	member *membership.Member
	proof  *membership.Proof
	joined time.Time // zero: not told by the ledger
}

// A gridTable holds what a node knows of its grid. It is safe for concurrent
// use. Without a grid it admits nobody.
type gridTable struct {
	dir    directory
	self   ri2n.PeerID
	damage error // what loading found; nil: nothing

	mu         sync.Mutex // guards what follows
	info       *membership.Grid
	own        *membership.Proof
	me         *membership.Member // nil: our membership does not hold now
	why        error              // why not
	revoked    *membership.Revocations
	list       []byte // encoded revoked
	members    map[ri2n.PeerID]*known
	names      map[string]ri2n.PeerID
	addresses  map[netip.Addr]ri2n.PeerID
	unsaved    bool // members were learned since they were last stored
	candidates []stranger
	policy     *policy
	confirmed  time.Time // when a ledger last said that the list is the newest
	hidden     bool      // a ledger offers an older list than we have
	namesake   string    // what a member said who knows another one of our name
}

// loadGrid reads the files of a member. A directory without them is one of a
// node that belongs to no grid.
func loadGrid(dir directory, self ri2n.PeerID, now time.Time) (*gridTable, error) {
	t := &gridTable{
		dir: dir, self: self, policy: &policy{}, confirmed: now,
		members: make(map[ri2n.PeerID]*known), names: make(map[string]ri2n.PeerID), addresses: make(map[netip.Addr]ri2n.PeerID),
	}
	b, err := dir.read(fileGrid)
	if err != nil || b == nil {
		return t, err
	}
	bad := func(name string, err error) (*gridTable, error) {
		return nil, &StateError{File: dir.path(name), Err: err}
	}
	if t.info, err = membership.ParseGrid(b); err != nil {
		return bad(fileGrid, errNotGrid)
	}
	if b, err = dir.read(fileRevocations); err != nil {
		return nil, err
	} else if b != nil {
		if t.revoked, err = membership.ParseRevocations(t.info.Key, b); err != nil {
			return bad(fileRevocations, errNotRevocations)
		}
		t.list = b
	}
	if b, err = dir.read(fileMembership); err != nil {
		return nil, err
	}
	if b != nil {
		proof, rest, err := membership.ParseProof(b)
		if err != nil || len(rest) > 0 {
			return bad(fileMembership, errNotMembership)
		}
		t.own = proof
		// Ours comes first: name and address are held by whom we know first.
		t.me, t.why = t.learn(now, self, proof, time.Time{})
	}
	// Who was known before. A file that is damaged costs a question to the
	// ledger.
	if b, err = dir.read(fileMembers); err == nil && b != nil {
		list, err := membership.ParsePage(b)
		if err != nil {
			t.damage = &StateError{File: dir.path(fileMembers), Err: errDamaged, Harmless: true}
		}
		for _, x := range list {
			_, _ = t.learn(now, x.Proof.Peer(), x.Proof, x.Joined) // what no longer holds is left out
		}
	}
	t.unsaved = false
	return t, err
}

var (
	errNotGrid        = errors.New("this is not the description of a grid")
	errNotMembership  = errors.New("this is not a membership file")
	errNotRevocations = errors.New("this is not a revocation list of the grid")
)

// member reports whether the node belongs to a grid.
func (t *gridTable) member() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own != nil
}

func (t *gridTable) ownProof() *membership.Proof {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own
}

// ledgerless reports whether the node belongs to a grid without a ledger.
func (t *gridTable) ledgerless() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info != nil && t.info.Ledgerless()
}

// learn verifies a proof and keeps its member. A name stays whose it is until
// that membership ends, whatever a ledger says, and so does an IPv4 address: the
// member who comes second has none here.
func (t *gridTable) learn(now time.Time, peer ri2n.PeerID, p *membership.Proof, joined time.Time) (*membership.Member, error) {
	t.mu.Lock()
	info, revoked := t.info, t.revoked
	t.mu.Unlock()
	if info == nil {
		return nil, errNoGrid
	}
	m, err := membership.Verify(p, peer, info, revoked, now)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if holder, taken := t.names[m.Name]; taken && holder != peer {
		if k := t.members[holder]; k != nil && t.validLocked(k.member, now) {
			return nil, &membership.Error{Problem: membership.NameTaken, What: "the name " + m.Name, Detail: "peer " + holder.String()}
		}
		t.forgetAddressesLocked(holder)
		delete(t.members, holder)
	}
	old := t.members[peer]
	if old == nil && len(t.members) >= maxMembers {
		return nil, &membership.Error{Problem: membership.TooMany, What: "the list of members"}
	}
	if old != nil {
		if joined.IsZero() {
			joined = old.joined
		}
		if old.member.Issued.After(m.Issued) && t.validLocked(old.member, now) {
			old.joined = joined
			return old.member, nil
		}
		if old.member.Name != m.Name {
			delete(t.names, old.member.Name)
		}
	}
	t.forgetAddressesLocked(peer)
	t.unsaved = t.unsaved || old == nil || old.member.Issued.Before(m.Issued)
	t.members[peer] = &known{m, p, joined}
	t.names[m.Name] = peer
	t.keepAddressesLocked(m, now)
	return m, nil
}

var errNoGrid = errors.New("overlay: this node belongs to no grid")

// validLocked reports whether m is a member at now.
func (t *gridTable) validLocked(m *membership.Member, now time.Time) bool {
	return now.Add(-membership.Tolerance).Before(m.Expires) && !t.revoked.Has(m.Peer) && !t.revoked.Has(m.Invite)
}

// memberOf returns the member that peer is at now, nil if it is none that we
// know.
func (t *gridTable) memberOf(now time.Time, peer ri2n.PeerID) *membership.Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.members[peer]; k != nil && t.validLocked(k.member, now) {
		return k.member
	}
	return nil
}

// isRevoked reports whether the grid has taken peer back, or whom it came with.
func (t *gridTable) isRevoked(peer ri2n.PeerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked.Has(peer) {
		return true
	}
	k := t.members[peer]
	return k != nil && t.revoked.Has(k.member.Invite)
}

// stale reports whether nobody has confirmed the list for too long.
func (t *gridTable) stale(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.staleLocked(now)
}

func (t *gridTable) staleLocked(now time.Time) bool {
	return t.own != nil && !t.info.Ledgerless() && now.Sub(t.confirmed) >= staleTime
}

// welcomes reports whether members may open sessions now.
func (t *gridTable) welcomes(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own != nil && !(t.policy.stale == staleRefuse && t.staleLocked(now))
}

// expects reports whether somebody unknown may come and show its membership.
func (t *gridTable) expects(now time.Time) bool {
	if !t.welcomes(now) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.candidates = slices.DeleteFunc(t.candidates, func(x stranger) bool { return !now.Before(x.until) })
	return len(t.candidates) < maxCandidates
}

// reserve takes a place for somebody unknown.
func (t *gridTable) reserve(now time.Time, peer ri2n.PeerID) bool {
	if !t.expects(now) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.candidates = append(t.candidates, stranger{peer, now.Add(candidateLife)})
	return true
}

// release gives a place back.
func (t *gridTable) release(peer ri2n.PeerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, x := range t.candidates {
		if x.peer == peer {
			t.candidates = slices.Delete(t.candidates, i, i+1)
			return
		}
	}
}

// opens reports whether the policy lets peer connect to port.
func (t *gridTable) opens(now time.Time, peer ri2n.PeerID, port uint16) bool {
	m := t.memberOf(now, peer)
	t.mu.Lock()
	p := t.policy
	t.mu.Unlock()
	return m != nil && p.opens(m, port)
}

// setPolicy puts p in force.
func (t *gridTable) setPolicy(p *policy) {
	t.mu.Lock()
	t.policy = p
	t.mu.Unlock()
}

// adopt takes in a list that is newer than ours and stores it. It reports
// whether it is.
func (t *gridTable) adopt(now time.Time, encoded []byte) (bool, error) {
	t.mu.Lock()
	info := t.info
	t.mu.Unlock()
	if info == nil {
		return false, errNoGrid
	}
	l, err := membership.ParseRevocations(info.Key, encoded)
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.Sequence <= t.revoked.Number() {
		return false, nil
	}
	// What is lost by a crash comes again from a peer or the ledger.
	if err := t.dir.write(fileRevocations, encoded); err != nil {
		return false, err
	}
	t.revoked, t.list = l, append([]byte(nil), encoded...)
	if t.own != nil {
		t.me, t.why = membership.Verify(t.own, t.self, t.info, t.revoked, now)
	}
	return true, nil
}

// nameTaken notes that a member knows another one of our name.
func (t *gridTable) nameTaken(reason string) {
	t.mu.Lock()
	t.namesake = reason
	t.mu.Unlock()
}

// listed returns the list and its sequence.
func (t *gridTable) listed() (uint64, []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.revoked.Number(), t.list
}

// confirm notes that a ledger has the same list as we.
func (t *gridTable) confirm(now time.Time) {
	t.mu.Lock()
	t.confirmed = now
	t.mu.Unlock()
}

// setOwn stores a fresh record of ours.
func (t *gridTable) setOwn(now time.Time, r *membership.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &membership.Proof{Chain: t.own.Chain, Record: r}
	m, err := membership.Verify(p, t.self, t.info, t.revoked, now)
	if err != nil {
		return err
	}
	if err := t.dir.write(fileMembership, membership.AppendProof(nil, p)); err != nil {
		return err
	}
	t.own, t.me, t.why = p, m, nil
	if k := t.members[t.self]; k != nil {
		m.Address = k.member.Address
		t.members[t.self] = &known{m, p, k.joined}
	}
	return nil
}

// store keeps the members for the next start, if there are new ones.
func (t *gridTable) store(now time.Time) error {
	var b []byte
	t.mu.Lock()
	if !t.unsaved {
		t.mu.Unlock()
		return nil
	}
	t.unsaved = false
	for _, k := range t.members {
		if len(b) < maxStateFile-membership.MaxProof && t.validLocked(k.member, now) {
			b = membership.AppendPage(b, k.joined, k.proof)
		}
	}
	t.mu.Unlock()
	err := t.dir.write(fileMembers, b)
	if err != nil {
		t.mu.Lock()
		t.unsaved = true
		t.mu.Unlock()
	}
	return err
}

// lookup returns the peer of that name, a member at now.
func (t *gridTable) lookup(now time.Time, name string) (ri2n.PeerID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, found := t.names[name]
	if !found {
		return id, false
	}
	k := t.members[id]
	return id, k != nil && t.validLocked(k.member, now)
}

// label returns the part of a name that names a member: "alice", "alice.lab" and
// "alice.lab.grid" are one in the grid lab.
func (t *gridTable) label(name string) (string, error) {
	t.mu.Lock()
	info := t.info
	t.mu.Unlock()
	text := strings.TrimSuffix(strings.ToLower(name), ".")
	if info == nil {
		return "", &NameError{Name: name, Problem: "this node belongs to no grid, and only grids have names"}
	}
	text = strings.TrimSuffix(text, ".grid")
	if label, grid, found := strings.Cut(text, "."); found {
		if grid != info.Name {
			return "", &NameError{Name: name, Problem: "it is a name of grid " + grid + ", and this node belongs to grid " + info.Name, Member: true}
		}
		text = label
	}
	if membership.CheckName(text) != nil {
		return "", &NameError{Name: name, Problem: "it is neither a peer ID nor a name", Member: true}
	}
	return text, nil
}

// A NameError is a name that no member has.
type NameError struct {
	Name    string
	Problem string
	Member  bool // this node belongs to a grid
}

func (e *NameError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object shows the name.
func (e *NameError) Object() string { return "name " + e.Name }

// Cause says why nobody has it.
func (e *NameError) Cause() string { return e.Problem }

// Next says what to do.
func (e *NameError) Next() string {
	if !e.Member {
		return "join a grid (grid join TOKEN), or use a peer ID, as grid id prints it"
	}
	return "see who belongs to the grid: grid members"
}

// MemberStatus describes a member of the node's grid.
type MemberStatus struct {
	Name       string           `json:"name"`
	Peer       ri2n.PeerID      `json:"peer"`
	Roles      membership.Roles `json:"roles"`
	Address    netip.Addr       `json:"address,omitzero"` // none: another member has it
	Address6   netip.Addr       `json:"address6"`
	Invite     ri2n.PeerID      `json:"invite"` // the invite key it came with; can be revoked
	Joined     time.Time        `json:"joined,omitzero"`
	ValidUntil time.Time        `json:"valid_until"` // of the record, which is renewed by itself
	CertUntil  time.Time        `json:"certificate_until"`
	Self       bool             `json:"self"`
	Connected  bool             `json:"connected"` // there is a session now
}

// GridStatus describes the node's own membership.
type GridStatus struct {
	Name        string            `json:"name"`
	ID          membership.GridID `json:"id"`
	Self        *MemberStatus     `json:"self,omitempty"`  // nil: the membership does not hold
	Error       string            `json:"error,omitempty"` // why not
	Ledgerless  bool              `json:"ledgerless,omitempty"`
	Members     int               `json:"members"`              // known, this node included
	Revocations uint64            `json:"revocations"`          // sequence of the list
	Confirmed   time.Time         `json:"confirmed"`            // when a ledger last said that this is the newest
	Stale       bool              `json:"stale"`                // that is ten minutes ago
	Hidden      bool              `json:"hidden"`               // the ledger offers an older list than members have
	NameTaken   string            `json:"name_taken,omitempty"` // what a member said who knows another one of our name
}

func (t *gridTable) describe(m *membership.Member, joined time.Time) MemberStatus {
	return MemberStatus{
		Name: m.Name, Peer: m.Peer, Roles: m.Roles, Address: m.Address, Address6: t.info.ID().Address6(m.Peer),
		Invite: m.Invite, Joined: joined, ValidUntil: m.Expires, CertUntil: m.CertificateExpires, Self: m.Peer == t.self,
	}
}

// status returns what is known, nil without a grid.
func (t *gridTable) status(now time.Time) *GridStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.info == nil {
		return nil
	}
	s := &GridStatus{
		Name: t.info.Name, ID: t.info.ID(), Revocations: t.revoked.Number(), Confirmed: t.confirmed,
		Stale: t.staleLocked(now), Hidden: t.hidden, Ledgerless: t.info.Ledgerless(), NameTaken: t.namesake,
	}
	if t.me != nil {
		self := t.describe(t.me, time.Time{})
		s.Self = &self
	} else if t.why != nil {
		s.Error = t.why.Error()
	}
	for _, k := range t.members {
		if t.validLocked(k.member, now) {
			s.Members++
		}
	}
	return s
}

// list returns the members at now, by name.
func (t *gridTable) listMembers(now time.Time) []MemberStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []MemberStatus{}
	for _, k := range t.members {
		if t.validLocked(k.member, now) {
			list = append(list, t.describe(k.member, k.joined))
		}
	}
	slices.SortFunc(list, func(a, b MemberStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}
