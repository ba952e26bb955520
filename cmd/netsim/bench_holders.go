package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
)

const (
	holderCount    = 8 // an object has six of them, and none is its author
	holderObjects  = 20
	holderChunks   = 8
	holderBytes    = 250_000         // of a chunk
	holderWait     = 2 * time.Second // before a repair; else an hour, or a minute when two are lost
	holderLook     = 200 * time.Millisecond
	holderRepairIn = 2 * time.Minute
)

// A register keeps the records of durable objects for members in one process.
type register struct {
	mu       sync.Mutex // guards what follows
	records  map[[32]byte][]byte
	versions map[[32]byte]uint64
}

func (r *register) Get(_ context.Context, object [32]byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.records[object]; b != nil {
		return b, nil
	}
	return nil, durable.ErrNoRecord
}

func (r *register) Swap(_ context.Context, object [32]byte, old uint64, record []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.versions[object] != old {
		return durable.ErrConflict
	}
	r.records[object], r.versions[object] = record, old+1
	return nil
}

// holders are members with disks, which reach each other over loopback.
type holders struct {
	dir      string
	register *register

	mu    sync.Mutex // guards what follows
	addrs map[string]string
}

// A holder is one of them.
type holder struct {
	name   string
	disk   *disk.Disk
	ledger *durable.Ledger
	swarm  *swarm.Swarm
	guard  *durable.Guard
}

func (h *holders) members() (list []swarm.Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.addrs {
		list = append(list, swarm.Member{Name: name, Site: "home of " + name})
	}
	return list
}

func (h *holders) add(name string) (x *holder, err error) {
	x = &holder{name: name}
	dir := filepath.Join(h.dir, name)
	if x.disk, err = disk.Open(disk.Config{Dir: filepath.Join(dir, "chunks"), Quota: 1 << 30}); err != nil {
		return nil, err
	}
	if x.ledger, err = durable.OpenLedger(filepath.Join(dir, "ledger"), 10_000, x.disk); err != nil {
		x.disk.Close()
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.ledger.Close()
		x.disk.Close()
		return nil, err
	}
	h.mu.Lock()
	h.addrs[name] = ln.Addr().String()
	h.mu.Unlock()
	x.swarm = swarm.New(swarm.Config{
		Self: name, Holdings: x.disk, Members: h.members, Keeper: x.ledger, NotFoundAfter: time.Second,
		Dial: func(ctx context.Context, member string) (net.Conn, error) {
			h.mu.Lock()
			addr := h.addrs[member]
			h.mu.Unlock()
			if addr == "" {
				return nil, errors.New("the member is gone")
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	})
	go x.swarm.Serve(ln) // ends with Close
	x.guard, err = durable.New(durable.Config{
		Self: name, Holdings: x.disk, Wire: x.swarm, Register: h.register, Duties: x.ledger,
		Every: holderLook, Patience: holderWait, Urgency: holderWait, Audit: -1,
		Members: func() (list []durable.Member) {
			for _, m := range h.members() {
				list = append(list, durable.Member{Name: m.Name, Site: m.Site})
			}
			return list
		},
	})
	if err != nil {
		h.remove(x)
		return nil, err
	}
	return x, nil
}

// remove has a member vanish, with its disk.
func (h *holders) remove(x *holder) {
	h.mu.Lock()
	delete(h.addrs, x.name)
	h.mu.Unlock()
	x.swarm.Close()
	x.ledger.Close()
	x.disk.Close()
}

// lostHolders is what runHolders has found.
type lostHolders struct {
	Objects       int        `json:"objects"`
	Bytes         int64      `json:"bytes"`
	Degraded      int        `json:"objects_with_a_lost_shard"`
	TwoLost       int        `json:"objects_with_two_lost_shards"`
	ReadBack      int        `json:"read_back"`
	ReadSeconds   cli.Number `json:"read_seconds"`
	Repaired      int        `json:"repaired"`
	RepairSeconds cli.Number `json:"repair_seconds"` // from the loss on
}

// runHolders protects objects on six holders each, takes two members away, reads all
// back and waits until all are whole again.
func runHolders(ctx context.Context, b *gridBench) (*benchSection, error) {
	h := &holders{
		dir: filepath.Join(b.dir, "holders"), addrs: make(map[string]string),
		register: &register{records: make(map[[32]byte][]byte), versions: make(map[[32]byte]uint64)},
	}
	var all []*holder
	var guards sync.WaitGroup
	working, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		guards.Wait()
		for _, x := range all {
			h.remove(x)
		}
	}()
	for i := range holderCount {
		x, err := h.add(fmt.Sprintf("member%d", i))
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	b.progress("holders: %d objects are protected", holderObjects)
	author, err := h.add("author")
	if err != nil {
		return nil, err
	}
	d := &lostHolders{Objects: holderObjects, Bytes: holderObjects * holderChunks * holderBytes}
	var objects [holderObjects][]chunk.ID
	rng := rand.NewChaCha8([32]byte{7})
	content := make([]byte, holderBytes)
	for i := range objects {
		for range holderChunks {
			rng.Read(content)
			id := chunk.Sum(content)
			if err := author.disk.Put(id, content); err != nil {
				return nil, err
			}
			objects[i] = append(objects[i], id)
		}
		if _, err := author.guard.Protect(ctx, objectKey(i), objects[i], nil); err != nil {
			return nil, err
		}
	}
	gone := []string{all[0].name, all[1].name, author.name}
	lost := func(i int) (n int, err error) {
		record, err := h.register.Get(ctx, objectKey(i))
		if err != nil {
			return 0, err
		}
		rec, err := durable.ParseRecord(record)
		for _, slot := range rec.Holders {
			if !slices.ContainsFunc(slot, func(name string) bool { return !slices.Contains(gone, name) }) {
				n++
			}
		}
		return n, err
	}
	for i := range objects {
		n, err := lost(i)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			d.Degraded++
		}
		if n == 2 {
			d.TwoLost++
		}
	}
	for _, x := range []*holder{all[0], all[1], author} { // who has put all of it goes as well
		h.remove(x)
	}
	all = all[2:]
	begun := time.Now()
	for _, x := range all {
		guards.Go(func() { x.guard.Run(working) })
	}
	b.progress("holders: they are gone; all is read back")
	reader, err := h.add("reader")
	if err != nil {
		return nil, err
	}
	all = append(all, reader)
	for i, ids := range objects {
		if err := reader.guard.Restore(ctx, objectKey(i), nil); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(ids, func(id chunk.ID) bool { return !reader.disk.Has(id) }) {
			d.ReadBack++
		}
	}
	d.ReadSeconds = cli.Number(time.Since(begun).Seconds())
	b.progress("holders: all is repaired")
	for end := begun.Add(holderRepairIn); d.Repaired < holderObjects && time.Now().Before(end); {
		select {
		case <-time.After(holderLook):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		d.Repaired = 0
		for i := range objects {
			n, err := lost(i)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				d.Repaired++
			}
		}
	}
	d.RepairSeconds = cli.Number(time.Since(begun).Seconds())
	const name = "holders"
	return &benchSection{Data: d, Figures: []gridFigure{
		stated(name, "objects of 2 MB on six holders each", holderObjects),
		stated(name, "objects that have lost two", float64(d.TwoLost)),
		atLeast(name, "objects read back", holderObjects, float64(d.ReadBack)),
		stated(name, "seconds to read all back", float64(d.ReadSeconds)),
		atLeast(name, "objects whole again", holderObjects, float64(d.Repaired)),
		stated(name, "seconds until then, of which 2 are the wait", float64(d.RepairSeconds)),
	}}, nil
}
