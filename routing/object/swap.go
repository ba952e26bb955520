package object

import (
	"crypto/ed25519"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// Swap makes record, which owner has signed, the one at its key if what is
// there now has the incarnation expected; zero expects that there is none. It
// calls done once: with nil; with [ErrConflict] and the entry that is there; or
// with [ErrUnavailable].
//
// owner signs the attempts as well, and is forgotten when they are over. The
// record's incarnation must be greater than expected; it panics otherwise.
// After ErrUnavailable the swap may have happened: Get tells, and calling Swap
// again with the same record is safe.
func (s *Service) Swap(now time.Time, expected uint64, record *Record, owner ed25519.PrivateKey, done func(now time.Time, current Entry, err error)) {
	if record.Incarnation <= expected {
		panic("object: a swap must make the incarnation grow")
	}
	w := &swap{s: s, key: record.Key(), owner: owner, expected: expected, record: record, done: done}
	w.attempt(now)
}

// unanimous is how many attempts of a swap want the word of every acceptor.
// Two nodes that see slightly different grids have different acceptors, and two
// majorities of these may not meet; all of one and all of the other do, as long
// as they share one. Later attempts make do with a majority, lest one node that
// answers lookups and nothing else blocks the key.
const unanimous = 3

// quorum returns how many acceptors must agree at this attempt.
func (w *swap) quorum() int {
	if w.attempts <= unanimous {
		return len(w.targets.acceptors)
	}
	return w.targets.majority()
}

// maxAttempts bounds the attempts of one swap. They take about 6 s of pauses
// in all.
const maxAttempts = 6

// A swap is one change under way: prepare, then accept, as in Paxos.
type swap struct {
	s        *Service
	key      routing.Key
	owner    ed25519.PrivateKey
	expected uint64
	record   *Record
	done     func(time.Time, Entry, error)

	ballot   ballot
	highest  uint64 // count of the highest ballot seen
	attempts int
	targets  targets
	current  best
}

func (w *swap) attempt(now time.Time) {
	w.attempts++
	w.s.find(now, w.key, func(now time.Time, t targets, err error) {
		if err != nil {
			w.retry(now)
			return
		}
		w.targets = t
		w.prepare(now)
	})
}

func (w *swap) retry(now time.Time) {
	if w.attempts >= maxAttempts {
		w.done(now, w.current.Entry, ErrUnavailable)
		return
	}
	w.s.counters.Retries++
	pause := 100 * time.Millisecond << (w.attempts - 1)
	w.s.after(now, pause/2+time.Duration(w.s.rand.Int64N(int64(pause))), w.attempt)
}

func (w *swap) prepare(now time.Time) {
	w.highest++
	w.ballot = signBallot(w.owner, w.key, w.highest, w.s.nodeNumber())
	w.current = best{}
	promised, agreed := 0, 0
	held := make([]*Record, len(w.targets.acceptors))
	w.s.askAll(now, w.targets.all(), &request{op: opPrepare, key: w.key, owner: w.record.Owner, rank: w.record.Rank, ballot: w.ballot}, func(now time.Time, i int, a *answer, last bool) {
		w.current.see(a)
		if i < len(w.targets.acceptors) && a != nil {
			switch a.status {
			case statusNone, statusEntry:
				promised++
				held[i] = a.record
			case statusRejected:
				// Next time it must be outbid.
				w.highest = max(w.highest, a.ballot.count)
			}
		}
		if !last {
			return
		}
		for _, r := range held {
			if r != nil && r.same(w.current.Record) {
				agreed++
			}
		}
		if promised < w.quorum() {
			w.retry(now)
			return
		}
		w.decide(now, agreed)
	})
}

// decide goes on once enough have promised; agreed of the acceptors hold
// the current record.
func (w *swap) decide(now time.Time, agreed int) {
	ours := w.current.Record.same(w.record)
	if !ours && w.current.incarnation() != w.expected {
		if agreed >= w.quorum() {
			w.conflict(now)
			return
		}
		// It may have been chosen, or not: settle that before saying so.
		w.accept(now, w.current.Record, w.conflict)
		return
	}
	w.accept(now, w.record, func(now time.Time) {
		w.s.counters.Swapped++
		w.s.located.put(w.key, w.record)
		w.done(now, Entry{w.record, w.record.Lease}, nil)
	})
}

func (w *swap) conflict(now time.Time) {
	w.s.counters.Conflicts++
	w.s.located.put(w.key, w.current.Record)
	w.done(now, w.current.Entry, ErrConflict)
}

// accept has the acceptors take record, and calls then when enough did.
func (w *swap) accept(now time.Time, record *Record, then func(now time.Time)) {
	accepted := 0
	w.s.askAll(now, w.targets.all(), &request{op: opAccept, key: w.key, ballot: w.ballot, record: record}, func(now time.Time, i int, a *answer, last bool) {
		if i < len(w.targets.acceptors) && a != nil {
			switch a.status {
			case statusDone:
				accepted++
			case statusRejected:
				w.highest = max(w.highest, a.ballot.count)
			}
		}
		if !last {
			return
		}
		if accepted < w.quorum() {
			w.retry(now)
			return
		}
		then(now)
	})
}

// Get finds the record at key and calls done once: with nil, [ErrNotFound] or
// [ErrUnavailable]. The record of the highest incarnation that any replica
// shows is taken.
func (s *Service) Get(now time.Time, key routing.Key, done func(now time.Time, e Entry, err error)) {
	s.find(now, key, func(now time.Time, t targets, err error) {
		if err != nil {
			done(now, Entry{}, err)
			return
		}
		var found best
		answers, over := 0, false
		s.askAll(now, t.all(), &request{op: opGet, key: key}, func(now time.Time, i int, a *answer, last bool) {
			if over {
				return
			}
			found.see(a)
			if i < len(t.acceptors) && a != nil {
				answers++
			}
			if !last {
				return
			}
			over = true
			switch {
			case found.Record != nil:
				s.located.put(key, found.Record)
				done(now, found.Entry, nil)
			case answers < t.majority():
				done(now, Entry{}, ErrUnavailable)
			default:
				done(now, Entry{}, ErrNotFound)
			}
		})
	})
}

// A held record is one that this node renews.
type held struct {
	record *Record
	lost   func(now time.Time, current Entry)
}

// Hold renews the lease of record, whose holder is this node, until
// [Service.Release], or until somebody else has changed the record: then lost
// is called once, with what is there now. By then the process must stop, since
// another incarnation of it may run. It reports whether there was room
// (Config.MaxHeld). Renewals begin after a third of the lease.
func (s *Service) Hold(now time.Time, record *Record, lost func(now time.Time, current Entry)) bool {
	key := record.Key()
	if _, ok := s.held[key]; !ok && len(s.held) >= s.cfg.MaxHeld {
		return false
	}
	h := &held{record, lost}
	s.held[key] = h
	s.after(now, s.renewIn(record), func(now time.Time) { s.renew(now, key, h) })
	return true
}

// renewIn returns a third of the lease, give or take a sixth of that.
func (s *Service) renewIn(r *Record) time.Duration {
	third := r.Lease / 3
	return third - third/6 + time.Duration(s.rand.Int64N(int64(third/3)))
}

// Release ends Hold for key. The lease runs out by itself.
func (s *Service) Release(key routing.Key) { delete(s.held, key) }

// renew tells the replicas that the process still runs here, and gives the
// record to those that lack it.
func (s *Service) renew(now time.Time, key routing.Key, h *held) {
	if s.held[key] != h {
		return
	}
	s.after(now, s.renewIn(h.record), func(now time.Time) { s.renew(now, key, h) })
	s.find(now, key, func(now time.Time, t targets, err error) {
		if err != nil || s.held[key] != h {
			return
		}
		all := t.all()
		s.askAll(now, all, &request{op: opRenew, key: key, incarnation: h.record.Incarnation}, func(now time.Time, i int, a *answer, _ bool) {
			if a == nil || s.held[key] != h {
				return
			}
			switch a.status {
			case statusNone:
				s.counters.Pushed++
				s.call(now, all[i], &request{op: opPush, key: key, remaining: h.record.Lease, record: h.record}, func(time.Time, *answer) {})
			case statusConflict:
				if a.record.Incarnation >= h.record.Incarnation && !a.record.same(h.record) {
					delete(s.held, key)
					s.located.put(key, a.record)
					h.lost(now, Entry{a.record, a.remaining})
				}
			}
		})
	})
}
