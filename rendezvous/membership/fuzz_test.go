package membership

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the seeds in testdata/fuzz")

// seed adds b to the target's corpus and keeps it in testdata/fuzz.
func seed(f *testing.F, name string, b []byte) {
	f.Helper()
	dir := filepath.Join("testdata", "fuzz", f.Name())
	file := filepath.Join(dir, name)
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", b), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		f.Fatalf("the seed is missing: %v", err)
	}
	f.Add(b)
}

func FuzzParseProof(f *testing.F) {
	_, p := testProof(f)
	seed(f, "proof", AppendProof(nil, p))
	seed(f, "empty-chain", make([]byte, 8))
	seed(f, "without-record", AppendProof(nil, &Proof{Chain: p.Chain}))
	grid, ledgerless := testGrid(f), testLedgerless(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, rest, err := ParseProof(b)
		if err != nil {
			return
		}
		if again := append(AppendProof(nil, p), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, p, again)
		}
		for _, g := range []*Grid{grid, ledgerless} {
			if m, err := Verify(p, peerOf(testKey(keyMallory)), g, nil, start); err == nil {
				t.Errorf("a stranger is a member: %+v", m)
			}
		}
		if _, err := Verify(p, p.Peer(), grid, nil, start); err == nil && p.Record == nil {
			t.Error("a chain alone makes a member of a grid with a ledger")
		}
	})
}

func FuzzParseGrid(f *testing.F) {
	seed(f, "grid", AppendGrid(nil, testGrid(f)))
	seed(f, "ledgerless", AppendGrid(nil, testLedgerless(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := ParseGrid(b); err == nil && !bytes.Equal(AppendGrid(nil, g), b) {
			t.Errorf("%x decodes to %+v, which encodes to something else", b, g)
		}
	})
}

func FuzzParseRevocations(f *testing.F) {
	l, err := Revoke(testKey(keyGrid), nil, start, peerOf(testKey(keyAlice)), peerOf(testKey(keyMallory)))
	if err != nil {
		f.Fatal(err)
	}
	seed(f, "list", AppendRevocations(nil, l))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ParseRevocations(public(testKey(keyGrid)), b); err == nil && !bytes.Equal(AppendRevocations(nil, l), b) {
			t.Errorf("%x decodes to %+v, which encodes to something else", b, l)
		}
	})
}

// FuzzCertificate looks past the signature: what the invite key signs comes from
// whoever holds the token.
func FuzzCertificate(f *testing.F) {
	token, p := testProof(f)
	seed(f, "node", p.Chain.Node)
	seed(f, "invite", p.Chain.Invite)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseNode(b, token.Invite); err == nil && (!token.Invite.Roles.Has(n.roles) || CheckName(n.name) != nil) {
			t.Errorf("node = %+v", n)
		}
		if i, err := parseInvite(b, public(testKey(keyGrid))); err == nil && i.Names.Check() != nil {
			t.Errorf("invite = %+v", i)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	seed(f, "token", []byte(testToken(f, InviteOptions{}).Encode()))
	seed(f, "ledgerless", []byte(ledgerlessToken(f, InviteOptions{}).Encode()))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := ParseToken(string(b))
		if err != nil {
			return
		}
		if want := strings.ToLower(strings.Join(strings.Fields(string(b)), "")); token.Encode() != want {
			t.Errorf("%q decodes to a token that encodes to %q", b, token.Encode())
		}
	})
}
