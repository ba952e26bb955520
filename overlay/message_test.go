package overlay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

var update = flag.Bool("update", false, "rewrite testdata")

// golden are messages whose bytes are fixed.
var golden = []struct {
	name string
	m    message
}{
	{"proof", proof{mac: [32]byte{0: 0xaa, 31: 0xbb}}},
	{"hello", hello{version: 1, capabilities: 0x01020304, policy: PathDirectOnly, software: "instantgrid"}},
	{"hello-bare", hello{version: 1}},
	{"punch", punchMessage{data: []byte{1, 2, 3}}},
	{"ping", ping{nonce: 0x0102030405060708}},
	{"pong", pong{nonce: 0x0102030405060708}},
	{"report-direct", report{}},
	{"report", report{reason: punch.MappingAndFiltering}},
	{"member", memberMessage{proof: []byte{1, 2, 3}}},
	{"list-at", listAt{sequence: 7}},
	{"list-get", listGet{sequence: 7, offset: 3072}},
	{"list-part", listPart{sequence: 7, total: 4000, offset: 3072, data: []byte{1, 2, 3}}},
	{"links", linkList{ids: []uint16{1, 0x0203}}},
	{"relays", relayList{relays: []relayAt{{ri2n.PeerID{0: 0xaa, 31: 0xbb}, 258 * time.Millisecond}, {ri2n.PeerID{0: 0xcc}, 0}}}},
	{"extension", unknown{code: 0x44, body: []byte("later")}},
}

func TestMessagesGolden(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			b := appendMessage(nil, tt.m)
			compareHex(t, tt.name, fmt.Sprintf("overlay %T. Kind, length, body.", tt.m), b, 1, 2)
			got, rest, err := parseMessage(append(b, 0xff))
			if err != nil || !reflect.DeepEqual(got, tt.m) || !bytes.Equal(rest, []byte{0xff}) {
				t.Errorf("parse = %+v, %x, %v; want %+v and one byte", got, rest, err, tt.m)
			}
			for i := range b {
				if m, _, err := parseMessage(b[:i]); !errors.Is(err, errMalformed) {
					t.Errorf("prefix of %d bytes = %+v, %v; want malformed", i, m, err)
				}
				if _, err := readMessage(bytes.NewReader(b[:i])); i > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("reading a prefix of %d bytes = %v", i, err)
				}
			}
			if got, err := readMessage(bytes.NewReader(b)); err != nil || !reflect.DeepEqual(got, tt.m) {
				t.Errorf("read = %+v, %v", got, err)
			}
		})
	}
}

func TestMessagesRefused(t *testing.T) {
	for _, tt := range []struct{ name, bytes string }{
		{"kind zero", "00 0000"},
		{"unknown kind", "3f 0000"},
		{"too long", "40 1001"},
		{"short proof", "01 001f" + strings.Repeat("00", 31)},
		{"long proof", "01 0021" + strings.Repeat("00", 33)},
		{"short hello", "02 0006 000100000000"},
		{"unknown policy", "02 0007 00010000000003"},
		{"hello that is not UTF-8", "02 0008 00010000000000ff"},
		{"software of 65 bytes", "02 0048 00010000000000" + strings.Repeat("61", 65)},
		{"empty punch", "03 0000"},
		{"short ping", "04 0007 00000000000000"},
		{"long pong", "05 0009 000000000000000000"},
		{"unknown reason", "06 0004 66756e21"},
		{"half a link", "45 0003 000100"},
		{"nine links", "45 0012" + strings.Repeat("0001", 9)},
		{"half a relay", "46 0021" + strings.Repeat("00", 33)},
		{"nine relays", "46 0132" + strings.Repeat("00", 306)},
		{"long reason", "06 0021" + strings.Repeat("61", 33)},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(tt.bytes, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if m, _, err := parseMessage(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: parse = %+v, %v; want malformed", tt.name, m, err)
		}
		if len(b) > messageHeaderLen || tt.name == "too long" {
			if _, err := readMessage(bytes.NewReader(b)); !errors.Is(err, errMalformed) {
				t.Errorf("%s: read = %v, want malformed", tt.name, err)
			}
		}
	}
}

func TestHeaderGolden(t *testing.T) {
	h := header{network: networkTCP, port: 7000}
	b := appendHeader(nil, h)
	compareHex(t, "header", "overlay.header. Version, network, port.", b, 1, 1)
	got, rest, err := parseHeader(append(b, 1))
	if got != h || len(rest) != 1 || err != nil {
		t.Errorf("parse = %+v, %x, %v", got, rest, err)
	}
	for i := range b {
		if _, _, err := parseHeader(b[:i]); !errors.Is(err, errMalformed) {
			t.Errorf("prefix of %d bytes: %v", i, err)
		}
	}
	for _, bad := range [][]byte{{0, 1, 0, 1}, {2, 1, 0, 1}, {1, 0, 0, 1}, {1, 4, 0, 1}} {
		if _, _, err := parseHeader(bad); !errors.Is(err, errMalformed) {
			t.Errorf("header %x: %v", bad, err)
		}
	}
}

// compareHex compares b with a file of testdata, whose lines are split after
// the given numbers of bytes.
func compareHex(t *testing.T, name, comment string, b []byte, split ...int) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update {
		text := "# " + comment + "\n"
		for _, n := range append(split, len(b)) {
			n = min(n, len(b))
			text += hex.EncodeToString(b[:n]) + "\n"
			b = b[n:]
		}
		if err := os.WriteFile(file, []byte(strings.TrimRight(text, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			digits.WriteString(strings.TrimSpace(line))
		}
	}
	want, err := hex.DecodeString(digits.String())
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("%s: %x, want %x (%v)", name, b, want, err)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, g := range golden {
		f.Add(appendMessage(nil, g.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, rest, err := parseMessage(b)
		if err != nil {
			return
		}
		if again := append(appendMessage(nil, m), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, m, again)
		}
		if read, err := readMessage(bytes.NewReader(b)); err != nil || !reflect.DeepEqual(read, m) {
			t.Errorf("%x reads as %+v, %v; parses as %+v", b, read, err, m)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	f.Add(appendHeader(nil, header{network: networkTCP, port: 80}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := parseHeader(b)
		if err != nil {
			return
		}
		if again := append(appendHeader(nil, h), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, h, again)
		}
	})
}
