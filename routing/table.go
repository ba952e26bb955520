package routing

import (
	"slices"
	"time"
)

// A contact is a member in the table, with what this node knows of its life.
type contact struct {
	m     *Member
	seen  int64 // Unix nanoseconds of the last message from it
	fails uint8 // requests in a row that it left unanswered
}

// A bucket holds the contacts that share a prefix of one length with the
// node's position: the k-bucket of Kademlia, section 2.2.
type bucket struct {
	contacts    []contact // the one heard from least recently first
	spare       []*Member // replacement cache, newest last
	touched     int64     // Unix nanoseconds of the last lookup in it
	questioning bool      // a PING to the first contact is under way
}

// spares is the size of a bucket's replacement cache: a guess; Kademlia
// leaves it open.
const spares = 4

// maxFails is after how many unanswered requests in a row a contact goes when
// nobody waits for its place.
const maxFails = 2

// A table is the routing table. The node owns it.
//
// Bucket i holds contacts with exactly i leading bits in common with self.
// The deepest buckets, which together hold what is nearest to the node, may
// grow beyond k as long as they and everything deeper hold fewer than near
// contacts: so whoever is near is known, even where somebody managed to place
// k others between the two (S/Kademlia's sibling list).
type table struct {
	self    Key
	k, near int
	buckets []bucket // as many as the deepest contact needs

	size    int
	changed uint64 // counts insertions and removals
}

// bucketOf returns the index of the bucket for position p; self has none.
func (t *table) bucketOf(p Key) (int, bool) {
	i := t.self.CommonPrefix(p)
	return i, i < KeyBits
}

// find returns the contact of peer at position p.
func (t *table) find(peer PeerID, p Key) *contact {
	i, ok := t.bucketOf(p)
	if !ok || i >= len(t.buckets) {
		return nil
	}
	b := &t.buckets[i]
	for j := range b.contacts {
		if b.contacts[j].m.Peer == peer {
			return &b.contacts[j]
		}
	}
	return nil
}

// room reports whether bucket i takes one more contact.
func (t *table) room(i int) bool {
	if i >= len(t.buckets) || len(t.buckets[i].contacts) < t.k {
		return true
	}
	deeper := 0
	for j := i; j < len(t.buckets); j++ {
		deeper += len(t.buckets[j].contacts)
	}
	return deeper < t.near
}

// seen records that m, which is verified, was heard from at now. Where its
// bucket is full, m becomes a spare, and question is the contact heard from
// least recently if somebody should ask whether it still lives.
func (t *table) seen(now time.Time, m *Member) (question *Member) {
	i, ok := t.bucketOf(m.position)
	if !ok {
		return nil
	}
	if i < len(t.buckets) {
		b := &t.buckets[i]
		for j := range b.contacts {
			if b.contacts[j].m.Peer == m.Peer {
				c := contact{m: m, seen: now.UnixNano()}
				copy(b.contacts[j:], b.contacts[j+1:])
				b.contacts[len(b.contacts)-1] = c
				return nil
			}
		}
	}
	if t.room(i) {
		for len(t.buckets) <= i {
			t.buckets = append(t.buckets, bucket{touched: now.UnixNano()})
		}
		b := &t.buckets[i]
		b.contacts = append(b.contacts, contact{m: m, seen: now.UnixNano()})
		b.spare = slices.DeleteFunc(b.spare, func(s *Member) bool { return s.Peer == m.Peer })
		t.size++
		t.changed++
		return nil
	}
	b := &t.buckets[i]
	b.spare = slices.DeleteFunc(b.spare, func(s *Member) bool { return s.Peer == m.Peer })
	if len(b.spare) >= spares {
		b.spare = slices.Delete(b.spare, 0, 1)
	}
	b.spare = append(b.spare, m)
	if first := &b.contacts[0]; !b.questioning && now.UnixNano()-first.seen > int64(questionAfter) {
		b.questioning = true
		return first.m
	}
	return nil
}

// questionAfter is the silence from which on a contact in a full bucket is
// asked whether it lives, when another waits for its place. A guess: long
// enough that a busy table asks nobody twice a minute.
const questionAfter = time.Minute

// questioned ends the question about m.
func (t *table) questioned(m *Member) {
	if i, ok := t.bucketOf(m.position); ok && i < len(t.buckets) {
		t.buckets[i].questioning = false
	}
}

// failed records that m left a request unanswered. Its place goes to the
// newest spare, or to nobody when it has failed too often. It reports whether
// the table lost m.
func (t *table) failed(now time.Time, m *Member) (lost bool) {
	c := t.find(m.Peer, m.position)
	if c == nil {
		return false
	}
	if c.fails < maxFails {
		c.fails++
	}
	i, _ := t.bucketOf(m.position)
	if c.fails < maxFails && len(t.buckets[i].spare) == 0 {
		return false
	}
	return t.remove(now, m.Peer, m.position)
}

// remove takes peer out and lets the newest spare of its bucket in.
func (t *table) remove(now time.Time, peer PeerID, p Key) bool {
	i, ok := t.bucketOf(p)
	if !ok || i >= len(t.buckets) {
		return false
	}
	b := &t.buckets[i]
	b.spare = slices.DeleteFunc(b.spare, func(s *Member) bool { return s.Peer == peer })
	j := slices.IndexFunc(b.contacts, func(c contact) bool { return c.m.Peer == peer })
	if j < 0 {
		return false
	}
	b.contacts = slices.Delete(b.contacts, j, j+1)
	t.size--
	t.changed++
	if n := len(b.spare); n > 0 && len(b.contacts) < t.k {
		// It goes to the front: nobody has asked it yet.
		b.contacts = slices.Insert(b.contacts, 0, contact{m: b.spare[n-1], fails: maxFails - 1})
		b.spare = slices.Delete(b.spare, n-1, n)
		t.size++
	}
	for n := len(t.buckets); n > 0 && len(t.buckets[n-1].contacts) == 0; n-- {
		t.buckets = t.buckets[:n-1]
	}
	return true
}

// closest appends to dst, which is empty, the n members nearest to key, the
// nearest first, whom keep accepts; a nil keep accepts all.
func (t *table) closest(dst []*Member, key *Key, n int, keep func(*contact) bool) []*Member {
	if n <= 0 {
		return dst
	}
	take := func(i int) {
		for j := range t.buckets[i].contacts {
			if c := &t.buckets[i].contacts[j]; keep == nil || keep(c) {
				dst = append(dst, c.m)
			}
		}
	}
	// With p the prefix that key shares with self, bucket p is nearest to key,
	// then come all deeper buckets alike, then p-1, p-2 and so on.
	p := t.self.CommonPrefix(*key)
	if p < len(t.buckets) {
		take(p)
	}
	sorted := 0
	sort := func() {
		slices.SortFunc(dst[sorted:], func(a, b *Member) int {
			if key.closer(&a.position, &b.position) {
				return -1
			}
			return 1
		})
		sorted = len(dst)
	}
	if sort(); len(dst) < n {
		for i := p + 1; i < len(t.buckets); i++ {
			take(i)
		}
		sort()
	}
	for i := min(p, len(t.buckets)) - 1; i >= 0 && len(dst) < n; i-- {
		take(i)
		sort()
	}
	if len(dst) > n {
		clear(dst[n:])
		dst = dst[:n]
	}
	return dst
}

// estimate returns about how many nodes the grid has, from how close the
// nearest ones are.
func (t *table) estimate() float64 {
	var buf [64]*Member
	near := t.closest(buf[:0], &t.self, t.k, nil)
	if len(near) < t.k {
		return float64(len(near) + 1)
	}
	radius := t.self.Xor(near[len(near)-1].position).fraction()
	if radius == 0 {
		return float64(len(near) + 1)
	}
	return float64(len(near)) / radius
}

// oldest returns the contact that most needs to be asked whether it lives:
// one that has failed before, or else the one heard from least recently.
func (t *table) oldest() (m *Member, seen int64) {
	var best *contact
	for i := range t.buckets {
		for j := range t.buckets[i].contacts {
			c := &t.buckets[i].contacts[j]
			if best == nil || c.fails > best.fails || c.fails == best.fails && c.seen < best.seen {
				best = c
			}
		}
	}
	if best == nil {
		return nil, 0
	}
	return best.m, best.seen
}

// full reports whether bucket i holds k contacts.
func (t *table) full(i int) bool { return len(t.buckets[i].contacts) >= t.k }

// own returns the index of the first bucket that belongs to the node's
// neighbourhood: it and all deeper ones hold fewer than k contacts together.
func (t *table) own() int {
	i, deeper := len(t.buckets), 0
	for i > 0 {
		if deeper += len(t.buckets[i-1].contacts); deeper >= t.k {
			break
		}
		i--
	}
	return i
}
