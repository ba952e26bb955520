package object

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

var update = flag.Bool("update", false, "rewrite testdata")

func testKey(fill byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{fill}, ed25519.SeedSize))
}

// testRecord returns a record with true signatures.
func testRecord() *Record {
	node, owner := testKey(1), testKey(2)
	creator := routing.NewMember(routing.PeerIDOf(node.Public().(ed25519.PublicKey)), routing.Nonce{7}, []byte("proof"))
	r := &Record{
		Rank: 3, Incarnation: 4, Holder: routing.PeerID{5}, Epoch: 6, State: 7, Lease: 30 * time.Second, Data: []byte("data"),
		Grant: NewGrant(creator, node, Owner(owner.Public().(ed25519.PublicKey))),
	}
	r.Sign(owner)
	return r
}

func requests() []struct {
	name string
	r    request
} {
	rec := testRecord()
	key := rec.Key()
	b := signBallot(testKey(2), key, 2, 9)
	return []struct {
		name string
		r    request
	}{
		{"get", request{op: opGet, key: key}},
		{"prepare", request{op: opPrepare, key: key, owner: rec.Owner, rank: rec.Rank, ballot: b}},
		{"accept", request{op: opAccept, key: key, ballot: b, record: rec}},
		{"push", request{op: opPush, key: key, ballot: b, remaining: 1500 * time.Millisecond, record: rec}},
		{"renew", request{op: opRenew, key: key, incarnation: 4}},
		{"deliver", request{op: opDeliver, key: key, limit: 4, payload: []byte("hello")}},
	}
}

func answers() []struct {
	name string
	a    answer
} {
	rec := testRecord()
	b := signBallot(testKey(2), rec.Key(), 2, 9)
	return []struct {
		name string
		a    answer
	}{
		{"none", answer{status: statusNone}},
		{"entry", answer{status: statusEntry, ballot: b, remaining: time.Second, record: rec}},
		{"done", answer{status: statusDone}},
		{"rejected", answer{status: statusRejected, ballot: b}},
		{"conflict", answer{status: statusConflict, ballot: b, record: rec}},
		{"full", answer{status: statusFull}},
	}
}

func TestRequestsMatchGoldenBytes(t *testing.T) {
	for _, tt := range requests() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := appendRequest(nil, &tt.r)
			golden(t, "FuzzParseRequest", tt.name, "Op, key, body.", encoded, 1, 33)
			got, err := parseRequest(encoded)
			if err != nil || !reflect.DeepEqual(got, tt.r) {
				t.Errorf("parsed %+v, %v; want %+v", got, err, tt.r)
			}
			for n := range len(encoded) - len(tt.r.payload) {
				if _, err := parseRequest(encoded[:n]); !isMalformed(err) {
					t.Errorf("first %d of %d bytes: %v, want ErrMalformed", n, len(encoded), err)
				}
			}
		})
	}
}

func TestAnswersMatchGoldenBytes(t *testing.T) {
	for _, tt := range answers() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := appendAnswer(nil, &tt.a)
			golden(t, "FuzzParseAnswer", tt.name, "Status, body.", encoded, 1)
			got, err := parseAnswer(encoded)
			if err != nil || !reflect.DeepEqual(got, tt.a) {
				t.Errorf("parsed %+v, %v; want %+v", got, err, tt.a)
			}
			for n := range len(encoded) {
				if _, err := parseAnswer(encoded[:n]); !isMalformed(err) {
					t.Errorf("first %d of %d bytes: %v, want ErrMalformed", n, len(encoded), err)
				}
			}
		})
	}
}

func isMalformed(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, routing.ErrMalformed)
}

// golden compares encoded with testdata/name.hex, whose lines are cut at cuts.
func golden(t *testing.T, target, name, note string, encoded []byte, cuts ...int) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update {
		text := "# " + name + ", as in message_test.go. " + note + "\n"
		last := 0
		for _, c := range append(cuts, len(encoded)) {
			if c > last {
				text += fmt.Sprintf("%x\n", encoded[last:c])
			}
			last = c
		}
		seed := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", encoded)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o644),
			os.WriteFile(filepath.Join("testdata", "fuzz", target, name), []byte(seed), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.TrimSpace(line))
	}
	want, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if !bytes.Equal(encoded, want) {
		t.Errorf("got  %x\nwant %x", encoded, want)
	}
}

func TestSignaturesCoverEverything(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(r *Record)
	}{
		{"rank", func(r *Record) { r.Rank++ }},
		{"incarnation", func(r *Record) { r.Incarnation++ }},
		{"holder", func(r *Record) { r.Holder[0]++ }},
		{"epoch", func(r *Record) { r.Epoch++ }},
		{"state", func(r *Record) { r.State++ }},
		{"lease", func(r *Record) { r.Lease += time.Second }},
		{"data", func(r *Record) { r.Data = []byte("date") }},
		{"owner", func(r *Record) { r.Owner[0]++ }},
		{"creator", func(r *Record) { r.Grant.Creator = routing.NewMember(routing.PeerID{1}, routing.Nonce{}, nil) }},
		{"creator's key", func(r *Record) { r.Grant.CreatorKey[0]++ }},
		{"grant", func(r *Record) { r.Grant.Signature[0]++ }},
	} {
		r := testRecord()
		tt.change(r)
		if r.signedByOwner() && r.Grant.check(r.Owner) == nil {
			t.Errorf("a changed %s is not noticed", tt.name)
		}
	}
	if r := testRecord(); !r.signedByOwner() || r.Grant.check(r.Owner) != nil {
		t.Error("an unchanged record is refused")
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, tt := range requests() {
		f.Add(appendRequest(nil, &tt.r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if again := appendRequest(nil, &r); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	for _, tt := range answers() {
		f.Add(appendAnswer(nil, &tt.a))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		if err != nil {
			return
		}
		if again := appendAnswer(nil, &a); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, a, again)
		}
	})
}
