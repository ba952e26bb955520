package mpi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Each communicator has three contexts: numbers that keep its messages apart
// from others'. The low two bits say which.
const (
	worldContext      = 1 << 2
	contextPoint      = 0 // point to point, and the communicator itself
	contextCollective = 1
	contextClass      = 3
)

// A Comm is a communicator: a group of ranks whose messages meet no others
// (MPI 4.1, chapter 7). Its methods may be called from several goroutines;
// collective calls in the same order by all ranks, so from one goroutine, or one
// after the other.
type Comm struct {
	p       *Process
	context uint64
	group   []int // world rank of each rank
	rank    int
	sites   []int // index of the site of each rank; nil if there is only one
	cart    *cartesian

	// p.mu guards the rest
	freed   bool
	revoked bool
	handler func(*Comm, error) error
	attrs   map[*Keyval]any
	failed  []int // members, in the order in which we learnt it
	acked   int   // of them
	collectives
	agreements
}

// newComm makes a communicator of world ranks, this process among them. p.mu is
// held.
func (p *Process) newComm(context uint64, group []int) *Comm {
	c := &Comm{p: p, context: context, group: group, rank: slices.Index(group, p.rank)}
	if p.cfg.Sites != nil {
		c.sites = siteIndexes(p.cfg.Sites, group)
	}
	for r, w := range group {
		if p.peers[w].gone != nil {
			c.failed = append(c.failed, r)
		}
	}
	p.match.pin(context | contextPoint)
	p.match.pin(context | contextCollective)
	p.comms[context] = c
	mine := p.early[:0:0]
	p.early = slices.DeleteFunc(p.early, func(f earlyFrame) bool {
		if f.h.context == context {
			mine = append(mine, f)
			p.peers[f.from].early--
			return true
		}
		return false
	})
	for _, f := range mine {
		if err := c.frame(f.from, f.h, f.body); err != nil {
			p.counters.Violations++
			p.rankFailed(f.from, err)
		}
	}
	return c
}

// siteIndexes numbers the sites of a group in the order of their first ranks.
func siteIndexes(sites []string, group []int) []int {
	number := make(map[string]int)
	out := make([]int, len(group))
	for i, w := range group {
		n, known := number[sites[w]]
		if !known {
			n = len(number)
			number[sites[w]] = n
		}
		out[i] = n
	}
	if len(number) < 2 {
		return nil
	}
	return out
}

// child returns the context of a communicator that is made by the collective
// call number of c, for those who gave the same colour. All of them compute the
// same; others get another, as far as SHA-256 goes.
func (c *Comm) child(kind string, number int32, colour int) uint64 {
	b := binary.BigEndian.AppendUint64([]byte("mpi context "+kind+" "), c.context)
	b = binary.BigEndian.AppendUint32(b, uint32(number))
	b = binary.BigEndian.AppendUint64(b, uint64(colour))
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:]) &^ contextClass
}

// Rank and Size tell this process's place.
func (c *Comm) Rank() int { return c.rank }
func (c *Comm) Size() int { return len(c.group) }

// Process returns the process that c belongs to.
func (c *Comm) Process() *Process { return c.p }

// Group returns the ranks of c's members in the world.
func (c *Comm) Group() []int { return slices.Clone(c.group) }

// Sites returns the number of sites that c spans.
func (c *Comm) Sites() int {
	if c.sites == nil {
		return 1
	}
	return slices.Max(c.sites) + 1
}

// rankOf returns the rank of a rank of the world, negative if it is no member.
func (c *Comm) rankOf(world int) int {
	if world < len(c.group) && world >= 0 && c.group[world] == world {
		return world
	}
	return slices.Index(c.group, world)
}

// SetErrhandler has f see every error of a call on c before the call returns
// it; what f returns is returned in its place. Nil, the default, returns errors as they are
// (MPI_ERRORS_RETURN). f may make calls. Communicators made from c inherit it.
func (c *Comm) SetErrhandler(f func(*Comm, error) error) {
	c.p.mu.Lock()
	c.handler = f
	c.p.mu.Unlock()
}

// ErrorsArePanics is an error handler for programs that do not expect errors
// (MPI_ERRORS_ARE_FATAL).
func ErrorsArePanics(_ *Comm, err error) error { panic(err) }

func (c *Comm) handled(err error) error {
	if err == nil {
		return nil
	}
	c.p.mu.Lock()
	f := c.handler
	c.p.mu.Unlock()
	if f == nil {
		return err
	}
	return f(c, err)
}

// usable says why nothing can be done on c, or nil. p.mu is held.
func (c *Comm) usable(op string) error {
	switch {
	case c.p.closed != nil:
		return fault(classOf(c.p.closed), op, nil)
	case c.freed:
		return fault(ErrComm, op, nil)
	case c.revoked:
		return fault(ErrRevoked, op, nil)
	}
	return nil
}

// inherit gives a new communicator what its parent hands down. p.mu is held.
func (c *Comm) inherit(d *Comm) *Comm {
	d.handler = c.handler
	return d
}

// Free ends the communicator (MPI_Comm_free). Messages that are on their way are
// thrown away. The world is freed by Finalize.
func (c *Comm) Free() error {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.freed || c.context == worldContext {
		return fault(ErrComm, "Free", nil)
	}
	c.freed = true
	delete(p.comms, c.context)
	for _, r := range p.alive() {
		if r.comm == c {
			p.giveUp(r, r.fault(ErrComm, -1, nil))
		}
	}
	for _, class := range [2]uint64{contextPoint, contextCollective} {
		for _, a := range p.match.unpin(c.context | class) {
			p.discard(a)
		}
	}
	p.forget(c.context)
	for k := range c.attrs {
		if k.Delete != nil {
			defer k.Delete(c, c.attrs[k])
		}
	}
	return nil
}

// maxFreed bounds how many communicators that are gone are known as such.
const maxFreed = 4096

// forget remembers that messages of a context are not wanted. p.mu is held.
func (p *Process) forget(context uint64) {
	if len(p.freedLog) >= maxFreed {
		delete(p.freed, p.freedLog[0])
		p.freedLog = p.freedLog[1:]
	}
	p.freed[context] = true
	p.freedLog = append(p.freedLog, context)
}

// discard throws a message away that was queued. p.mu is held.
func (p *Process) discard(a *arrival) {
	p.counters.Stray++
	switch {
	case a.self != nil:
		a.self.complete(nil)
	case a.rts:
		p.release(a)
		p.control(&p.peers[a.source], header{kind: frameCTS, id: a.id}, nil)
	default:
		p.release(a)
	}
}

// Dup returns a communicator of the same ranks (MPI_Comm_dup). Attributes go
// along if their Keyval copies them.
func (c *Comm) Dup(ctx context.Context) (*Comm, error) {
	var d *Comm
	err := c.collect(ctx, "Dup", sign("dup", 0), func(x *collective) error {
		if err := barrier(x.everybody()); err != nil {
			return err
		}
		c.p.mu.Lock()
		d = c.inherit(c.p.newComm(c.child("dup", x.tag, 0), c.group))
		d.cart = c.cart
		c.p.mu.Unlock()
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.copyAttrs(d)
	return d, nil
}

// NoColor is the colour of a rank that takes part in a Split and wants no
// communicator (MPI_UNDEFINED).
const NoColor = -1

// Split makes a communicator for each colour, of the ranks that gave it, in the
// order of key and then of rank (MPI_Comm_split). With NoColor it is nil.
func (c *Comm) Split(ctx context.Context, colour, key int) (*Comm, error) {
	if colour < NoColor {
		return nil, c.handled(fault(ErrArg, "Split", fmt.Errorf("colour %d", colour)))
	}
	var d *Comm
	err := c.collect(ctx, "Split", sign("split", 0), func(x *collective) error {
		mine := binary.BigEndian.AppendUint64(nil, uint64(int64(colour)))
		mine = binary.BigEndian.AppendUint64(mine, uint64(int64(key)))
		all := make([]byte, 16*c.Size())
		if err := allgather(x, mine, all); err != nil {
			return err
		}
		if colour == NoColor {
			return nil
		}
		type member struct{ key, rank int }
		var members []member
		for r := range c.group {
			if int(int64(binary.BigEndian.Uint64(all[16*r:]))) == colour {
				members = append(members, member{int(int64(binary.BigEndian.Uint64(all[16*r+8:]))), r})
			}
		}
		slices.SortFunc(members, func(a, b member) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.rank, b.rank)) })
		group := make([]int, len(members))
		for i, m := range members {
			group[i] = c.group[m.rank]
		}
		c.p.mu.Lock()
		d = c.inherit(c.p.newComm(c.child("split", x.tag, colour), group))
		c.p.mu.Unlock()
		return nil
	})
	return d, err
}

// SplitSites makes a communicator for each site.
func (c *Comm) SplitSites(ctx context.Context) (*Comm, error) {
	site := 0
	if c.sites != nil {
		site = c.sites[c.rank]
	}
	return c.Split(ctx, site, c.rank)
}

// Create makes a communicator of the given ranks of c, in that order
// (MPI_Comm_create). All ranks of c call it, with the same group or with
// groups that have no rank in common. For those in no group it is nil.
func (c *Comm) Create(ctx context.Context, group []int) (*Comm, error) {
	seen := make(map[int]bool)
	for _, r := range group {
		if r < 0 || r >= c.Size() || seen[r] {
			return nil, c.handled(fault(ErrGroup, "Create", fmt.Errorf("rank %d", r)))
		}
		seen[r] = true
	}
	if i := slices.Index(group, c.rank); i >= 0 {
		return c.Split(ctx, group[0], i)
	}
	return c.Split(ctx, NoColor, 0)
}

// Group operations on lists of ranks (MPI 4.1, section 7.3.2).

// GroupUnion returns a and then what is only in b.
func GroupUnion(a, b []int) []int {
	out := slices.Clone(a)
	for _, r := range b {
		if !slices.Contains(a, r) {
			out = append(out, r)
		}
	}
	return out
}

// GroupIntersection returns what of a is in b.
func GroupIntersection(a, b []int) (out []int) {
	for _, r := range a {
		if slices.Contains(b, r) {
			out = append(out, r)
		}
	}
	return out
}

// GroupDifference returns what of a is not in b.
func GroupDifference(a, b []int) (out []int) {
	for _, r := range a {
		if !slices.Contains(b, r) {
			out = append(out, r)
		}
	}
	return out
}

// Translate returns the ranks in d of ranks of c (MPI_Group_translate_ranks),
// negative for those that are not in d.
func (c *Comm) Translate(ranks []int, d *Comm) []int {
	out := make([]int, len(ranks))
	for i, r := range ranks {
		out[i] = -1
		if r >= 0 && r < len(c.group) {
			out[i] = d.rankOf(c.group[r])
		}
	}
	return out
}

// A Keyval names an attribute of communicators (MPI 4.1, section 7.7). The zero
// value neither copies nor deletes.
type Keyval struct {
	// Copy says what Dup gives the new communicator; keep false gives nothing.
	Copy func(c *Comm, value any) (copied any, keep bool)
	// Delete is called when the attribute is deleted or its communicator freed.
	Delete func(c *Comm, value any)
}

// SetAttr keeps a value with c. An older one is deleted.
func (c *Comm) SetAttr(k *Keyval, value any) {
	c.DeleteAttr(k)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.attrs == nil {
		c.attrs = make(map[*Keyval]any)
	}
	c.attrs[k] = value
}

// Attr returns the value kept with c.
func (c *Comm) Attr(k *Keyval) (value any, found bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	value, found = c.attrs[k]
	return value, found
}

// DeleteAttr forgets the value kept with c.
func (c *Comm) DeleteAttr(k *Keyval) {
	c.p.mu.Lock()
	value, found := c.attrs[k]
	delete(c.attrs, k)
	c.p.mu.Unlock()
	if found && k.Delete != nil {
		k.Delete(c, value)
	}
}

func (c *Comm) copyAttrs(d *Comm) {
	type attr struct {
		k *Keyval
		v any
	}
	var all []attr
	c.p.mu.Lock()
	for k, v := range c.attrs {
		all = append(all, attr{k, v})
	}
	c.p.mu.Unlock()
	for _, a := range all {
		if a.k.Copy != nil {
			if v, keep := a.k.Copy(c, a.v); keep {
				d.SetAttr(a.k, v)
			}
		}
	}
}
