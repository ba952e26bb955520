package durable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// dueAudits returns the objects whose turn it is. Every holder audits, so that
// none can hide: each in its turn, and all when one has come back.
func (g *Guard) dueAudits(now time.Time) (due []Record) {
	for object, o := range g.plan.objects {
		if o.check && !o.repairing {
			o.check = false
			g.audited[object] = now
			due = append(due, o.rec)
			continue
		}
		if g.cfg.Audit < 0 {
			continue
		}
		every := g.cfg.Audit * time.Duration(o.rec.Scheme.Slots)
		last, known := g.audited[object]
		if !known { // the first one at a random time, so that not all come at once
			g.audited[object] = now.Add(-rand.N(every))
			continue
		}
		if now.Sub(last) >= every && !o.repairing {
			g.audited[object] = now
			due = append(due, o.rec)
		}
		if len(due) >= 8 { // the others at the next look
			break
		}
	}
	return due
}

// audit has all holders of an object that are there show the same random place
// of a random stripe. Parts of a code word fit each other, and so do copies;
// where they do not, and where one is not shown, the whole shard is read: its
// hash tells who is wrong.
func (g *Guard) audit(ctx context.Context, rec Record) {
	stripes, err := g.layout(ctx, rec)
	if err != nil {
		g.log.Debug("cannot audit an object", "error", err)
		return
	}
	s := stripes[rand.IntN(len(stripes))]
	size := (s.size() + rec.Scheme.Need - 1) / rec.Scheme.Need
	length := min(auditLength, size)
	offset := rand.IntN(size - length + 1)
	g.count(func(n *Counters) { n.Audits++ })
	here := make(map[string]bool)
	for _, m := range g.cfg.Members() {
		here[m.Name] = true
	}
	parts := make([][]byte, rec.Scheme.Slots)
	var names []string // whose parts were shown
	var slots []int
	suspects := make(map[string]int)
	for slot, holders := range rec.Holders {
		for _, name := range holders {
			if !here[name] {
				continue
			}
			b, err := g.sample(ctx, name, s.shards[slot], offset, length)
			if err != nil {
				suspects[name] = slot
				continue
			}
			if parts[slot] != nil && string(parts[slot]) != string(b) {
				suspects[name] = slot
			}
			parts[slot] = b
			names, slots = append(names, name), append(slots, slot)
		}
	}
	if !g.coder(rec.Scheme).consistent(parts) {
		for i, name := range names {
			suspects[name] = slots[i]
		}
	}
	for name, slot := range suspects {
		g.examine(ctx, rec, name, s.shards[slot])
	}
}

func (g *Guard) sample(ctx context.Context, name string, id chunk.ID, offset, length int) ([]byte, error) {
	if name == g.cfg.Self {
		b, err := g.cfg.Holdings.Get(id, nil)
		if err != nil || offset+length > len(b) {
			return nil, chunk.ErrNotHeld
		}
		return b[offset : offset+length], nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return g.cfg.Wire.Sample(ctx, name, id, offset, length)
}

// examine reads a shard whole of a holder. One that cannot be reached proves
// nothing.
func (g *Guard) examine(ctx context.Context, rec Record, name string, id chunk.ID) {
	var b []byte
	var err error
	if name == g.cfg.Self {
		b, err = g.cfg.Holdings.Get(id, nil)
	} else {
		one, cancel := context.WithTimeout(ctx, requestTimeout)
		b, err = g.cfg.Wire.Read(one, name, id)
		cancel()
	}
	var says interface{ Proves() (absent, wrong bool) }
	absent, wrong := false, false
	switch {
	case err == nil:
		wrong = chunk.Verify(id, b) != nil
	case errors.Is(err, chunk.ErrMismatch), errors.Is(err, chunk.ErrTooLarge):
		wrong = true
	case errors.Is(err, chunk.ErrNotHeld):
		absent = true
	case errors.As(err, &says):
		absent, wrong = says.Proves()
	}
	if !absent && !wrong {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plan.lost(time.Now(), rec.Object, name)
	if wrong {
		g.counters.Lies++
		g.distrusted[name] = time.Now().Add(distrustFor)
	} else {
		g.counters.Absent++
	}
	g.log.Warn("a holder does not hold its shard", "member", name, "object", fmt.Sprintf("%x", rec.Object[:8]), "altered", wrong)
}
