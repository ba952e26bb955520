package membership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

var start = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// testKey number n, the same in each run.
func testKey(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Append(nil, "membership test ", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
func peerOf(k ed25519.PrivateKey) ri2n.PeerID       { return ri2n.PeerIDOf(public(k)) }

// random is a source that a test can repeat.
func random(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

const (
	keyGrid = iota
	keyLedger
	keyAlice
	keyMallory
	keyOtherGrid
	keyOtherLedger
)

var server = rendezvous.Address{Host: "192.0.2.1", Port: 3478, Peer: peerOf(testKey(keyLedger))}

func testGrid(t testing.TB) *Grid {
	t.Helper()
	g, err := SignGrid(testKey(keyGrid), Grid{
		Key: public(testKey(keyGrid)), Sequence: 1, Issued: start, Name: "lab",
		Network: DefaultNetwork, Rendezvous: []rendezvous.Address{server},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func testToken(t testing.TB, o InviteOptions) *Token {
	t.Helper()
	token, err := NewInvite(random(1), testKey(keyGrid), server, start, o)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func testChain(t testing.TB, token *Token, key int, name string) *Chain {
	t.Helper()
	c, err := token.Join(public(testKey(key)), name, start)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// recordFor is what an honest ledger would sign.
func recordFor(token *Token, key int, name string) Record {
	return Record{
		Grid: GridIDOf(public(testKey(keyGrid))), Peer: peerOf(testKey(key)), Invite: token.Invite.ID(), Name: name,
		Address: netip.MustParseAddr("100.90.1.2"), Nonce: Nonce{1, 2, 3}, Issued: start, Expires: start.Add(RecordLife),
	}
}

func testProof(t testing.TB) (*Token, *Proof) {
	t.Helper()
	token := testToken(t, InviteOptions{})
	return token, &Proof{
		Chain:  testChain(t, token, keyAlice, "alice"),
		Record: SignRecord(testKey(keyLedger), recordFor(token, keyAlice, "alice")),
	}
}

func TestProofHolds(t *testing.T) {
	_, p := testProof(t)
	encoded := AppendProof(nil, p)
	if len(encoded) > MaxProof {
		t.Errorf("a proof of %d bytes, at most %d", len(encoded), MaxProof)
	}
	p, rest, err := ParseProof(append(encoded, 0xee))
	if err != nil || len(rest) != 1 {
		t.Fatal(err, rest)
	}
	m, err := Verify(p, peerOf(testKey(keyAlice)), testGrid(t), nil, start)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "alice" || m.Roles != Worker || m.Address.String() != "100.90.1.2" || m.Expires != start.Add(RecordLife) {
		t.Errorf("member = %+v", m)
	}
	if got, want := p.Record.RenewAt(), start.Add(7*24*time.Hour); got != want {
		t.Errorf("renewal at %v, want %v: half of its life", got, want)
	}
}

// Each row is one way of not being a member.
func TestProofDoesNotHold(t *testing.T) {
	token, good := testProof(t)
	alice := peerOf(testKey(keyAlice))
	ledger := testKey(keyLedger)
	sign := func(change func(*Record)) *Proof {
		r := recordFor(token, keyAlice, "alice")
		change(&r)
		return &Proof{good.Chain, SignRecord(ledger, r)}
	}
	revoke := func(ids ...KeyID) *Revocations {
		l, err := Revoke(testKey(keyGrid), nil, start, ids...)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	other, err := NewInvite(random(2), testKey(keyOtherGrid), server, start, InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A chain whose node certificate says more than its invitation.
	forge := func(n node) *Chain {
		n.grid, n.key = token.Invite.Grid, public(testKey(keyAlice))
		if n.notBefore.IsZero() {
			n.notBefore, n.notAfter = start, token.Invite.NotAfter
		}
		der, err := certify(ed25519.NewKeyFromSeed(token.seed), "invite", n.name, n.uri(), n.key, n.notBefore, n.notAfter, false)
		if err != nil {
			t.Fatal(err)
		}
		return &Chain{der, token.certificate}
	}
	named := testToken(t, InviteOptions{Names: "build-*"})
	forgedName := node{grid: named.Invite.Grid, key: public(testKey(keyAlice)), roles: Worker, name: "alice", notBefore: start, notAfter: named.Invite.NotAfter}
	der, err := certify(ed25519.NewKeyFromSeed(named.seed), "invite", "alice", forgedName.uri(), forgedName.key, start, named.Invite.NotAfter, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		proof   *Proof
		peer    ri2n.PeerID
		revoked *Revocations
		now     time.Time
		want    Problem
		says    string
	}{
		{"shown by another key", good, peerOf(testKey(keyMallory)), nil, start, OtherKey, ""},
		{"chain of another grid", &Proof{testChainOf(t, other), good.Record}, alice, nil, start, BadSignature, ""},
		{"leaked token: own chain, record of the one who used it", &Proof{testChain(t, token, keyMallory, "alice"), good.Record}, peerOf(testKey(keyMallory)), nil, start, OtherKey, "record"},
		{"leaked token: own chain, self-made record", &Proof{testChain(t, token, keyMallory, "alice"), SignRecord(testKey(keyMallory), recordFor(token, keyMallory, "alice"))}, peerOf(testKey(keyMallory)), nil, start, NotLedger, ""},
		{"malicious ledger: record for a stranger with a borrowed chain", &Proof{good.Chain, SignRecord(ledger, recordFor(token, keyMallory, "alice"))}, peerOf(testKey(keyMallory)), nil, start, OtherKey, "certificate"},
		{"malicious ledger: chain signed by the ledger", &Proof{ledgerChain(t), SignRecord(ledger, recordFor(token, keyMallory, "mallory"))}, peerOf(testKey(keyMallory)), nil, start, BadSignature, ""},
		{"malicious ledger: another name", sign(func(r *Record) { r.Name = "admin" }), alice, nil, start, OtherChain, ""},
		{"malicious ledger: another invitation", sign(func(r *Record) { r.Invite[0] ^= 1 }), alice, nil, start, OtherChain, ""},
		{"malicious ledger: a record for ever", sign(func(r *Record) { r.Expires = start.AddDate(10, 0, 0) }), alice, nil, start, WrongTime, ""},
		{"malicious ledger: an address outside", sign(func(r *Record) { r.Address = netip.MustParseAddr("192.0.2.9") }), alice, nil, start, WrongAddress, "192.0.2.9"},
		{"record of another grid", sign(func(r *Record) { r.Grid[0] ^= 1 }), alice, nil, start, OtherGrid, ""},
		{"role not given", &Proof{forge(node{roles: Worker | Admin, name: "alice"}), good.Record}, alice, nil, start, WrongRole, "worker+admin"},
		{"name not given", &Proof{&Chain{der, named.certificate}, good.Record}, alice, nil, start, WrongName, "build-*"},
		{"longer than the invitation", &Proof{forge(node{roles: Worker, name: "alice", notBefore: start, notAfter: token.Invite.NotAfter.Add(time.Hour)}), good.Record}, alice, nil, start, WrongTime, ""},
		{"key revoked", good, alice, revoke(alice), start, Revoked, "key"},
		{"invitation revoked", good, alice, revoke(token.Invite.ID()), start, Revoked, "invitation"},
		{"clock 3 h behind", good, alice, nil, start.Add(-3 * time.Hour), NotYet, "clock of this computer says 2026-12-01 09:00"},
		{"clock 10 years behind", good, alice, nil, start.AddDate(-10, 0, 0), NotYet, "clock"},
		{"clock 10 years ahead", good, alice, nil, start.AddDate(10, 0, 0), Expired, "certificate of \"alice\""},
		{"record expired", good, alice, nil, start.Add(RecordLife + Tolerance + time.Second), Expired, "membership record of \"alice\": it was valid until 2026-12-15 12:00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Verify(tt.proof, tt.peer, testGrid(t), tt.revoked, tt.now)
			if !errors.Is(err, &Error{Problem: tt.want}) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("Verify = %+v, %v; want %s with %q", m, err, tt.want, tt.says)
			}
			var e *Error
			if errors.As(err, &e); e.Object() == "" || e.Cause() == "" || e.Next() == "" {
				t.Errorf("%v explains nothing", err)
			}
		})
	}
}

func testChainOf(t *testing.T, token *Token) *Chain {
	t.Helper()
	c, err := token.Join(public(testKey(keyAlice)), "alice", start)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ledgerChain is a chain that begins with the ledger's key.
func ledgerChain(t *testing.T) *Chain {
	t.Helper()
	token, err := NewInvite(random(3), testKey(keyLedger), server, start, InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return testChain(t, token, keyMallory, "mallory")
}

func TestClocksMayDiffer(t *testing.T) {
	_, p := testProof(t)
	for _, tt := range []struct {
		name string
		now  time.Time
		ok   bool
	}{
		{"ten minutes behind", start.Add(-Tolerance), true},
		{"a second more", start.Add(-Tolerance - time.Second), false},
		{"ten minutes after the end", start.Add(RecordLife + Tolerance), true},
		{"a second more after it", start.Add(RecordLife + Tolerance + time.Second), false},
	} {
		if _, err := Verify(p, peerOf(testKey(keyAlice)), testGrid(t), nil, tt.now); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTokenSurvivesItsTextForm(t *testing.T) {
	token := testToken(t, InviteOptions{Roles: Worker | Relay, Uses: 10, Names: "build-*", TTL: time.Hour})
	text := token.Encode()
	t.Logf("%d characters", len(text))
	for _, s := range []string{text, strings.ToUpper(text), text[:40] + "\n  " + text[40:]} {
		got, err := ParseToken(s)
		if err != nil {
			t.Fatal(err)
		}
		if got.Encode() != text || got.Invite.Uses != 10 || got.Invite.Roles != Worker|Relay || got.Server != server || got.Invite.Names != "build-*" {
			t.Errorf("token = %+v", got)
		}
	}
	secret := tokenEncoding.EncodeToString(token.seed)[:20]
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%#v", token), fmt.Sprintf("%+v", token)} {
		if strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprint(token.seed)) {
			t.Errorf("%q shows the secret", shown)
		}
	}
	if err := token.Check(start.Add(time.Hour + Tolerance)); !errors.Is(err, &Error{Problem: InviteExpired}) {
		t.Errorf("Check after its time = %v", err)
	}
	if err := token.Check(start); err != nil {
		t.Error(err)
	}
}

func TestBadTokens(t *testing.T) {
	text := testToken(t, InviteOptions{}).Encode()
	damaged := text[:100] + string("ab"[(text[100]-'a'+1)%2]) + text[101:]
	if damaged == text {
		damaged = text[:100] + "c" + text[101:]
	}
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"a file's token", "igt" + text[3:], "igj"},
		{"cut short", text[:len(text)-30], "cut short"},
		{"a wrong character", damaged, "checksum"},
		{"a strange character", text[:50] + "!" + text[51:], "character 51"},
		{"a later format", tokenPrefix + tokenEncoding.EncodeToString(make([]byte, 40)), "format is 0"},
		{"too long", text + strings.Repeat("a", maxTokenText), "more than any"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseToken(tt.text)
			if !errors.Is(err, &Error{Problem: BadToken}) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseToken = %v, want BadToken with %q", err, tt.want)
			}
		})
	}
}

func TestGridSurvivesItsEncoding(t *testing.T) {
	g := testGrid(t)
	encoded := AppendGrid(nil, g)
	got, err := ParseGrid(encoded)
	if err != nil || got.ID() != g.ID() || got.Name != "lab" || got.Network != g.Network || len(got.Rendezvous) != 1 || got.Rendezvous[0] != server {
		t.Fatalf("ParseGrid = %+v, %v", got, err)
	}
	for n := range len(encoded) {
		if g, err := ParseGrid(encoded[:n]); err == nil {
			t.Fatalf("the first %d bytes give %+v", n, g)
		}
	}
	for i := range encoded {
		bad := append([]byte(nil), encoded...)
		bad[i] ^= 0x10
		if g, err := ParseGrid(bad); err == nil && g.ID() == got.ID() {
			t.Fatalf("byte %d changed: accepted", i)
		}
	}
	if _, err := SignGrid(testKey(keyMallory), *g); err == nil {
		t.Error("a grid is signed with another key")
	}
}

func TestRevocations(t *testing.T) {
	key := testKey(keyGrid)
	a, b := peerOf(testKey(keyAlice)), peerOf(testKey(keyMallory))
	first, err := Revoke(key, nil, start, b)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Revoke(key, first, start, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if second.Sequence != 2 || len(second.Keys) != 2 || !second.Has(a) || !second.Has(b) || first.Has(a) {
		t.Errorf("lists = %+v, %+v", first, second)
	}
	encoded := AppendRevocations(nil, second)
	got, err := ParseRevocations(public(key), encoded)
	if err != nil || got.Sequence != 2 || !got.Has(a) {
		t.Fatalf("ParseRevocations = %+v, %v", got, err)
	}
	for n := range len(encoded) {
		if _, err := ParseRevocations(public(key), encoded[:n]); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
	if _, err := ParseRevocations(public(testKey(keyMallory)), encoded); !errors.Is(err, &Error{Problem: OtherGrid}) {
		t.Errorf("a list of another grid: %v", err)
	}
	// A rendezvous takes somebody off the list.
	forged := append([]byte(nil), AppendRevocations(nil, first)...)
	copy(forged[len(forged)-64:], encoded[len(encoded)-64:])
	if _, err := ParseRevocations(public(key), forged); !errors.Is(err, &Error{Problem: BadSignature}) {
		t.Errorf("a changed list: %v", err)
	}
	var none *Revocations
	if none.Has(a) || none.Number() != 0 {
		t.Error("nil names somebody")
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{"alice", true}, {"a", true}, {"node-7", true}, {strings.Repeat("a", 32), true},
		{"", false}, {"-a", false}, {"a-", false}, {"Alice", false}, {"a.b", false}, {"a b", false},
		{strings.Repeat("a", 33), false}, {"ä", false},
	} {
		if err := CheckName(tt.text); (err == nil) != tt.ok {
			t.Errorf("CheckName(%q) = %v", tt.text, err)
		}
	}
	for text, want := range map[string]string{"Alice's PC": "alice-s-pc", "host.example.org": "host", "": "node", "---": "node", "ÄÖ1": "1"} {
		if got := NameFrom(text); got != want || CheckName(got) != nil {
			t.Errorf("NameFrom(%q) = %q, want %q", text, got, want)
		}
	}
	for _, tt := range []struct {
		pattern, name string
		match         bool
	}{
		{"*", "alice", true}, {"build-*", "build-7", true}, {"build-*", "alice", false}, {"alice", "alice", true}, {"alice", "alice2", false},
	} {
		p := Pattern(tt.pattern)
		if err := p.Check(); err != nil || p.Match(tt.name) != tt.match {
			t.Errorf("%q.Match(%q) = %v, %v", p, tt.name, !tt.match, err)
		}
	}
	for _, bad := range []Pattern{"", "a*b", "**", "A*", "a/*", "-*"} {
		if bad.Check() == nil {
			t.Errorf("pattern %q is accepted", bad)
		}
	}
}

func TestRoles(t *testing.T) {
	r, err := ParseRoles("relay,worker")
	if err != nil || r.String() != "worker+relay" || !r.Has(Relay) || r.Has(Admin) {
		t.Errorf("ParseRoles = %v, %v", r, err)
	}
	for _, bad := range []string{"", "root", "worker+root"} {
		if _, err := ParseRoles(bad); err == nil {
			t.Errorf("%q is a role", bad)
		}
	}
}

// Positions depend on the ledger's nonce, so that nobody can try keys offline.
func TestPositionNeedsTheNonce(t *testing.T) {
	peer := peerOf(testKey(keyAlice))
	if Position(peer, Nonce{1}) == Position(peer, Nonce{2}) {
		t.Error("the position does not depend on the nonce")
	}
}
