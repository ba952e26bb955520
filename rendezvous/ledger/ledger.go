package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Ledger]. Store and Identity are required.
type Config struct {
	// Store is closed by its owner, after the ledger is no longer used.
	Store Store

	// Identity is the rendezvous's, whose key signs records.
	Identity *ri2n.Identity

	// Grids lists grids that anybody may set up here. Others need the claim
	// code, which holds for one grid, unless Open is set.
	Grids []membership.GridID

	// Open lets everybody set up a grid.
	Open bool

	// MaxGrids and MaxMembers (of one grid) are 64 and 16,384 if zero.
	MaxGrids, MaxMembers int
}

// Keys of the store. Everything of a grid lies below "grid/GRIDID/".
const (
	keySecret = "secret" // 32 bytes that position nonces are derived from
	keyClaim  = "claim"  // the claim code, while nobody has used it
	prefix    = "grid/"
)

func keyOf(grid membership.GridID, parts ...string) string {
	return prefix + grid.String() + "/" + strings.Join(parts, "/")
}

// A Ledger answers questions about grids.
type Ledger struct {
	cfg    Config
	key    ed25519.PrivateKey
	self   ri2n.PeerID
	secret [32]byte

	// changing is held for reading by whoever changes store and mirror, and for
	// writing by reload, which would otherwise miss what is just written.
	changing sync.RWMutex

	mu       sync.RWMutex // guards what follows, which mirrors the store
	revision uint64
	grids    map[membership.GridID]*grid
	members  map[ri2n.PeerID]int // in how many grids
	claim    bool                // somebody may still use the claim code
	counters Counters
}

// A grid is the mirror of one grid.
type grid struct {
	info    *membership.Grid
	encoded []byte
	revoked *membership.Revocations
	list    []byte // encoded revoked; nil: none
	members map[ri2n.PeerID]*entry
}

// An entry is one member.
type entry struct {
	joined  time.Time
	proof   *membership.Proof
	encoded []byte // what the store holds
	roles   membership.Roles
	until   time.Time // the end of the certificate
}

// Counters count since the start.
type Counters struct {
	Joins, JoinsRefused, Renewals, Published, Refused, Conflicts uint64
}

// Open returns a ledger of what the store holds.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if cfg.Store == nil || cfg.Identity == nil {
		return nil, errors.New("ledger: a store and an identity are required")
	}
	if cfg.MaxGrids <= 0 {
		cfg.MaxGrids = 64
	}
	if cfg.MaxMembers <= 0 {
		cfg.MaxMembers = 16_384
	}
	l := &Ledger{cfg: cfg, key: ed25519.NewKeyFromSeed(cfg.Identity.Seed()), self: cfg.Identity.PeerID()}
	var fresh [32]byte
	var claim [membership.ClaimSize]byte
	rand.Read(fresh[:])
	rand.Read(claim[:])
	err := cfg.Store.Update(ctx, func(tx Tx) error {
		secret, err := tx.Get(keySecret)
		switch {
		case err != nil:
			return err
		case len(secret) == len(l.secret):
			copy(l.secret[:], secret)
			return nil
		case secret != nil:
			return errors.New("ledger: the store's secret is damaged")
		}
		l.secret = fresh
		if err := tx.Put(keyClaim, claim[:]); err != nil {
			return err
		}
		return tx.Put(keySecret, fresh[:])
	})
	if err != nil {
		return nil, err
	}
	return l, l.reload(ctx)
}

// claimEncoding spells claim codes: 16 letters and digits.
var claimEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ParseClaim decodes a claim code.
func ParseClaim(s string) (c [membership.ClaimSize]byte, err error) {
	b, err := claimEncoding.DecodeString(strings.ToLower(strings.TrimSpace(s)))
	if err != nil || len(b) != len(c) {
		return c, errors.New("ledger: this is not a claim code of 16 letters and digits")
	}
	copy(c[:], b)
	return c, nil
}

// Claim returns the code with which the first grid is set up, empty once that
// has happened.
func (l *Ledger) Claim(ctx context.Context) (code string, err error) {
	err = l.cfg.Store.View(ctx, func(r Reader) error {
		b, err := r.Get(keyClaim)
		if len(b) == membership.ClaimSize {
			code = claimEncoding.EncodeToString(b)
		}
		return err
	})
	return code, err
}

// Refresh takes in what others have changed in the store. Where nobody else
// writes to it there is no need to call it.
func (l *Ledger) Refresh(ctx context.Context) error {
	revision, err := l.cfg.Store.Revision(ctx)
	if err != nil {
		return err
	}
	l.mu.RLock()
	same := revision == l.revision
	l.mu.RUnlock()
	if same {
		return nil
	}
	return l.reload(ctx)
}

// reload builds the mirror anew.
func (l *Ledger) reload(ctx context.Context) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	// The revision is read first: a change in between is seen the next time.
	revision, err := l.cfg.Store.Revision(ctx)
	if err != nil {
		return err
	}
	type raw struct {
		info, list []byte
		members    map[string][]byte
	}
	found := make(map[string]*raw)
	claim := false
	err = l.cfg.Store.View(ctx, func(r Reader) error {
		c, err := r.Get(keyClaim)
		if err != nil {
			return err
		}
		claim = len(c) > 0
		return r.Range(prefix, func(key string, value []byte) bool {
			id, rest, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
			g := found[id]
			if g == nil {
				g = &raw{members: make(map[string][]byte)}
				found[id] = g
			}
			kind, name, _ := strings.Cut(rest, "/")
			switch kind {
			case "info":
				g.info = bytes.Clone(value)
			case "revoked":
				g.list = bytes.Clone(value)
			case "member":
				g.members[name] = bytes.Clone(value)
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	grids := make(map[membership.GridID]*grid, len(found))
	members := make(map[ri2n.PeerID]int)
	l.mu.RLock()
	old := l.grids // reload alone replaces it, and nobody changes it now
	l.mu.RUnlock()
	for id, x := range found {
		info, err := membership.ParseGrid(x.info)
		if err != nil {
			return fmt.Errorf("ledger: the store's description of grid %s: %w", id, err)
		}
		g := &grid{info: info, encoded: x.info, members: make(map[ri2n.PeerID]*entry)}
		if x.list != nil {
			if g.revoked, err = membership.ParseRevocations(info.Key, x.list); err != nil {
				return fmt.Errorf("ledger: the store's revocations of grid %s: %w", info.Name, err)
			}
			g.list = x.list
		}
		var before map[ri2n.PeerID]*entry
		if o := old[info.ID()]; o != nil {
			before = o.members
		}
		for name, value := range x.members {
			if peer, err := ri2n.ParsePeerID(name); err == nil {
				if e := before[peer]; e != nil && bytes.Equal(e.encoded, value) {
					g.members[peer] = e
					members[peer]++
					continue
				}
			}
			e, err := parseEntry(value)
			if err != nil {
				return fmt.Errorf("ledger: the store's member %s of grid %s: %w", name, info.Name, err)
			}
			// What it is now; a chain that has ended is a member's no more.
			if a, err := membership.VerifyChain(e.proof.Chain, e.proof.Record.Peer, info.Key, nil, e.proof.Record.Issued); err == nil {
				e.roles, e.until = a.Roles, a.NotAfter
			}
			g.members[e.proof.Record.Peer] = e
			members[e.proof.Record.Peer]++
		}
		grids[info.ID()] = g
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grids, l.members, l.claim, l.revision = grids, members, claim, revision
	return nil
}

func parseEntry(b []byte) (*entry, error) {
	list, err := membership.ParsePage(b)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || list[0].Proof.Record == nil {
		return nil, membership.ErrMalformed
	}
	return &entry{joined: list[0].Joined, proof: list[0].Proof, encoded: bytes.Clone(b)}, nil
}

// lookup returns the mirror of a grid.
func (l *Ledger) lookup(id membership.GridID) (*grid, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if g := l.grids[id]; g != nil {
		return g, nil
	}
	return nil, &membership.Error{Problem: membership.NoGrid, What: "grid " + id.Short()}
}

// IsMember reports whether peer belongs to any grid at now: its certificate has
// not ended, and nobody has revoked it. A record that has run out does not
// count against it, since it comes to renew that.
func (l *Ledger) IsMember(now time.Time, peer ri2n.PeerID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.members[peer] == 0 {
		return false
	}
	for _, g := range l.grids {
		if e := g.members[peer]; e != nil && e.holds(now, g) {
			return true
		}
	}
	return false
}

func (e *entry) holds(now time.Time, g *grid) bool {
	return now.Add(-membership.Tolerance).Before(e.until) && !g.revoked.Has(e.proof.Record.Peer) && !g.revoked.Has(e.proof.Record.Invite)
}

// Expects reports whether strangers have something to ask for here: a grid to
// join, or one to set up.
func (l *Ledger) Expects() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.grids) > 0 || l.claim || l.cfg.Open || len(l.cfg.Grids) > 0
}

// Counts returns how many grids and members there are, and what was done.
func (l *Ledger) Counts() (grids, members int, c Counters) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.grids), len(l.members), l.counters
}

func (l *Ledger) count(f func(*Counters)) {
	l.mu.Lock()
	f(&l.counters)
	l.mu.Unlock()
}

// SetUp takes in a grid, or a newer description of one.
func (l *Ledger) SetUp(ctx context.Context, claim [membership.ClaimSize]byte, encoded []byte) error {
	info, err := membership.ParseGrid(encoded)
	if err != nil {
		return err
	}
	id, what := info.ID(), "grid "+info.Name
	if !info.IsLedger(l.self) {
		return &membership.Error{Problem: membership.NotLedger, What: what, Detail: "its description names other rendezvous servers"}
	}
	l.mu.RLock()
	full := l.grids[id] == nil && len(l.grids) >= l.cfg.MaxGrids
	l.mu.RUnlock()
	if full {
		return &membership.Error{Problem: membership.TooMany, What: "the rendezvous"}
	}
	listed := l.cfg.Open
	for _, g := range l.cfg.Grids {
		listed = listed || g == id
	}
	err = l.cfg.Store.Update(ctx, func(tx Tx) error {
		old, err := tx.Get(keyOf(id, "info"))
		if err != nil {
			return err
		}
		if old != nil {
			known, err := membership.ParseGrid(old)
			switch {
			case err != nil:
				return err
			case bytes.Equal(old, encoded):
				return nil
			case info.Sequence <= known.Sequence:
				return &membership.Error{Problem: membership.GridTaken, What: what}
			}
			return tx.Put(keyOf(id, "info"), encoded)
		}
		if !listed {
			code, err := tx.Get(keyClaim)
			if err != nil {
				return err
			}
			if len(code) == 0 || subtle.ConstantTimeCompare(code, claim[:]) != 1 {
				return &membership.Error{Problem: membership.BadClaim, What: what}
			}
			if err := tx.Delete(keyClaim); err != nil {
				return err
			}
		}
		return tx.Put(keyOf(id, "info"), encoded)
	})
	if err != nil {
		l.count(func(c *Counters) { c.Refused++ })
		return err
	}
	return l.reload(ctx)
}

// nonce places a peer, the same way each time.
func (l *Ledger) nonce(id membership.GridID, peer ri2n.PeerID) membership.Nonce {
	mac := hmac.New(sha256.New, l.secret[:])
	mac.Write(id[:])
	mac.Write(peer[:])
	return membership.Nonce(mac.Sum(nil))
}

// Join counts peer in, who shows a chain of the grid: it gets a record with a
// name and an address of its own. The invitation is used up in the same
// transaction. A peer that asks again gets its record again, and nothing is
// counted.
func (l *Ledger) Join(ctx context.Context, now time.Time, id membership.GridID, peer ri2n.PeerID, chain *membership.Chain) (*membership.Record, error) {
	r, err := l.join(ctx, now, id, peer, chain)
	l.count(func(c *Counters) {
		if err != nil {
			c.JoinsRefused++
		} else {
			c.Joins++
		}
	})
	return r, err
}

func (l *Ledger) join(ctx context.Context, now time.Time, id membership.GridID, peer ri2n.PeerID, chain *membership.Chain) (*membership.Record, error) {
	g, err := l.lookup(id)
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	revoked, list, full := g.revoked, g.list, len(g.members) >= l.cfg.MaxMembers && g.members[peer] == nil
	l.mu.RUnlock()
	a, err := membership.VerifyChain(chain, peer, g.info.Key, revoked, now)
	if err != nil {
		return nil, err
	}
	if full {
		return nil, &membership.Error{Problem: membership.TooMany, What: "grid " + g.info.Name}
	}
	invite := a.Invite.ID()
	l.changing.RLock()
	defer l.changing.RUnlock()
	var made *entry
	err = l.cfg.Store.Update(ctx, func(tx Tx) error {
		made = nil
		// A list that another server has just taken in counts.
		if current, err := tx.Get(keyOf(id, "revoked")); err != nil {
			return err
		} else if !bytes.Equal(current, list) {
			if revoked, err = membership.ParseRevocations(g.info.Key, current); err != nil {
				return err
			}
			if a, err = membership.VerifyChain(chain, peer, g.info.Key, revoked, now); err != nil {
				return err
			}
		}
		old, err := getEntry(tx, id, peer)
		if err != nil {
			return err
		}
		joined := now
		if old == nil || old.proof.Record.Invite != invite {
			if err := use(tx, id, a, now); err != nil {
				return err
			}
		}
		if err := takeName(tx, id, a, old); err != nil {
			return err
		}
		var addr netip.Addr
		if old != nil {
			joined, addr = old.joined, old.proof.Record.Address
		}
		if addr, err = takeAddress(tx, id, g.info.Network, peer, addr); err != nil {
			return err
		}
		made, err = l.put(tx, now, joined, chain, membership.Record{Grid: id, Peer: peer, Invite: invite, Name: a.Name, Address: addr})
		return err
	})
	if err != nil {
		return nil, err
	}
	made.roles, made.until = a.Roles, a.NotAfter
	l.learn(id, made)
	return made.proof.Record, nil
}

// put writes a member with a fresh record.
func (l *Ledger) put(tx Tx, now, joined time.Time, chain *membership.Chain, r membership.Record) (*entry, error) {
	r.Nonce = l.nonce(r.Grid, r.Peer)
	r.Issued, r.Expires = now, now.Add(membership.RecordLife)
	proof := &membership.Proof{Chain: chain, Record: membership.SignRecord(l.key, r)}
	e := &entry{joined: joined, proof: proof, encoded: membership.AppendPage(nil, joined, proof)}
	return e, tx.Put(keyOf(r.Grid, "member", r.Peer.String()), e.encoded)
}

// learn mirrors what was written.
func (l *Ledger) learn(id membership.GridID, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.grids[id]
	if g == nil {
		return
	}
	peer := e.proof.Record.Peer
	if g.members[peer] == nil {
		l.members[peer]++
	}
	g.members[peer] = e
}

func getEntry(tx Tx, id membership.GridID, peer ri2n.PeerID) (*entry, error) {
	b, err := tx.Get(keyOf(id, "member", peer.String()))
	if err != nil || b == nil {
		return nil, err
	}
	return parseEntry(b)
}

// use counts one use of an invitation.
func use(tx Tx, id membership.GridID, a *membership.Applicant, now time.Time) error {
	what := "the invitation"
	if now.Add(-membership.Tolerance).After(a.Invite.JoinBefore) {
		return &membership.Error{Problem: membership.InviteExpired, What: what, Until: a.Invite.JoinBefore, Now: now}
	}
	key := keyOf(id, "uses", a.Invite.ID().String())
	b, err := tx.Get(key)
	if err != nil {
		return err
	}
	var used uint32
	if len(b) == 4 {
		used = binary.BigEndian.Uint32(b)
	}
	if int(used) >= a.Invite.Uses {
		return &membership.Error{Problem: membership.InviteUsed, What: what, Detail: fmt.Sprintf("%d of %d", used, a.Invite.Uses)}
	}
	return tx.Put(key, binary.BigEndian.AppendUint32(nil, used+1))
}

// takeName makes the name the applicant's, and frees the one it had.
func takeName(tx Tx, id membership.GridID, a *membership.Applicant, old *entry) error {
	key := keyOf(id, "name", a.Name)
	b, err := tx.Get(key)
	if err != nil {
		return err
	}
	if b != nil && !bytes.Equal(b, a.Peer[:]) {
		return &membership.Error{Problem: membership.NameTaken, What: "name " + a.Name}
	}
	if old != nil && old.proof.Record.Name != a.Name {
		if err := tx.Delete(keyOf(id, "name", old.proof.Record.Name)); err != nil {
			return err
		}
	}
	if b != nil {
		return nil
	}
	return tx.Put(key, a.Peer[:])
}

// maxProbes bounds the search for a free address.
const maxProbes = 256

// takeAddress returns the address that peer has, or a free one: the first from
// a place that depends on the peer.
func takeAddress(tx Tx, id membership.GridID, network netip.Prefix, peer ri2n.PeerID, has netip.Addr) (netip.Addr, error) {
	if has.IsValid() && network.Contains(has) {
		return has, nil
	}
	if has.IsValid() {
		if err := tx.Delete(keyOf(id, "address", has.String())); err != nil {
			return netip.Addr{}, err
		}
	}
	size := uint32(1)<<(32-network.Bits()) - 2 // neither network nor broadcast address
	base := network.Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	offset := binary.BigEndian.Uint32(peer[:4]) % size
	for i := range min(size, maxProbes) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+1+(offset+i)%size)
		addr := netip.AddrFrom4(b)
		key := keyOf(id, "address", addr.String())
		owner, err := tx.Get(key)
		if err != nil {
			return netip.Addr{}, err
		}
		if owner == nil {
			return addr, tx.Put(key, peer[:])
		}
	}
	return netip.Addr{}, &membership.Error{Problem: membership.TooMany, What: "network " + network.String()}
}

// Renew gives a member a fresh record.
func (l *Ledger) Renew(ctx context.Context, now time.Time, id membership.GridID, peer ri2n.PeerID) (*membership.Record, error) {
	g, err := l.lookup(id)
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	revoked := g.revoked
	l.mu.RUnlock()
	l.changing.RLock()
	defer l.changing.RUnlock()
	var made *entry
	err = l.cfg.Store.Update(ctx, func(tx Tx) error {
		old, err := getEntry(tx, id, peer)
		if err != nil {
			return err
		}
		if old == nil {
			return &membership.Error{Problem: membership.NotMember, What: "peer " + peer.String()}
		}
		a, err := membership.VerifyChain(old.proof.Chain, peer, g.info.Key, revoked, now)
		if err != nil {
			return err
		}
		if made, err = l.put(tx, now, old.joined, old.proof.Chain, *old.proof.Record); err != nil {
			return err
		}
		made.roles, made.until = a.Roles, a.NotAfter
		return nil
	})
	if err != nil {
		l.count(func(c *Counters) { c.Refused++ })
		return nil, err
	}
	l.learn(id, made)
	l.count(func(c *Counters) { c.Renewals++ })
	return made.proof.Record, nil
}

// maxPage bounds a page of members, in bytes.
const maxPage = 32 << 10

// Members returns the members after one, in the order of peer IDs, encoded as
// a page. An empty page is the end. Only members may see them.
func (l *Ledger) Members(now time.Time, id membership.GridID, peer, after ri2n.PeerID) ([]byte, error) {
	g, err := l.lookup(id)
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if e := g.members[peer]; e == nil || !e.holds(now, g) {
		return nil, &membership.Error{Problem: membership.NotMember, What: "peer " + peer.String()}
	}
	list := make([]*entry, 0, len(g.members))
	for _, e := range g.members {
		if r := e.proof.Record; bytes.Compare(r.Peer[:], after[:]) > 0 && e.holds(now, g) {
			list = append(list, e)
		}
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i].proof.Record.Peer, list[j].proof.Record.Peer
		return bytes.Compare(a[:], b[:]) < 0
	})
	var page []byte
	for _, e := range list {
		if len(page)+len(e.encoded) > maxPage {
			break
		}
		page = append(page, e.encoded...)
	}
	return page, nil
}

// Grid returns the signed description of a grid.
func (l *Ledger) Grid(id membership.GridID) ([]byte, error) {
	g, err := l.lookup(id)
	if err != nil {
		return nil, err
	}
	return g.encoded, nil
}

// Revocations returns the sequence of the list, and the list if it is newer than
// one that is known.
func (l *Ledger) Revocations(id membership.GridID, known uint64) (uint64, []byte, error) {
	g, err := l.lookup(id)
	if err != nil {
		return 0, nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if g.revoked.Number() <= known {
		return g.revoked.Number(), nil, nil
	}
	return g.revoked.Number(), g.list, nil
}

// Publish takes in a newer list, and forgets the members that it names, whose
// names and addresses are then free. Who brings it does not matter: the grid
// key has signed it.
func (l *Ledger) Publish(ctx context.Context, id membership.GridID, encoded []byte) error {
	g, err := l.lookup(id)
	if err != nil {
		return err
	}
	l.changing.RLock()
	defer l.changing.RUnlock()
	list, err := membership.ParseRevocations(g.info.Key, encoded)
	if err == nil {
		err = l.cfg.Store.Update(ctx, func(tx Tx) error {
			old, err := tx.Get(keyOf(id, "revoked"))
			if err != nil {
				return err
			}
			if old != nil {
				known, err := membership.ParseRevocations(g.info.Key, old)
				switch {
				case err != nil:
					return err
				case bytes.Equal(old, encoded):
					return nil
				case list.Sequence <= known.Sequence:
					return &membership.Error{Problem: membership.OldList, What: "the revocation list"}
				}
			}
			return tx.Put(keyOf(id, "revoked"), encoded)
		})
	}
	if err != nil {
		l.count(func(c *Counters) { c.Refused++ })
		return err
	}
	l.mu.Lock()
	l.counters.Published++
	g = l.grids[id] // never nil: grids stay
	if list.Sequence > g.revoked.Number() {
		g.revoked, g.list = list, bytes.Clone(encoded)
	}
	var gone []ri2n.PeerID
	for peer, e := range g.members {
		if list.Has(peer) || list.Has(e.proof.Record.Invite) {
			gone = append(gone, peer)
		}
	}
	l.mu.Unlock()
	// The list already keeps these out; what follows frees what they held.
	for _, peer := range gone {
		if err := l.forget(ctx, id, peer); err != nil {
			return err
		}
	}
	return nil
}

// forget deletes a member.
func (l *Ledger) forget(ctx context.Context, id membership.GridID, peer ri2n.PeerID) error {
	err := l.cfg.Store.Update(ctx, func(tx Tx) error {
		e, err := getEntry(tx, id, peer)
		if err != nil || e == nil {
			return err
		}
		r := e.proof.Record
		for _, key := range []string{keyOf(id, "member", peer.String()), keyOf(id, "name", r.Name), keyOf(id, "address", r.Address.String())} {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.grids[id]; g != nil && g.members[peer] != nil {
		delete(g.members, peer)
		if l.members[peer]--; l.members[peer] <= 0 {
			delete(l.members, peer)
		}
	}
	return nil
}

// Answer does what peer, whose key its session has proven, asks for. It always
// returns an encoded answer.
func (l *Ledger) Answer(ctx context.Context, now time.Time, peer ri2n.PeerID, request []byte) []byte {
	result, err := l.answer(ctx, now, peer, request)
	if err != nil {
		return membership.AppendFailure(nil, err)
	}
	return membership.AppendAnswer(nil, result)
}

func (l *Ledger) answer(ctx context.Context, now time.Time, peer ri2n.PeerID, request []byte) ([]byte, error) {
	q, err := membership.ParseRequest(request)
	if err != nil {
		return nil, err
	}
	switch q.Op {
	case membership.OpSetUp:
		return nil, l.SetUp(ctx, q.Claim, q.Body)
	case membership.OpGrid:
		return l.Grid(q.Grid)
	case membership.OpJoin:
		chain, err := membership.ParseChain(q.Body)
		if err != nil {
			return nil, err
		}
		r, err := l.Join(ctx, now, q.Grid, peer, chain)
		if err != nil {
			return nil, err
		}
		return membership.AppendRecord(nil, r), nil
	case membership.OpRenew:
		r, err := l.Renew(ctx, now, q.Grid, peer)
		if err != nil {
			return nil, err
		}
		return membership.AppendRecord(nil, r), nil
	case membership.OpMembers:
		return l.Members(now, q.Grid, peer, q.After)
	case membership.OpRevocations:
		sequence, list, err := l.Revocations(q.Grid, q.Sequence)
		if err != nil {
			return nil, err
		}
		return membership.AppendListAnswer(nil, sequence, list), nil
	case membership.OpPublish:
		return nil, l.Publish(ctx, q.Grid, q.Body)
	}
	return nil, membership.ErrMalformed
}
