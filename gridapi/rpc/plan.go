package rpc

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// A plan decides which worker works on which call, again and elsewhere when
// one dies, sleeps, is slow or lies. It is a state machine: events and the time
// go in, decisions come out of take. One goroutine owns it.
type plan struct {
	cfg      planConfig
	rng      *rand.Rand
	workers  map[string]*planWorker
	calls    map[uint64]*planCall
	running  map[uint64]*attempt
	retries  []*planCall // want an attempt, had one before
	fresh    []*planCall // want their first
	base     map[string]time.Duration
	attempts uint64 // number of the last one
	out      []decision
	counters Counters
}

// planConfig has no zero defaults: the Client fills it.
type planConfig struct {
	suspectAfter time.Duration // silence after which a worker's calls are tried elsewhere as well
	lostAfter    time.Duration // silence after which it is given up
	deadly       int           // workers lost over one call before it is given up
	mostAttempts int           // of one call, failures of workers included
	isolateAfter int           // lies of a worker before it gets no more calls
	spotCheck    float64       // share of unverified calls that are verified all the same
}

// A planWorker is what a plan knows of a worker.
type planWorker struct {
	name      string
	site      string // workers of one site share their fate; empty: unknown
	slots     int
	functions map[string]bool
	factor    float64 // its time for a call as a multiple of the function's base; zero: unknown
	running   map[uint64]*attempt
	heard     time.Time
	suspect   bool
	benched   time.Time // gets nothing before
	lies      int
	isolated  bool
}

// A planCall is a call that has not been settled.
type planCall struct {
	spec    callSpec
	live    []*attempt // running on workers that are not suspect
	asleep  []*attempt // running on suspects
	votes   []vote
	killers []string // workers lost while they had it
	tried   map[string]int
	total   int  // attempts so far
	refused int  // of these, the ones that were certainly not carried out
	queued  bool // in retries or fresh
	causes  []string
}

// A callSpec says what a call asks for.
type callSpec struct {
	id       uint64
	function string
	once     bool   // at most once: never tried again
	bound    string // the one worker that may do it; empty: any
	need, of int    // equal results, of so many at the most; zero: the first counts
}

// An attempt is a call on a worker.
type attempt struct {
	number uint64
	call   *planCall
	worker *planWorker
	begun  time.Time
}

// A vote is a result that waits for others to compare with.
type vote struct {
	attempt uint64
	worker  string
	digest  string
	took    time.Duration
}

// A decision is what the plan wants done.
type decision struct {
	kind    decisionKind
	call    uint64
	attempt uint64
	worker  string
	err     error // of settleFailed
}

type decisionKind int

const (
	startAttempt  decisionKind = iota
	stopAttempt                // its result is of no use
	settleResult               // attempt's result is the call's
	settleFailed               // the call ends with err
	isolateWorker              // it lied too often
	dropWorker                 // it has left by its silence: connect anew
)

func newPlan(cfg planConfig, rng *rand.Rand) *plan {
	return &plan{
		cfg: cfg, rng: rng, workers: make(map[string]*planWorker), calls: make(map[uint64]*planCall),
		running: make(map[uint64]*attempt), base: make(map[string]time.Duration),
	}
}

// take returns what was decided since the last take.
func (p *plan) take() []decision {
	out := p.out
	p.out = nil
	return out
}

// join adds a worker, or tells anew what it offers.
func (p *plan) join(now time.Time, name, site string, slots int, functions []string) {
	w := p.workers[name]
	if w == nil {
		w = &planWorker{name: name, running: make(map[uint64]*attempt)}
		p.workers[name] = w
	}
	w.site, w.slots, w.functions = site, slots, make(map[string]bool, len(functions))
	for _, f := range functions {
		w.functions[f] = true
	}
	p.beat(now, name)
	p.dispatch(now)
}

// beat notes that a worker is alive.
func (p *plan) beat(now time.Time, name string) {
	w := p.workers[name]
	if w == nil {
		return
	}
	w.heard = now
	if !w.suspect {
		return
	}
	w.suspect = false
	for _, a := range w.running {
		a.call.asleep = without(a.call.asleep, a)
		a.call.live = append(a.call.live, a)
	}
}

// leave takes a worker out that is gone, with what it was doing.
func (p *plan) leave(now time.Time, name, cause string) {
	w := p.workers[name]
	if w == nil {
		return
	}
	delete(p.workers, name)
	p.counters.WorkersLost++
	for _, a := range attemptsOf(w) {
		c := a.call
		p.out = append(p.out, decision{kind: stopAttempt, call: c.spec.id, attempt: a.number, worker: name})
		p.drop(a)
		c.causes = append(c.causes, name+": "+cause)
		if !slices.Contains(c.killers, name) {
			c.killers = append(c.killers, name)
		}
		switch {
		case c.spec.once:
			p.fail(c, &MaybeExecutedError{Function: c.spec.function, Call: c.spec.id, Worker: name, Reason: cause})
		case c.spec.bound != "":
			p.fail(c, &HandleLostError{Function: c.spec.function, Worker: name, Reason: cause})
		case len(c.killers) >= p.cfg.deadly:
			p.counters.Poisoned++
			p.fail(c, &PoisonError{Function: c.spec.function, Call: c.spec.id, Workers: slices.Clone(c.killers)})
		case c.total >= p.cfg.mostAttempts:
			p.fail(c, &AttemptsError{Function: c.spec.function, Call: c.spec.id, Causes: c.causes})
		default:
			p.want(c)
		}
	}
	for _, c := range p.calls {
		if c.spec.bound == name {
			p.fail(c, &HandleLostError{Function: c.spec.function, Worker: name, Reason: cause})
		}
	}
	p.dispatch(now)
}

// attemptsOf returns what w is doing, the oldest first.
func attemptsOf(w *planWorker) []*attempt {
	list := make([]*attempt, 0, len(w.running))
	for _, a := range w.running {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *attempt) int { return cmp.Compare(a.number, b.number) })
	return list
}

// submit adds a call.
func (p *plan) submit(now time.Time, spec callSpec) {
	if spec.need < 2 && !spec.once && spec.bound == "" && p.cfg.spotCheck > 0 && p.rng.Float64() < p.cfg.spotCheck {
		p.counters.SpotChecks++
		spec.need, spec.of = 2, 3
	}
	c := &planCall{spec: spec, tried: make(map[string]int)}
	p.calls[spec.id] = c
	if spec.bound != "" && p.workers[spec.bound] == nil {
		p.fail(c, &HandleLostError{Function: spec.function, Worker: spec.bound, Reason: "it is not connected"})
		return
	}
	p.want(c)
	p.dispatch(now)
}

// cancel forgets a call.
func (p *plan) cancel(now time.Time, id uint64) {
	if c := p.calls[id]; c != nil {
		p.forget(c)
		p.dispatch(now)
	}
}

// finished takes the result of an attempt, an error of the function included;
// digest stands for its bytes, and equal ones for equal results.
func (p *plan) finished(now time.Time, number uint64, digest string) {
	a := p.running[number]
	if a == nil {
		return
	}
	c, w, took := a.call, a.worker, now.Sub(a.begun)
	p.beat(now, w.name)
	p.drop(a)
	p.learn(c.spec.function, w, took)
	if c.spec.need < 2 && w.lies == 0 {
		p.settle(c, number)
		p.dispatch(now)
		return
	}
	// Who has lied before is checked, whether that was asked for or not.
	need, of := max(c.spec.need, 2), max(c.spec.of, 3)
	c.spec.need, c.spec.of = need, of
	c.votes = append(c.votes, vote{number, w.name, digest, took})
	count := 0
	for _, v := range c.votes {
		if v.digest == digest {
			count++
		}
	}
	switch {
	case count >= need:
		for _, v := range c.votes {
			if v.digest != digest {
				p.lied(v.worker)
			}
		}
		p.settle(c, number)
	default:
		p.want(c)
	}
	p.dispatch(now)
}

func votersOf(c *planCall) (names []string) {
	for _, v := range c.votes {
		names = append(names, v.worker)
	}
	return names
}

// lied notes a result that the others contradict.
func (p *plan) lied(name string) {
	p.counters.Lies++
	w := p.workers[name]
	if w == nil {
		return
	}
	w.lies++
	if w.lies >= p.cfg.isolateAfter && !w.isolated {
		w.isolated = true
		p.counters.Isolated++
		p.out = append(p.out, decision{kind: isolateWorker, worker: name})
		for _, a := range attemptsOf(w) {
			p.out = append(p.out, decision{kind: stopAttempt, call: a.call.spec.id, attempt: a.number, worker: name})
			p.drop(a)
			p.want(a.call)
		}
	}
}

// broke takes back an attempt whose connection was lost, though its worker is
// there: it may or may not have been carried out.
func (p *plan) broke(now time.Time, number uint64, cause string) {
	a := p.running[number]
	if a == nil {
		return
	}
	c, name := a.call, a.worker.name
	switch {
	case c.spec.bound != "":
		p.drop(a)
		p.fail(c, &HandleLostError{Function: c.spec.function, Worker: name, Reason: cause})
	case c.spec.once:
		p.drop(a)
		p.fail(c, &MaybeExecutedError{Function: c.spec.function, Call: c.spec.id, Worker: name, Reason: cause})
	default:
		p.returned(now, number, cause, brokenPause)
		return
	}
	p.dispatch(now)
}

// brokenPause is how long a worker gets nothing after a connection to it broke:
// a guess.
const brokenPause = 500 * time.Millisecond

// returned takes back an attempt that the worker could not carry out: it was
// full, or had no room. It gets nothing more before pause is over.
func (p *plan) returned(now time.Time, number uint64, cause string, pause time.Duration) {
	a := p.running[number]
	if a == nil {
		return
	}
	c, w := a.call, a.worker
	p.beat(now, w.name)
	p.drop(a)
	w.benched = now.Add(pause)
	c.refused++
	c.causes = append(c.causes, w.name+": "+cause)
	if c.total >= p.cfg.mostAttempts {
		p.fail(c, &AttemptsError{Function: c.spec.function, Call: c.spec.id, Causes: c.causes})
	} else {
		p.want(c)
	}
	p.dispatch(now)
}

// deadline is when advance wants to be called; zero: not before another event.
func (p *plan) deadline(now time.Time) time.Time {
	if len(p.calls) == 0 || len(p.workers) == 0 {
		return time.Time{}
	}
	return now.Add(planTick)
}

// planTick is how often a plan with something to do looks at the clock: a
// fraction of the time in which anybody notices a straggler.
const planTick = 100 * time.Millisecond

// advance looks for workers that have fallen silent, and for stragglers.
func (p *plan) advance(now time.Time) {
	for _, name := range p.names() {
		w := p.workers[name]
		silence := now.Sub(w.heard)
		switch {
		case len(w.running) == 0:
			// An idle worker sends nothing; its connection tells.
		case silence >= p.cfg.lostAfter:
			p.out = append(p.out, decision{kind: dropWorker, worker: name})
			p.leave(now, name, "nothing was heard of it for "+silence.Round(time.Second).String())
		case silence >= p.cfg.suspectAfter && !w.suspect:
			w.suspect = true
			p.counters.Suspicions++
			for _, a := range attemptsOf(w) {
				c := a.call
				c.live = without(c.live, a)
				c.asleep = append(c.asleep, a)
				if !c.spec.once && c.spec.bound == "" {
					p.want(c)
				}
			}
		}
	}
	p.dispatch(now)
}

// names returns the workers in an order that does not change by chance.
func (p *plan) names() []string {
	names := make([]string, 0, len(p.workers))
	for name := range p.workers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// wanted returns how many more attempts c needs now.
func (c *planCall) wanted() int {
	if c.spec.need < 2 {
		if len(c.live) > 0 || (c.spec.once && c.total > c.refused) {
			return 0
		}
		return 1
	}
	most := 0
	for _, v := range c.votes {
		n := 0
		for _, o := range c.votes {
			if o.digest == v.digest {
				n++
			}
		}
		most = max(most, n)
	}
	return min(c.spec.need-most-len(c.live), c.spec.of-len(c.votes)-len(c.live))
}

// want queues c if it needs an attempt, and ends it if no further one can give
// its results a majority.
func (p *plan) want(c *planCall) {
	if c.spec.need >= 2 && len(c.votes) >= c.spec.of && len(c.live)+len(c.asleep) == 0 {
		p.fail(c, &NoQuorumError{Function: c.spec.function, Call: c.spec.id, Need: c.spec.need, Workers: votersOf(c)})
		return
	}
	if c.queued || c.wanted() <= 0 || p.calls[c.spec.id] != c {
		return
	}
	c.queued = true
	if c.total == 0 {
		p.fresh = append(p.fresh, c)
	} else {
		p.retries = append(p.retries, c)
	}
}

// drop ends an attempt.
func (p *plan) drop(a *attempt) {
	delete(p.running, a.number)
	delete(a.worker.running, a.number)
	a.call.live = without(a.call.live, a)
	a.call.asleep = without(a.call.asleep, a)
}

func without(list []*attempt, a *attempt) []*attempt {
	if i := slices.Index(list, a); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// settle gives c the result of an attempt.
func (p *plan) settle(c *planCall, number uint64) {
	p.counters.Settled++
	p.forget(c)
	p.out = append(p.out, decision{kind: settleResult, call: c.spec.id, attempt: number})
}

func (p *plan) fail(c *planCall, err error) {
	if p.calls[c.spec.id] != c {
		return
	}
	p.counters.Failed++
	p.forget(c)
	p.out = append(p.out, decision{kind: settleFailed, call: c.spec.id, err: err})
}

// forget removes c and stops what is still under way for it. Queues drop it when
// they come to it.
func (p *plan) forget(c *planCall) {
	delete(p.calls, c.spec.id)
	for _, a := range slices.Concat(c.live, c.asleep) {
		p.out = append(p.out, decision{kind: stopAttempt, call: c.spec.id, attempt: a.number, worker: a.worker.name})
		p.drop(a)
	}
}

// dispatch gives work to whoever is free.
func (p *plan) dispatch(now time.Time) {
	if len(p.calls) == 0 {
		p.retries, p.fresh = nil, nil
		return
	}
	free := p.free(now)
	for progress := true; progress && len(free) > 0; {
		progress = false
		for i := 0; i < len(free); {
			w := free[i]
			c, copied := p.choose(now, w), false
			if c == nil {
				c, copied = p.straggler(now, w), true
			}
			if c == nil {
				i++
				continue
			}
			if copied {
				p.counters.Copies++
			}
			p.begin(now, c, w)
			progress = true
			if len(w.running) >= w.slots {
				free = slices.Delete(free, i, i+1)
			} else {
				i++
			}
		}
	}
}

// free returns the workers that can take a call, the fastest first.
func (p *plan) free(now time.Time) []*planWorker {
	var free []*planWorker
	for _, w := range p.workers {
		if w.usable(now) && len(w.running) < w.slots {
			free = append(free, w)
		}
	}
	slices.SortFunc(free, func(a, b *planWorker) int {
		return cmp.Or(cmp.Compare(len(a.running)*b.slots, len(b.running)*a.slots), cmp.Compare(a.factor, b.factor), cmp.Compare(a.name, b.name))
	})
	return free
}

func (w *planWorker) usable(now time.Time) bool {
	return !w.suspect && !w.isolated && !now.Before(w.benched)
}

// begin starts an attempt of c on w.
func (p *plan) begin(now time.Time, c *planCall, w *planWorker) {
	p.attempts++
	if len(w.running) == 0 {
		w.heard = now // its silence counts from here
	}
	a := &attempt{number: p.attempts, call: c, worker: w, begun: now}
	p.running[a.number], w.running[a.number] = a, a
	c.live = append(c.live, a)
	c.tried[w.name]++
	c.total++
	p.counters.Attempts++
	if c.total > 1 && c.spec.need < 2 {
		p.counters.Retries++
	}
	p.out = append(p.out, decision{kind: startAttempt, call: c.spec.id, attempt: a.number, worker: w.name})
	p.want(c)
}

// scanned bounds how many waiting calls are looked at for one worker.
const scanned = 256

// choose takes the waiting call that w begins now, if any.
func (p *plan) choose(now time.Time, w *planWorker) *planCall {
	barred := make(map[string]bool) // functions that w should leave to others
	for _, queue := range []*[]*planCall{&p.retries, &p.fresh} {
		var kept []*planCall
		i := 0
		for ; i < len(*queue) && len(kept) < scanned; i++ {
			c := (*queue)[i]
			f := c.spec.function
			switch {
			case p.calls[c.spec.id] != c || c.wanted() <= 0:
				c.queued = false
				continue
			case barred[f] || !p.suits(c, w):
			case p.worthwhile(now, c, w):
				c.queued = false
				removeScanned(queue, i+1, kept)
				return c
			default:
				barred[f] = true
			}
			kept = append(kept, c)
		}
		removeScanned(queue, i, kept)
	}
	return nil
}

// removeScanned leaves kept of the first n calls.
func removeScanned(queue *[]*planCall, n int, kept []*planCall) {
	from := n - len(kept)
	copy((*queue)[from:], kept)
	*queue = (*queue)[from:]
}

// suits reports whether w may do c: of the workers that offer the function, one
// that has not tried it, where there is one.
func (p *plan) suits(c *planCall, w *planWorker) bool {
	if !w.functions[c.spec.function] || c.spec.bound != "" && c.spec.bound != w.name {
		return false
	}
	if c.tried[w.name] == 0 {
		return true
	}
	if c.spec.need >= 2 {
		return false // a result is compared with another worker's
	}
	for _, o := range p.workers {
		if !o.isolated && o.functions[c.spec.function] && c.tried[o.name] == 0 {
			return false
		}
	}
	return true
}

// learn takes in how long w took.
func (p *plan) learn(function string, w *planWorker, took time.Duration) {
	base := p.base[function]
	switch {
	case base == 0 && w.factor == 0:
		p.base[function], w.factor = max(took, time.Microsecond), 1
		return
	case base == 0:
		p.base[function] = max(time.Duration(float64(took)/w.factor), time.Microsecond)
		return
	}
	ratio := float64(took) / float64(base)
	if w.factor == 0 {
		w.factor = ratio
	} else {
		w.factor += (ratio - w.factor) * 0.3
		w.factor = max(w.factor, 1e-6)
	}
	p.base[function] = max(base+time.Duration((float64(took)/w.factor-float64(base))*0.1), time.Microsecond)
}

// expect returns how long w takes for a function; zero: unknown. What it is
// late with now counts.
func (p *plan) expect(now time.Time, function string, w *planWorker) time.Duration {
	base := p.base[function]
	if base == 0 {
		return 0
	}
	factor := max(w.factor, 0)
	if factor == 0 {
		factor = 1
	}
	for _, a := range w.running {
		if b := p.base[a.call.spec.function]; b > 0 {
			factor = max(factor, float64(now.Sub(a.begun))/float64(b))
		}
	}
	return time.Duration(factor * float64(base))
}

// remaining estimates how much longer an attempt takes. One that is late by a
// third is expected to take as long again.
func (p *plan) remaining(now time.Time, a *attempt) time.Duration {
	factor := a.worker.factor
	if factor == 0 {
		factor = 1
	}
	expected := time.Duration(factor * float64(p.base[a.call.spec.function]))
	elapsed := now.Sub(a.begun)
	if elapsed > expected*4/3 {
		return elapsed
	}
	return max(expected-elapsed, expected/20)
}

// worthwhile reports whether w should begin c now. At the end of a batch a slow
// worker would be what everybody waits for: it gets a call only if it ends no
// later than the others, who do the rest one after another.
func (p *plan) worthwhile(now time.Time, c *planCall, w *planWorker) bool {
	if c.spec.bound != "" || c.spec.once && c.total > 0 {
		return true
	}
	own := p.expect(now, c.spec.function, w)
	if own == 0 {
		return true
	}
	type slot struct {
		after, each time.Duration
		count       int // free slots of a worker are alike
	}
	slots := make([]slot, 0, 2*len(p.workers))
	for _, o := range p.workers {
		if !o.usable(now) || !o.functions[c.spec.function] {
			continue
		}
		each := p.expect(now, c.spec.function, o)
		for _, a := range o.running {
			slots = append(slots, slot{p.remaining(now, a), each, 1})
		}
		if free := o.slots - len(o.running); free > 0 {
			slots = append(slots, slot{0, each, free})
		}
	}
	waiting := len(p.retries) + len(p.fresh)
	// The least time in which the slots end as many calls as wait.
	done := func(t time.Duration) (n int) {
		for _, s := range slots {
			if t > s.after && s.each > 0 {
				n += s.count * int((t-s.after)/s.each)
			}
		}
		return n
	}
	low, high := time.Duration(0), own
	if done(high) < waiting {
		return true
	}
	if waiting == 1 { // the usual case, without a search
		for _, s := range slots {
			if s.each > 0 {
				high = min(high, s.after+s.each)
			}
		}
		low = high
	}
	for range 32 {
		if low >= high-high/64 {
			break
		}
		middle := (low + high) / 2
		if done(middle) >= waiting {
			high = middle
		} else {
			low = middle
		}
	}
	return own <= high+high/16
}

// straggler returns a running call of which w should begin a copy: the one that
// would end last, and later than the copy.
func (p *plan) straggler(now time.Time, w *planWorker) (found *planCall) {
	var latest time.Duration
	for _, a := range p.running {
		c := a.call
		if len(c.live)+len(c.asleep) > 1 || c.spec.once || c.spec.bound != "" || c.spec.need >= 2 || a.worker == w || !p.suits(c, w) {
			continue
		}
		own := p.expect(now, c.spec.function, w)
		rest := p.remaining(now, a)
		if own == 0 || own+p.base[c.spec.function]/10+copyMargin >= rest {
			continue
		}
		if rest > latest || rest == latest && (found == nil || c.spec.id < found.spec.id) {
			latest, found = rest, c
		}
	}
	return found
}

// copyMargin is what a copy must gain to be worth sending its arguments: a guess.
const copyMargin = 50 * time.Millisecond
