package durable

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/internal/hrw"
)

// A plan decides what is repaired, and when. It is a state machine: who is
// there, what was found lost and the time go in, repairs come out. The Guard
// owns it under its mutex.
//
// A holder that is away is not lost. As long as the object could spare one more
// it is waited for as long as a laptop sleeps; a shorter time when the object
// could spare none. One that came back and does not hold its shard is not
// waited for at all.
type plan struct {
	cfg     planConfig
	members map[string]*memberState
	objects map[[32]byte]*objectState
	held    bool // too few members are there: we are probably the ones cut off
	counter *Counters
}

// planConfig has no zero defaults: the Guard fills it.
type planConfig struct {
	self        string
	patience    time.Duration // that a holder is waited for while a further one could go
	urgency     time.Duration // when none could
	mostRepairs int           // at a time
	retry       time.Duration // after a repair that failed
}

type memberState struct {
	Member
	here  bool
	since time.Time // that it is here, or away
}

type objectState struct {
	rec       Record
	lost      map[string]time.Time // holders that proved not to hold their shard, and since when
	repairing bool
	notBefore time.Time
	since     time.Time // that a shard has been missing; zero: none is
	check     bool      // a holder has come back: has it still got its shard?
}

// A repair is a decision: make the shards of these slots anew.
type repair struct {
	object [32]byte
	slots  []int
}

func newPlan(cfg planConfig, counter *Counters) *plan {
	return &plan{cfg: cfg, members: make(map[string]*memberState), objects: make(map[[32]byte]*objectState), counter: counter}
}

// see notes who is there now. Members that it does not name are away.
func (p *plan) see(now time.Time, here []Member) {
	named := make(map[string]bool, len(here))
	for _, m := range here {
		named[m.Name] = true
		s := p.members[m.Name]
		if s == nil {
			s = &memberState{since: now}
			p.members[m.Name] = s
		}
		if s.Member = m; !s.here {
			s.here, s.since = true, now
			p.back(m.Name)
		}
	}
	away := 0
	for name, s := range p.members {
		if !named[name] {
			if s.here {
				s.here, s.since = false, now
			}
			away++
			if now.Sub(s.since) > forgetAfter {
				delete(p.members, name)
			}
		}
	}
	p.held = 2*away > len(p.members)+1
}

// back has the objects checked that a member holds parts of: it may have come
// back with an empty disk.
func (p *plan) back(name string) {
	for _, o := range p.objects {
		for _, slot := range o.rec.Holders {
			if slices.Contains(slot, name) {
				o.check = true
			}
		}
	}
}

// forgetAfter is how long a member that is away counts among the known: a
// guess.
const forgetAfter = 30 * 24 * time.Hour

// track notes where an object is, as its record now says.
func (p *plan) track(now time.Time, rec Record) {
	o := p.objects[rec.Object]
	if o == nil {
		o = &objectState{lost: make(map[string]time.Time)}
		p.objects[rec.Object] = o
	}
	if rec.Version < o.rec.Version {
		return
	}
	if rec.Version > o.rec.Version {
		// Who is named first has just been given the shard.
		for _, slot := range rec.Holders {
			delete(o.lost, slot[0])
		}
	}
	o.rec = rec
	for _, slot := range rec.Holders {
		for _, name := range slot {
			if p.members[name] == nil { // from before our time
				p.members[name] = &memberState{Member: Member{Name: name}, since: now}
			}
		}
	}
}

// drop forgets an object.
func (p *plan) drop(object [32]byte) { delete(p.objects, object) }

// lost notes that a holder does not hold what it should.
func (p *plan) lost(now time.Time, object [32]byte, name string) {
	if o := p.objects[object]; o != nil && !o.isLost(name) {
		o.lost[name] = now
	}
}

func (o *objectState) isLost(name string) bool {
	_, is := o.lost[name]
	return is
}

// ended notes how a repair ended.
func (p *plan) ended(now time.Time, object [32]byte, err error) {
	o := p.objects[object]
	if o == nil {
		return
	}
	if o.repairing = false; err != nil {
		o.notBefore = now.Add(p.cfg.retry)
	}
}

// present reports whether a holder of the slot is there and has its shard.
func (p *plan) present(o *objectState, slot int) bool {
	for _, name := range o.rec.Holders[slot] {
		if m := p.members[name]; m != nil && m.here && !o.isLost(name) {
			return true
		}
	}
	return false
}

// certain reports whether all holders of the slot proved not to hold it.
func (p *plan) certain(o *objectState, slot int) bool {
	for _, name := range o.rec.Holders[slot] {
		if !o.isLost(name) {
			return false
		}
	}
	return true
}

// awaySince returns when the last holder of a slot went away, or was found not
// to have its shard.
func (p *plan) awaySince(o *objectState, slot int) (since time.Time) {
	for _, name := range o.rec.Holders[slot] {
		at, is := o.lost[name]
		if m := p.members[name]; m != nil && !is {
			at = m.since
		}
		if at.After(since) {
			since = at
		}
	}
	return since
}

// rank returns our place among those who may repair an object: its holders that
// are there, in the order of the election. The first is the warden; the others
// act when it does not. It is negative when we are not among them.
func (p *plan) rank(o *objectState) int {
	rank, among := 0, false
	own := hrw.Score(o.rec.Object, hrw.NameOf(p.cfg.self))
	for _, slot := range o.rec.Holders {
		for _, name := range slot {
			if m := p.members[name]; m == nil || !m.here || o.isLost(name) {
				continue
			}
			if name == p.cfg.self {
				among = true
			} else if hrw.Score(o.rec.Object, hrw.NameOf(name)) > own {
				rank++
			}
		}
	}
	if !among {
		return -1
	}
	return rank
}

// deputyFactor is how many times the urgency each further one in the election
// waits before it does the warden's work: a guess.
const deputyFactor = 5

// decide returns the repairs that begin now, the most urgent first.
func (p *plan) decide(now time.Time) (repairs []repair) {
	under := 0
	type candidate struct {
		repair
		spare int
	}
	var list []candidate
	for object, o := range p.objects {
		if o.repairing {
			under++
			continue
		}
		var missing []int
		for slot := range o.rec.Holders {
			if !p.present(o, slot) {
				missing = append(missing, slot)
			}
		}
		if len(missing) == 0 {
			o.since = time.Time{}
			continue
		}
		if o.since.IsZero() {
			o.since = now
		}
		spare := o.rec.Scheme.Slots - len(missing) - o.rec.Scheme.Need
		rank := p.rank(o)
		if spare < 0 || rank < 0 || now.Before(o.notBefore) {
			continue // spare < 0: nobody can repair it until one is back
		}
		wait := p.cfg.patience
		if spare == 0 {
			wait = p.cfg.urgency
		}
		deputy := time.Duration(rank*deputyFactor) * p.cfg.urgency
		due := slices.DeleteFunc(missing, func(slot int) bool {
			if p.certain(o, slot) {
				return now.Sub(p.awaySince(o, slot)) < deputy
			}
			if p.held {
				p.counter.HeldBack++
				return true
			}
			return now.Sub(p.awaySince(o, slot)) < wait+deputy
		})
		if len(due) > 0 {
			list = append(list, candidate{repair{object, due}, spare})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if c := cmp.Compare(a.spare, b.spare); c != 0 {
			return c
		}
		return bytes.Compare(a.object[:], b.object[:])
	})
	for _, c := range list {
		if under >= p.cfg.mostRepairs {
			p.counter.Queued++
			continue
		}
		under++
		p.objects[c.object].repairing = true
		repairs = append(repairs, c.repair)
	}
	return repairs
}

// target chooses who shall hold a slot instead of its holders: one of these
// that is there again, or somebody else who would make a good holder. targets
// are those chosen for other slots.
func (p *plan) target(o *objectState, slot int, targets map[int]string, distrusted func(string) bool, tried map[string]bool) string {
	for _, name := range o.rec.Holders[slot] {
		if m := p.members[name]; m != nil && m.here && !distrusted(name) && !tried[name] {
			return name
		}
	}
	var taken, free []Member
	for i, holders := range o.rec.Holders {
		if to := targets[i]; to != "" {
			holders = []string{to}
		}
		for _, name := range holders {
			if m := p.members[name]; m != nil && i != slot {
				taken = append(taken, m.Member)
			}
		}
	}
	for _, m := range p.members {
		if m.here && !distrusted(m.Name) && !tried[m.Name] {
			free = append(free, m.Member)
		}
	}
	if names := place(o.rec.Object, free, 1, taken); len(names) > 0 {
		return names[0]
	}
	return ""
}

// replaced returns the record after the slots were given new holders. An old
// holder that is only away stays named: what it holds counts again when it is
// back.
func (p *plan) replaced(o *objectState, targets map[int]string) Record {
	rec := o.rec
	rec.Version++
	rec.Holders = make([][]string, len(o.rec.Holders))
	for i, old := range o.rec.Holders {
		slot := slices.Clone(old)
		if to := targets[i]; to != "" {
			slot = []string{to}
			for _, name := range old {
				if name != to && !o.isLost(name) && len(slot) < maxHolders {
					slot = append(slot, name)
				}
			}
		}
		rec.Holders[i] = slot
	}
	return rec
}
