package routing

import (
	"slices"
	"time"
)

// A Result is what a lookup found.
type Result struct {
	// Key is what was looked for.
	Key Key

	// Closest are the members nearest to the key that answered, the nearest
	// first, at most K. The node that asks is not among them.
	Closest []*Member

	// Crowded reports that K members lie far nearer to the key than they would
	// by chance in a grid of this size, as when somebody placed liars around
	// it. Then Closest has those of the crowd that answered, maybe none, and
	// Beyond up to K members that answered and are the nearest outside.
	Crowded bool
	Beyond  []*Member

	// Hops is how many members, one after another, had to answer until the
	// nearest one became known and answered: one when the table held it.
	Hops int

	// Asked is the number of requests that it took.
	Asked int

	// Err is nil, [ErrAlone], [ErrBusy], or [ErrTimeout] when LookupTimeout
	// ended the lookup; what was found by then is there.
	Err error
}

// A candidate is a member that a lookup has heard of.
type candidate struct {
	m     *Member
	state candidateState
	paths uint8 // bit i: path i has heard of it
	path  uint8 // the path that asked it, once state says that it was
	depth uint8 // how many answered in a row until it was heard of, plus one
}

type candidateState uint8

const (
	heardOf  candidateState = iota
	asking                  // no answer yet
	slow                    // no answer yet, and its path has gone on
	answered                // it did
	silent                  // it did not, refused or lied
)

// maxCandidates bounds the memory of a lookup. Beyond it the farthest of
// those not asked yet are dropped.
const maxCandidates = 192

// A lookup is an iterative lookup over disjoint paths (Kademlia, section 2.3;
// S/Kademlia, section 4.4). Each path asks only members that no other path
// has asked, and ends when the nearest that it may ask have all answered. So
// a liar spoils the path that meets it, and no other.
type lookup struct {
	n          *Node
	key        Key
	floor      Key // distance; zero until the crowd around the key is left out
	began      time.Time
	need       int // per path: how many of its nearest must have answered
	width      int // per path: requests in flight
	candidates []candidate
	done       func(now time.Time, r Result)
	result     Result
	steps      bool // step is running
	again      bool // it must run once more
	over       bool
}

// Lookup finds the members nearest to key and calls done once.
func (n *Node) Lookup(now time.Time, key Key, done func(now time.Time, r Result)) {
	n.lookup(now, key, nil, done)
}

// lookup begins with seeds and the table.
func (n *Node) lookup(now time.Time, key Key, seeds []*Member, done func(now time.Time, r Result)) {
	if n.lookups >= n.cfg.MaxLookups {
		n.counters.LookupsBusy++
		done(now, Result{Key: key, Err: ErrBusy})
		return
	}
	l := &lookup{
		n: n, key: key, began: now, done: done,
		need:  (n.cfg.K + n.cfg.Paths - 1) / n.cfg.Paths,
		width: max(1, n.cfg.Alpha/n.cfg.Paths),
	}
	l.result.Key = key
	l.start(seeds)
	if len(l.candidates) == 0 {
		done(now, Result{Key: key, Err: ErrAlone})
		return
	}
	n.counters.Lookups++
	n.lookups++
	n.touch(now, key)
	l.step(now)
}

// touch notes that the bucket of key has seen a lookup.
func (n *Node) touch(now time.Time, key Key) {
	if i, ok := n.table.bucketOf(key); ok && i < len(n.table.buckets) {
		n.table.buckets[i].touched = now.UnixNano()
	}
}

// start deals the nearest members of the table out to the paths.
func (l *lookup) start(seeds []*Member) {
	var buf [96]*Member
	outside := func(c *contact) bool { return beyond(&l.key, &l.floor, &c.m.position) }
	known := append(l.n.table.closest(buf[:0], &l.key, l.n.cfg.K, outside), seeds...)
	for i, m := range known {
		l.hear(m, i%l.n.cfg.Paths, 1)
	}
}

// hear adds m, which is verified, to what path knows.
func (l *lookup) hear(m *Member, path int, depth uint8) {
	if m.Peer == l.n.self.Peer || !beyond(&l.key, &l.floor, &m.position) {
		return
	}
	i, found := slices.BinarySearchFunc(l.candidates, m, func(c candidate, m *Member) int {
		if c.m.Peer == m.Peer {
			return 0
		}
		if l.key.closer(&c.m.position, &m.position) {
			return -1
		}
		return 1
	})
	if found {
		l.candidates[i].paths |= 1 << path
		return
	}
	l.candidates = slices.Insert(l.candidates, i, candidate{m: m, paths: 1 << path, depth: depth})
	if last := len(l.candidates) - 1; last >= maxCandidates && l.candidates[last].state == heardOf {
		l.candidates = l.candidates[:last]
	}
}

// step asks whom the paths want to ask, and ends the lookup when none is left.
func (l *lookup) step(now time.Time) {
	if l.over {
		return
	}
	if l.steps {
		l.again = true
		return
	}
	l.steps = true
	for {
		l.again = false
		waiting := false
		for p := range l.n.cfg.Paths {
			if l.stepPath(now, p) {
				waiting = true
			}
		}
		if l.again {
			continue
		}
		if !waiting && !l.result.Crowded {
			if radius, crowded := l.crowd(); crowded {
				l.leaveCrowd(radius)
				continue
			}
		}
		if !waiting || l.met() {
			l.finish(now, nil)
		}
		break
	}
	l.steps = false
}

// met reports whether the member that lives at the key itself has answered.
func (l *lookup) met() bool {
	return len(l.candidates) > 0 && l.candidates[0].m.position == l.key && l.candidates[0].state == answered
}

// stepPath asks whom path p wants to ask now, and reports whether the path
// still waits for somebody.
func (l *lookup) stepPath(now time.Time, p int) (waiting bool) {
	for {
		inFlight, good, pending := 0, 0, false
		var next *candidate
		for i := range l.candidates {
			c := &l.candidates[i]
			switch {
			case c.state == heardOf:
				if c.paths>>p&1 == 1 && next == nil && good < l.need {
					next = c
				}
			case int(c.path) != p:
			case c.state == asking:
				inFlight++
				pending = pending || good < l.need
				good++
			case c.state == slow:
				// It counts for nobody until it answers, but while the path
				// has nobody else it is worth waiting for.
				pending = pending || good < l.need
			case c.state == answered:
				good++
			}
		}
		if next == nil {
			return pending
		}
		if inFlight >= l.width {
			return true
		}
		if !l.ask(now, next, p) {
			return pending
		}
	}
}

// ask sends FIND to c on behalf of path p, and reports whether it could.
func (l *lookup) ask(now time.Time, c *candidate, p int) bool {
	m := c.m
	c.state, c.path = asking, uint8(p)
	_, err := l.n.requestSlow(now, m, &message{kind: kindFind, key: l.key, floor: l.floor},
		func(now time.Time, answer *message, err error) { l.answer(now, m, answer, err) },
		func(now time.Time) {
			if c := l.candidate(m); c != nil && c.state == asking {
				c.state = slow
				l.step(now)
			}
		})
	if err != nil {
		c.state = silent
		return false
	}
	l.result.Asked++
	return true
}

// candidate returns the candidate m, which may have been dropped.
func (l *lookup) candidate(m *Member) *candidate {
	for i := range l.candidates {
		if l.candidates[i].m == m {
			return &l.candidates[i]
		}
	}
	return nil
}

// answer takes what the candidate m said.
func (l *lookup) answer(now time.Time, m *Member, answer *message, err error) {
	c := l.candidate(m)
	if l.over || c == nil {
		return
	}
	path, depth := int(c.path), c.depth
	members, ok := l.n.believe(m, answer, err)
	if !ok {
		c.state = silent
	} else {
		c.state = answered
		deal := l.idle()
		for i, found := range members {
			if deal {
				path = i % l.n.cfg.Paths
			}
			l.hear(found, path, min(depth, 254)+1)
		}
	}
	if now.Sub(l.began) > l.n.cfg.LookupTimeout {
		l.finish(now, ErrTimeout)
		return
	}
	l.step(now)
}

// idle reports whether there is a path that knows nobody, as before the first
// answer of an only seed.
func (l *lookup) idle() bool {
	known := 0
	for i := range l.candidates {
		known |= int(l.candidates[i].paths)
	}
	return known != 1<<l.n.cfg.Paths-1
}

// believe returns the members of an answer to FIND. One that the grid does
// not have makes the whole answer a lie, unless it may be merely unknown here.
func (n *Node) believe(from *Member, answer *message, err error) (members []*Member, ok bool) {
	if err != nil {
		return nil, false
	}
	if answer.kind != kindFound {
		n.counters.Lies++
		return nil, false
	}
	members = answer.members[:0]
	for _, m := range answer.members {
		v := n.verifyParsed(m)
		switch {
		case v != nil:
			members = append(members, v)
		case !n.cfg.KnownOnly:
			n.counters.Lies++
			return nil, false
		}
	}
	return members, true
}

// crowdedBelow is the part of the expected radius within which the K nearest
// are a crowd. The radius of 20 varies by 0.22 of itself by
// chance, and the estimate of the grid's size as much, so that an honest
// lookup takes the second round about once in a hundred.
const crowdedBelow = 0.4

// crowd returns the distance from the key within which the K nearest lie of
// those that were asked, and whether that is too near. The silent count: who
// names twenty dead members hides those behind them as well as a liar does.
func (l *lookup) crowd() (radius Key, crowded bool) {
	count := 0
	for i := range l.candidates {
		if l.candidates[i].state == heardOf {
			continue
		}
		if count++; count == l.n.cfg.K {
			radius = l.key.Xor(l.candidates[i].m.position)
			break
		}
	}
	if count < l.n.cfg.K {
		return radius, false
	}
	return radius, radius.fraction()*l.n.table.estimate() < crowdedBelow*float64(l.n.cfg.K)
}

// leaveCrowd keeps what was found within radius and starts again outside.
func (l *lookup) leaveCrowd(radius Key) {
	l.n.counters.Crowded++
	old := l.candidates
	l.candidates = slices.DeleteFunc(slices.Clone(old), func(c candidate) bool { return beyond(&l.key, &radius, &c.m.position) })
	l.take()
	l.result.Crowded, l.floor = true, radius
	l.candidates = nil
	l.start(nil)
	for _, c := range old {
		if c.state == heardOf || c.state == answered {
			for p := range l.n.cfg.Paths {
				if c.paths>>p&1 == 1 {
					l.hear(c.m, p, c.depth)
				}
			}
		}
	}
}

// take fills the result with the nearest that have answered.
func (l *lookup) take() {
	found := make([]*Member, 0, l.n.cfg.K)
	for i := range l.candidates {
		if c := &l.candidates[i]; c.state == answered && len(found) < l.n.cfg.K {
			if len(found) == 0 && !l.result.Crowded {
				l.result.Hops = int(c.depth)
			}
			found = append(found, c.m)
		}
	}
	if l.result.Crowded {
		l.result.Beyond = found
	} else {
		l.result.Closest = found
	}
}

// finish ends the lookup.
func (l *lookup) finish(now time.Time, err error) {
	if l.over {
		return
	}
	l.take()
	l.over = true
	l.n.lookups--
	l.result.Err = err
	l.candidates = nil
	l.done(now, l.result)
}

// Bootstrap enters the grid: it asks seeds, and whoever they name, for the
// members nearest to the node, then fills every bucket. done is called once,
// with [ErrAlone] when no seed answered. The node itself may be among seeds.
func (n *Node) Bootstrap(now time.Time, seeds []*Member, done func(now time.Time, err error)) {
	var verified []*Member
	for _, m := range seeds {
		if v := n.verify(m); v != nil && v.Peer != n.self.Peer {
			verified = append(verified, v)
		}
	}
	n.lookup(now, n.self.position, verified, func(now time.Time, r Result) {
		if len(r.Closest) == 0 {
			if r.Err == nil {
				r.Err = ErrAlone
			}
			done(now, r.Err)
			return
		}
		n.fill(now, 0, func(now time.Time) { done(now, nil) })
	})
}

// fill looks up a key in each bucket from i on, one after another, except the
// deepest, which the lookup of the node itself has filled.
func (n *Node) fill(now time.Time, i int, done func(now time.Time)) {
	for i < len(n.table.buckets) && (n.table.full(i) || i >= n.table.own()) {
		i++
	}
	if i >= len(n.table.buckets) {
		done(now)
		return
	}
	n.Lookup(now, n.randomKey(i), func(now time.Time, _ Result) { n.fill(now, i+1, done) })
}

// randomKey returns a key in bucket i.
func (n *Node) randomKey(i int) (k Key) {
	for j := range k {
		k[j] = byte(n.rand.Uint32())
	}
	return k.withPrefix(n.self.position, i)
}

// refreshSteps is into how many steps a refresh interval is cut; at each, one
// bucket at most is looked after.
const refreshSteps = 32

// refresh looks up a key in the bucket that has gone without a lookup the
// longest, when that is longer than RefreshInterval.
func (n *Node) refresh(now time.Time) {
	stale := -1
	for i := range n.table.buckets {
		if stale < 0 || n.table.buckets[i].touched < n.table.buckets[stale].touched {
			stale = i
		}
	}
	if stale < 0 || now.UnixNano()-n.table.buckets[stale].touched < int64(n.cfg.RefreshInterval) {
		return
	}
	n.table.buckets[stale].touched = now.UnixNano()
	n.Lookup(now, n.randomKey(stale), func(time.Time, Result) {})
}
