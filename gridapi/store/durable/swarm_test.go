package durable

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
)

// A holder is a member with a disk, a ledger and a Swarm on a real socket.
type holder struct {
	name   string
	dir    string
	store  *disk.Disk
	ledger *Ledger
	swarm  *swarm.Swarm
	guard  *Guard
}

// TestOverSwarm protects an object over real sockets and disks. Two holders go,
// their shards are made anew, and a third is ended without a word and started
// again: it knows what it keeps.
func TestOverSwarm(t *testing.T) {
	var mu sync.Mutex
	addrs := make(map[string]string)
	members := func() (out []swarm.Member) {
		mu.Lock()
		defer mu.Unlock()
		for name := range addrs {
			out = append(out, swarm.Member{Name: name, Site: "home of " + name})
		}
		return out
	}
	register := &world{records: make(map[[32]byte][]byte), versions: make(map[[32]byte]uint64)}
	start := func(name, dir string) *holder {
		h := &holder{name: name, dir: dir}
		var err error
		h.store, err = disk.Open(disk.Config{Dir: filepath.Join(dir, "chunks"), Quota: 64 << 20})
		must(t, err)
		h.ledger, err = OpenLedger(filepath.Join(dir, "ledger"), 100, h.store)
		must(t, err)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		mu.Lock()
		addrs[name] = ln.Addr().String()
		mu.Unlock()
		h.swarm = swarm.New(swarm.Config{
			Self: name, Holdings: h.store, Members: members, Keeper: h.ledger, NotFoundAfter: time.Second,
			Dial: func(ctx context.Context, member string) (net.Conn, error) {
				mu.Lock()
				addr := addrs[member]
				mu.Unlock()
				var d net.Dialer
				return d.DialContext(ctx, "tcp", addr)
			},
		})
		go h.swarm.Serve(ln)
		h.guard, err = New(Config{
			Self: name, Holdings: h.store, Wire: h.swarm, Register: register, Duties: h.ledger,
			Every: 100 * time.Millisecond, Patience: time.Minute, Urgency: 200 * time.Millisecond,
			Members: func() (out []Member) {
				for _, m := range members() {
					out = append(out, Member{Name: m.Name, Site: m.Site})
				}
				return out
			},
		})
		must(t, err)
		return h
	}
	stop := func(h *holder) {
		mu.Lock()
		delete(addrs, h.name)
		mu.Unlock()
		h.swarm.Close()
		h.ledger.Close()
		h.store.Close()
	}
	var all []*holder
	byName := make(map[string]*holder)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 10 {
		h := start(fmt.Sprintf("member%d", i), t.TempDir())
		all, byName[h.name] = append(all, h), h
	}
	rng := rand.NewChaCha8([32]byte{7})
	var ids []chunk.ID
	for range 12 {
		b := make([]byte, 100_000)
		rng.Read(b)
		id := chunk.Sum(b)
		must(t, all[0].store.Put(id, b))
		ids = append(ids, id)
	}
	object := [32]byte{42}
	rec, err := all[0].guard.Protect(ctx, object, ids, nil)
	must(t, err)

	// Two holders go, and the one that is ended comes back.
	gone := map[string]bool{rec.Holders[0][0]: true, rec.Holders[3][0]: true}
	for name := range gone {
		stop(byName[name])
	}
	back := rec.Holders[5][0]
	stop(byName[back])
	byName[back] = start(back, byName[back].dir)
	if got := byName[back].ledger.Objects(); len(got) != 1 || got[0] != object {
		t.Errorf("after a restart %s has duties for %x", back, got)
	}
	for name, h := range byName {
		if !gone[name] {
			wg.Go(func() { h.guard.Run(ctx) })
		}
	}
	reader := start("reader", t.TempDir())
	must(t, reader.guard.Restore(ctx, object, nil))
	for _, id := range ids {
		if !reader.store.Has(id) {
			t.Errorf("chunk %v is missing", id)
		}
	}
	for {
		now := register.record(t, object)
		whole := now.Version > rec.Version
		for _, slot := range now.Holders {
			whole = whole && !gone[slot[0]]
		}
		if whole {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("not repaired")
		}
	}
	cancel()
	wg.Wait()
	stop(reader)
	for name, h := range byName {
		if !gone[name] {
			stop(h)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
