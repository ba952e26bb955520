package store

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

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
	if got := hex.Dump(b); got != string(bytes.ReplaceAll(text, []byte("\r"), nil)) {
		t.Errorf("%s: encoded as\n%swant\n%s", name, got, text)
	}
}

var goldenRoot = root{size: 300, depth: 1, refs: []ref{{chunk.ID{1, 2}, [32]byte{3, 4}, 100}, {chunk.ID{5}, [32]byte{6}, 200}}}

func TestManifestGolden(t *testing.T) {
	golden(t, "root.hex", appendRoot(nil, goldenRoot))
	golden(t, "root-inline.hex", appendRoot(nil, root{size: 5, inline: []byte("hello")}))
	golden(t, "node.hex", appendNode(nil, 1, goldenRoot.refs))
	golden(t, "name.hex", exampleRecord().Encoded())
	z, err := newSqueezer(1)
	if err != nil {
		t.Fatal(err)
	}
	s := newSealer(testKey, z)
	golden(t, "sealed-root.hex", s.sealRoot(nil, appendRoot(nil, root{size: 5, inline: []byte("hello")})))
	sealed, _ := s.seal(nil, leafKind, []byte("hello"))
	golden(t, "sealed-leaf.hex", sealed)
}

func TestManifestPrefixes(t *testing.T) {
	b := appendRoot(nil, goldenRoot)
	for n := range b {
		if _, err := parseRoot(b[:n]); err == nil {
			t.Errorf("a prefix of %d bytes of a root is taken", n)
		}
	}
	b = appendNode(nil, 1, goldenRoot.refs)
	for n := range b {
		if _, err := parseNode(b[:n], 1, 300); err == nil {
			t.Errorf("a prefix of %d bytes of a node is taken", n)
		}
	}
	if _, err := parseNode(b, 2, 300); err == nil {
		t.Error("a node is taken at another depth")
	}
	if _, err := parseNode(b, 1, 301); err == nil {
		t.Error("a node is taken for more than is under it")
	}
}

// TestSeal: a chunk opens as what it was sealed as, and as nothing else.
func TestSeal(t *testing.T) {
	z, err := newSqueezer(1)
	if err != nil {
		t.Fatal(err)
	}
	s, stranger := newSealer(testKey, z), newSealer(Key{9}, z)
	for name, plain := range map[string][]byte{
		"empty": {}, "noise": noise(1, 100_000), "zeros": make([]byte, maxCut), "text": bytes.Repeat([]byte("abc "), 5000),
	} {
		sealed, key := s.seal(nil, leafKind, plain)
		if len(sealed) > chunk.MaxSize || name == "zeros" && len(sealed) > 1000 {
			t.Errorf("%s: %d bytes sealed as %d", name, len(plain), len(sealed))
		}
		again, _ := s.seal(nil, leafKind, plain)
		if !bytes.Equal(again, sealed) {
			t.Errorf("%s: sealed differently the second time", name)
		}
		if got, err := s.open(nil, leafKind, key, bytes.Clone(sealed)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: opens as %d bytes, %v", name, len(got), err)
		}
		if _, err := s.open(nil, nodeKind, key, bytes.Clone(sealed)); err == nil {
			t.Errorf("%s: a leaf opens as a node", name)
		}
		for _, i := range []int{0, 1, nonceLen - 1, nonceLen, len(sealed) - 1} {
			c := bytes.Clone(sealed)
			c[i] ^= 1
			if _, err := s.open(nil, leafKind, key, c); err == nil {
				t.Errorf("%s: opens with byte %d changed", name, i)
			}
		}
		root := s.sealRoot(nil, plain)
		if got, err := s.openRoot(nil, bytes.Clone(root)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: a root opens as %d bytes, %v", name, len(got), err)
		}
		if _, err := stranger.openRoot(nil, bytes.Clone(root)); err == nil {
			t.Errorf("%s: a root opens with another key", name)
		}
	}
}

// TestCutFindsItsPlaces: after an insertion, the cuts are at the same content.
func TestCutFindsItsPlaces(t *testing.T) {
	gear := testKey.gear()
	ends := func(b []byte, skip int) map[int]bool {
		at := map[int]bool{}
		for n := 0; n < len(b); {
			n += cut(&gear, b[n:])
			at[n-skip] = true
		}
		return at
	}
	b := noise(1, 8<<20)
	before, after := ends(b, 0), ends(append([]byte("0123456789"), b...), 10)
	same := 0
	for n := range after {
		if before[n] {
			same++
		}
	}
	if len(before) < 20 || len(before) > 45 || same < len(before)-4 {
		t.Errorf("%d pieces, then %d, with %d ends in common", len(before), len(after), same)
	}
}

func FuzzParseRoot(f *testing.F) {
	f.Add(appendRoot(nil, goldenRoot))
	f.Add(appendRoot(nil, root{size: 5, inline: []byte("hello")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRoot(b)
		if err != nil {
			return
		}
		if again := appendRoot(nil, r); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
	})
}

func FuzzParseNode(f *testing.F) {
	f.Add(appendNode(nil, 1, goldenRoot.refs), uint8(1), int64(300))
	f.Fuzz(func(t *testing.T, b []byte, depth uint8, size int64) {
		refs, err := parseNode(b, depth, size)
		if err != nil {
			return
		}
		if again := appendNode(nil, depth, refs); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, refs, again)
		}
	})
}

// FuzzOpen opens what members who have the key may have sealed.
func FuzzOpen(f *testing.F) {
	z, err := newSqueezer(1)
	if err != nil {
		f.Fatal(err)
	}
	s := newSealer(testKey, z)
	if p := z.squeeze(make([]byte, 1000)); p != nil {
		f.Add(*p)
	}
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		if plain, err := z.expand(nil, body); err == nil && len(plain) > maxCut {
			t.Errorf("expands to %d bytes", len(plain))
		}
		s.openRoot(nil, bytes.Clone(body))
	})
}
