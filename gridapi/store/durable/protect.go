package durable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Protect has other members keep an object, whose chunks we hold, and returns
// once it would survive the loss of any two of them and of ourselves. An object
// that is protected already is left as it is. Progress, which may be nil, is
// called with the number of stripes that are kept, and of all.
func (g *Guard) Protect(ctx context.Context, object [32]byte, chunks []chunk.ID, progress func(done, all int)) (Record, error) {
	if b, err := g.cfg.Register.Get(ctx, object); err == nil {
		return ParseRecord(b)
	} else if !errors.Is(err, ErrNoRecord) {
		return Record{}, err
	}
	stripes, scheme, err := g.cut(chunks)
	if err != nil {
		return Record{}, err
	}
	rec := Record{Object: object, Version: 1, Scheme: scheme}
	members := g.cfg.Members()
	g.mu.Lock()
	able := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Name == g.cfg.Self || !g.trusts(m.Name) })
	g.mu.Unlock()
	names := place(object, able, scheme.Slots, nil)
	if len(names) < scheme.Slots {
		return Record{}, &HoldersError{ID: object, Have: len(names), Need: scheme.Slots, Doing: "protect"}
	}
	tried := make(map[string]bool)
	for _, name := range names {
		tried[name] = true
		rec.Holders = append(rec.Holders, []string{name})
	}
	c := g.coder(scheme)
	// All stripes to the first choice; who fails is replaced, and the new one
	// gets the stripes from the first on.
	begin := make([]int, scheme.Slots) // the stripe that the slot needs next
	for {
		first := slices.Min(begin)
		if progress != nil {
			progress(first, len(stripes))
		}
		if first == len(stripes) {
			break
		}
		shards, err := g.encode(c, &stripes[first])
		if err != nil {
			return Record{}, err
		}
		for slot, err := range g.give(ctx, object, rec.Holders, shards, begin, first) {
			if err == nil {
				begin[slot]++
				continue
			}
			if ctx.Err() != nil {
				return Record{}, ctx.Err()
			}
			g.log.Debug("a member does not keep a shard", "member", rec.Holders[slot][0], "error", err)
			next := g.another(object, able, rec.Holders, slot, tried)
			if next == "" {
				return Record{}, &HoldersError{ID: object, Have: scheme.Slots - 1, Need: scheme.Slots, Doing: "protect", Err: err}
			}
			tried[next] = true
			rec.Holders[slot] = []string{next}
			begin[slot] = 0
		}
	}
	if rec.Layout, err = g.spread(ctx, rec, stripes); err != nil {
		return Record{}, err
	}
	if err := g.cfg.Register.Swap(ctx, object, 0, rec.Append(nil)); err != nil {
		return Record{}, err
	}
	g.count(func(n *Counters) { n.Protected++ })
	return rec, nil
}

// another chooses a holder for a slot whose first choice failed.
func (g *Guard) another(object [32]byte, able []Member, holders [][]string, slot int, tried map[string]bool) string {
	var taken, free []Member
	for _, m := range able {
		if i := slices.IndexFunc(holders, func(h []string) bool { return h[0] == m.Name }); i >= 0 && i != slot {
			taken = append(taken, m)
		} else if !tried[m.Name] {
			free = append(free, m)
		}
	}
	if names := place(object, free, 1, taken); len(names) > 0 {
		return names[0]
	}
	return ""
}

// cut groups chunks into stripes.
func (g *Guard) cut(chunks []chunk.ID) (stripes []stripe, scheme Scheme, err error) {
	var parts []part
	total := 0
	var buf []byte
	for _, id := range chunks {
		if buf, err = g.cfg.Holdings.Get(id, buf); err != nil {
			return nil, scheme, fmt.Errorf("durable: protect chunk %v: %w", id, err)
		}
		parts = append(parts, part{id, uint32(len(buf))})
		total += len(buf)
	}
	if len(parts) == 0 {
		return nil, scheme, errors.New("durable: protect an object without chunks")
	}
	if scheme = Copies; total >= CodedFrom {
		scheme = Coded
	}
	var cur stripe
	for _, p := range parts {
		full := cur.size()+int(p.size) > stripeSize || len(cur.chunks) == maxParts || scheme == Copies
		if len(cur.chunks) > 0 && full {
			stripes = append(stripes, cur)
			cur = stripe{}
		}
		cur.chunks = append(cur.chunks, p)
	}
	return append(stripes, cur), scheme, nil
}

// encode makes the shards of a stripe, notes their names in it and holds them.
func (g *Guard) encode(c *coder, s *stripe) ([]chunk.ID, error) {
	data := make([]byte, 0, s.size())
	for _, p := range s.chunks {
		b, err := g.cfg.Holdings.Get(p.id, nil)
		if err != nil {
			return nil, fmt.Errorf("durable: protect chunk %v: %w", p.id, err)
		}
		data = append(data, b...)
	}
	shards, err := c.encode(data)
	if err != nil {
		return nil, err
	}
	s.shards = s.shards[:0]
	for _, b := range shards {
		id := chunk.Sum(b)
		s.shards = append(s.shards, id)
		if err := g.cfg.Holdings.Put(id, b); err != nil {
			return nil, fmt.Errorf("durable: keep shard %v: %w", id, err)
		}
	}
	return s.shards, nil
}

// give has the holders of the slots that are at this stripe keep its shards, at
// the same time.
func (g *Guard) give(ctx context.Context, object [32]byte, holders [][]string, shards []chunk.ID, begin []int, at int) map[int]error {
	errs := make(map[int]error)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for slot, id := range shards {
		if begin[slot] != at {
			continue
		}
		wg.Go(func() {
			err := g.keep(ctx, holders[slot][0], object, id)
			mu.Lock()
			defer mu.Unlock()
			errs[slot] = err
		})
	}
	wg.Wait()
	return errs
}

// keep has a member keep a chunk.
func (g *Guard) keep(ctx context.Context, member string, object [32]byte, id chunk.ID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if member == g.cfg.Self {
		if k, is := g.cfg.Duties.(interface {
			Keep(member string, object [32]byte, id chunk.ID) error
		}); is {
			return k.Keep(member, object, id)
		}
		return nil
	}
	return g.cfg.Wire.Keep(ctx, member, object, id)
}

// spread has all holders keep the layout, and returns its chunks.
func (g *Guard) spread(ctx context.Context, rec Record, stripes []stripe) (ids []chunk.ID, err error) {
	b := appendLayout(nil, rec.Scheme, stripes)
	for len(b) > 0 {
		n := min(len(b), chunk.MaxSize)
		id := chunk.Sum(b[:n])
		if err := g.cfg.Holdings.Put(id, b[:n]); err != nil {
			return nil, fmt.Errorf("durable: keep a layout: %w", err)
		}
		ids, b = append(ids, id), b[n:]
	}
	if len(ids) > maxLayoutChunks {
		return nil, fmt.Errorf("durable: the object has too many chunks for its layout: %d parts of %d", len(ids), maxLayoutChunks)
	}
	for _, slot := range rec.Holders {
		for _, id := range ids {
			if err := g.keep(ctx, slot[0], rec.Object, id); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}
