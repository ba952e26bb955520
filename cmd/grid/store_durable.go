package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
)

// A durableService is the agent's part in keeping durable objects: what it keeps
// for others, and the guard that watches over these objects.
type durableService struct {
	x        *storeService
	store    *store.Store
	ledger   *durable.Ledger
	register *storeRegister
	guard    *durable.Guard // set by begin
	every    time.Duration
}

const (
	// durableEvery and durableUrgency are the Guard's defaults; a patience
	// below an hour shortens them.
	durableEvery   = 30 * time.Second
	durableUrgency = time.Minute
	// degradedFactor is how many looks pass until a member without a store is
	// tried again while an object lacks parts.
	degradedFactor = 4
	// restoreTime is how long the holders of an object have to show that they
	// are there: a guess.
	restoreTime = 3 * time.Second
	// listTime is how long a list waits for records and holders.
	listTime = 3 * time.Second
)

// openDurable opens what is kept of durable objects. Half of the quota is for
// them at most.
func openDurable(x *storeService, s *store.Store, k store.Key) (*durableService, error) {
	d := &durableService{x: x, store: s, every: min(durableEvery, max(x.patience/4, 500*time.Millisecond))}
	var err error
	if d.ledger, err = durable.OpenLedger(filepath.Join(x.dir, "kept"), int(x.quota/2/chunk.MaxSize), s.Holdings()); err != nil {
		return nil, err
	}
	if d.register, err = openRegister(filepath.Join(x.dir, "records.db"), k, x.node.Objects(), x.log); err != nil {
		d.ledger.Close()
		return nil, err
	}
	return d, nil
}

// begin makes the guard, which moves chunks with w.
func (d *durableService) begin(w *swarm.Swarm) (err error) {
	d.guard, err = durable.New(durable.Config{
		Self: d.x.self(), Holdings: d.store.Holdings(), Wire: w, Register: d.register, Members: d.members, Duties: d.ledger,
		Every: d.every, Patience: d.x.patience, Urgency: min(durableUrgency, d.x.patience), Logger: d.x.log,
	})
	return err
}

func (d *durableService) close() {
	if err := errors.Join(d.ledger.Close(), d.register.close()); err != nil {
		d.x.log.Warn("the store is not closed as it should be", "err", err)
	}
}

// members returns ourselves and the members whose stores are there.
func (d *durableService) members() (list []durable.Member) {
	self := d.x.self()
	for _, m := range d.x.present() {
		if m.Name == self || d.x.presence.here(m.Name) {
			list = append(list, durable.Member{Name: m.Name, Site: m.Site})
		}
	}
	return list
}

// watchHolders keeps in touch with those who hold parts of what we hold parts of,
// so that the failure detector watches them.
func (d *durableService) watchHolders(ctx context.Context) {
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for {
		self := d.x.self()
		d.x.presence.survey(ctx, slices.DeleteFunc(d.guard.Holders(), func(name string) bool { return name == self }), d.every)
		if d.guard.Counters().Degraded > 0 { // somebody has to step in
			d.x.presence.survey(ctx, d.others(ctx), degradedFactor*d.every)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// others returns the other members, of a large grid some.
func (d *durableService) others(ctx context.Context) []string {
	names := d.x.others(ctx)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(len(names), presenceMost)]
}

// record reads the record of an object.
func (d *durableService) record(ctx context.Context, object [32]byte) (durable.Record, error) {
	b, err := d.register.Get(ctx, object)
	if err != nil {
		return durable.Record{}, err
	}
	return durable.ParseRecord(b)
}

// protect has other members keep an object.
func (d *durableService) protect(ctx context.Context, id chunk.ID, progress func(done, all int)) (doc storeProtectAnswer, err error) {
	if rec, err := d.record(ctx, id); err == nil { // it is durable already
		return storeProtectAnswer{ID: id, redundancy: d.redundancy(rec), Holders: rec.Holders}, nil
	}
	others := d.others(ctx)
	d.x.presence.survey(ctx, others, 0)
	chunks, err := d.store.Chunks(durable.WithObject(ctx, id), id)
	if err != nil {
		return doc, err
	}
	rec, err := d.guard.Protect(ctx, id, chunks, progress)
	if errors.Is(err, durable.ErrConflict) { // somebody else protects it as well
		rec, err = d.guard.Protect(ctx, id, chunks, progress)
	}
	var few *durable.HoldersError
	switch {
	case errors.As(err, &few):
		return doc, d.tooFew(id, few, len(others))
	case err != nil:
		return doc, &cli.Error{Object: "object " + id.String(), Cause: "it is not durable: " + err.Error(), Next: "try again: grid store protect " + id.String(), Code: cli.ExitUnreachable, Err: err}
	}
	return storeProtectAnswer{ID: id, redundancy: d.redundancy(rec), Holders: rec.Holders}, nil
}

// tooFew explains that there are too few members that could keep an object.
func (d *durableService) tooFew(id chunk.ID, few *durable.HoldersError, others int) error {
	stores, sites := d.stores()
	cause := fmt.Sprintf("it is not durable: %d other members would have to keep a part, and %d on %d sites have a store that answers, of %d", few.Need, stores, sites, others)
	if stores >= few.Need && few.Err != nil {
		cause += "; the last to refuse: " + few.Err.Error()
	}
	return &cli.Error{
		Object: "object " + id.String(), Cause: cause,
		Next: "start agents with --store on more computers whose policies open the ports 30 and 31, then: grid store protect " + id.String(),
		Code: cli.ExitUnreachable, Err: few,
	}
}

// stores returns how many other members have a store that answers, and on how many
// sites.
func (d *durableService) stores() (stores, sites int) {
	self := d.x.self()
	seen := make(map[string]bool)
	for _, m := range d.members() {
		if m.Name == self {
			continue
		}
		stores++
		if m.Site == "" { // not known: a site of its own
			m.Site = "\x00" + m.Name
		}
		seen[m.Site] = true
	}
	return stores, len(seen)
}

// A redundancy says how much of an object could still go.
type redundancy struct {
	Need  int `json:"parts_needed"` // to read it
	Slots int `json:"parts"`
	There int `json:"parts_there"` // now, as far as is known here
}

func (d *durableService) redundancy(rec durable.Record) redundancy {
	self := d.x.self()
	there := rec.There(func(name string) bool { return name == self || d.x.presence.here(name) })
	return redundancy{rec.Scheme.Need, rec.Scheme.Slots, there}
}

// restore gets the chunks of an object, first from those of its holders that
// answer a call.
func (d *durableService) restore(ctx context.Context, object [32]byte, got func(chunk.ID)) error {
	rec, err := d.record(ctx, object)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, restoreTime)
	d.x.presence.survey(asking, d.holders(rec), 0)
	cancel()
	return d.guard.Restore(ctx, object, got)
}

// holders returns the members other than this one that hold parts of an object.
func (d *durableService) holders(rec durable.Record) (names []string) {
	self := d.x.self()
	for _, slot := range rec.Holders {
		for _, name := range slot {
			if name != self {
				names = append(names, name)
			}
		}
	}
	return names
}

// withRedundancy adds to a list what is durable. It asks the grid about no more
// objects than a time allows.
func (x *storeService) withRedundancy(ctx context.Context, list []store.Listed) []storeRow {
	rows := make([]storeRow, len(list))
	d := x.durability()
	known := d.register.all()
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	places := make(chan struct{}, presenceDials)
	var wg sync.WaitGroup
	for i := range list {
		rows[i].Listed = list[i]
		rec, is := known[list[i].ID]
		if !is {
			continue
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if now, err := d.record(ctx, rec.Object); err == nil {
				rec = now
			}
			x.presence.survey(ctx, d.holders(rec), d.every)
			r := d.redundancy(rec)
			rows[i].Durable = &r
		})
	}
	wg.Wait()
	return rows
}

// durableStatus is a part of "instantgrid/store-status/1".
type durableStatus struct {
	durable.Counters
	registerCounters
	Kept   int    `json:"kept_chunks"` // for others
	Denied uint64 `json:"kept_denied"` // for lack of room
	Stores int    `json:"stores"`      // of other members, that answer
	Sites  int    `json:"sites"`       // of these
}

func (d *durableService) status() durableStatus {
	doc := durableStatus{Counters: d.guard.Counters(), registerCounters: d.register.counters()}
	doc.Kept, doc.Denied = d.ledger.Kept()
	doc.Stores, doc.Sites = d.stores()
	return doc
}

// durability is not nil once need returns a store.
func (x *storeService) durability() *durableService {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.durable
}
