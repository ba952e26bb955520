package store

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

func TestCheckName(t *testing.T) {
	for _, tt := range []struct {
		name string
		ok   bool
	}{
		{"a", true}, {"alice/heat-1024.bin", true}, {"A_b", true},
		{"", false}, {"/a", false}, {"a/", false}, {"a//b", false}, {"..", false}, {"a/../b", false}, {"a b", false},
		{"é", false}, {"a\x00", false}, {chunk.ID{}.String(), false}, {string(bytes.Repeat([]byte("a"), 129)), false},
	} {
		if err := CheckName(tt.name); (err == nil) != tt.ok {
			t.Errorf("CheckName(%q) = %v", tt.name, err)
		}
	}
}

func exampleRecord() *Record {
	return Record{Name: "alice/a", Version: 3, Time: time.Unix(1_800_000_000, 5), Object: chunk.ID{1}, Size: 77}.sign(signer(1))
}

func TestRecord(t *testing.T) {
	r := exampleRecord()
	b := r.Encoded()
	got, err := ParseRecord(b)
	if err != nil || got.Name != r.Name || !got.Signer.Equal(r.Signer) || got.Version != 3 || !got.Time.Equal(r.Time) || got.Object != r.Object || got.Size != 77 {
		t.Fatalf("ParseRecord = %+v, %v", got, err)
	}
	for n := range b {
		if _, err := ParseRecord(b[:n]); err == nil {
			t.Errorf("a prefix of %d bytes is taken", n)
		}
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if _, err := ParseRecord(c); err == nil {
			t.Errorf("it is taken with byte %d changed", i)
		}
	}
	if _, err := ParseRecord(append(bytes.Clone(b), 0)); err == nil {
		t.Error("it is taken with a byte behind it")
	}
}

func TestBeats(t *testing.T) {
	r := exampleRecord()
	newer := Record{Name: r.Name, Version: 4}.sign(signer(2))
	same := Record{Name: r.Name, Version: 3}.sign(signer(2))
	if !r.beats(nil) || r.beats(newer) || !newer.beats(r) || r.beats(r) || r.beats(same) == same.beats(r) {
		t.Error("the order of records is none")
	}
}

// TestNames: the highest version counts, on every member, and a member that is
// none any more does not.
func TestNames(t *testing.T) {
	var bobIsOut atomic.Bool
	verify := func(_ string, key ed25519.PublicKey) error {
		if key.Equal(signer(2).Public()) && bobIsOut.Load() || key.Equal(signer(3).Public()) {
			return errors.New("no member")
		}
		return nil
	}
	alice := open(t, Config{Signer: signer(1), Verify: verify})
	bob := open(t, Config{Signer: signer(2), Verify: verify})
	connect(alice, bob) // bob asks and tells alice
	ctx := t.Context()
	x := put(t, alice, []byte("first"), PutOptions{Name: "data"})
	if x.Name == nil || x.Name.Version != 1 {
		t.Fatalf("name = %+v", x.Name)
	}
	if id, err := bob.Find(ctx, "data"); err != nil || id != x.ID {
		t.Fatalf("bob finds %v, %v", id, err)
	}
	if b, err := bob.GetBytes(ctx, x.ID, 100); err != nil || string(b) != "first" {
		t.Fatalf("bob gets %q, %v", b, err)
	}
	y := put(t, bob, []byte("second"), PutOptions{Name: "data"})
	if y.Name.Version != 2 {
		t.Errorf("bob's version = %d", y.Name.Version)
	}
	if id, err := alice.Find(ctx, "data"); err != nil || id != y.ID {
		t.Errorf("alice finds %v, %v", id, err)
	}
	// A stranger's record, a forged one and an old one change nothing.
	if err := alice.Learn(Record{Name: "data", Version: 9, Time: time.Unix(1, 0), Object: chunk.ID{9}}.sign(signer(3)).Encoded()); err == nil {
		t.Error("a stranger's record is taken")
	}
	forged := bytes.Clone(y.Name.Encoded())
	forged[len(forged)-1] ^= 1
	if err := alice.Learn(forged); err == nil {
		t.Error("a forged record is taken")
	}
	if err := alice.Learn(x.Name.Encoded()); err != nil {
		t.Errorf("an old record: %v", err)
	}
	if id, _ := alice.Find(ctx, "data"); id != y.ID {
		t.Errorf("alice finds %v", id)
	}
	if st, err := alice.Status(); err != nil || st.RefusedRecords != 2 || st.Names != 1 {
		t.Errorf("status = %+v, %v", st, err)
	}
	bobIsOut.Store(true)
	if id, err := alice.Find(ctx, "data"); err != nil || id != x.ID {
		t.Errorf("without bob, alice finds %v, %v", id, err)
	}
	bobIsOut.Store(false)
	// A removed name stays removed, and can be set again.
	if _, err := bob.SetName(ctx, "data", Object{}); err != nil {
		t.Fatal(err)
	}
	var missing *NotFoundError
	if _, err := alice.Find(ctx, "data"); !errors.As(err, &missing) {
		t.Errorf("after its removal: %v", err)
	}
	z := put(t, alice, []byte("third"), PutOptions{Name: "data"})
	if id, err := bob.Find(ctx, "data"); err != nil || id != z.ID || z.Name.Version != 4 {
		t.Errorf("set again: %v, %v, version %d", id, err, z.Name.Version)
	}
	list, err := bob.List()
	named := 0
	for _, x := range list {
		if x.ID == z.ID && len(x.Names) == 1 {
			named++
		}
	}
	if err != nil || named != 1 {
		t.Errorf("bob's list = %+v, %v", list, err)
	}
}

// TestTooManySigners bounds what is kept of a name.
func TestTooManySigners(t *testing.T) {
	s := open(t, Config{Verify: func(string, ed25519.PublicKey) error { return nil }})
	var last error
	for i := range maxSigners + 1 {
		last = s.Learn(Record{Name: "n", Version: 1, Time: time.Unix(1, 0)}.sign(signer(byte(i))).Encoded())
		if i < maxSigners && last != nil {
			t.Fatalf("record %d: %v", i, last)
		}
	}
	if last == nil {
		t.Error("there is no bound")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(exampleRecord().Encoded())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		if again := append(appendRecord(nil, r), b[len(b)-ed25519.SignatureSize:]...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, r, again)
		}
	})
}
