package durable

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// TestPlace: shards of an object lie on distinct sites whenever there are
// enough of them, and never twice on a member.
func TestPlace(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		sites := 1 + rng.IntN(10)
		var members []Member
		used := make(map[string]bool)
		for i := range 1 + rng.IntN(20) {
			m := Member{Name: fmt.Sprintf("m%d", i), Site: fmt.Sprintf("s%d", rng.IntN(sites)), Uptime: rng.Float64()}
			if rng.IntN(10) == 0 {
				m.Site = ""
			}
			used[m.site()] = true
			members = append(members, m)
		}
		object := [32]byte{byte(rng.IntN(256)), byte(rng.IntN(256))}
		got := place(object, members, 6, nil)
		if want := min(6, len(members)); len(got) != want {
			t.Fatalf("%d holders of %d members", len(got), len(members))
		}
		bySite, names := make(map[string]int), make(map[string]bool)
		for _, name := range got {
			if names[name] {
				t.Fatalf("%s twice", name)
			}
			names[name] = true
			for _, m := range members {
				if m.Name == name {
					bySite[m.site()]++
				}
			}
		}
		if want := min(len(used), len(got)); len(bySite) != want {
			t.Fatalf("holders on %d sites of %d", len(bySite), len(used))
		}
	}
}

var goldenRecord = Record{
	Object: [32]byte{1}, Version: 3, Scheme: Copies, Layout: []chunk.ID{chunk.Sum([]byte("layout"))},
	Holders: [][]string{{"alice"}, {"bob", "carol"}, {"dave"}},
}

func TestRecord(t *testing.T) {
	b := goldenRecord.Append(nil)
	if got, err := ParseRecord(b); err != nil || !reflect.DeepEqual(got, goldenRecord) {
		t.Errorf("ParseRecord = %+v, %v", got, err)
	}
	for i := range b {
		if got, err := ParseRecord(b[:i]); !errors.Is(err, errMalformed) {
			t.Errorf("prefix of %d bytes decodes to %+v, %v", i, got, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(goldenRecord.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRecord(b); err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Errorf("%x decodes to %+v", b, r)
		}
	})
}

func FuzzParseLayout(f *testing.F) {
	s := stripe{chunks: []part{{chunk.ID{1}, 5}}, shards: make([]chunk.ID, 6)}
	f.Add(appendLayout(nil, Coded, []stripe{s}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseLayout(b, Coded); err == nil && !bytes.Equal(appendLayout(nil, Coded, s), b) {
			t.Errorf("%x decodes to %+v", b, s)
		}
	})
}

// TestLedger: what was kept is kept after any end of the program.
func TestLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	open := func() *Ledger {
		t.Helper()
		l, err := OpenLedger(path, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	for i := range 2 {
		if err := l.Keep("alice", [32]byte{byte(i)}, chunk.ID{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if l.Admit("alice", [32]byte{9}, chunk.ID{9}) {
		t.Error("a third chunk is admitted to a ledger of two")
	}
	if !l.Admit("alice", [32]byte{1}, chunk.ID{1}) {
		t.Error("a chunk that is kept already is not admitted")
	}
	if err := l.Drop("alice", [32]byte{0}, chunk.ID{0}); err != nil {
		t.Fatal(err)
	}
	// No Close: the program was killed while it wrote.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := append(b, "+ 0102"...)
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open()
	defer again.Close()
	if got := again.Objects(); len(got) != 1 || got[0] != [32]byte{1} {
		t.Errorf("objects = %x", got)
	}
	l.Close()
}
