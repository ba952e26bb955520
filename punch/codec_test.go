package punch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

// A field is a run of bytes in a golden file, and what it means.
type field struct {
	n    int
	name string
}

// golden compares b with testdata/NAME.hex, which has one field on each line.
func golden(t *testing.T, name string, b []byte, fields []field) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var text strings.Builder
		rest := b
		for _, f := range fields {
			fmt.Fprintf(&text, "%x # %s\n", rest[:f.n], f.name)
			rest = rest[f.n:]
		}
		if len(rest) > 0 {
			t.Fatalf("%d bytes without a field", len(rest))
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readGolden(t, name); !bytes.Equal(got, b) {
		t.Errorf("%s:\ngot  %x\nwant %x", name, b, got)
	}
}

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		part, _, _ := strings.Cut(line, "#")
		digits.WriteString(strings.TrimSpace(part))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sampleDescription() Description {
	return Description{
		Generation: 7, Link: 1, PeerLink: 2,
		Ufrag: "abcdefghijklmnop", Pwd: "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
		Behavior: Behavior{
			Mapping: EndpointIndependent, Filtering: Unknown,
			Translated: Yes, PortPreserving: No, UDPBlocked: No, PortDelta: -2,
		},
		Candidates: []Candidate{
			{Addr: netip.MustParseAddrPort("192.168.1.2:40000"), Kind: KindHost, Priority: 0x7effffff},
			{Addr: netip.MustParseAddrPort("[2a00::1]:40001"), Kind: KindServerReflexive, Priority: 0x64fffeff},
		},
	}
}

var descriptionFields = []field{
	{1, "version"}, {4, "generation"}, {2, "link"}, {2, "peer link"},
	{1, "mapping: endpoint-independent"}, {1, "filtering: unknown"},
	{1, "translated yes, port preserving no, UDP blocked no"}, {2, "port delta -2"},
	{1, "ufrag length"}, {16, "ufrag"}, {1, "password length"}, {32, "password"},
	{1, "candidates"},
	{1, "host"}, {1, "IPv4"}, {4, "address"}, {2, "port"}, {4, "priority"},
	{1, "server-reflexive"}, {1, "IPv6"}, {16, "address"}, {2, "port"}, {4, "priority"},
}

// samples are messages of every type, by the name of their golden file.
func samples() map[string]struct {
	m      message
	fields []field
} {
	head := []field{{1, "type"}, {1, "version"}, {8, "attempt"}}
	with := func(more ...field) []field { return append(append([]field(nil), head...), more...) }
	const id = 0x0102030405060708
	return map[string]struct {
		m      message
		fields []field
	}{
		"offer": {message{kind: messageOffer, attempt: id, copy: 1, rtt: 40 * time.Millisecond, description: sampleDescription()},
			with(append([]field{{1, "copy"}, {4, "round trip in microseconds"}}, descriptionFields...)...)},
		"answer": {message{kind: messageAnswer, attempt: id, copy: 1, description: sampleDescription()},
			with(append([]field{{1, "copy of the offer"}}, descriptionFields...)...)},
		"start":  {message{kind: messageStart, attempt: id}, with()},
		"reason": {message{kind: messageReason, attempt: id, reason: MappingAndFiltering}, with(field{1, "mapping-and-filtering"})},
		"again":  {message{kind: messageAgain}, with()},
		"plan": {message{kind: messagePlan, attempt: id, plan: plan{
			round: 1, kind: planStepped, outside: netip.MustParseAddr("192.0.2.1"), first: 5001, step: -2,
		}}, with(planFields(4, 0)...)},
		"plan-listed": {message{kind: messagePlan, attempt: id, plan: plan{
			round: 2, kind: planListed, outside: netip.MustParseAddr("2a00::1"), ports: []uint16{5000, 5001},
		}}, with(planFields(16, 2)...)},
		"plan-none": {message{kind: messagePlan, attempt: id, plan: plan{round: 1}}, with(planFields(0, 0)...)},
	}
}

// planFields are those of a plan with an address and ports.
func planFields(address, ports int) []field {
	list := []field{{1, "round"}, {1, "kind"}, {1, "address length"}}
	if address > 0 {
		list = append(list, field{address, "address"})
	}
	list = append(list, field{1, "ports"})
	if ports > 0 {
		list = append(list, field{2 * ports, "ports of the sockets"})
	}
	return append(list, field{2, "first"}, field{2, "step"}, field{2, "low"}, field{2, "high"})
}

func TestMessageGolden(t *testing.T) {
	for name, s := range samples() {
		t.Run(name, func(t *testing.T) {
			golden(t, name, appendMessage(nil, s.m), s.fields)
			m, err := parseMessage(readGolden(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m, s.m) {
				t.Errorf("got  %+v\nwant %+v", m, s.m)
			}
		})
	}
}

func TestDescriptionGolden(t *testing.T) {
	golden(t, "description", appendDescription(nil, sampleDescription()), descriptionFields)
}

func TestStrictPrefixesAreRefused(t *testing.T) {
	for name, s := range samples() {
		whole := appendMessage(nil, s.m)
		for n := range whole {
			if m, err := parseMessage(whole[:n]); err == nil {
				t.Errorf("%s: the first %d bytes decode to %+v", name, n, m)
			}
		}
		if _, err := parseMessage(append(whole, 0)); err == nil {
			t.Errorf("%s: a byte too many is accepted", name)
		}
	}
	whole := appendDescription(nil, sampleDescription())
	for n := range whole {
		if _, _, err := parseDescription(whole[:n]); err == nil {
			t.Errorf("the first %d bytes decode as a description", n)
		}
	}
}

func TestDescriptionRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Description)
	}{
		{"17 candidates", func(d *Description) {
			for len(d.Candidates) < 17 {
				d.Candidates = append(d.Candidates, d.Candidates[0])
			}
		}},
		{"short ufrag", func(d *Description) { d.Ufrag = "abc" }},
		{"long ufrag", func(d *Description) { d.Ufrag = strings.Repeat("a", 33) }},
		{"short password", func(d *Description) { d.Pwd = strings.Repeat("a", 21) }},
		{"colon in ufrag", func(d *Description) { d.Ufrag = "abcdefgh:jklmnop" }},
		{"control character in password", func(d *Description) { d.Pwd = "\x00" + d.Pwd[1:] }},
		{"mapping beyond the set", func(d *Description) { d.Behavior.Mapping = 8 }},
		{"finding beyond no", func(d *Description) { d.Behavior.UDPBlocked = 3 }},
		{"unknown kind of candidate", func(d *Description) { d.Candidates[0].Kind = 3 }},
	} {
		d := sampleDescription()
		tt.change(&d)
		if got, _, err := parseDescription(appendDescription(nil, d)); err == nil {
			t.Errorf("%s: decodes to %+v", tt.name, got)
		}
	}
}

func TestOtherVersions(t *testing.T) {
	b := appendMessage(nil, samples()["offer"].m)
	b[1] = 2
	if _, err := parseMessage(b); !errors.Is(err, ErrVersion) {
		t.Errorf("message of version 2: %v, want ErrVersion", err)
	}
	b[1], b[15] = 1, 2
	if _, err := parseMessage(b); !errors.Is(err, ErrVersion) {
		t.Errorf("description of version 2: %v, want ErrVersion", err)
	}
}

func FuzzParseDescription(f *testing.F) {
	f.Add(appendDescription(nil, sampleDescription()))
	f.Add(appendDescription(nil, Description{Ufrag: "abcd", Pwd: strings.Repeat("x", 22)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, rest, err := parseDescription(b)
		if err != nil {
			return
		}
		if again := append(appendDescription(nil, d), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, d, again)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range samples() {
		f.Add(appendMessage(nil, s.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if again := appendMessage(nil, m); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, m, again)
		}
	})
}

// TestFuzzSeeds fails if the inputs that fuzzing found are missing.
func TestFuzzSeeds(t *testing.T) {
	for _, name := range []string{"FuzzParseDescription", "FuzzParseMessage", "FuzzParseSTUN"} {
		if seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", name)); err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", name, err)
		}
	}
}
