package membership

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// testLedgerless is the test grid without its rendezvous.
func testLedgerless(t testing.TB) *Grid {
	t.Helper()
	g := *testGrid(t)
	g.Rendezvous = nil
	signed, err := SignGrid(testKey(keyGrid), g)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func ledgerlessToken(t testing.TB, o InviteOptions) *Token {
	t.Helper()
	token, err := NewLedgerlessInvite(random(4), testKey(keyGrid), testLedgerless(t), start, o)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestMemberWithoutLedger(t *testing.T) {
	token, err := ParseToken(ledgerlessToken(t, InviteOptions{}).Encode())
	if err != nil {
		t.Fatal(err)
	}
	if token.Grid == nil || token.Grid.Name != "lab" || token.Server != (rendezvous.Address{}) {
		t.Fatalf("token %+v", token)
	}
	alice := peerOf(testKey(keyAlice))
	encoded := AppendProof(nil, &Proof{Chain: testChain(t, token, keyAlice, "alice")})
	p, rest, err := ParseProof(append(encoded, 7))
	if err != nil || len(rest) != 1 || p.Record != nil || p.Peer() != alice {
		t.Fatalf("ParseProof = %+v, %v, %v", p, rest, err)
	}
	for n := range encoded {
		if _, _, err := ParseProof(encoded[:n]); err == nil {
			t.Fatalf("a prefix of %d bytes is a proof", n)
		}
	}
	m, err := Verify(p, alice, token.Grid, nil, start)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "alice" || m.Peer != alice || m.Invite != token.Invite.ID() || m.Expires != token.Invite.NotAfter || !token.Grid.Network.Contains(m.Address) {
		t.Errorf("member %+v", m)
	}
	if m.Position == Position(alice, Nonce{}) || m.Position == Position(peerOf(testKey(keyMallory)), derivedNonce(token.Grid.ID(), alice)) {
		t.Error("the position does not depend on grid and peer")
	}
}

// Where there is a ledger a chain is worth nothing without its record, and where
// there is none a record is worth nothing.
func TestLedgerAndNoLedgerDoNotMix(t *testing.T) {
	token, good := testProof(t)
	alice := peerOf(testKey(keyAlice))
	bare := ledgerlessToken(t, InviteOptions{})
	revoked, err := Revoke(testKey(keyGrid), nil, start, bare.Invite.ID())
	if err != nil {
		t.Fatal(err)
	}
	late, err := bare.Join(public(testKey(keyAlice)), "alice", bare.Invite.JoinBefore.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	chain := testChain(t, bare, keyAlice, "alice")
	for _, tt := range []struct {
		name    string
		proof   *Proof
		peer    ri2n.PeerID
		grid    *Grid
		revoked *Revocations
		after   time.Duration
		want    Problem
	}{
		{"a chain without its record", &Proof{Chain: good.Chain}, alice, testGrid(t), nil, 0, NoRecord},
		{"a chain of a used-up token without a record", &Proof{Chain: testChain(t, token, keyMallory, "mallory")}, peerOf(testKey(keyMallory)), testGrid(t), nil, 0, NoRecord},
		{"a chain of an invitation without a ledger", &Proof{Chain: chain}, alice, testGrid(t), nil, 0, NoRecord},
		{"a record where there is no ledger", good, alice, testLedgerless(t), nil, 0, NotLedger},
		{"a self-made record where there is no ledger", &Proof{chain, SignRecord(testKey(keyAlice), recordFor(bare, keyAlice, "alice"))}, alice, testLedgerless(t), nil, 0, NotLedger},
		{"another key", &Proof{Chain: chain}, peerOf(testKey(keyMallory)), testLedgerless(t), nil, 0, OtherKey},
		{"a revoked invitation", &Proof{Chain: chain}, alice, testLedgerless(t), revoked, 0, Revoked},
		{"an invitation used too late", &Proof{Chain: late}, alice, testLedgerless(t), nil, 25 * time.Hour, InviteExpired},
	} {
		m, err := Verify(tt.proof, tt.peer, tt.grid, tt.revoked, start.Add(tt.after))
		if !errors.Is(err, &Error{Problem: tt.want}) {
			t.Errorf("%s: %+v, %v; want %s", tt.name, m, err, tt.want)
		}
	}
	if _, err := NewLedgerlessInvite(random(5), testKey(keyGrid), testGrid(t), start, InviteOptions{}); err == nil {
		t.Error("an invitation without a ledger to a grid with one")
	}
}

// A token carries the description that its own grid key has signed, or is none.
func TestBadLedgerlessTokens(t *testing.T) {
	text := ledgerlessToken(t, InviteOptions{}).Encode()
	for n := range text {
		if _, err := ParseToken(text[:n]); !errors.Is(err, &Error{Problem: BadToken}) {
			t.Fatalf("%d characters of a token: %v", n, err)
		}
	}
	forge := func(change func(*Token)) string {
		token := *ledgerlessToken(t, InviteOptions{})
		change(&token)
		return token.Encode()
	}
	otherGrid := *testLedgerless(t)
	otherGrid.Key = public(testKey(keyOtherGrid))
	foreign, err := SignGrid(testKey(keyOtherGrid), otherGrid)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"a description with a ledger":     forge(func(t2 *Token) { t2.Grid = testGrid(t) }),
		"a description of another grid":   forge(func(t2 *Token) { t2.Grid = foreign }),
		"a description that was changed":  forge(func(t2 *Token) { g := *t2.Grid; g.Name = "lab2"; t2.Grid = &g }),
		"a certificate of another's grid": forge(func(t2 *Token) { t2.GridKey, t2.Grid = foreign.Key, foreign }),
	} {
		if _, err := ParseToken(bad); !errors.Is(err, &Error{Problem: BadToken}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := ledgerlessToken(t, InviteOptions{}).String(); strings.Contains(s, text[20:60]) {
		t.Error("a token shows its secret")
	}
}

// Derived addresses spread over the network, save for its first and last.
func TestDerivedAddresses(t *testing.T) {
	for _, network := range []string{"10.0.0.0/30", "10.1.2.0/24", "10.0.0.0/8"} {
		p := netip.MustParsePrefix(network)
		seen := map[netip.Addr]bool{}
		for n := range 2000 {
			a := derivedAddress(GridID{1}, p, ri2n.PeerID{byte(n), byte(n >> 8)})
			if !p.Contains(a) || a == p.Addr() || !p.Contains(a.Next()) {
				t.Fatalf("%v in %v", a, p)
			}
			seen[a] = true
		}
		if want := min(2000, 1<<(32-p.Bits())-2); len(seen) < want*9/10 {
			t.Errorf("%d addresses for 2000 peers in %v", len(seen), p)
		}
	}
}
