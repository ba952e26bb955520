package durable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A Wire moves chunks between members: a swarm.Swarm.
type Wire interface {
	// FetchFrom gets chunks into our Holdings; hints hold some of them.
	FetchFrom(ctx context.Context, hints []string, want []chunk.ID, got func(chunk.ID)) error
	// Keep has a member keep a chunk that we hold, and returns once it would
	// survive a crash there.
	Keep(ctx context.Context, member string, object [32]byte, id chunk.ID) error
	Drop(ctx context.Context, member string, object [32]byte, id chunk.ID) error
	// Sample returns a part of a chunk that a member holds.
	Sample(ctx context.Context, member string, id chunk.ID, offset, length int) ([]byte, error)
	// Read returns a chunk that a member holds, verified.
	Read(ctx context.Context, member string, id chunk.ID) ([]byte, error)
}

// A Register keeps a record for each object, where every member finds it. All
// methods may be called concurrently.
type Register interface {
	// Get returns the record, or ErrNoRecord.
	Get(ctx context.Context, object [32]byte) ([]byte, error)
	// Swap stores a record if the one that is there has the version old, zero
	// standing for none; otherwise it returns ErrConflict.
	Swap(ctx context.Context, object [32]byte, old uint64, record []byte) error
}

// Duties are the objects of which this node keeps shards.
type Duties interface {
	Objects() [][32]byte
}

// Config is how a Guard works. The fields up to Duties are needed.
type Config struct {
	Self     string
	Holdings chunk.Holdings
	Wire     Wire
	Register Register
	// Members returns who is there now, ourselves included. It must not block.
	Members func() []Member
	Duties  Duties
	// Every is how often the Guard looks at what it is the warden of. Zero
	// means 30 s.
	Every time.Duration
	// Patience is how long a holder may be away before its shards are made
	// anew. Zero means an hour; what comes back later is of use all the same.
	Patience time.Duration
	// Urgency is the same when no other holder could be spared. Zero means a
	// minute.
	Urgency time.Duration
	// Audit is how often each object's holders show a random part of what they
	// hold, to one of them. Zero means 6 h; negative, only when one has come back.
	Audit time.Duration
	// Repairs is how many repairs there are at a time. Zero means 2.
	Repairs int
	// Logger gets repairs and lies. Nil logs nothing.
	Logger *slog.Logger
}

// Counters count since the Guard's start.
type Counters struct {
	Protected  uint64 `json:"protected"`
	Restored   uint64 `json:"restored"`
	Repairs    uint64 `json:"repairs"`
	Failed     uint64 `json:"repairs_failed"`
	Shards     uint64 `json:"shards_made"`
	Bytes      uint64 `json:"repair_bytes"` // of the shards made
	HeldBack   uint64 `json:"held_back"`    // repairs not begun, since most members seemed to be away
	Queued     uint64 `json:"queued"`       // repairs that waited for others
	Audits     uint64 `json:"audits"`
	Absent     uint64 `json:"absent"` // shards that their holder did not have
	Lies       uint64 `json:"lies"`   // shards that their holder had altered
	Conflicts  uint64 `json:"conflicts"`
	Unreadable int    `json:"unreadable"` // objects of which too few shards are there now
	Degraded   int    `json:"degraded"`   // objects of which some are not
	Objects    int    `json:"objects"`    // of which we keep a part
}

// A Guard protects objects and watches over those that its node holds parts of.
type Guard struct {
	cfg     Config
	log     *slog.Logger
	coded   *coder
	copies  *coder
	working sync.WaitGroup

	mu         sync.Mutex
	plan       *plan
	counters   Counters
	distrusted map[string]time.Time // until
	audited    map[[32]byte]time.Time
	read       map[[32]byte]time.Time // when the record was
}

const (
	// recordEvery is how often a record is read again: a guess.
	recordEvery = 5 * time.Minute
	// distrustFor is how long a liar gets no shards: a guess.
	distrustFor = 24 * time.Hour
	// requestTimeout is how long one chunk may take: at 64 kbit/s it takes 65 s.
	requestTimeout = 2 * time.Minute
	auditLength    = 64
)

// New returns a Guard.
func New(cfg Config) (*Guard, error) {
	cfg.Every = cmp.Or(cfg.Every, 30*time.Second)
	cfg.Patience = cmp.Or(cfg.Patience, time.Hour)
	cfg.Urgency = cmp.Or(cfg.Urgency, time.Minute)
	cfg.Audit = cmp.Or(cfg.Audit, 6*time.Hour)
	cfg.Repairs = cmp.Or(cfg.Repairs, 2)
	g := &Guard{
		cfg: cfg, log: cfg.Logger, distrusted: make(map[string]time.Time),
		audited: make(map[[32]byte]time.Time), read: make(map[[32]byte]time.Time),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if g.coded, err = newCoder(Coded); err != nil {
		return nil, err
	}
	if g.copies, err = newCoder(Copies); err != nil {
		return nil, err
	}
	g.plan = newPlan(planConfig{
		self: cfg.Self, patience: cfg.Patience, urgency: cfg.Urgency, mostRepairs: cfg.Repairs, retry: cfg.Urgency,
	}, &g.counters)
	return g, nil
}

func (g *Guard) coder(s Scheme) *coder {
	if s == Coded {
		return g.coded
	}
	return g.copies
}

// Counters returns what was counted so far, and the state of the objects.
func (g *Guard) Counters() Counters {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.counters
	for _, o := range g.plan.objects {
		n.Objects++
		left := 0
		for slot := range o.rec.Holders {
			if g.plan.present(o, slot) {
				left++
			}
		}
		switch {
		case left < o.rec.Scheme.Need:
			n.Unreadable++
		case left < o.rec.Scheme.Slots:
			n.Degraded++
		}
	}
	return n
}

// Holders returns the members that hold parts of the objects of which we keep
// some: those whose absence the Guard has to know of.
func (g *Guard) Holders() (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.plan.objects {
		for _, slot := range o.rec.Holders {
			names = append(names, slot...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (g *Guard) count(do func(*Counters)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do(&g.counters)
}

func (g *Guard) trusts(name string) bool {
	until, is := g.distrusted[name]
	return !is || time.Now().After(until)
}

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
