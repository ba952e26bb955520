package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = Key{1, 2, 3}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Key == (Key{}) {
		cfg.Key = testKey
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noise returns n bytes that nothing compresses.
func noise(seed uint64, n int) []byte {
	block, err := aes.NewCipher(binary.LittleEndian.AppendUint64(make([]byte, 8), seed))
	if err != nil {
		panic(err)
	}
	b := make([]byte, n)
	cipher.NewCTR(block, make([]byte, 16)).XORKeyStream(b, b)
	return b
}

func put(t testing.TB, s *Store, b []byte, o PutOptions) PutResult {
	t.Helper()
	r, err := s.PutBytes(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func want(t testing.TB, s *Store, id chunk.ID, b []byte) {
	t.Helper()
	var got bytes.Buffer
	if _, err := s.Get(t.Context(), id, &got, GetOptions{}); err != nil || !bytes.Equal(got.Bytes(), b) {
		t.Fatalf("get %s: %d bytes, %v; want %d bytes", id, got.Len(), err, len(b))
	}
}

// A neighbour fetches from another store in the same program.
type neighbour struct {
	from    *Store
	to      *Store
	fetched atomic.Int64
}

func (n *neighbour) Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error {
	for i := range want {
		id := want[len(want)-1-i] // in no order that the caller could rely on
		b, err := n.from.Holdings().Get(id, nil)
		if err != nil {
			return err
		}
		if err := n.to.Holdings().Stage(id, b); err != nil {
			return err
		}
		n.fetched.Add(1)
		if got != nil {
			got(id)
		}
	}
	return ctx.Err()
}

func (n *neighbour) Publish(_ context.Context, record []byte) error { return n.from.Learn(record) }
func (n *neighbour) Lookup(_ context.Context, name string) ([][]byte, error) {
	return n.from.Records(name)
}

func connect(from, to *Store) *neighbour {
	n := &neighbour{from: from, to: to}
	to.Connect(n, n)
	return n
}

func TestPutGet(t *testing.T) {
	s := open(t, Config{})
	other := open(t, Config{})
	connect(s, other)
	text := bytes.Repeat([]byte("the moment-based eigenvalue solver "), 60_000)
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"one byte", []byte("x")},
		{"small", noise(1, 4096)},
		{"largest inline", make([]byte, maxInline)},
		{"one leaf", make([]byte, maxInline+1)},
		{"two leaves", make([]byte, maxCut+1)},
		{"many leaves", noise(2, 5_000_000)},
		{"text", text},
	} {
		t.Run(tt.name, func(t *testing.T) {
			last := Progress{}
			r := put(t, s, tt.b, PutOptions{Progress: func(p Progress) { last = p }})
			if r.Size != int64(len(tt.b)) || last.Done != r.Size {
				t.Errorf("put %d bytes: %+v, progress %+v", len(tt.b), r, last)
			}
			if again := put(t, s, tt.b, PutOptions{}); again.ID != r.ID || again.Fresh != 0 {
				t.Errorf("put again: %+v, want %s and nothing fresh", again, r.ID)
			}
			want(t, s, r.ID, tt.b)
			want(t, other, r.ID, tt.b)
			if b, err := s.GetBytes(t.Context(), r.ID, int64(len(tt.b))); err != nil || !bytes.Equal(b, tt.b) {
				t.Errorf("GetBytes: %d bytes, %v", len(b), err)
			}
			if _, err := s.GetBytes(t.Context(), r.ID, int64(len(tt.b))-1); err == nil {
				t.Error("GetBytes returns more than its limit")
			}
		})
	}
	if st := put(t, s, append([]byte("Now "), text...), PutOptions{}).Stored; st > int64(len(text))/10 {
		t.Errorf("%d bytes of text are stored as %d", len(text), st)
	}
}

// TestDeepTree has an object with nodes: the planter is given many small leaves.
func TestDeepTree(t *testing.T) {
	s := open(t, Config{})
	p := &putting{s: s}
	tree := planter{keep: p.keepNode}
	var all []byte
	const leaves = fanout*2 + 5
	for i := range leaves {
		b := binary.BigEndian.AppendUint32([]byte("leaf"), uint32(i))
		leaf, err := p.keepLeaf(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.add(leaf); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	top, err := tree.root()
	if err != nil {
		t.Fatal(err)
	}
	if top.depth != 2 || len(top.refs) != 3 {
		t.Fatalf("root = depth %d with %d refs", top.depth, len(top.refs))
	}
	id, err := p.keep(s.sealer.sealRoot(nil, appendRoot(nil, top)))
	if err != nil {
		t.Fatal(err)
	}
	p.unpin()
	want(t, s, id, all)
	other := open(t, Config{})
	connect(s, other)
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path+partSuffix, all[:fanout*8+100], 0o600)
	if _, err := other.GetFile(t.Context(), id, path, GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, all) {
		t.Error("the file is wrong")
	}
	if other.Holdings().Has(top.refs[0].id) == false {
		t.Error("a node was not fetched")
	}
	third := open(t, Config{})
	connect(s, third)
	if _, err := third.Pin(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	third.Connect(nil, nil)
	want(t, third, id, all)
	if list, err := third.List(); err != nil || len(list) != 1 || list[0].Held != leaves+3+1 || list[0].Chunks != list[0].Held {
		t.Errorf("list = %+v, %v", list, err)
	}
}

// TestSharedChunks: a change in the middle of an object costs the chunks around
// it.
func TestSharedChunks(t *testing.T) {
	s := open(t, Config{})
	b := noise(1, 8_000_000)
	first := put(t, s, b, PutOptions{})
	changed := append(append(bytes.Clone(b[:4_000_000]), "inserted"...), b[4_000_000:]...)
	second := put(t, s, changed, PutOptions{})
	if second.Fresh > 4 { // one or two leaves, and the root
		t.Errorf("an insertion makes %d of %d chunks new", second.Fresh, second.Chunks)
	}
	if first.Chunks < 15 || first.Chunks > 60 {
		t.Errorf("8 MB are %d chunks, want about 30", first.Chunks)
	}
}

// TestKeys: without the key nothing can be read, and equal content shows not
// even that it is equal.
func TestKeys(t *testing.T) {
	a, b := open(t, Config{}), open(t, Config{Key: Key{9}})
	content := noise(1, 3_000_000)
	x := put(t, a, content, PutOptions{})
	connect(a, b)
	var bad *ContentError
	if _, err := b.Get(t.Context(), x.ID, io.Discard, GetOptions{}); !errors.As(err, &bad) {
		t.Errorf("get with another key: %v", err)
	}
	if y := put(t, b, content, PutOptions{}); y.ID == x.ID || y.Fresh != y.Chunks {
		t.Errorf("with another key: %+v", y)
	}
	if s := Key.String(testKey); strings.Contains(s, "010203") {
		t.Errorf("a key prints as %s", s)
	}
	if k, err := ParseKey(testKey.Encode() + "\n"); err != nil || k != testKey {
		t.Errorf("ParseKey: %v", err)
	}
	for _, text := range []string{"", "igstore-", testKey.Encode() + "00", strings.TrimPrefix(testKey.Encode(), keyPrefix)} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
	}
}

// TestPutResumes breaks off a Put; the next one stores only the rest.
func TestPutResumes(t *testing.T) {
	s := open(t, Config{})
	b := noise(1, 6_000_000)
	broken := errors.New("the cable")
	_, err := s.Put(t.Context(), io.MultiReader(bytes.NewReader(b[:5_000_000]), failing{broken}), PutOptions{})
	if !errors.Is(err, broken) {
		t.Fatalf("put: %v", err)
	}
	before := s.disk.Status().Chunks
	r := put(t, s, b, PutOptions{})
	if before < 8 || r.Fresh > r.Chunks-before {
		t.Errorf("%d chunks were there, and %d of %d are fresh", before, r.Fresh, r.Chunks)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestGetFileResumes breaks off a GetFile, and damages what it has left.
func TestGetFileResumes(t *testing.T) {
	s, other := open(t, Config{}), open(t, Config{})
	b := noise(1, 6_000_000)
	x := put(t, s, b, PutOptions{})
	n := connect(s, other)
	path := filepath.Join(t.TempDir(), "copy")
	os.WriteFile(path+partSuffix, append(bytes.Clone(b[:4_000_000]), "something else"...), 0o600)
	first := int64(0)
	if _, err := other.GetFile(t.Context(), x.ID, path, GetOptions{Progress: func(p Progress) {
		if first == 0 {
			first = p.Done
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("the file has %d bytes, %v", len(got), err)
	}
	if first < 3_000_000 || first > 4_000_000 || n.fetched.Load() > int64(x.Chunks)/2 {
		t.Errorf("it went on at %d, and fetched %d of %d chunks", first, n.fetched.Load(), x.Chunks)
	}
	if _, err := os.Stat(path + partSuffix); !os.IsNotExist(err) {
		t.Errorf("the part is still there: %v", err)
	}
	// From what is wrong from its beginning nothing is taken.
	os.WriteFile(path+partSuffix, noise(7, 7_000_000), 0o600)
	if _, err := other.GetFile(t.Context(), x.ID, path, GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, b) {
		t.Error("the file is wrong")
	}
}

func TestNotFound(t *testing.T) {
	s := open(t, Config{})
	var missing *NotFoundError
	if _, err := s.Get(t.Context(), chunk.Sum([]byte("x")), io.Discard, GetOptions{}); !errors.As(err, &missing) {
		t.Errorf("get: %v", err)
	}
	b := noise(1, 3_000_000)
	x := put(t, s, b, PutOptions{})
	top, err := s.root(t.Context(), x.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.disk.Delete(top.refs[len(top.refs)-1].id)
	if _, err := s.Get(t.Context(), x.ID, io.Discard, GetOptions{}); !errors.As(err, &missing) || missing.Chunk != top.refs[len(top.refs)-1].id {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Resolve(t.Context(), "nobody"); !errors.As(err, &missing) {
		t.Errorf("resolve: %v", err)
	}
}

// TestQuota: an object that is larger than the quota fails, and leaves the store
// as usable as before.
func TestQuota(t *testing.T) {
	s := open(t, Config{Quota: 16 << 20})
	kept := noise(1, 2_000_000)
	x := put(t, s, kept, PutOptions{Pin: true})
	var full *disk.FullError
	if _, err := s.Put(t.Context(), bytes.NewReader(noise(2, 17<<20)), PutOptions{}); !errors.As(err, &full) {
		t.Fatalf("put of more than the quota: %v", err)
	}
	want(t, s, x.ID, kept)
	for i := range uint64(6) {
		b := noise(10+i, 3_000_000)
		want(t, s, put(t, s, b, PutOptions{}).ID, b)
	}
	want(t, s, x.ID, kept)
}

// TestPins: pins outlive a restart, are counted by object, and end with Unpin or
// Remove.
func TestPins(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Quota: 16 << 20}
	s := open(t, cfg)
	b := noise(1, 2_000_000)
	x := put(t, s, b, PutOptions{Pin: true, Label: "b"})
	if again := put(t, s, b, PutOptions{Pin: true}); again.ID != x.ID {
		t.Fatal("the object has another ID")
	}
	s.Close()
	s = open(t, cfg)
	crowd := func(seed uint64) {
		for i := range uint64(6) {
			put(t, s, noise(seed+i, 3_000_000), PutOptions{})
		}
	}
	crowd(100)
	want(t, s, x.ID, b)
	list, err := s.List()
	if err != nil || len(list) != 1 || !list[0].Pinned || list[0].Label != "b" || list[0].Held != list[0].Chunks || list[0].Size != x.Size {
		t.Fatalf("list = %+v, %v", list, err)
	}
	if err := s.Unpin(x.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin(x.ID); err != nil {
		t.Errorf("unpin again: %v", err)
	}
	var missing *NotFoundError
	if err := s.Unpin(chunk.ID{1}); !errors.As(err, &missing) {
		t.Errorf("unpin what is not there: %v", err)
	}
	if list, _ = s.List(); list[0].Pinned {
		t.Error("it is still pinned")
	}
}

// TestRemove deletes what no other listed object has.
func TestRemove(t *testing.T) {
	s := open(t, Config{})
	b := noise(1, 3_000_000)
	x := put(t, s, b, PutOptions{List: true})
	longer := append(bytes.Clone(b), noise(2, 1_000_000)...)
	y := put(t, s, longer, PutOptions{Pin: true})
	if n, err := s.Remove(y.ID, chunk.ID{1}); n != 1 || err != nil {
		t.Errorf("Remove = %d, %v", n, err)
	}
	want(t, s, x.ID, b)
	var missing *NotFoundError
	if _, err := s.Get(t.Context(), y.ID, io.Discard, GetOptions{}); !errors.As(err, &missing) {
		t.Errorf("get of what was removed: %v", err)
	}
	if n, err := s.Remove(x.ID); n != 1 || err != nil {
		t.Errorf("Remove = %d, %v", n, err)
	}
	if st, err := s.Status(); err != nil || st.Chunks != 0 || st.Objects != 0 {
		t.Errorf("status = %+v, %v", st, err)
	}
}

// TestDamagedChunk: what is damaged here is fetched again.
func TestDamagedChunk(t *testing.T) {
	source, s := open(t, Config{}), open(t, Config{})
	b := noise(1, 3_000_000)
	x := put(t, source, b, PutOptions{})
	n := connect(source, s)
	want(t, s, x.ID, b)
	before := n.fetched.Load()
	name := filepath.Join(s.cfg.Dir, "000000.seg")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(100); at < 3_000_000; at += 500_000 {
		f.WriteAt([]byte("garbage"), at)
	}
	f.Close()
	want(t, s, x.ID, b)
	if n.fetched.Load() == before || s.counters.damaged.Load() == 0 {
		t.Error("nothing was fetched again")
	}
}

func TestCancel(t *testing.T) {
	s := open(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Put(ctx, io.MultiReader(bytes.NewReader(noise(1, 3_000_000)), cancelling{cancel}, bytes.NewReader(noise(2, 3_000_000))), PutOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	x := put(t, s, noise(3, 3_000_000), PutOptions{})
	ctx, cancel = context.WithCancel(t.Context())
	if _, err := s.Get(ctx, x.ID, cancelOnWrite(cancel), GetOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
}

type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Read([]byte) (int, error) { c.cancel(); return 0, io.EOF }

type cancelOnWrite context.CancelFunc

func (c cancelOnWrite) Write(b []byte) (int, error) { c(); return len(b), nil }

// TestConcurrentPuts puts and gets from several goroutines, some the same.
func TestConcurrentPuts(t *testing.T) {
	s := open(t, Config{})
	var running sync.WaitGroup
	for g := range 4 {
		running.Go(func() {
			for i := range 10 {
				b := noise(uint64(i+g%2), 300_000)
				r, err := s.PutBytes(t.Context(), b, PutOptions{List: true})
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.GetBytes(t.Context(), r.ID, 1<<20); err != nil || !bytes.Equal(got, b) {
					t.Errorf("get: %v", err)
				}
			}
		})
	}
	running.Wait()
}

func TestClosed(t *testing.T) {
	s := open(t, Config{})
	x := put(t, s, []byte("x"), PutOptions{List: true})
	s.Close()
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	_, err := s.PutBytes(t.Context(), []byte("y"), PutOptions{})
	_, err2 := s.Get(t.Context(), x.ID, io.Discard, GetOptions{})
	_, err3 := s.List()
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if _, err := Open(Config{Dir: t.TempDir()}); err == nil {
		t.Error("a store opens without a key")
	}
}

// TestOneAtATime: two stores in one directory would write over each other.
func TestOneAtATime(t *testing.T) {
	s := open(t, Config{})
	if _, err := Open(Config{Dir: s.cfg.Dir, Key: testKey}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second Open: %v", err)
	}
	b := noise(1, 100_000)
	want(t, s, put(t, s, b, PutOptions{}).ID, b)
}

func signer(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}
