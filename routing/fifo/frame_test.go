package fifo

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

// examples hold each kind of frame at least once.
func examples() []struct {
	name string
	f    frame
} {
	return []struct {
		name string
		f    frame
	}{
		{"data", frame{kind: kindData, session: 2, number: 5, payload: []byte("hello")}},
		{"data-empty", frame{kind: kindData, session: 2, number: 6}},
		{"ack", frame{kind: kindAck, session: 2, number: 6}},
		{"ack-early", frame{kind: kindAck, session: 2, number: 6, bitmap: 0x8000000000000001}},
	}
}

func TestFramesMatchGoldenBytes(t *testing.T) {
	for _, tt := range examples() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := appendFrame(nil, &tt.f)
			file := filepath.Join("testdata", tt.name+".hex")
			if *update {
				text := fmt.Sprintf("# %s, as in frame_test.go. Version and kind, session, number, body.\n%x\n%x\n%x\n%x\n",
					tt.name, encoded[:2], encoded[2:10], encoded[10:18], encoded[18:])
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				seed := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", encoded)
				if err := os.WriteFile(filepath.Join("testdata", "fuzz", "FuzzParseFrame", tt.name), []byte(seed), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readHex(t, file); !bytes.Equal(encoded, want) {
				t.Errorf("got  %x\nwant %x", encoded, want)
			}
			got, err := parseFrame(encoded)
			if err != nil || !reflect.DeepEqual(got, tt.f) {
				t.Errorf("parsed %+v, %v; want %+v", got, err, tt.f)
			}
			// A payload takes whatever is left.
			for n := range len(encoded) - len(tt.f.payload) {
				if _, err := parseFrame(encoded[:n]); !errors.Is(err, ErrMalformed) {
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

func TestMalformedFramesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		hex  string
	}{
		{"another version", "02010000000000000001" + "0000000000000001"},
		{"unknown kind", "01030000000000000001" + "0000000000000001"},
		{"number zero", "01010000000000000001" + "0000000000000000"},
		{"long acknowledgement", "01020000000000000001" + "0000000000000001" + "000000000000000000"},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFrame(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", tt.name, err)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, tt := range examples() {
		f.Add(appendFrame(nil, &tt.f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFrame(b)
		if err != nil {
			return
		}
		if again := appendFrame(nil, &got); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, got, again)
		}
	})
}
