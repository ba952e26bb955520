package durable

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Restore gets the chunks of an object from whoever of its holders is there, and
// calls got for each.
func (g *Guard) Restore(ctx context.Context, object [32]byte, got func(chunk.ID)) error {
	b, err := g.cfg.Register.Get(ctx, object)
	if err != nil {
		return err
	}
	rec, err := ParseRecord(b)
	if err != nil {
		return err
	}
	stripes, err := g.layout(ctx, rec)
	if err != nil {
		return err
	}
	for _, s := range stripes {
		if err := g.restoreStripe(ctx, rec, s); err != nil {
			return err
		}
		for _, p := range s.chunks {
			if got != nil {
				got(p.id)
			}
		}
	}
	g.count(func(n *Counters) { n.Restored++ })
	return nil
}

func (g *Guard) restoreStripe(ctx context.Context, rec Record, s stripe) error {
	held := true
	for _, p := range s.chunks {
		held = held && g.cfg.Holdings.Has(p.id)
	}
	if held {
		return nil
	}
	shards, err := g.shards(ctx, rec, s)
	if err != nil {
		return err
	}
	chunks, err := s.split(shards, rec.Scheme.Need)
	if err != nil {
		return err
	}
	for i, b := range chunks {
		if err := g.cfg.Holdings.Put(s.chunks[i].id, b); err != nil {
			return fmt.Errorf("durable: keep chunk %v: %w", s.chunks[i].id, err)
		}
	}
	return nil
}

// hints returns the holders, those of the slots that are read first in front.
func hints(rec Record) (names []string) {
	for _, slot := range rec.Holders {
		names = append(names, slot...)
	}
	return names
}

// layout reads the stripes of an object.
func (g *Guard) layout(ctx context.Context, rec Record) ([]stripe, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var b []byte
	for _, id := range rec.Layout {
		// Of three, two may be gone.
		if err := g.obtain(ctx, rec, hints(rec)[:3], id); err != nil {
			return nil, fmt.Errorf("durable: fetch the layout of object %x: %w", rec.Object[:8], err)
		}
		p, err := g.cfg.Holdings.Get(id, nil)
		if err != nil {
			return nil, fmt.Errorf("durable: the layout of object %x: %w", rec.Object[:8], err)
		}
		b = append(b, p...)
	}
	return parseLayout(b, rec.Scheme)
}

// shards returns all shards of a stripe, made of those that can be had: first of
// the slots that seem to be there, then of the others.
func (g *Guard) shards(ctx context.Context, rec Record, s stripe) ([][]byte, error) {
	here := make(map[string]bool)
	for _, m := range g.cfg.Members() {
		here[m.Name] = true
	}
	order := make([]int, 0, rec.Scheme.Slots)
	rank := make(map[int]int)
	for slot, holders := range rec.Holders {
		rank[slot] = slot + 100
		if slices.ContainsFunc(holders, func(name string) bool { return here[name] }) {
			rank[slot] = slot
		}
		if g.cfg.Holdings.Has(s.shards[slot]) {
			rank[slot] = slot - 100
		}
		order = append(order, slot)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(rank[a], rank[b]) })
	shards := make([][]byte, rec.Scheme.Slots)
	have, err := g.collect(ctx, rec, s, order, shards)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if have < rec.Scheme.Need {
		return nil, &HoldersError{ID: rec.Object, Have: have, Need: rec.Scheme.Need, Doing: "restore", Err: err}
	}
	return shards, g.coder(rec.Scheme).complete(shards)
}

// collect gets as many shards of a stripe as give it back, in the order of the
// slots, and returns how many it got and why the last one failed. A holder may
// have gone without anybody knowing yet: while nothing comes, one slot after
// another is asked beside the others.
func (g *Guard) collect(ctx context.Context, rec Record, s stripe, order []int, shards [][]byte) (have int, last error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type outcome struct {
		slot  int
		shard []byte
		err   error
	}
	outcomes := make(chan outcome, len(order))
	asked := 0
	ask := func() {
		slot := order[0]
		order = order[1:]
		asked++
		wg.Go(func() {
			id := s.shards[slot]
			err := g.obtain(ctx, rec, rec.Holders[slot], id)
			var b []byte
			if err == nil {
				b, err = g.cfg.Holdings.Get(id, nil)
			}
			outcomes <- outcome{slot, b, err}
		})
	}
	silent := time.NewTimer(silentFor)
	defer silent.Stop()
	for have < rec.Scheme.Need {
		for asked < rec.Scheme.Need-have && len(order) > 0 {
			ask()
		}
		if asked == 0 {
			break
		}
		select {
		case o := <-outcomes:
			if asked--; o.err != nil {
				last = o.err
				continue
			}
			shards[o.slot] = o.shard
			have++
		case <-silent.C:
			if len(order) > 0 {
				ask()
			}
		case <-ctx.Done():
			return have, ctx.Err()
		}
		silent.Reset(silentFor)
	}
	return have, last
}

// obtain gets a chunk into our Holdings: by the swarm's elections, which send it
// once to each site, and when these take long, straight from those who should hold
// it. An election may wait for a member of which nobody knows yet that it is gone.
func (g *Guard) obtain(ctx context.Context, rec Record, from []string, id chunk.ID) error {
	if g.cfg.Holdings.Has(id) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	outcomes := make(chan error, 1+len(from))
	under := 1
	wg.Go(func() { outcomes <- g.cfg.Wire.FetchFrom(ctx, hints(rec), []chunk.ID{id}, nil) })
	silent := time.NewTimer(silentFor)
	defer silent.Stop()
	straight := func() {
		for _, name := range from {
			if name == g.cfg.Self {
				continue
			}
			under++
			wg.Go(func() {
				b, err := g.cfg.Wire.Read(ctx, name, id)
				if err == nil {
					err = g.cfg.Holdings.Put(id, b)
				}
				outcomes <- err
			})
		}
		from = nil
	}
	for {
		select {
		case err := <-outcomes:
			if err == nil {
				return nil
			}
			if under--; from != nil {
				straight()
			}
			if under == 0 {
				return err
			}
		case <-silent.C:
			straight()
		}
	}
}

// silentFor is how long the holders that were asked may send nothing before
// another is asked as well: a guess.
const silentFor = 2 * time.Second
