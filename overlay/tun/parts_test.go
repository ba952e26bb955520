package tun

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

var goldenParts = []struct {
	name string
	part part
}{
	{"first half", part{id: 0x0102, data: []byte("first")}},
	{"second half", part{second: true, id: 0xffff, data: []byte{0x60}}},
}

func TestPartGolden(t *testing.T) {
	file := filepath.Join("testdata", "parts.hex")
	var text strings.Builder
	text.WriteString("# form (1), number (2), bytes: docs/overlay-protocol.md, section 10\n")
	for _, g := range goldenParts {
		b := appendPart(nil, g.part)
		text.WriteString(hex.EncodeToString(b[:1]) + " " + hex.EncodeToString(b[1:3]) + " " + hex.EncodeToString(b[3:]) + "  # " + g.name + "\n")
		got, err := parsePart(b)
		if err != nil || got.second != g.part.second || got.id != g.part.id || !bytes.Equal(got.data, g.part.data) {
			t.Errorf("%s: %x decodes to %+v, %v", g.name, b, got, err)
		}
		for n := range partHeaderLen + 1 {
			if _, err := parsePart(b[:n]); err == nil {
				t.Errorf("%s: its first %d bytes are taken", g.name, n)
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != text.String() {
		t.Errorf("golden bytes differ (%v):\n%s", err, text.String())
	}
}

func FuzzParsePart(f *testing.F) {
	for _, g := range goldenParts {
		f.Add(appendPart(nil, g.part))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePart(b)
		if err != nil {
			return
		}
		if again := appendPart(nil, p); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, p, again)
		}
	})
}

func TestAssembler(t *testing.T) {
	var a assembler
	one, two := part{id: 1, data: []byte("on")}, part{second: true, id: 1, data: []byte("e")}
	if got := a.add(epoch, one); got != nil {
		t.Errorf("one half is taken for %q", got)
	}
	if got := a.add(epoch.Add(partLife-1), two); string(got) != "one" {
		t.Errorf("two halves make %q", got)
	}
	a.add(epoch, two)
	if got := a.add(epoch, one); string(got) != "one" {
		t.Errorf("the second half first: %q", got)
	}
	a.add(epoch, one)
	if got := a.add(epoch.Add(partLife), two); got != nil {
		t.Errorf("a half that is too old makes %q", got)
	}
	if got := a.add(epoch.Add(partLife), part{second: true, id: 1, data: []byte("x")}); got != nil {
		t.Errorf("two second halves make %q", got)
	}
	if got := a.lostParts(); got != 2 {
		t.Errorf("%d lost, want 2", got)
	}
}

func TestAssemblerIsBounded(t *testing.T) {
	var a assembler
	for id := range uint16(1000) {
		a.add(epoch, part{id: id, data: make([]byte, 100)})
	}
	if len(a.waiting) != maxParts || a.bytes != maxParts*100 {
		t.Errorf("%d halves of %d bytes wait", len(a.waiting), a.bytes)
	}
	for id := range uint16(1000) {
		a.add(epoch.Add(time.Millisecond), part{id: 2000 + id, data: make([]byte, 60_000)})
	}
	if a.bytes > maxPartsBytes {
		t.Errorf("%d bytes wait, at most %d", a.bytes, maxPartsBytes)
	}
	if got := a.add(epoch, part{id: 7, data: make([]byte, maxPartsBytes+1)}); got != nil || a.bytes > maxPartsBytes {
		t.Errorf("a half larger than all: %d bytes wait", a.bytes)
	}
}
