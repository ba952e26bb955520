package swarm

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/internal/hrw"
)

// A plan decides which chunk to ask of whom, so that each crosses the border of
// a site once and leaves its source about once. It is a state machine: events
// and the time go in, decisions come out of take. The Swarm owns it under its
// mutex.
//
// Two elections by rendezvous hashing keep the copies few. Among the members of
// a site that want a chunk, one fetches it from outside. Among the sites that
// want it, one takes it from its source; the others wait until that one has it.
// Everybody elects for himself and comes to the same result, as all tell all
// what they want and what they hold.
type plan struct {
	cfg     planConfig
	rng     *rand.Rand
	self    hrw.Name
	site    hrw.Name
	chunks  map[chunk.ID]*wanted
	pending []*wanted // not asked for, the rarest first
	sorted  time.Time // when pending was
	byName  map[string]*planPeer
	slots   [maxPeers]*planPeer
	epoch   uint64 // of who is there: verdicts of older ones are void
	out     []decision
	mean    float64 // bytes of a chunk, smoothed
	counter *Counters
}

// maxPeers is how many peers a plan knows: the bits of a peerSet.
const maxPeers = 64

// A peerSet is a set of slots.
type peerSet uint64

func (s peerSet) size() int { return bits.OnesCount64(uint64(s)) }

// planConfig has no zero defaults: the Swarm fills it.
type planConfig struct {
	self, site string
	plain      bool          // elect nobody: everyone asks whoever holds a chunk
	settle     time.Duration // how long to wait for what peers say before the first election
	stall      time.Duration // silence after which a peer's chunks are asked of others
	patience   time.Duration // the least silence of a site that another one waits for
	horizon    time.Duration // how much work, in time, a peer is given ahead
	maxFlight  int           // chunks asked of one peer at a time
	falseHaves int           // announcements of a peer that proved wrong before it is dropped
}

// A planPeer is what a plan knows of a peer.
type planPeer struct {
	name     string
	site     string
	key      hrw.Name
	siteKey  hrw.Name
	slot     int
	local    bool // of our site
	joined   bool // connected; otherwise expected
	flight   []*wanted
	rate     float64   // bytes a second, smoothed; zero: unknown
	progress time.Time // when bytes last came, or were first asked for
	last     time.Time // when a chunk last was complete, or asked of an idle peer
	heard    time.Time // when it last had or claimed something new
	gap      time.Duration
	benched  time.Time // gets nothing before
	strikes  int       // times it stalled, one after another
	lies     int
}

func (q *planPeer) bit() peerSet { return 1 << q.slot }

// A wanted is a chunk that is not held yet.
type wanted struct {
	id       chunk.ID
	since    time.Time
	local    bool    // may be taken from our site only
	answered peerSet // have said whether they hold it
	holders  peerSet
	wanters  peerSet // have said that they want it, holders since included
	claims   peerSet // have said that they are fetching it
	asked    *planPeer
	at       time.Time
	started  bool // its bytes come
	cancel   bool // a CANCEL is under way
	promised bool // others wait for us, since we claimed it
	tie      uint32
	verdict  peerSet // who may be asked
	void     bool    // verdict is
	epoch    uint64  // of verdict
}

// A decision is what the plan wants done.
type decision struct {
	kind decisionKind
	peer string
	id   chunk.ID
}

type decisionKind int

const (
	askPeer   decisionKind = iota
	cancelAsk              // unless it has begun
	dropPeer               // it lied too often
)

func newPlan(cfg planConfig, rng *rand.Rand, counter *Counters) *plan {
	return &plan{
		cfg: cfg, rng: rng, self: hrw.NameOf(cfg.self), site: hrw.NameOf(cfg.site),
		chunks: make(map[chunk.ID]*wanted), byName: make(map[string]*planPeer), mean: 64 << 10, counter: counter,
	}
}

// take returns what was decided since the last take.
func (p *plan) take() []decision {
	out := p.out
	p.out = nil
	return out
}

// want adds a chunk. localOnly has it taken from our own site or not at all.
func (p *plan) want(now time.Time, id chunk.ID, localOnly bool) {
	w := p.chunks[id]
	if w == nil {
		w = &wanted{id: id, since: now, local: localOnly, void: true, tie: p.rng.Uint32()}
		p.chunks[id] = w
		p.pending = append(p.pending, w)
		p.sorted = time.Time{}
	}
	w.local = w.local && localOnly
	w.void = true
}

// forget takes a chunk out, since it is held or nobody wants it any more.
func (p *plan) forget(id chunk.ID) {
	w := p.chunks[id]
	if w == nil {
		return
	}
	delete(p.chunks, id)
	if w.asked != nil {
		if !w.started && !w.cancel {
			p.out = append(p.out, decision{cancelAsk, w.asked.name, id})
		}
		w.asked.flight = without(w.asked.flight, w)
		return
	}
	p.pending = without(p.pending, w)
}

func without[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// expect notes that a connection to a peer is being made: what it holds and
// wants is worth a short wait. It reports whether the plan has room for it.
func (p *plan) expect(name, site string) bool {
	if p.byName[name] != nil {
		return true
	}
	slot := slices.Index(p.slots[:], nil)
	if slot < 0 {
		return false
	}
	q := &planPeer{name: name, key: hrw.NameOf(name), slot: slot}
	p.settleIn(q, site)
	p.byName[name], p.slots[slot] = q, q
	p.epoch++
	return true
}

// settleIn puts a peer into its site. Who has none is a site of his own.
func (p *plan) settleIn(q *planPeer, site string) {
	q.site, q.local = site, site != "" && site == p.cfg.site
	if q.siteKey = q.key; site != "" {
		q.siteKey = hrw.NameOf(site)
	}
}

// move notes the site of a peer, or our own.
func (p *plan) move(name, site string) {
	if name == p.cfg.self {
		if site != p.cfg.site {
			p.cfg.site, p.site = site, hrw.NameOf(site)
			p.epoch++
			for _, q := range p.byName {
				p.settleIn(q, q.site)
			}
		}
		return
	}
	if q := p.byName[name]; q != nil && q.site != site {
		p.settleIn(q, site)
		p.epoch++
	}
}

// join notes that a peer is connected.
func (p *plan) join(now time.Time, name, site string) bool {
	if !p.expect(name, site) {
		return false
	}
	q := p.byName[name]
	q.joined, q.heard = true, now
	p.epoch++
	return true
}

// leave takes a peer out; what was asked of it is asked of others.
func (p *plan) leave(name string) {
	q := p.byName[name]
	if q == nil {
		return
	}
	for _, w := range slices.Clone(q.flight) {
		p.release(w)
		p.counter.Reasked++
	}
	for _, w := range p.chunks {
		w.answered &^= q.bit()
		w.holders &^= q.bit()
		w.wanters &^= q.bit()
		w.claims &^= q.bit()
	}
	delete(p.byName, name)
	p.slots[q.slot] = nil
	p.epoch++
}

// release makes a chunk pending that was asked for.
func (p *plan) release(w *wanted) {
	q := w.asked
	q.flight = without(q.flight, w)
	w.asked, w.started, w.cancel, w.void = nil, false, false, true
	p.pending = append(p.pending, w)
	p.sorted = time.Time{}
}

// answer notes that a peer has said whether it holds a chunk.
func (p *plan) answer(now time.Time, name string, id chunk.ID, holds bool) {
	q, w := p.byName[name], p.chunks[id]
	if q == nil || w == nil {
		return
	}
	w.answered |= q.bit()
	w.void = true
	if holds {
		p.has(now, name, id)
	}
}

// has notes that a peer holds a chunk.
func (p *plan) has(now time.Time, name string, id chunk.ID) {
	q, w := p.byName[name], p.chunks[id]
	if q == nil {
		return
	}
	if w == nil {
		q.hear(now)
		return
	}
	if w.wanters&q.bit() != 0 {
		q.hear(now)
	}
	w.holders |= q.bit()
	w.claims &^= q.bit()
	w.void = true
	if a := w.asked; a != nil && q.local && !a.local && !w.started && !w.cancel {
		// It is here already: no need for it to cross the border again.
		w.cancel = true
		p.out = append(p.out, decision{cancelAsk, a.name, id})
	}
}

// hear notes that q gets on.
func (q *planPeer) hear(now time.Time) {
	if !q.heard.IsZero() {
		q.gap = max(q.gap, now.Sub(q.heard))
	}
	q.heard = now
}

// wants notes that a peer wants a chunk.
func (p *plan) wants(now time.Time, name string, id chunk.ID) {
	if q, w := p.byName[name], p.chunks[id]; q != nil && w != nil {
		if w.wanters&q.bit() == 0 {
			q.heard = now
		}
		w.wanters |= q.bit()
		w.void = true
	}
}

// wantsNot notes that a peer no longer wants a chunk that it does not hold.
func (p *plan) wantsNot(name string, id chunk.ID) {
	if q, w := p.byName[name], p.chunks[id]; q != nil && w != nil && w.holders&q.bit() == 0 {
		w.wanters &^= q.bit()
		w.claims &^= q.bit()
		w.void = true
	}
}

// claims notes that a peer is fetching a chunk.
func (p *plan) claims(now time.Time, name string, id chunk.ID) {
	if q, w := p.byName[name], p.chunks[id]; q != nil && w != nil && w.holders&q.bit() == 0 {
		w.claims |= q.bit()
		w.void = true
		q.heard = now
	}
}

// disclaim takes back what claims said.
func (p *plan) disclaim(name string, id chunk.ID) {
	if q, w := p.byName[name], p.chunks[id]; q != nil && w != nil {
		w.claims &^= q.bit()
		w.void = true
	}
}

// claim reports whether a chunk is being fetched from outside our site. If so, a
// peer is told, and waits for us: we fetch it even when the elections, or the
// connection that it was to come by, turn out otherwise.
func (p *plan) claim(id chunk.ID) bool {
	w := p.chunks[id]
	if w == nil || w.asked == nil || w.asked.local {
		return false
	}
	w.promised = true
	return true
}

// started notes that a chunk's bytes begin to come.
func (p *plan) started(now time.Time, name string, id chunk.ID) {
	if w := p.chunks[id]; w != nil && w.asked != nil && w.asked.name == name {
		w.started = true
		w.asked.progress = now
	}
}

// data notes bytes of a chunk.
func (p *plan) data(now time.Time, name string) {
	if q := p.byName[name]; q != nil {
		q.progress, q.strikes = now, 0
	}
}

// arrived notes that a chunk came whole and right.
func (p *plan) arrived(now time.Time, name string, id chunk.ID, size int) {
	p.mean += (float64(size) - p.mean) / 8
	if q := p.byName[name]; q != nil {
		if took := now.Sub(q.last).Seconds(); took > 0 && !q.last.IsZero() {
			rate := float64(size) / took
			if q.rate == 0 {
				q.rate = rate
			} else {
				q.rate += (rate - q.rate) / 4
			}
		}
		q.last, q.progress = now, now
		q.lies, q.strikes = 0, 0
		if w := p.chunks[id]; w != nil && w.asked == q {
			w.started = true
		}
	}
	p.forget(id)
}

// missed notes that an ask was refused.
func (p *plan) missed(now time.Time, name string, id chunk.ID, why code) {
	q := p.byName[name]
	if q == nil {
		return
	}
	q.progress = now
	w := p.chunks[id]
	if w != nil && w.asked == q {
		p.release(w)
	}
	switch why {
	case codeBusy:
		q.benched = now.Add(busyPause)
		p.epoch++
	case codeNotHeld:
		p.counter.FalseHaves++
		q.lies++
		if w != nil {
			w.holders &^= q.bit()
			w.void = true
		}
		if q.lies >= p.cfg.falseHaves {
			p.out = append(p.out, decision{kind: dropPeer, peer: name})
		}
	}
}

// busyPause is how long a peer that is busy gets no more: a guess.
const busyPause = 200 * time.Millisecond

// advance looks for peers that have stalled. It wants to be called each tick
// while chunks are wanted.
func (p *plan) advance(now time.Time) {
	for _, q := range p.slots {
		if q == nil || len(q.flight) == 0 || now.Sub(q.progress) < p.cfg.stall {
			continue
		}
		q.strikes++
		p.counter.Stalls++
		q.benched = now.Add(p.cfg.stall << min(q.strikes, 5))
		for _, w := range slices.Clone(q.flight) {
			if !w.cancel {
				p.out = append(p.out, decision{cancelAsk, q.name, w.id})
			}
			p.release(w)
			p.counter.Reasked++
		}
	}
	p.epoch++ // benches end, patience runs out
}

// tick is how often advance wants to be called: a guess.
const tick = 250 * time.Millisecond

// dispatch asks for what may be asked for.
func (p *plan) dispatch(now time.Time) {
	free := p.free(now)
	if free == 0 || len(p.chunks) == 0 {
		return
	}
	if now.Sub(p.sorted) > tick {
		p.sorted = now
		for _, w := range p.pending {
			w.tie = p.rng.Uint32()
		}
		slices.SortFunc(p.pending, func(a, b *wanted) int {
			if c := cmp.Compare(a.holders.size(), b.holders.size()); c != 0 {
				return c
			}
			return cmp.Compare(a.tie, b.tie)
		})
	}
	kept := p.pending[:0]
	for i, w := range p.pending {
		if free == 0 {
			kept = append(kept, p.pending[i:]...)
			break
		}
		q := p.best(p.askable(now, w)&free, w)
		if q == nil {
			kept = append(kept, w)
			continue
		}
		p.ask(now, q, w)
		if len(q.flight) >= p.window(q) {
			free &^= q.bit()
		}
	}
	clear(p.pending[len(kept):])
	p.pending = kept
	if free != 0 {
		p.endGame(now, free)
	}
}

// free returns the peers that may be asked for more.
func (p *plan) free(now time.Time) (free peerSet) {
	for _, q := range p.slots {
		if q != nil && q.joined && !now.Before(q.benched) && len(q.flight) < p.window(q) {
			free |= q.bit()
		}
	}
	return free
}

// window returns how many chunks may be asked of q at a time: what it delivers
// within the horizon at the rate it has shown, and one more.
func (p *plan) window(q *planPeer) int {
	ahead := int(q.rate * p.cfg.horizon.Seconds() / p.mean)
	return min(max(2, ahead+1), p.cfg.maxFlight)
}

// best returns the peer of set that would deliver w first.
func (p *plan) best(set peerSet, w *wanted) (best *planPeer) {
	var least float64
	for ; set != 0; set &= set - 1 {
		q := p.slots[bits.TrailingZeros64(uint64(set))]
		// Peers whose rate is not known are tried early; equal ones are
		// told apart by an election, so that the load spreads.
		wait := p.wait(q, len(q.flight))
		if best == nil || wait < least || wait == least && hrw.Score(w.id, q.key) > hrw.Score(w.id, best.key) {
			best, least = q, wait
		}
	}
	return best
}

// wait returns the seconds until q has delivered a chunk that is asked of it
// when ahead others are under way.
func (p *plan) wait(q *planPeer, ahead int) float64 {
	rate := q.rate
	if rate == 0 {
		rate = 1 << 20 // a guess: a home's uplink
	}
	return float64(ahead+1) * p.mean / rate
}

func (p *plan) ask(now time.Time, q *planPeer, w *wanted) {
	if len(q.flight) == 0 {
		q.progress = now
		q.last = now
	}
	w.asked, w.at = q, now
	q.flight = append(q.flight, w)
	p.out = append(p.out, decision{askPeer, q.name, w.id})
}

// endGame takes chunks back that would come sooner from a peer with nothing to
// do. A chunk is asked for again only once the first peer has confirmed that it
// had not begun to send it, so that nothing is sent twice.
func (p *plan) endGame(now time.Time, free peerSet) {
	for _, q := range p.slots {
		if q == nil || q.rate == 0 && len(q.flight) < 2 {
			continue
		}
		for i := len(q.flight) - 1; i >= 1; i-- { // the first one is about to begin
			w := q.flight[i]
			if w.started || w.cancel {
				continue
			}
			other := p.best(p.askable(now, w)&free&^q.bit(), w)
			if other == nil || len(other.flight) > 0 || p.wait(q, i) < 2*p.wait(other, 0)+0.5 {
				continue
			}
			w.cancel = true
			p.counter.Withdrawn++
			p.out = append(p.out, decision{cancelAsk, q.name, w.id})
			free &^= other.bit()
		}
	}
}

func (p *plan) askable(now time.Time, w *wanted) peerSet {
	if w.void || w.epoch != p.epoch {
		w.verdict, w.epoch = p.judge(now, w), p.epoch
		// Before all have answered, the verdict changes by itself.
		w.void = !p.settled(now, w)
	}
	return w.verdict
}

// settled reports whether all have said what they hold and want, or had time
// enough.
func (p *plan) settled(now time.Time, w *wanted) bool {
	if now.Sub(w.since) >= p.cfg.settle {
		return true
	}
	for _, q := range p.slots {
		if q != nil && w.answered&q.bit() == 0 {
			return false
		}
	}
	return true
}

// judge elects: it returns which peers we may ask for w.
func (p *plan) judge(now time.Time, w *wanted) peerSet {
	var live, local peerSet
	for _, q := range p.slots {
		if q == nil || !q.joined || now.Before(q.benched) {
			continue
		}
		live |= q.bit()
		if q.local {
			local |= q.bit()
		}
	}
	have := w.holders & live
	if p.cfg.plain {
		return have &^ w.wanters
	}
	if near := have & local; near != 0 {
		return near
	}
	if w.local || !p.settled(now, w) {
		return 0
	}
	// Within the site: one of those that want it fetches it.
	for set := w.wanters & local; set != 0 && !w.promised; set &= set - 1 {
		q := p.slots[bits.TrailingZeros64(uint64(set))]
		if p.stuck(now, q, w) {
			continue
		}
		if w.claims&q.bit() != 0 || p.beats(w.id, q.key, q.name, p.self, p.cfg.self) {
			return 0
		}
	}
	// Between the sites: who has got it passes it on.
	far := have &^ local
	if again := far & w.wanters; again != 0 {
		return again
	}
	// One site takes it from its source.
	for set := w.wanters & live &^ local; set != 0 && !w.promised; set &= set - 1 {
		q := p.slots[bits.TrailingZeros64(uint64(set))]
		if p.stuck(now, q, w) {
			continue
		}
		if w.claims&q.bit() != 0 || p.beats(w.id, q.siteKey, q.siteName(), p.ownSiteKey(), p.ownSite()) {
			return 0
		}
	}
	return far
}

// beats reports whether a wins against b.
func (p *plan) beats(id chunk.ID, a hrw.Name, aName string, b hrw.Name, bName string) bool {
	sa, sb := hrw.Score(id, a), hrw.Score(id, b)
	return sa > sb || sa == sb && aName < bName
}

// siteName returns the site; who has none is a site of his own.
func (q *planPeer) siteName() string {
	if q.site == "" {
		return q.name
	}
	return q.site
}

func (p *plan) ownSiteKey() hrw.Name {
	if p.cfg.site == "" {
		return p.self
	}
	return p.site
}

func (p *plan) ownSite() string {
	if p.cfg.site == "" {
		return p.cfg.self
	}
	return p.cfg.site
}

// stuck reports whether others have waited for q long enough: it has got
// nothing for several times its longest wait so far.
func (p *plan) stuck(now time.Time, q *planPeer, w *wanted) bool {
	idle := now.Sub(q.heard)
	return idle > max(p.cfg.patience, 4*q.gap) && now.Sub(w.since) > p.cfg.patience
}

// hopeless reports whether nobody who is there holds w or is about to, though
// all have had the time to say so.
func (p *plan) hopeless(now time.Time, w *wanted) bool {
	if w.asked != nil || w.holders != 0 || now.Sub(w.since) < p.cfg.settle {
		return false
	}
	for set := w.claims; set != 0; set &= set - 1 {
		if q := p.slots[bits.TrailingZeros64(uint64(set))]; q != nil && !p.stuck(now, q, w) {
			return false
		}
	}
	return true
}
