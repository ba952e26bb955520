package object

import (
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// targets are the nodes that matter for a key, as one lookup found them.
type targets struct {
	acceptors []*routing.Member // a majority of them decides
	others    []*routing.Member // they keep copies: witnesses, or a crowd
}

// all returns everybody, the acceptors first.
func (t *targets) all() []*routing.Member {
	return append(slices.Clone(t.acceptors), t.others...)
}

// majority returns how many acceptors decide.
func (t *targets) majority() int { return len(t.acceptors)/2 + 1 }

// find looks key up and calls done with its nodes. Where the key is crowded,
// the acceptors are those outside the crowd, and the nearest in it are told
// too, for those who do not notice it.
func (s *Service) find(now time.Time, key routing.Key, done func(now time.Time, t targets, err error)) {
	s.node.Lookup(now, key, func(now time.Time, r routing.Result) {
		if len(r.Closest)+len(r.Beyond) == 0 && r.Err != routing.ErrAlone {
			done(now, targets{}, ErrUnavailable)
			return
		}
		done(now, s.choose(key, &r), nil)
	})
}

func (s *Service) choose(key routing.Key, r *routing.Result) (t targets) {
	self, replicas := s.node.Self(), s.cfg.Replicas
	near, crowd := r.Closest, []*routing.Member(nil)
	if r.Crowded && len(r.Beyond) > 0 {
		crowd, near = near, r.Beyond
	}
	// This node is not in the result, and may be one of the nearest.
	nearer := func(m *routing.Member) bool {
		return key.Xor(self.Position()).Compare(key.Xor(m.Position())) < 0
	}
	if len(crowd) > 0 && nearer(crowd[len(crowd)-1]) {
		crowd = slices.Insert(slices.Clone(crowd), max(0, slices.IndexFunc(crowd, nearer)), self)
	} else if i := slices.IndexFunc(near, nearer); i >= 0 {
		near = slices.Insert(slices.Clone(near), i, self)
	} else {
		near = append(slices.Clone(near), self)
	}
	t.acceptors = near[:min(len(near), replicas)]
	t.others = slices.Clone(crowd[:min(len(crowd), replicas)])
	if s.cfg.Witnesses > 0 {
		t.others = append(t.others, near[len(t.acceptors):min(len(near), replicas+s.cfg.Witnesses)]...)
	}
	return t
}

// call sends r to m, or serves it here when m is this node. The answer is nil
// when there is none.
func (s *Service) call(now time.Time, m *routing.Member, r *request, done func(now time.Time, a *answer)) {
	if m.Peer == s.node.Self().Peer {
		own := *r
		done(now, s.serve(now, m, &own))
		return
	}
	s.node.Ask(now, m, Number, appendRequest(nil, r), func(now time.Time, b []byte, err error) {
		if err != nil {
			done(now, nil)
			return
		}
		a, err := parseAnswer(b)
		if err != nil || !s.believe(r, &a) {
			s.counters.Malformed++
			done(now, nil)
			return
		}
		done(now, &a)
	})
}

// believe reports whether what a says of others is signed by them.
func (s *Service) believe(r *request, a *answer) bool {
	if a.record != nil {
		return a.record.Key() == r.key && s.valid(a.record, a.ballot)
	}
	owner := r.owner
	if r.record != nil {
		owner = r.record.Owner
	}
	return a.status != statusRejected || a.ballot.valid(owner, r.key)
}

// askAll sends r to each of members and calls each for every answer, nil ones
// included, with the member's index. last is true once.
func (s *Service) askAll(now time.Time, members []*routing.Member, r *request, each func(now time.Time, i int, a *answer, last bool)) {
	left := len(members)
	for i, m := range members {
		s.call(now, m, r, func(now time.Time, a *answer) {
			left--
			each(now, i, a, left == 0)
		})
	}
}

// An Entry is a record as it was found.
type Entry struct {
	// Record is shared: it must not be changed.
	Record *Record

	// Remaining is what is left of the lease. Zero means that it has ended:
	// the holder is dead, or cut off.
	Remaining time.Duration
}

// best keeps the newest of the records that replicas hold.
type best struct {
	Entry
	ballot ballot
}

// see takes what a replica holds.
func (b *best) see(a *answer) {
	if a == nil || a.record == nil {
		return
	}
	if b.Record.same(a.record) {
		b.Remaining = max(b.Remaining, a.remaining)
		if b.ballot.less(a.ballot) {
			b.ballot = a.ballot
		}
		return
	}
	if b.Record == nil || b.Record.Incarnation < a.record.Incarnation ||
		b.Record.Incarnation == a.record.Incarnation && b.ballot.less(a.ballot) {
		*b = best{Entry{a.record, a.remaining}, a.ballot}
	}
}

// incarnation returns that of the record seen, zero if there was none.
func (b *best) incarnation() uint64 {
	if b.Record == nil {
		return 0
	}
	return b.Record.Incarnation
}
