package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/overlay"
)

// A fakeLocator keeps location objects as the grid does.
type fakeLocator struct {
	mu      sync.Mutex
	objects map[overlay.Key]overlay.Object
}

func (f *fakeLocator) Get(_ context.Context, key overlay.Key) (overlay.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, is := f.objects[key]
	if !is {
		return o, overlay.ErrObjectNotFound
	}
	return o, nil
}

func (f *fakeLocator) Create(ctx context.Context, owner ed25519.PrivateKey, o overlay.Object) (overlay.Object, error) {
	return f.Swap(ctx, owner, 0, o)
}

func (f *fakeLocator) Swap(_ context.Context, owner ed25519.PrivateKey, expected uint64, o overlay.Object) (overlay.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := keyOf(owner)
	if now := f.objects[key]; now.Incarnation != expected {
		return now, &overlay.ConflictError{Current: now}
	}
	o.Incarnation, o.Remaining = expected+1, o.Lease
	f.objects[key] = o
	return o, nil
}

// A record is changed by one of several, renewed before its lease ends, and put
// back when the grid has forgotten it.
func TestStoreRegister(t *testing.T) {
	grid := &fakeLocator{objects: make(map[overlay.Key]overlay.Object)}
	key, file := store.NewKey(), filepath.Join(t.TempDir(), "records.db")
	open := func(key store.Key, file string) *storeRegister {
		r, err := openRegister(file, key, grid, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open(key, file)
	object := [32]byte{1}
	record := func(version uint64, holder string) []byte {
		return durable.Record{
			Object: object, Version: version, Scheme: durable.Copies, Layout: []chunk.ID{{2}},
			Holders: [][]string{{holder}, {"b"}, {"c"}},
		}.Append(nil)
	}
	ctx := t.Context()
	if _, err := r.Get(ctx, object); !errors.Is(err, durable.ErrNoRecord) {
		t.Errorf("a record that nobody made: %v", err)
	}
	if err := r.Swap(ctx, object, 0, record(1, "a")); err != nil {
		t.Fatal(err)
	}
	if err := r.Swap(ctx, object, 0, record(1, "x")); !errors.Is(err, durable.ErrConflict) {
		t.Errorf("a second one: %v", err)
	}
	// Of several changes of one version, one is made.
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for _, holder := range []string{"p", "q", "r", "s"} {
		wg.Go(func() {
			if err := r.Swap(ctx, object, 1, record(2, holder)); err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d of four changes were made", made)
	}
	version := func(r *storeRegister) uint64 {
		b, err := r.Get(ctx, object)
		if err != nil {
			t.Fatal(err)
		}
		return versionOf(object, b)
	}
	at := keyOf(r.owner(object))
	o := grid.objects[at]
	o.Remaining = registerLease / 3
	grid.objects[at] = o
	if v := version(r); v != 2 || r.renewed.Load() != 1 || grid.objects[at].Remaining != registerLease {
		t.Errorf("version %d; renewed %d times", v, r.renewed.Load())
	}
	// The whole grid was off, and somebody comes back first with an old record.
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	r = open(key, file)
	defer r.close()
	old := grid.objects[at]
	old.Data = record(1, "a")
	for name, there := range map[string]map[overlay.Key]overlay.Object{"nothing": {}, "an old record": {at: old}} {
		grid.objects = there
		if v := version(r); v != 2 || versionOf(object, grid.objects[at].Data) != 2 {
			t.Errorf("after %s: version %d", name, v)
		}
	}
	// Without the key of the store nobody finds it.
	other := open(store.NewKey(), filepath.Join(t.TempDir(), "records.db"))
	defer other.close()
	if _, err := other.Get(ctx, object); !errors.Is(err, durable.ErrNoRecord) {
		t.Errorf("with another key: %v", err)
	}
}
