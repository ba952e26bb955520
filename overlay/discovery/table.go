package discovery

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	maxHeard          = 1024
	maxHeardOfPeer    = 4  // addresses of one peer ID
	maxHeardAtAddress = 16 // peer IDs at one address
	// maxTTL bounds how long an announcement is believed.
	maxTTL = 10 * time.Minute
	// goodbyeTime is how long a withdrawn service stays (RFC 6762, section
	// 10.1): its owner may be about to announce another.
	goodbyeTime = time.Second
)

// Heard is a node that somebody on a local network claims to be.
type Heard struct {
	Peer      ri2n.PeerID    `json:"peer"`
	Name      string         `json:"name"` // as it calls itself
	State     State          `json:"state"`
	Addr      netip.AddrPort `json:"address"`
	Interface string         `json:"interface"` // ours, that it was heard on
	Since     time.Time      `json:"since"`
	Last      time.Time      `json:"last"` // when it was heard last
}

type place struct {
	peer ri2n.PeerID
	addr netip.Addr
}

// An entry is what was heard of one peer ID at one address.
type entry struct {
	Heard
	index   int // of the attachment
	life    time.Duration
	expires time.Time
	asked   int     // times that it was asked for again since it was heard
	spread  float64 // of life, by which the first of them is late
	leaving bool
}

// again are the parts of an entry's life after which it is asked for (RFC 6762,
// section 5.2). The first of them is up to spreadAgain late, so that the answer to
// whoever asks first serves all.
var again = [...]float64{0.75, 0.88, 0.92, 0.96}

const spreadAgain = 0.12

// due returns when the entry is to be asked for again; zero: not any more.
func (e *entry) due() time.Time {
	if e.leaving || e.asked >= len(again) {
		return time.Time{}
	}
	part := again[e.asked]
	if e.asked == 0 {
		part += e.spread
	}
	return e.Last.Add(time.Duration(float64(e.life) * part))
}

// A table holds what was heard. Announcements make entries, never questions, and
// neither numbers nor lives that others choose make it grow beyond its bounds.
type table struct {
	entries map[place]*entry
	known   func(ri2n.PeerID) bool // members; they come first
}

// add takes in an announcement; spread is where in spreadAgain it is asked for
// again. It reports whether anything is new, and false
// for ok if there was no room.
func (t *table) add(now time.Time, c claim, at Attachment, from netip.Addr, spread float64) (news, ok bool) {
	key := place{c.peer, from}
	e := t.entries[key]
	if e == nil {
		if !t.room(key) {
			return false, false
		}
		e = &entry{Heard: Heard{Peer: c.peer, Since: now}}
		t.entries[key] = e
		news = true
	}
	addr := netip.AddrPortFrom(from, c.port)
	news = news || e.State != c.state || e.Addr != addr || e.Name != c.label || e.leaving
	e.Name, e.State, e.Addr, e.Interface, e.index = c.label, c.state, addr, at.Name, at.Index
	e.Last, e.asked, e.leaving = now, 0, false
	e.life, e.spread = min(c.ttl, maxTTL), spread
	e.expires = now.Add(e.life)
	return news, true
}

// room makes room for an entry, in a full table at the cost of one whose peer is
// not known to be a member. It reports whether there is any.
func (t *table) room(key place) bool {
	ofPeer, atAddress := 0, 0
	var victim *place
	known := t.known(key.peer)
	for k := range t.entries {
		if k.peer == key.peer {
			ofPeer++
		}
		if k.addr == key.addr {
			atAddress++
		}
		if victim == nil && known && k.peer != key.peer && !t.known(k.peer) {
			victim = &k
		}
	}
	switch {
	case ofPeer >= maxHeardOfPeer:
		return false
	case len(t.entries) < maxHeard && (atAddress < maxHeardAtAddress || known):
		return true
	case victim == nil:
		return false
	}
	delete(t.entries, *victim)
	return true
}

// withdraw notes a goodbye: the service of that name, in that state, at the
// address that says so.
func (t *table) withdraw(now time.Time, c claim, from netip.Addr) (news bool) {
	for k, e := range t.entries {
		if k.addr == from && e.Name == c.label && e.State == c.state && !e.leaving {
			e.leaving, e.expires = true, now.Add(goodbyeTime)
			news = true
		}
	}
	return news
}

// expire drops what nobody has repeated in time.
func (t *table) expire(now time.Time) (news bool) {
	for k, e := range t.entries {
		if !now.Before(e.expires) {
			delete(t.entries, k)
			news = true
		}
	}
	return news
}

// leave drops what was heard over attachments that are gone.
func (t *table) leave(present []Attachment) (news bool) {
	for k, e := range t.entries {
		if !slices.ContainsFunc(present, func(a Attachment) bool { return a.Index == e.index && a.Prefix.Contains(k.addr) }) {
			delete(t.entries, k)
			news = true
		}
	}
	return news
}

// next returns when an entry expires or is to be asked for again; zero: never.
func (t *table) next() (next time.Time) {
	for _, e := range t.entries {
		next = earliest(next, earliest(e.expires, e.due()))
	}
	return next
}

// earliest returns the earlier of two times; the zero time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// list returns what was heard, by name and address.
func (t *table) list() []Heard {
	list := make([]Heard, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e.Heard)
	}
	slices.SortFunc(list, func(a, b Heard) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr), strings.Compare(a.Peer.String(), b.Peer.String()))
	})
	return list
}

// of returns the addresses at which peer was heard, the longest known first, so
// that whoever comes later with the same claim does not come before.
func (t *table) of(peer ri2n.PeerID) []netip.AddrPort {
	var found []*entry
	for k, e := range t.entries {
		if k.peer == peer && !e.leaving {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Addr.Compare(b.Addr))
	})
	list := make([]netip.AddrPort, len(found))
	for i, e := range found {
		list[i] = e.Addr
	}
	return list
}
