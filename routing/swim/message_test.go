package swim

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

	"github.com/instantgrid/instantgrid/routing"
)

var update = flag.Bool("update", false, "rewrite testdata")

func peer(fill byte) (p routing.PeerID) {
	for i := range p {
		p[i] = fill
	}
	return p
}

func testPulse(number uint64, leaving bool) (p Pulse) {
	p.Number, p.Leaving = number, leaving
	for i := range p.Signature {
		p.Signature[i] = 0x5a
	}
	return p
}

// examples hold each kind of message at least once.
func examples() []struct {
	name string
	m    message
} {
	p := testPulse(946684800000, false)
	return []struct {
		name string
		m    message
	}{
		{"ping", message{kind: kindPing, sequence: 1, pulse: p}},
		{"ack", message{kind: kindAck, sequence: 1, pulse: p}},
		{"ack-for-another", message{kind: kindAck, sequence: 1, pulse: p, subject: peer(0xbb), rumours: []rumour{{peer: peer(0xbb), pulse: p}}}},
		{"ping-req", message{kind: kindPingReq, sequence: 2, pulse: p, subject: peer(0xbb)}},
		{"nack", message{kind: kindNack, sequence: 2, pulse: p, subject: peer(0xbb)}},
		{"rumour", message{kind: kindRumour, pulse: p, rumours: []rumour{
			{peer: peer(0xbb), pulse: p, accused: true, accuser: peer(0xaa)},
			{peer: peer(0xcc), pulse: testPulse(7, true)},
		}}},
		{"no-pulse", message{kind: kindPing, sequence: 3}},
	}
}

func TestMessagesMatchGoldenBytes(t *testing.T) {
	for _, tt := range examples() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := appendMessage(nil, &tt.m)
			file := filepath.Join("testdata", tt.name+".hex")
			if *update {
				e := encoded
				text := fmt.Sprintf("# %s, as in message_test.go. Version and kind, sequence, pulse, subject, rumours.\n%x\n%x\n%x\n%x\n%x\n",
					tt.name, e[:2], e[2:10], e[10:83], e[83:115], e[115:])
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				seed := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", encoded)
				if err := os.WriteFile(filepath.Join("testdata", "fuzz", "FuzzParseMessage", tt.name), []byte(seed), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readHex(t, file); !bytes.Equal(encoded, want) {
				t.Errorf("got  %x\nwant %x", encoded, want)
			}
			got, err := parseMessage(encoded)
			if err != nil || !reflect.DeepEqual(got, tt.m) {
				t.Errorf("parsed %+v, %v; want %+v", got, err, tt.m)
			}
			for n := range len(encoded) {
				if _, err := parseMessage(encoded[:n]); !errors.Is(err, ErrMalformed) {
					t.Errorf("first %d of %d bytes: %v, want ErrMalformed", n, len(encoded), err)
				}
			}
		})
	}
}

// readHex returns the bytes of a file of hexadecimal digits, in which lines
// from # on are annotation.
func readHex(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.TrimSpace(line))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	good := appendMessage(nil, &message{kind: kindPing})
	change := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	many := message{kind: kindRumour, rumours: make([]rumour, maxRumours+1)}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"another version", change(0, 2)},
		{"kind zero", change(1, 0)},
		{"unknown kind", change(1, 6)},
		{"pulse flags", change(18, 2)},
		{"trailing byte", append(bytes.Clone(good), 0)},
		{"too many rumours", appendMessage(nil, &many)},
		{"too long", make([]byte, MaxMessage+1)},
	} {
		if _, err := parseMessage(tt.b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", tt.name, err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, tt := range examples() {
		f.Add(appendMessage(nil, &tt.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if again := appendMessage(nil, &m); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, m, again)
		}
	})
}
