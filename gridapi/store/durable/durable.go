package durable

import (
	"cmp"
	"context"
	"log/slog"
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
