package socks

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata")

// compareHex compares b with a file of testdata.
func compareHex(t *testing.T, name, comment string, b []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(file, []byte("# "+comment+"\n"+hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, digits, _ := strings.Cut(string(text), "\n")
	if want, err := hex.DecodeString(strings.TrimSpace(digits)); err != nil || !bytes.Equal(b, want) {
		t.Errorf("%s: %x, want %x (%v)", name, b, want, err)
	}
}

var goldenTargets = []struct {
	name string
	t    target
}{
	{"name", target{"alice.lab.grid", 80}},
	{"ipv4", target{"100.90.0.2", 22}},
	{"ipv6", target{"fd00::2", 443}},
}

func request(command byte, t target) []byte { return appendAddress([]byte{version, command, 0}, t) }

func TestWireGolden(t *testing.T) {
	compareHex(t, "reply", "RFC 1928, section 6: version, reply, reserved, address type, address, port",
		appendReply(nil, refused, netip.MustParseAddrPort("127.0.0.1:1080")))
	for _, tt := range goldenTargets {
		b := request(cmdConnect, tt.t)
		compareHex(t, "request-"+tt.name, "RFC 1928, section 4: version, command, reserved, address type, address, port", b)
		if command, got, err := readRequest(bytes.NewReader(b)); err != nil || command != cmdConnect || got != tt.t {
			t.Errorf("%s: read %d %v, %v", tt.name, command, got, err)
		}
		for i := range b {
			if _, _, err := readRequest(bytes.NewReader(b[:i])); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: prefix of %d bytes: %v", tt.name, i, err)
			}
		}
		p := appendPacket(nil, tt.t, []byte("payload"))
		compareHex(t, "packet-"+tt.name, "RFC 1928, section 7: reserved, fragment, address type, address, port, data", p)
		if got, payload, err := parsePacket(p); err != nil || got != tt.t || string(payload) != "payload" {
			t.Errorf("%s: parse %v %q, %v", tt.name, got, payload, err)
		}
		for i := range len(p) - len("payload") {
			if _, _, err := parsePacket(p[:i]); !errors.Is(err, errAddress) {
				t.Errorf("%s: packet of %d bytes: %v", tt.name, i, err)
			}
		}
	}
}

func TestWireRefused(t *testing.T) {
	for name, b := range map[string]string{
		"an empty name":      "05010003000050",
		"a name with a zero": "0501000302610050",
		"address type 2":     "05010002",
	} {
		raw, err := hex.DecodeString(b)
		if err != nil {
			t.Fatal(err)
		}
		if name == "a name with a zero" {
			raw = []byte{5, 1, 0, 3, 2, 'a', 0, 0, 80}
		}
		if _, _, err := readRequest(bytes.NewReader(raw)); !errors.Is(err, errAddress) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := parsePacket([]byte{0, 0, 1, 1, 127, 0, 0, 1, 0, 80, 'x'}); !errors.Is(err, errAddress) {
		t.Errorf("a fragment: %v", err)
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, g := range goldenTargets {
		f.Add(appendPacket(nil, g.t, []byte("x")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, payload, err := parsePacket(b)
		if err != nil {
			return
		}
		again, rest, err := parsePacket(appendPacket(nil, to, payload))
		if err != nil || again != to || !bytes.Equal(rest, payload) {
			t.Errorf("%x decodes to %v, which decodes to %v, %v", b, to, again, err)
		}
	})
}

func FuzzReadRequest(f *testing.F) {
	for _, g := range goldenTargets {
		f.Add(request(cmdConnect, g.t))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, to, err := readRequest(r)
		if err == nil && (to.host == "" || len(to.host) > maxHostName) {
			t.Errorf("%x decodes to %v", b, to)
		}
	})
}
