package object

import (
	"bytes"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// An entry is what a replica holds at one key.
type entry struct {
	promised ballot
	accepted ballot
	record   *Record        // nil: there is only a promise
	by       routing.PeerID // who answers for it
	expires  time.Time      // of the lease
	drop     time.Time      // when it is forgotten
	pushed   []routing.PeerID
}

// remaining returns what is left of the lease.
func (e *entry) remaining(now time.Time) time.Duration {
	return max(0, e.expires.Sub(now)).Truncate(time.Millisecond)
}

// A store is what one replica holds: bounded in all, and for each member.
type store struct {
	max, maxPerMember int
	entries           map[routing.Key]*entry
	count             map[routing.PeerID]int
}

// full reports whether by has as many entries as it may.
func (s *store) full(by routing.PeerID) bool { return s.count[by] >= s.maxPerMember }

// charge makes by answer for e, and reports whether there is room. When the
// store is full, whoever has the most entries loses one, unless that is by.
func (s *store) charge(key routing.Key, e *entry, by routing.PeerID) bool {
	if s.entries[key] == e && e.by == by {
		return true
	}
	if s.full(by) {
		return false
	}
	if s.entries[key] == nil && len(s.entries) >= s.max && !s.evict(by) {
		return false
	}
	if s.entries == nil {
		s.entries, s.count = make(map[routing.Key]*entry), make(map[routing.PeerID]int)
	}
	s.discharge(e, key)
	s.entries[key], e.by = e, by
	s.count[by]++
	return true
}

// discharge takes e, if it is stored, off the account of who answers for it.
func (s *store) discharge(e *entry, key routing.Key) {
	if s.entries[key] != e {
		return
	}
	if s.count[e.by]--; s.count[e.by] == 0 {
		delete(s.count, e.by)
	}
}

// evict makes room for by at the cost of the member with the most entries.
func (s *store) evict(by routing.PeerID) bool {
	var most routing.PeerID
	for m, n := range s.count {
		if n > s.count[most] || n == s.count[most] && bytes.Compare(m[:], most[:]) < 0 {
			most = m
		}
	}
	if s.count[most] <= s.count[by]+1 {
		return false
	}
	var victim routing.Key
	var first time.Time
	for k, e := range s.entries {
		if e.by == most && (first.IsZero() || e.drop.Before(first) || e.drop.Equal(first) && k.Compare(victim) < 0) {
			victim, first = k, e.drop
		}
	}
	s.remove(victim)
	return true
}

func (s *store) remove(key routing.Key) {
	if e := s.entries[key]; e != nil {
		s.discharge(e, key)
		delete(s.entries, key)
	}
}

// keys returns all keys in order, so that a seeded simulation repeats itself.
func (s *store) keys() []routing.Key {
	keys := make([]routing.Key, 0, len(s.entries))
	for k := range s.entries {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, routing.Key.Compare)
	return keys
}
