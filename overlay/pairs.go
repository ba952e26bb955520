package overlay

import (
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

// maxRoutes bounds the addresses of which it is known to which of the peer's
// links they lead.
const maxRoutes = 64

// noteRouteLocked notes that the address of key leads to the peer's link.
func (k *pathKeeper) noteRouteLocked(key proofKey, peerLink uint16) {
	if peerLink == 0 {
		return
	}
	if _, known := k.routes[key]; !known && len(k.routes) >= maxRoutes {
		clear(k.routes)
	}
	k.routes[key] = peerLink
}

// routeLocked returns the peer's link at the far end of a path, zero if it is
// not known. A NAT may have given the path another port meanwhile.
func (k *pathKeeper) routeLocked(key proofKey) (peerLink uint16) {
	if id := k.routes[key]; id != 0 {
		return id
	}
	for x, id := range k.routes {
		if x.link == key.link && x.remote.Addr() == key.remote.Addr() {
			if peerLink != 0 && peerLink != id {
				return 0
			}
			peerLink = id
		}
	}
	return peerLink
}

// A coverage says which links have a direct path, or will perhaps have one.
type coverage struct{ ours, theirs map[uint16]bool }

func (c coverage) add(p punch.LinkPair) {
	c.ours[p.Link] = true
	c.theirs[p.PeerLink] = true
}

// linksLocked returns the links of both sides; the peer's is zero alone where
// it has told of none.
func (k *pathKeeper) linksLocked() (ours, theirs []uint16) {
	theirs = k.peerLinks
	if len(theirs) == 0 {
		theirs = []uint16{0}
	}
	ours = k.a.node.links.ids()
	return ours[:min(len(ours), maxUplinks)], theirs
}

// coveredLocked looks at the direct paths.
func (k *pathKeeper) coveredLocked(paths []ri2n.PathInfo, ours, theirs []uint16) coverage {
	c := coverage{make(map[uint16]bool), make(map[uint16]bool)}
	for _, p := range paths {
		if p.Carrier || p.State != ri2n.PathActive && p.State != ri2n.PathStandby && p.State != ri2n.PathSuspect {
			continue
		}
		link := k.a.node.links.byName(p.Link)
		if link == nil {
			continue
		}
		id := k.routeLocked(proofKey{link: link.id, remote: p.Remote})
		if len(theirs) == 1 {
			id = theirs[0]
		}
		if id != 0 || len(theirs) == 1 {
			c.add(punch.LinkPair{Link: link.id, PeerLink: id})
		} else if len(ours) == 1 {
			c.ours[link.id] = true
		}
	}
	return c
}

// match pairs the links that are not covered with one another, first with
// first, and what is left over with any of the other side, so that every link
// has a pair. There are never more pairs than links of one side. Another turn
// gives other pairs, as far as there are any: not every link leads to every
// other one.
func match(c coverage, ours, theirs []uint16, turn int) (pairs []punch.LinkPair) {
	if len(ours) == 0 || len(theirs) == 0 {
		return nil
	}
	var mine, others []int
	for i, id := range ours {
		if !c.ours[id] {
			mine = append(mine, i)
		}
	}
	for i, id := range theirs {
		if !c.theirs[id] {
			others = append(others, i)
		}
	}
	for i := range max(len(mine), len(others)) {
		switch {
		case i >= len(mine):
			pairs = append(pairs, punch.LinkPair{Link: ours[(others[i]+turn)%len(ours)], PeerLink: theirs[others[i]]})
		case i >= len(others):
			pairs = append(pairs, punch.LinkPair{Link: ours[mine[i]], PeerLink: theirs[(mine[i]+turn)%len(theirs)]})
		default:
			pairs = append(pairs, punch.LinkPair{Link: ours[mine[i]], PeerLink: theirs[others[(i+turn)%len(others)]]})
		}
	}
	return pairs
}

// allPairsLocked returns the pairs for a session that has no direct path.
func (k *pathKeeper) allPairsLocked() []punch.LinkPair {
	ours, theirs := k.linksLocked()
	return match(coverage{}, ours, theirs, k.failures)
}

// idlePairsLocked returns the pairs whose links have no direct path, and no
// attempt under way.
func (k *pathKeeper) idlePairsLocked(paths []ri2n.PathInfo) []punch.LinkPair {
	ours, theirs := k.linksLocked()
	c := k.coveredLocked(paths, ours, theirs)
	for key, st := range k.proofs {
		if st.running {
			c.add(punch.LinkPair{Link: key.link, PeerLink: k.routeLocked(proofKey{link: key.link, remote: key.remote})})
		}
	}
	// What is under way on other pairs may fail: it covers nothing yet.
	return slices.DeleteFunc(match(c, ours, theirs, k.moreFailures), func(p punch.LinkPair) bool {
		_, same := k.trying[p]
		if p.PeerLink == theirs[0] && !same {
			_, same = k.trying[punch.LinkPair{Link: p.Link}] // the peer's choice is its first
		}
		return same
	})
}

// fillLocked reports whether links without a path are to be tried now, and
// otherwise plans when.
func (k *pathKeeper) fillLocked(paths []ri2n.PathInfo, now time.Time) bool {
	ours, theirs := k.linksLocked()
	if len(match(k.coveredLocked(paths, ours, theirs), ours, theirs, 0)) == 0 {
		k.more, k.moreFailures = time.Time{}, 0
		return false
	}
	busy := len(k.trying) > 0 || k.provingLocked()
	if k.starting || !k.direct && !busy {
		return false // the first path comes first
	}
	if k.more.IsZero() {
		if busy {
			return false
		}
		k.more = now.Add(moreAgain[min(k.moreFailures, len(moreAgain)-1)])
	}
	if now.Before(k.more) {
		return false
	}
	k.more = time.Time{}
	return len(k.idlePairsLocked(paths)) > 0
}

// peerHas takes the list of the peer's links.
func (k *pathKeeper) peerHas(ids []uint16) {
	k.mu.Lock()
	k.peerLinks = nil
	for _, id := range ids {
		if id != 0 && !slices.Contains(k.peerLinks, id) && len(k.peerLinks) < maxUplinks {
			k.peerLinks = append(k.peerLinks, id)
		}
	}
	k.mu.Unlock()
	k.linksChanged()
}

// linksChanged begins attempts on new links at once.
func (k *pathKeeper) linksChanged() {
	k.mu.Lock()
	if k.a.client {
		k.moreFailures, k.more = 0, time.Now()
		if !k.direct && !k.again.IsZero() {
			k.failures, k.again = 0, k.more
		}
	}
	k.mu.Unlock()
	k.wake()
}

// redundantLocked returns a direct path both of whose links have another one,
// if there is any: it was a stopgap while a link was away, and shares the lines
// of the others.
func (k *pathKeeper) redundantLocked(paths []ri2n.PathInfo) (id uint32, found bool) {
	ours, theirs := k.linksLocked()
	pairs := make(map[uint32]punch.LinkPair)
	count := [2]map[uint16]int{make(map[uint16]int), make(map[uint16]int)}
	for _, p := range paths {
		if p.Carrier || p.State != ri2n.PathActive {
			continue
		}
		link := k.a.node.links.byName(p.Link)
		if link == nil {
			continue
		}
		peer := k.routeLocked(proofKey{link: link.id, remote: p.Remote})
		if len(theirs) == 1 {
			peer = theirs[0]
		}
		if !slices.Contains(theirs, peer) || !slices.Contains(ours, link.id) {
			continue
		}
		pairs[p.ID] = punch.LinkPair{Link: link.id, PeerLink: peer}
		count[0][link.id]++
		count[1][peer]++
	}
	if len(pairs) <= max(len(ours), len(theirs)) {
		return 0, false
	}
	for _, p := range paths {
		if pair, known := pairs[p.ID]; known && count[0][pair.Link] > 1 && count[1][pair.PeerLink] > 1 {
			return p.ID, true
		}
	}
	return 0, false
}
