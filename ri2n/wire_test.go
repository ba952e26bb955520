package ri2n

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var updateGolden = flag.Bool("update", false, "rewrite testdata/*.hex and the seeds of the fuzz targets")

// A field is one annotated piece of an encoding.
type field struct {
	len  int // in bytes
	name string
}

// A vector is one structure with its golden bytes.
type vector struct {
	name   string // of the file in testdata
	fields []field
	encode func(b []byte) []byte

	// parse decodes b and says how many bytes it took and how they encode
	// again. For a frame it begins at the type.
	parse func(b []byte) (value any, again []byte, taken int, err error)
	want  any

	// bounded structures end with their datagram or packet: what follows is
	// theirs or refused.
	bounded bool
	// validPrefix says which prefixes are shorter valid encodings; nil: none.
	validPrefix func(n int) bool
}

func vectors() []vector {
	return append(headerVectors(), append(frameVectors(), transportParamVectors()...)...)
}

// annotate cuts b into fields, one line each.
func annotate(t *testing.T, b []byte, fields []field) string {
	t.Helper()
	var text strings.Builder
	for _, f := range fields {
		if len(b) < f.len {
			t.Fatalf("field %q wants %d bytes, %d are left", f.name, f.len, len(b))
		}
		fmt.Fprintf(&text, "%-34x # %s\n", b[:f.len], f.name)
		b = b[f.len:]
	}
	if len(b) > 0 {
		t.Fatalf("fields leave %x without a name", b)
	}
	return text.String()
}

// readHex returns the bytes of an annotated file.
func readHex(t *testing.T, path string) (b []byte, text string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; go test -update writes it", err)
	}
	for line := range strings.Lines(string(raw)) {
		digits, _, _ := strings.Cut(line, "#")
		piece, err := hex.DecodeString(strings.TrimSpace(digits))
		if err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		b = append(b, piece...)
	}
	return b, string(raw)
}

func goldenPath(name string) string { return filepath.Join("testdata", name+".hex") }

// writeGolden writes the file of a vector when -update is set.
func writeGolden(t *testing.T, name, text string) {
	t.Helper()
	if !*updateGolden {
		return
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenPath(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGolden(t *testing.T) {
	seen := make(map[string]bool)
	for _, v := range vectors() {
		if seen[v.name] {
			t.Errorf("two vectors are named %s", v.name)
		}
		seen[v.name] = true
		t.Run(v.name, func(t *testing.T) {
			got := v.encode(nil)
			text := annotate(t, got, v.fields)
			writeGolden(t, v.name, text)
			golden, goldenText := readHex(t, goldenPath(v.name))
			if !bytes.Equal(got, golden) {
				t.Errorf("encoding\n got %x\nwant %x", got, golden)
			}
			if text != goldenText {
				t.Errorf("annotation\n got %s\nwant %s", text, goldenText)
			}

			// Append extends what is there.
			if got := v.encode([]byte("before")); string(got[:6]) != "before" || !bytes.Equal(got[6:], golden) {
				t.Errorf("encoding behind other bytes = %x", got)
			}

			value, again, taken, err := v.parse(golden)
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if !reflect.DeepEqual(value, v.want) {
				t.Errorf("parse\n got %+v\nwant %+v", value, v.want)
			}
			if taken != len(golden) {
				t.Errorf("parse took %d bytes, want %d", taken, len(golden))
			}
			if !bytes.Equal(again, golden) {
				t.Errorf("encoded again\n got %x\nwant %x", again, golden)
			}
			if !v.bounded {
				if _, _, taken, err := v.parse(append(bytes.Clone(golden), 0xff, 0xff)); err != nil || taken != len(golden) {
					t.Errorf("with bytes behind: took %d, %v; want %d", taken, err, len(golden))
				}
			}
		})
	}
}

func TestEveryPrefixIsRefused(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			b := v.encode(nil)
			for n := range b {
				_, again, taken, err := v.parse(b[:n:n])
				if v.validPrefix != nil && v.validPrefix(n) {
					if err != nil || !bytes.Equal(again, b[:n]) {
						t.Errorf("the first %d of %d bytes: encode again to %x, %v; want themselves", n, len(b), again, err)
					}
					continue
				}
				if err == nil {
					t.Errorf("the first %d of %d bytes are accepted, %d taken", n, len(b), taken)
				}
			}
		})
	}
}

// Every golden file belongs to a vector: none is left behind by a rename.
func TestGoldenFilesAreAllUsed(t *testing.T) {
	used := make(map[string]bool)
	for _, v := range vectors() {
		used[goldenPath(v.name)] = true
	}
	for _, name := range keyVectorNames() {
		used[goldenPath(name)] = true
	}
	files, err := filepath.Glob(goldenPath("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !used[file] {
			t.Errorf("%s belongs to no vector", file)
		}
	}
}
