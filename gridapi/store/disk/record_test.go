package disk

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares b with the hexadecimal digits in a file of testdata, whose
// lines may end with a comment after #.
func golden(t *testing.T, file string, b []byte) {
	t.Helper()
	name := "testdata/" + file
	if *update {
		if err := os.WriteFile(name, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.Dump(b); got != strings.ReplaceAll(string(text), "\r", "") {
		t.Errorf("%s: encoded as\n%swant\n%s", name, got, text)
	}
}

var goldenRecord = record{id: chunk.Sum([]byte("payload")), length: 7, sum: 0x01020304, used: 0x0506}

func TestRecordGolden(t *testing.T) {
	b := appendSegmentHeader(nil, 0x1122334455667788)
	golden(t, "segment.hex", appendRecordHeader(b, place{0x1122334455667788, segmentHeaderLen}, goldenRecord))
}

func TestRecordHeader(t *testing.T) {
	p := place{1, segmentHeaderLen}
	b := appendRecordHeader(nil, p, goldenRecord)
	if got, err := parseRecordHeader(b, p); err != nil || got != goldenRecord {
		t.Fatalf("parseRecordHeader = %+v, %v", got, err)
	}
	for n := range b {
		if _, err := parseRecordHeader(b[:n], p); err == nil {
			t.Errorf("a prefix of %d bytes is taken", n)
		}
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if got, err := parseRecordHeader(c, p); err == nil {
			t.Errorf("with byte %d changed: %+v", i, got)
		}
	}
	for _, other := range []place{{2, p.offset}, {1, p.offset + recordAlign}} {
		if _, err := parseRecordHeader(b, other); err == nil {
			t.Errorf("a record of %+v is taken at %+v", p, other)
		}
	}
}

func TestSegmentHeader(t *testing.T) {
	b := appendSegmentHeader(nil, 5)
	if g, err := parseSegmentHeader(b); err != nil || g != 5 {
		t.Fatalf("parseSegmentHeader = %v, %v", g, err)
	}
	for n := range b {
		if _, err := parseSegmentHeader(b[:n]); err == nil {
			t.Errorf("a prefix of %d bytes is taken", n)
		}
	}
}

func TestSegmentName(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    uint32
		ok   bool
	}{
		{"000000.seg", 0, true}, {"262143.seg", maxSegments - 1, true}, {"262144.seg", 0, false},
		{"00000.seg", 0, false}, {"000001", 0, false}, {"-00001.seg", 0, false}, {"index", 0, false},
	} {
		if n, ok := parseSegmentName(tt.name); ok != tt.ok || ok && n != tt.n {
			t.Errorf("parseSegmentName(%q) = %d, %v", tt.name, n, ok)
		}
	}
}

func FuzzRecordHeader(f *testing.F) {
	p := place{7, 64}
	f.Add(appendRecordHeader(nil, p, goldenRecord))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < recordHeaderLen {
			return
		}
		// Fuzzing would hardly find a checksum.
		b = bytes.Clone(b[:recordHeaderLen])
		fixRecordSum(b, p)
		r, err := parseRecordHeader(b, p)
		if err != nil {
			return
		}
		if again := appendRecordHeader(nil, p, r); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
	})
}
