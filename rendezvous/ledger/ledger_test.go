package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/internal/etcdtest"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/state"
	"github.com/instantgrid/instantgrid/ri2n"
)

var start = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func testSeed(n int) []byte {
	seed := sha256.Sum256(fmt.Append(nil, "ledger test ", n))
	return seed[:]
}

func testKey(n int) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(testSeed(n)) }

func testPublic(n int) ed25519.PublicKey { return testKey(n).Public().(ed25519.PublicKey) }

func testPeer(n int) ri2n.PeerID { return ri2n.PeerIDOf(testPublic(n)) }

const (
	keyGrid, keyServer, keySecond = 1, 2, 3
	firstNode                     = 100
)

// A rig is a grid with one ledger.
type rig struct {
	*testing.T
	store  ledger.Store
	ledger *ledger.Ledger
	grid   *membership.Grid
	id     membership.GridID
	serial byte
}

func openLedger(t *testing.T, s ledger.Store, key int, change func(*ledger.Config)) *ledger.Ledger {
	t.Helper()
	id, err := ri2n.IdentityFromSeed(testSeed(key))
	if err != nil {
		t.Fatal(err)
	}
	cfg := ledger.Config{Store: s, Identity: id}
	if change != nil {
		change(&cfg)
	}
	l, err := ledger.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newRig(t *testing.T, s ledger.Store) *rig {
	t.Helper()
	r := &rig{T: t, store: s}
	address := func(key int, host string) rendezvous.Address {
		return rendezvous.Address{Host: host, Port: 3478, Peer: testPeer(key)}
	}
	var err error
	r.grid, err = membership.SignGrid(testKey(keyGrid), membership.Grid{
		Key: testPublic(keyGrid), Sequence: 1, Issued: start, Name: "lab", Network: netip.MustParsePrefix("100.90.0.0/24"),
		Rendezvous: []rendezvous.Address{address(keyServer, "192.0.2.1"), address(keySecond, "192.0.2.2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.id = r.grid.ID()
	r.ledger = openLedger(t, s, keyServer, nil)
	code, err := r.ledger.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claim, err := ledger.ParseClaim(code)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ledger.SetUp(t.Context(), claim, membership.AppendGrid(nil, r.grid)); err != nil {
		t.Fatal(err)
	}
	return r
}

func boltRig(t *testing.T) *rig {
	t.Helper()
	s, err := state.OpenBolt(filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return newRig(t, s)
}

func (r *rig) invite(o membership.InviteOptions) *membership.Token {
	r.Helper()
	r.serial++
	token, err := membership.NewInvite(rand.NewChaCha8([32]byte{r.serial}), testKey(keyGrid), r.grid.Rendezvous[0], start, o)
	if err != nil {
		r.Fatal(err)
	}
	return token
}

func (r *rig) join(l *ledger.Ledger, token *membership.Token, key int, name string, now time.Time) (*membership.Record, error) {
	chain, err := token.Join(testPublic(key), name, start)
	if err != nil {
		r.Fatal(err)
	}
	return l.Join(r.Context(), now, r.id, testPeer(key), chain)
}

func wants(t *testing.T, what string, err error, p membership.Problem) {
	t.Helper()
	if !errors.Is(err, &membership.Error{Problem: p}) {
		t.Errorf("%s: %v, want %s", what, err, p)
	}
}

func TestJoin(t *testing.T) {
	r := boltRig(t)
	one := r.invite(membership.InviteOptions{})
	first, err := r.join(r.ledger, one, firstNode, "alice", start)
	if err != nil {
		t.Fatal(err)
	}
	if !r.grid.Network.Contains(first.Address) || first.Nonce == (membership.Nonce{}) {
		t.Errorf("record = %+v", first)
	}
	again, err := r.join(r.ledger, one, firstNode, "alice", start.Add(time.Hour))
	if err != nil || again.Address != first.Address || again.Nonce != first.Nonce || !again.Issued.After(first.Issued) {
		t.Errorf("the same peer again: %+v, %v", again, err)
	}
	_, err = r.join(r.ledger, one, firstNode+1, "bob", start)
	wants(t, "a used token", err, membership.InviteUsed)

	many := r.invite(membership.InviteOptions{Uses: 3, TTL: time.Hour})
	_, err = r.join(r.ledger, many, firstNode+1, "alice", start)
	wants(t, "a name that collides", err, membership.NameTaken)
	bob, err := r.join(r.ledger, many, firstNode+1, "bob", start)
	if err != nil || bob.Address == first.Address || bob.Nonce == first.Nonce {
		t.Errorf("bob: %+v, %v", bob, err)
	}
	// A new name for bob costs no use, and frees the old one.
	if _, err := r.join(r.ledger, many, firstNode+1, "robert", start); err != nil {
		t.Error(err)
	}
	if _, err := r.join(r.ledger, many, firstNode+2, "bob", start); err != nil {
		t.Error(err)
	}
	_, err = r.join(r.ledger, many, firstNode+3, "late", start.Add(time.Hour+membership.Tolerance+time.Second))
	wants(t, "too late", err, membership.InviteExpired)

	// Somebody else's chain.
	chain, err := many.Join(testPublic(firstNode+4), "eve", start)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.ledger.Join(t.Context(), start, r.id, testPeer(firstNode+5), chain)
	wants(t, "a chain of another key", err, membership.OtherKey)
	_, err = r.ledger.Join(t.Context(), start, membership.GridID{1}, testPeer(firstNode+4), chain)
	wants(t, "another grid", err, membership.NoGrid)

	if !r.ledger.IsMember(start, testPeer(firstNode)) || r.ledger.IsMember(start, testPeer(firstNode+4)) {
		t.Error("IsMember is wrong")
	}
	if r.ledger.IsMember(start.AddDate(2, 0, 0), testPeer(firstNode)) {
		t.Error("a member for longer than its certificate")
	}
	_, members, c := r.ledger.Counts()
	if members != 3 || c.Joins != 5 || c.JoinsRefused != 5 {
		t.Errorf("%d members, %+v", members, c)
	}
}

// Security rule 6: a hundred parallel joins with a single-use token admit
// exactly one, also over two servers.
func TestHundredJoinsWithOneToken(t *testing.T) {
	for _, kind := range []string{"bbolt", "etcd"} {
		t.Run(kind, func(t *testing.T) {
			var r *rig
			ledgers := []*ledger.Ledger{}
			if kind == "bbolt" {
				r = boltRig(t)
				ledgers = append(ledgers, r.ledger)
			} else {
				endpoint := etcdtest.Start(t)
				r = newRig(t, openEtcd(t, endpoint))
				ledgers = append(ledgers, r.ledger, openLedger(t, openEtcd(t, endpoint), keySecond, nil))
			}
			token := r.invite(membership.InviteOptions{})
			var admitted atomic.Int32
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					_, err := r.join(ledgers[i%len(ledgers)], token, firstNode+i, fmt.Sprintf("node-%d", i), start)
					switch {
					case err == nil:
						admitted.Add(1)
					case !errors.Is(err, &membership.Error{Problem: membership.InviteUsed}):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := admitted.Load(); n != 1 {
				t.Errorf("%d joined with a single-use token", n)
			}
		})
	}
}

func openEtcd(t *testing.T, endpoint string) ledger.Store {
	t.Helper()
	s, err := state.OpenEtcd(t.Context(), state.EtcdConfig{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Two servers share a grid; one goes away, and nothing is lost.
func TestTwoLedgersShareEtcd(t *testing.T) {
	endpoint := etcdtest.Start(t)
	first := openEtcd(t, endpoint)
	r := newRig(t, first)
	second := openLedger(t, openEtcd(t, endpoint), keySecond, nil)
	token := r.invite(membership.InviteOptions{Uses: 2})
	a, err := r.join(r.ledger, token, firstNode, "alice", start)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := second.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !second.IsMember(start, testPeer(firstNode)) {
		t.Error("the second server does not know whom the first has admitted")
	}
	again, err := second.Renew(t.Context(), start.Add(8*24*time.Hour), r.id, testPeer(firstNode))
	if err != nil || again.Address != a.Address || again.Nonce != a.Nonce || again.Ledger() != testPeer(keySecond) {
		t.Errorf("renewed at the second: %+v, %v; was %+v", again, err, a)
	}
	_, err = r.join(second, token, firstNode+1, "alice", start)
	wants(t, "the name at the second server", err, membership.NameTaken)
	if _, err := r.join(second, token, firstNode+1, "bob", start); err != nil {
		t.Error(err)
	}
	_, err = r.join(second, token, firstNode+2, "carol", start)
	wants(t, "uses counted at both", err, membership.InviteUsed)
}

func TestReopenedLedgerRemembers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	s, err := state.OpenBolt(file)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, s)
	token := r.invite(membership.InviteOptions{})
	before, err := r.join(r.ledger, token, firstNode, "alice", start)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = state.OpenBolt(file); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := openLedger(t, s, keyServer, nil)
	if code, err := l.Claim(t.Context()); code != "" || err != nil {
		t.Errorf("the claim code lives again: %q, %v", code, err)
	}
	after, err := l.Renew(t.Context(), start.Add(time.Hour), r.id, testPeer(firstNode))
	if err != nil || after.Nonce != before.Nonce || after.Address != before.Address {
		t.Errorf("after: %+v, %v; before: %+v", after, err, before)
	}
	_, err = r.join(l, token, firstNode+1, "bob", start)
	wants(t, "the token after a restart", err, membership.InviteUsed)
}

func TestSetUp(t *testing.T) {
	r := boltRig(t)
	ctx := t.Context()
	make_ := func(key int, sequence uint64, name string, server int) []byte {
		g, err := membership.SignGrid(testKey(key), membership.Grid{
			Key: testPublic(key), Sequence: sequence, Issued: start, Name: name, Network: membership.DefaultNetwork,
			Rendezvous: []rendezvous.Address{{Host: "192.0.2.1", Port: 3478, Peer: testPeer(server)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return membership.AppendGrid(nil, g)
	}
	var none [membership.ClaimSize]byte
	wants(t, "a second grid without a claim", r.ledger.SetUp(ctx, none, make_(50, 1, "other", keyServer)), membership.BadClaim)
	wants(t, "another server's grid", r.ledger.SetUp(ctx, none, make_(50, 1, "other", 60)), membership.NotLedger)
	wants(t, "an older description", r.ledger.SetUp(ctx, none, make_(keyGrid, 1, "lab2", keyServer)), membership.GridTaken)
	if err := r.ledger.SetUp(ctx, none, make_(keyGrid, 2, "lab2", keyServer)); err != nil {
		t.Errorf("a newer description: %v", err)
	}
	bad := make_(keyGrid, 3, "lab3", keyServer)
	bad[len(bad)-1] ^= 1
	wants(t, "a forged description", r.ledger.SetUp(ctx, none, bad), membership.BadSignature)

	listed := openLedger(t, r.store, keyServer, func(c *ledger.Config) {
		c.Grids = []membership.GridID{membership.GridIDOf(testPublic(50))}
		c.MaxGrids = 2
	})
	if err := listed.SetUp(ctx, none, make_(50, 1, "other", keyServer)); err != nil {
		t.Errorf("a grid that the operator lists: %v", err)
	}
	wants(t, "above the limit", listed.SetUp(ctx, none, make_(51, 1, "third", keyServer)), membership.TooMany)
	if grids, _, _ := listed.Counts(); grids != 2 {
		t.Errorf("%d grids", grids)
	}
}

func TestRevoke(t *testing.T) {
	r := boltRig(t)
	ctx := t.Context()
	one, two := r.invite(membership.InviteOptions{Uses: 2}), r.invite(membership.InviteOptions{Uses: 2})
	for i, x := range []struct {
		token *membership.Token
		name  string
	}{{one, "alice"}, {one, "bob"}, {two, "carol"}} {
		if _, err := r.join(r.ledger, x.token, firstNode+i, x.name, start); err != nil {
			t.Fatal(err)
		}
	}
	list, err := membership.Revoke(testKey(keyGrid), nil, start, testPeer(firstNode+2))
	if err != nil {
		t.Fatal(err)
	}
	first := membership.AppendRevocations(nil, list)
	if err := r.ledger.Publish(ctx, r.id, first); err != nil {
		t.Fatal(err)
	}
	if r.ledger.IsMember(start, testPeer(firstNode+2)) || !r.ledger.IsMember(start, testPeer(firstNode)) {
		t.Error("the wrong one is out")
	}
	_, err = r.ledger.Renew(ctx, start, r.id, testPeer(firstNode+2))
	wants(t, "a revoked member renews", err, membership.NotMember)
	_, err = r.join(r.ledger, two, firstNode+2, "carol", start)
	wants(t, "a revoked member joins", err, membership.Revoked)
	if _, err = r.join(r.ledger, two, firstNode+3, "carol", start); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
	// An invitation takes all its members along.
	list, err = membership.Revoke(testKey(keyGrid), list, start, one.Invite.ID())
	if err != nil {
		t.Fatal(err)
	}
	second := membership.AppendRevocations(nil, list)
	if err := r.ledger.Publish(ctx, r.id, second); err != nil {
		t.Fatal(err)
	}
	if r.ledger.IsMember(start, testPeer(firstNode)) || r.ledger.IsMember(start, testPeer(firstNode+1)) {
		t.Error("members of a revoked invitation are members")
	}
	wants(t, "an old list", r.ledger.Publish(ctx, r.id, first), membership.OldList)
	if err := r.ledger.Publish(ctx, r.id, second); err != nil {
		t.Errorf("the same list: %v", err)
	}
	forged, err := membership.Revoke(testKey(50), nil, start)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "a list of another grid", r.ledger.Publish(ctx, r.id, membership.AppendRevocations(nil, forged)), membership.OtherGrid)
	if n, b, err := r.ledger.Revocations(r.id, 2); n != 2 || b != nil || err != nil {
		t.Errorf("somebody who has the list gets %d bytes, %v", len(b), err)
	}
	if n, b, err := r.ledger.Revocations(r.id, 1); n != 2 || !bytes.Equal(b, second) || err != nil {
		t.Errorf("somebody with an older one gets %d bytes, %v", len(b), err)
	}
}

func TestAddressesAreUnique(t *testing.T) {
	r := boltRig(t)
	token := r.invite(membership.InviteOptions{Uses: 300})
	seen := make(map[netip.Addr]bool)
	for i := range 254 { // all of a /24
		rec, err := r.join(r.ledger, token, firstNode+i, fmt.Sprintf("node-%d", i), start)
		if err != nil {
			t.Fatal(i, err)
		}
		if seen[rec.Address] || !r.grid.Network.Contains(rec.Address) {
			t.Fatalf("address %v of number %d is taken or outside", rec.Address, i)
		}
		seen[rec.Address] = true
	}
	_, err := r.join(r.ledger, token, firstNode+254, "node-254", start)
	wants(t, "a full network", err, membership.TooMany)
	// All of them, page by page.
	var after ri2n.PeerID
	n := 0
	for {
		page, err := r.ledger.Members(start, r.id, testPeer(firstNode), after)
		if err != nil {
			t.Fatal(err)
		}
		list, err := membership.ParsePage(page)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, x := range list {
			if _, err := membership.Verify(x.Proof, x.Proof.Record.Peer, r.grid, nil, start); err != nil {
				t.Fatal(err)
			}
		}
		n += len(list)
		after = list[len(list)-1].Proof.Record.Peer
	}
	if n != 254 {
		t.Errorf("%d members are listed", n)
	}
	_, err = r.ledger.Members(start, r.id, testPeer(5), ri2n.PeerID{})
	wants(t, "a stranger lists members", err, membership.NotMember)
}

// What a stranger may send: nothing panics, and every answer can be read.
func FuzzAnswer(f *testing.F) {
	for _, q := range []membership.Request{
		{Op: membership.OpSetUp, Body: []byte("x")}, {Op: membership.OpGrid}, {Op: membership.OpJoin, Body: []byte{0, 1, 2, 0, 1, 3}},
		{Op: membership.OpRenew}, {Op: membership.OpMembers}, {Op: membership.OpRevocations, Sequence: 3}, {Op: membership.OpPublish},
	} {
		f.Add(membership.AppendRequest(nil, &q))
	}
	s, err := state.OpenBolt(filepath.Join(f.TempDir(), "ledger.db"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	id, err := ri2n.IdentityFromSeed(testSeed(keyServer))
	if err != nil {
		f.Fatal(err)
	}
	l, err := ledger.Open(context.Background(), ledger.Config{Store: s, Identity: id})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if result, err := membership.ParseAnswer(l.Answer(t.Context(), start, testPeer(1), b)); err == nil && len(result) > 0 {
			t.Errorf("%x is answered with %x", b, result)
		}
	})
}
