package overlay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	maxInvitations = 64 // open ones of a node, as many as a rendezvous keeps
	maxStrangers   = 16 // sessions that wait for a proof (security.md, rule 10)
	maxFailures    = 3  // wrong proofs of one source
	maxSources     = 1024
	failureMemory  = 10 * time.Minute
	// strangerLife is how long a stranger's place is kept at most: a
	// handshake of 10 s and the time for the proof.
	strangerLife = 10*time.Second + proofTime
)

// An Invitation is a one-time token that this node has made. The first peer
// to prove that it holds the token is its guest; only that peer may connect,
// again and again, until Close.
type Invitation struct {
	// Token is the token's text form, a secret.
	Token string

	node    *Node
	token   *rendezvous.Token
	file    string        // in the node's directory
	pinned  chan struct{} // closed once guest is set
	gone    chan struct{} // closed by Close, and by expiry without a guest
	guest   ri2n.PeerID   // guarded by the table's mutex until pinned is closed
	expired bool          // the same until gone is closed
}

// A source is whom a wrong proof is counted against: an address prefix, or a
// peer where the relay hides the address.
type source struct {
	prefix netip.Prefix
	peer   ri2n.PeerID
}

type failures struct {
	count int
	last  time.Time
}

// An invitationTable holds a node's open invitations and those who come with
// one. It is safe for concurrent use.
type invitationTable struct {
	dir directory

	mu        sync.Mutex // guards what follows
	open      map[*Invitation]struct{}
	strangers []stranger
	failed    map[source]failures
}

// A stranger is one handshake or session of a peer that has proven nothing.
type stranger struct {
	peer  ri2n.PeerID
	until time.Time // its place is kept no longer
}

// An invitation file has the token's text on its first line and "guest PEERID"
// on its second once somebody has used it.
const guestWord = "guest "

func appendInvitationFile(b []byte, inv *Invitation) []byte {
	b = append(append(b, inv.token.Encode()...), '\n')
	if !inv.guest.IsZero() {
		b = append(append(append(b, guestWord...), inv.guest.String()...), '\n')
	}
	return b
}

var errNotInvitation = errors.New("this is not an invitation file")

func parseInvitationFile(b []byte) (*rendezvous.Token, ri2n.PeerID, error) {
	first, rest, _ := strings.Cut(string(b), "\n")
	token, err := rendezvous.ParseToken(first)
	if err != nil {
		return nil, ri2n.PeerID{}, errNotInvitation
	}
	if rest == "" {
		return token, ri2n.PeerID{}, nil
	}
	who, found := strings.CutPrefix(strings.TrimSuffix(rest, "\n"), guestWord)
	if !found {
		return nil, ri2n.PeerID{}, errNotInvitation
	}
	guest, err := ri2n.ParsePeerID(who)
	if err != nil {
		return nil, ri2n.PeerID{}, errNotInvitation
	}
	return token, guest, nil
}

func newInvitation(t *rendezvous.Token) *Invitation {
	digest := t.AdmitKey().Digest()
	return &Invitation{
		Token:  t.Encode(),
		token:  t,
		file:   filepath.Join(folderTokens, hex.EncodeToString(digest[:8])),
		pinned: make(chan struct{}),
		gone:   make(chan struct{}),
	}
}

// loadInvitations reads the open invitations of a directory. Those that have
// expired without a guest are deleted.
func loadInvitations(dir directory, now time.Time) (*invitationTable, error) {
	t := &invitationTable{
		dir:    dir,
		open:   make(map[*Invitation]struct{}),
		failed: make(map[source]failures),
	}
	if dir == "" {
		return t, nil
	}
	err := dir.eachInvitation(func(name string, token *rendezvous.Token, guest ri2n.PeerID) error {
		if len(t.open) >= maxInvitations {
			return nil
		}
		inv := newInvitation(token)
		inv.file = name
		if !guest.IsZero() {
			inv.guest = guest
			close(inv.pinned)
		} else if token.Check(now) != nil {
			return dir.remove(name)
		}
		t.open[inv] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// checkInvitations reads the invitations of a directory.
func checkInvitations(dir directory) error {
	return dir.eachInvitation(func(string, *rendezvous.Token, ri2n.PeerID) error { return nil })
}

// eachInvitation calls f for each invitation that is stored, until an error.
func (d directory) eachInvitation(f func(name string, token *rendezvous.Token, guest ri2n.PeerID) error) error {
	if d == "" {
		return nil
	}
	entries, err := os.ReadDir(d.path(folderTokens))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return &StateError{File: d.path(folderTokens), Err: err}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			continue
		}
		name := filepath.Join(folderTokens, e.Name())
		b, err := d.read(name)
		if err != nil {
			return err
		}
		token, guest, err := parseInvitationFile(b)
		if err != nil {
			return &StateError{File: d.path(name), Err: errNotInvitation}
		}
		if err := f(name, token, guest); err != nil {
			return err
		}
	}
	return nil
}

// isGuest reports whether peer has used an invitation that is still open.
func (t *invitationTable) isGuest(peer ri2n.PeerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for inv := range t.open {
		if inv.guest == peer && !peer.IsZero() {
			return true
		}
	}
	return false
}

// expects reports whether a stranger may come: an invitation waits, and there
// is room.
func (t *invitationTable) expects(peer ri2n.PeerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expectsLocked(time.Now(), peer)
}

func (t *invitationTable) expectsLocked(now time.Time, peer ri2n.PeerID) bool {
	waiting := false
	for inv := range t.open {
		waiting = waiting || inv.guest.IsZero() && inv.token.Check(now) == nil
	}
	if !waiting || t.failed[source{peer: peer}].count >= maxFailures {
		return false
	}
	t.strangers = slices.DeleteFunc(t.strangers, func(x stranger) bool { return !now.Before(x.until) })
	return len(t.strangers) < maxStrangers
}

// reserve takes a stranger's place until its proof is due.
func (t *invitationTable) reserve(peer ri2n.PeerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.expectsLocked(now, peer) {
		return false
	}
	t.strangers = append(t.strangers, stranger{peer: peer, until: now.Add(strangerLife)})
	return true
}

// release gives one place of a stranger's back.
func (t *invitationTable) release(peer ri2n.PeerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, x := range t.strangers {
		if x.peer == peer {
			t.strangers = slices.Delete(t.strangers, i, i+1)
			return
		}
	}
}

// hasFailed reports whether a source has shown too many wrong proofs.
func (t *invitationTable) hasFailed(now time.Time, s source) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.failed[s]
	return f.count >= maxFailures && now.Sub(f.last) < failureMemory
}

// fail counts a wrong proof. A full table forgets what is old, or all.
func (t *invitationTable) fail(now time.Time, s source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.failed[s]; !known && len(t.failed) >= maxSources {
		for other, f := range t.failed {
			if now.Sub(f.last) >= failureMemory {
				delete(t.failed, other)
			}
		}
		if len(t.failed) >= maxSources {
			clear(t.failed)
		}
	}
	f := t.failed[s]
	if now.Sub(f.last) >= failureMemory {
		f.count = 0
	}
	t.failed[s] = failures{count: f.count + 1, last: now}
}

// check finds the invitation that mac proves and pins peer to it. It reports
// the invitation if peer is its guest now.
func (t *invitationTable) check(now time.Time, peer ri2n.PeerID, exporter []byte, mac [32]byte) *Invitation {
	t.mu.Lock()
	defer t.mu.Unlock()
	for inv := range t.open {
		if !rendezvous.VerifyProof(inv.token.PeerKey(), exporter, mac[:]) {
			continue
		}
		switch {
		case inv.guest == peer:
			return inv
		case inv.guest.IsZero() && inv.token.Check(now) == nil:
			inv.guest = peer
			close(inv.pinned)
			return inv
		}
		return nil
	}
	return nil
}

// expire closes invitations that nobody has used in time, and forgets wrong
// proofs of long ago.
func (t *invitationTable) expire(now time.Time) {
	t.mu.Lock()
	var over []*Invitation
	for inv := range t.open {
		if inv.guest.IsZero() && inv.token.Check(now) != nil {
			inv.expired = true
			over = append(over, inv)
		}
	}
	for s, f := range t.failed {
		if now.Sub(f.last) >= failureMemory {
			delete(t.failed, s)
		}
	}
	t.mu.Unlock()
	for _, inv := range over {
		inv.Close()
	}
}

// sourceOf returns whom wrong proofs of a session count against.
func sourceOf(s *ri2n.Session) source {
	for _, p := range s.Paths() {
		if p.Sending && !p.Carrier && p.Remote.IsValid() {
			bits := 24
			if p.Remote.Addr().Is6() {
				bits = 56
			}
			prefix, err := p.Remote.Addr().Prefix(bits)
			if err == nil {
				return source{prefix: prefix}
			}
		}
	}
	return source{peer: s.Peer()}
}

// mayProve reports whether the peer of a stranger's session gets a try.
func (n *Node) mayProve(a *association) bool {
	if !n.invitations.hasFailed(time.Now(), sourceOf(a.session)) {
		return true
	}
	n.counters.proofsRefused.Add(1)
	return false
}

// checkProof lets the holder of a token in.
func (n *Node) checkProof(a *association, exporter []byte, mac [32]byte) error {
	inv := n.invitations.check(time.Now(), a.peer.id, exporter, mac)
	if inv == nil {
		n.refuseProof(a)
		return errProof
	}
	if err := n.dir.write(inv.file, appendInvitationFile(nil, inv)); err != nil {
		n.log.Warn("the guest of an invitation is not stored", "err", err)
	}
	n.log.Info("token used", "peer", a.peer.id)
	return nil
}

// refuseProof counts a proof that does not hold, or is none.
func (n *Node) refuseProof(a *association) {
	n.counters.proofsRefused.Add(1)
	n.invitations.fail(time.Now(), sourceOf(a.session))
}

// Invite makes a one-time token (security.md, section 1, rule 10) valid for
// ttl: its text, and a handle that tells who used it. Zero means 24 h. It
// returns once the rendezvous has agreed to let the token's holder in. With a
// Dir the invitation survives the process; see [Node.Invitations].
func (n *Node) Invite(ctx context.Context, ttl time.Duration) (*Invitation, error) {
	if ttl <= 0 {
		ttl = rendezvous.TokenLifetime
	}
	n.mu.Lock()
	home, closed := n.home, n.closed
	n.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case home == nil:
		return nil, &NoWayError{}
	}
	token, err := rendezvous.NewToken(rand.Reader, home.Server(), n.PeerID(), time.Now().Add(ttl))
	if err != nil {
		return nil, err
	}
	inv := newInvitation(token)
	inv.node = n
	t := n.invitations
	t.mu.Lock()
	full := len(t.open) >= maxInvitations
	if !full {
		t.open[inv] = struct{}{}
	}
	t.mu.Unlock()
	if full {
		return nil, &TooManyError{What: "open invitations", Limit: maxInvitations}
	}
	if n.dir != "" {
		err = n.dir.create(inv.file, appendInvitationFile(nil, inv))
	}
	if err == nil {
		err = home.Deposit(ctx, token)
	}
	if err != nil {
		inv.Close()
		return nil, err
	}
	return inv, nil
}

// Invitations returns the open invitations, those of an earlier process with
// the same Dir among them, the first to expire first.
func (n *Node) Invitations() []*Invitation {
	t := n.invitations
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*Invitation, 0, len(t.open))
	for inv := range t.open {
		list = append(list, inv)
	}
	slices.SortFunc(list, func(a, b *Invitation) int {
		if c := a.token.Expiry.Compare(b.token.Expiry); c != 0 {
			return c
		}
		return strings.Compare(a.Token, b.Token)
	})
	return list
}

// resumeInvitations deposits what an earlier process left.
func (n *Node) resumeInvitations(home *rendezvous.Client) {
	for _, inv := range n.Invitations() {
		if inv.token.Server == home.Server() {
			n.spawn(func() {
				if err := home.Deposit(n.ctx, inv.token); err != nil && n.ctx.Err() == nil {
					n.log.Warn("an invitation is not known at the rendezvous", "err", err)
				}
			})
		}
	}
}

// Expiry returns until when a guest may come.
func (i *Invitation) Expiry() time.Time { return i.token.Expiry }

// Guest returns the peer that has used the token, false if nobody has.
func (i *Invitation) Guest() (ri2n.PeerID, bool) {
	if !isClosed(i.pinned) {
		return ri2n.PeerID{}, false
	}
	return i.guest, true
}

// Wait returns the peer that has proven to hold the token, once there is one.
// It returns a [*rendezvous.TokenError] when the token has expired before, and
// [ErrClosed] after Close.
func (i *Invitation) Wait(ctx context.Context) (ri2n.PeerID, error) {
	select {
	case <-i.pinned:
		return i.guest, nil
	default:
	}
	timer := time.NewTimer(time.Until(i.token.Expiry))
	defer timer.Stop()
	select {
	case <-i.pinned:
		return i.guest, nil
	case <-timer.C:
		return ri2n.PeerID{}, i.token.Check(time.Now())
	case <-i.gone:
		if i.expired {
			return ri2n.PeerID{}, i.token.Check(time.Now())
		}
		return ri2n.PeerID{}, ErrClosed
	case <-i.node.ctx.Done():
		return ri2n.PeerID{}, ErrClosed
	case <-ctx.Done():
		return ri2n.PeerID{}, ctx.Err()
	}
}

// Close takes the invitation back: its token and its file are worthless from
// now on. Sessions that its guest has open go on. It may be called twice.
//
// A node that closes leaves its invitations in Dir.
func (i *Invitation) Close() error {
	t := i.node.invitations
	t.mu.Lock()
	_, open := t.open[i]
	delete(t.open, i)
	if open {
		close(i.gone)
	}
	t.mu.Unlock()
	if !open {
		return nil
	}
	i.node.mu.Lock()
	home := i.node.home
	i.node.mu.Unlock()
	if home != nil && home.Server() == i.token.Server {
		home.Withdraw(i.token)
	}
	return i.node.dir.remove(i.file)
}

// Redeem uses a one-time token: it shows kAdmit at the token's rendezvous,
// connects to its maker and proves kPeer on the first stream. It returns once
// the maker has accepted the proof, or a [*rendezvous.TokenError], a
// [*rendezvous.RefusedError] or a [*TokenRefusedError]. The same node may
// redeem the token again, until the maker closes the invitation.
func (n *Node) Redeem(ctx context.Context, token string) (*Peer, error) {
	t, err := rendezvous.ParseToken(token)
	if err != nil {
		return nil, err
	}
	if err := t.Check(time.Now()); err != nil {
		return nil, err
	}
	if t.Sender == n.PeerID() {
		return nil, &TokenRefusedError{Peer: t.Sender, Own: true}
	}
	client, err := n.client(t.Server, t.AdmitKey())
	if err != nil {
		return nil, err
	}
	if err := client.Admit(ctx, t.AdmitKey()); err != nil {
		return nil, err
	}
	p := n.peerByID(t.Sender)
	key := t.PeerKey()
	p.mu.Lock()
	p.token, p.via = &key, client
	existing := p.bestLocked()
	p.mu.Unlock()
	if existing != nil {
		m, err := existing.makeProof(key)
		if err != nil {
			return nil, err
		}
		existing.send(m)
	}
	a, err := p.connect(ctx)
	if err == nil {
		// The answer to a ping comes after the proof has been accepted.
		_, err = a.ping(ctx)
	}
	if err != nil {
		return nil, tokenRefused(t.Sender, err)
	}
	return p, nil
}

// tokenRefused finds the maker's refusal in err.
func tokenRefused(maker ri2n.PeerID, err error) error {
	var remote *ri2n.RemoteError
	if errors.Is(err, ri2n.ErrRefused) || errors.As(err, &remote) && remote.Code == closeProof {
		return &TokenRefusedError{Peer: maker, Err: err}
	}
	return err
}

// A TokenRefusedError is the maker of a token saying no to it.
type TokenRefusedError struct {
	Peer ri2n.PeerID // who made it
	Own  bool        // we did
	Err  error       // may be nil
}

func (e *TokenRefusedError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *TokenRefusedError) Unwrap() error { return e.Err }

// Object names the token by its maker.
func (e *TokenRefusedError) Object() string { return "token of peer " + e.Peer.String() }

// Cause says why.
func (e *TokenRefusedError) Cause() string {
	if e.Own {
		return "it is our own"
	}
	return "its maker does not take it: it was used by another computer, or taken back"
}

// Next says what to do.
func (e *TokenRefusedError) Next() string {
	if e.Own {
		return "type it on the computer that is to receive"
	}
	return "ask for a new token: grid send FILE"
}
