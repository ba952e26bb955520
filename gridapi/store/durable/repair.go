package durable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run watches over the objects of which this node keeps parts until ctx ends. It
// returns once its repairs have ended.
func (g *Guard) Run(ctx context.Context) {
	defer g.working.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		g.look(ctx)
		timer.Reset(g.cfg.Every)
	}
}

// look does what is due now.
func (g *Guard) look(ctx context.Context) {
	now := time.Now()
	duties := g.cfg.Duties.Objects()
	g.readRecords(ctx, now, duties)
	members := g.cfg.Members()
	g.mu.Lock()
	g.plan.see(now, members)
	repairs := g.plan.decide(now)
	audits := g.dueAudits(now)
	g.mu.Unlock()
	for _, r := range repairs {
		g.working.Go(func() {
			began := time.Now()
			err := g.repair(ctx, r)
			g.mu.Lock()
			g.plan.ended(time.Now(), r.object, err)
			if err != nil {
				g.counters.Failed++
			} else {
				g.counters.Repairs++
			}
			delete(g.read, r.object)
			g.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				g.log.Warn("cannot repair an object", "object", fmt.Sprintf("%x", r.object[:8]), "error", err)
			} else if err == nil {
				g.log.Info("repaired an object", "object", fmt.Sprintf("%x", r.object[:8]), "slots", len(r.slots), "took", time.Since(began).Round(time.Millisecond))
			}
		})
	}
	for _, rec := range audits {
		g.audit(ctx, rec)
	}
}

// readRecords learns where the objects of our duties are.
func (g *Guard) readRecords(ctx context.Context, now time.Time, duties [][32]byte) {
	for _, object := range duties {
		g.mu.Lock()
		last, known := g.read[object]
		g.mu.Unlock()
		if known && now.Sub(last) < recordEvery {
			continue
		}
		b, err := g.cfg.Register.Get(ctx, object)
		var rec Record
		if err == nil {
			rec, err = ParseRecord(b)
		}
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrNoRecord) {
				g.log.Warn("cannot read the record of an object", "object", fmt.Sprintf("%x", object[:8]), "error", err)
			}
			continue
		}
		g.mu.Lock()
		g.read[object] = now
		g.plan.track(now, rec)
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for object := range g.plan.objects {
		if !slices.Contains(duties, object) {
			g.plan.drop(object)
			delete(g.read, object)
			delete(g.audited, object)
		}
	}
}

// repair makes the shards of some slots anew and has them kept.
func (g *Guard) repair(ctx context.Context, r repair) error {
	g.mu.Lock()
	o := g.plan.objects[r.object]
	if o == nil {
		g.mu.Unlock()
		return nil
	}
	rec := o.rec
	g.mu.Unlock()
	stripes, err := g.layout(ctx, rec)
	if err != nil {
		return err
	}
	tried := make(map[string]bool)
	targets := make(map[int]string)
	choose := func(slot int) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		to := g.plan.target(o, slot, targets, func(name string) bool { return !g.trusts(name) }, tried)
		if to == "" {
			return &HoldersError{ID: r.object, Have: rec.Scheme.Slots - len(r.slots), Need: rec.Scheme.Slots, Doing: "protect"}
		}
		tried[to] = true
		targets[slot] = to
		return nil
	}
	for _, slot := range r.slots {
		if err := choose(slot); err != nil {
			return err
		}
	}
	begin := make([]int, rec.Scheme.Slots)
	for i := range begin {
		begin[i] = len(stripes)
	}
	for _, slot := range r.slots {
		begin[slot] = 0
	}
	for {
		at := slices.Min(begin)
		if at == len(stripes) {
			break
		}
		shards, err := g.shards(ctx, rec, stripes[at])
		if err != nil {
			return err
		}
		for _, slot := range r.slots {
			if begin[slot] != at {
				continue
			}
			if err := g.cfg.Holdings.Put(stripes[at].shards[slot], shards[slot]); err != nil {
				return fmt.Errorf("durable: keep shard %v: %w", stripes[at].shards[slot], err)
			}
			err := g.keep(ctx, targets[slot], r.object, stripes[at].shards[slot])
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				g.log.Debug("a member does not keep a shard", "member", targets[slot], "error", err)
				if err := choose(slot); err != nil {
					return err
				}
				begin[slot] = 0
				continue
			}
			begin[slot]++
			g.count(func(n *Counters) { n.Shards++; n.Bytes += uint64(len(shards[slot])) })
		}
	}
	for _, to := range targets {
		for _, id := range rec.Layout {
			if err := g.keep(ctx, to, r.object, id); err != nil {
				return err
			}
		}
	}
	g.mu.Lock()
	next := g.plan.replaced(o, targets)
	g.mu.Unlock()
	err = g.cfg.Register.Swap(ctx, r.object, rec.Version, next.Append(nil))
	if errors.Is(err, ErrConflict) {
		g.count(func(n *Counters) { n.Conflicts++ })
		return err
	}
	if err == nil {
		g.mu.Lock()
		g.plan.track(time.Now(), next)
		g.mu.Unlock()
	}
	return err
}
