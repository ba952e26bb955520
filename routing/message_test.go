package routing

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata")

// testMember returns a member whose parts are filled with a byte each.
func testMember(fill byte, proof int) *Member {
	var p PeerID
	var n Nonce
	for i := range p {
		p[i], n[i] = fill, fill+1
	}
	return NewMember(p, n, bytes.Repeat([]byte{fill + 2}, proof))
}

func testKey(fill byte) (k Key) {
	for i := range k {
		k[i] = fill
	}
	return k
}

// examples hold each kind of message at least once.
func examples() []struct {
	name string
	m    message
} {
	a, b := testMember(0xa0, 3), testMember(0xb0, 0)
	b.Proof = []byte{}
	return []struct {
		name string
		m    message
	}{
		{"ping", message{kind: kindPing, request: 1}},
		{"pong", message{kind: kindPong, request: 1}},
		{"find", message{kind: kindFind, request: 2, key: testKey(0x11)}},
		{"find-beyond", message{kind: kindFind, request: 2, key: testKey(0x11), floor: testKey(0x01)}},
		{"found", message{kind: kindFound, request: 2, members: []*Member{a, b}}},
		{"found-nobody", message{kind: kindFound, request: 2}},
		{"route", message{kind: kindRoute, request: 3, key: testKey(0x11), service: 1, limit: 30, id: 0x0102030405060708, origin: a, payload: []byte("hello")}},
		{"routed", message{kind: kindRouted, request: 3}},
		{"ask", message{kind: kindAsk, request: 4, service: 1, payload: []byte("question")}},
		{"answer", message{kind: kindAnswer, request: 4, payload: []byte("answer")}},
		{"refuse", message{kind: kindRefuse, request: 4, reason: ReasonBusy}},
		{"extension", message{kind: 0x40, request: 5}},
	}
}

func TestMessagesMatchGoldenBytes(t *testing.T) {
	for _, tt := range examples() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := appendMessage(nil, &tt.m)
			golden(t, tt.name, "Version and kind, request, body.", encoded, 2, headerSize)
			got, err := parseMessage(encoded)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.m) {
				t.Errorf("parsed %+v, want %+v", got, tt.m)
			}
			if *update {
				seed := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", encoded)
				if err := os.WriteFile(filepath.Join("testdata", "fuzz", "FuzzParseMessage", tt.name), []byte(seed), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// golden compares encoded with testdata/name.hex, whose lines are cut at cuts.
func golden(t *testing.T, name, note string, encoded []byte, cuts ...int) {
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
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
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

func TestStrictPrefixesAreRefused(t *testing.T) {
	for _, tt := range examples() {
		encoded := appendMessage(nil, &tt.m)
		// A payload takes whatever is left.
		for n := range len(encoded) - len(tt.m.payload) {
			if _, err := parseMessage(encoded[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: first %d of %d bytes: %v, want ErrMalformed", tt.name, n, len(encoded), err)
			}
		}
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	enc := func(m message) []byte { return appendMessage(nil, &m) }
	long := testMember(1, MaxProof)
	long.Proof = make([]byte, MaxProof+1)
	many := make([]*Member, maxFound+1)
	for i := range many {
		many[i] = testMember(1, 0)
	}
	version := enc(message{kind: kindPing})
	version[0] = 2
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"another version", version},
		{"kind zero", enc(message{kind: 0})},
		{"unknown kind", enc(message{kind: 0x3f})},
		{"trailing byte", append(enc(message{kind: kindPing}), 0)},
		{"trailing byte after members", append(enc(message{kind: kindFound}), 0)},
		{"too many members", enc(message{kind: kindFound, members: many})},
		{"proof too long", enc(message{kind: kindFound, members: []*Member{long}})},
		{"hop limit too great", enc(message{kind: kindRoute, limit: MaxHops + 1, origin: testMember(1, 0)})},
		{"payload too long", enc(message{kind: kindAnswer, payload: make([]byte, MaxPayload+1)})},
		{"message too long", enc(message{kind: kindExtension, request: 1, payload: nil})[:2:2]},
		{"nothing", nil},
	} {
		if _, err := parseMessage(tt.b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", tt.name, err)
		}
	}
	if _, err := parseMessage(make([]byte, MaxMessage+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a message beyond the limit: %v", err)
	}
	full := make([]*Member, maxFound)
	for i := range full {
		full[i] = testMember(byte(i), MaxProof)
	}
	if got := len(enc(message{kind: kindFound, members: full})); got > MaxMessage {
		t.Errorf("the longest FOUND has %d bytes, more than MaxMessage", got)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, tt := range examples() {
		f.Add(appendMessage(nil, &tt.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil || m.kind >= kindExtension {
			return
		}
		if again := appendMessage(nil, &m); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, m, again)
		}
	})
}
