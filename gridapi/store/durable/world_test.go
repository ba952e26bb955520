package durable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A world is a grid in one process: members with disks and uplinks.
type world struct {
	mu       sync.Mutex
	nodes    map[string]*node
	order    []string
	records  map[[32]byte][]byte
	versions map[[32]byte]uint64
	rate     float64 // bytes a second of every uplink
}

type node struct {
	w       *world
	name    string
	site    string
	uptime  float64
	up      bool
	disk    map[chunk.ID][]byte
	objects map[[32]byte]bool
	alters  bool
	full    bool
	guard   *Guard
}

func newWorld(t testing.TB, members int, change ...func(*Config)) *world {
	w := &world{nodes: make(map[string]*node), records: make(map[[32]byte][]byte), versions: make(map[[32]byte]uint64), rate: 1.25e6}
	for i := range members {
		name := fmt.Sprintf("member%02d", i)
		w.add(t, name, fmt.Sprintf("home%02d", i), change...)
	}
	return w
}

func (w *world) add(t testing.TB, name, site string, change ...func(*Config)) *node {
	n := &node{w: w, name: name, site: site, up: true, disk: make(map[chunk.ID][]byte), objects: make(map[[32]byte]bool)}
	cfg := Config{Self: name, Holdings: n, Wire: n, Register: w, Members: w.members, Duties: n, Audit: -1}
	for _, do := range change {
		do(&cfg)
	}
	var err error
	if n.guard, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name] = n
	w.order = append(w.order, name)
	return n
}

// run starts the guards of the members that are up.
func (w *world) run(ctx context.Context, wg *sync.WaitGroup) {
	for _, name := range w.order {
		n := w.nodes[name]
		wg.Go(func() { n.guard.Run(ctx) })
	}
}

func (w *world) members() (out []Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range w.order {
		if n := w.nodes[name]; n.up {
			out = append(out, Member{n.name, n.site, n.uptime})
		}
	}
	return out
}

func (w *world) set(name string, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name].up = up
}

// wipe takes a member's disk.
func (w *world) wipe(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.nodes[name].disk)
}

func (w *world) Get(ctx context.Context, object [32]byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.records[object]; b != nil {
		return b, nil
	}
	return nil, ErrNoRecord
}

func (w *world) Swap(ctx context.Context, object [32]byte, old uint64, b []byte) error {
	rec, err := ParseRecord(b)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.versions[object] != old {
		return ErrConflict
	}
	w.records[object], w.versions[object] = b, rec.Version
	return nil
}

func (w *world) record(t testing.TB, object [32]byte) Record {
	t.Helper()
	b, err := w.Get(t.Context(), object)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// whole returns how many slots of an object have a member that is up and holds
// all that it should.
func (w *world) whole(t testing.TB, object [32]byte) (slots int) {
	t.Helper()
	rec := w.record(t, object)
	w.mu.Lock()
	defer w.mu.Unlock()
	var layout []byte
	for _, id := range rec.Layout {
		for _, n := range w.nodes {
			if b := n.disk[id]; b != nil {
				layout = append(layout, b...)
				break
			}
		}
	}
	stripes, err := parseLayout(layout, rec.Scheme)
	if err != nil {
		return 0
	}
	for slot, holders := range rec.Holders {
		if slices.ContainsFunc(holders, func(name string) bool {
			n := w.nodes[name]
			if !n.up || n.alters {
				return false
			}
			return !slices.ContainsFunc(stripes, func(s stripe) bool { return n.disk[s.shards[slot]] == nil })
		}) {
			slots++
		}
	}
	return slots
}

func (n *node) Has(id chunk.ID) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.disk[id] != nil
}

func (n *node) Get(id chunk.ID, buf []byte) ([]byte, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if b := n.disk[id]; b != nil {
		return append(buf[:0], b...), nil
	}
	return nil, chunk.ErrNotHeld
}

func (n *node) Put(id chunk.ID, b []byte) error {
	if err := chunk.Verify(id, b); err != nil {
		return err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.disk[id] = slices.Clone(b)
	return nil
}

func (n *node) Objects() (out [][32]byte) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for o := range n.objects {
		out = append(out, o)
	}
	return out
}

var errAway = errors.New("away")

// get is what a member answers to a request for a chunk.
func (n *node) get(name string, id chunk.ID) ([]byte, error) {
	n.w.mu.Lock()
	m := n.w.nodes[name]
	if !m.up || !n.up {
		n.w.mu.Unlock()
		return nil, errAway
	}
	b := m.disk[id]
	if b != nil && m.alters {
		b = slices.Clone(b)
		for i := range b {
			b[i] ^= 1
		}
	}
	n.w.mu.Unlock()
	if b == nil {
		return nil, chunk.ErrNotHeld
	}
	time.Sleep(time.Duration(float64(len(b)) / n.w.rate * 1e9))
	return b, nil
}

func (n *node) FetchFrom(ctx context.Context, hints []string, want []chunk.ID, got func(chunk.ID)) error {
	missing := 0
	for _, id := range want {
		if n.Has(id) {
			continue
		}
		found := false
		for _, name := range append(slices.Clone(hints), n.w.order...) {
			if b, err := n.get(name, id); err == nil && n.Put(id, b) == nil {
				found = true
				break
			}
		}
		if !found {
			missing++
		}
	}
	if missing > 0 {
		time.Sleep(5 * time.Second)
		return fmt.Errorf("%d missing", missing)
	}
	return nil
}

func (n *node) Keep(ctx context.Context, member string, object [32]byte, id chunk.ID) error {
	if member == n.name {
		n.w.mu.Lock()
		defer n.w.mu.Unlock()
		n.objects[object] = true
		return nil
	}
	b, err := n.get(n.name, id)
	if err != nil {
		return err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	m := n.w.nodes[member]
	if !m.up || m.full {
		return errAway
	}
	m.disk[id], m.objects[object] = b, true
	return nil
}

func (n *node) Drop(ctx context.Context, member string, object [32]byte, id chunk.ID) error {
	return nil
}

func (n *node) Sample(ctx context.Context, member string, id chunk.ID, offset, length int) ([]byte, error) {
	b, err := n.get(member, id)
	if err != nil {
		return nil, err
	}
	return b[offset : offset+length], nil
}

func (n *node) Read(ctx context.Context, member string, id chunk.ID) ([]byte, error) {
	b, err := n.get(member, id)
	if err == nil {
		err = chunk.Verify(id, b)
	}
	return b, err
}

// put gives a member an object of its own, and protects it.
func (w *world) put(t testing.TB, owner string, seed uint64, chunks, size int) ([32]byte, []chunk.ID) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	var ids []chunk.ID
	for range chunks {
		b := make([]byte, size)
		rng.Read(b)
		ids = append(ids, chunk.Sum(b))
		if err := w.nodes[owner].Put(ids[len(ids)-1], b); err != nil {
			t.Fatal(err)
		}
	}
	object := [32]byte{byte(seed), byte(seed >> 8), 1}
	if _, err := w.nodes[owner].guard.Protect(t.Context(), object, ids, nil); err != nil {
		t.Fatal(err)
	}
	return object, ids
}

// restores has a member without anything read an object back.
func (w *world) restores(t testing.TB, object [32]byte, ids []chunk.ID) error {
	reader := w.add(t, "reader", "elsewhere")
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.nodes, "reader")
		w.order = w.order[:len(w.order)-1]
	}()
	got := 0
	if err := reader.guard.Restore(t.Context(), object, func(chunk.ID) { got++ }); err != nil {
		return err
	}
	for _, id := range ids {
		if !reader.Has(id) {
			return fmt.Errorf("chunk %v is missing", id)
		}
	}
	if got != len(ids) {
		return fmt.Errorf("%d chunks were reported of %d", got, len(ids))
	}
	return nil
}
