package overlay

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
)

const (
	// bootSeeds is how many members a node turns to at a time to enter the
	// key space.
	bootSeeds = 8
	// bootFirst and bootLast bound the pause between two attempts of a node
	// that nobody answers.
	bootFirst = 2 * time.Second
	bootLast  = time.Minute
	// bootRepeat is how often a node looks for its place again, in case that
	// the grid was two for a while.
	bootRepeat = 10 * time.Minute
)

// A bootstrap enters the key space: at the start, when the network has come
// back, and now and then. The loop owns it.
type bootstrap struct {
	at      time.Time     // the next attempt; zero: at once
	pause   time.Duration // after an attempt in vain
	running bool
	alone   bool // nobody was heard at the last look
	times   uint64
}

// advance begins an attempt if it is time.
func (b *bootstrap) advance(now time.Time, r *router) {
	alone := len(r.carrier.sessions) == 0
	if alone != b.alone && !b.running {
		// The network has gone, or is back, or somebody has found us.
		b.at, b.pause = now, 0
	}
	b.alone = alone
	if b.running || now.Before(b.at) {
		return
	}
	seeds := r.seeds(now)
	if len(seeds) == 0 {
		b.at = now.Add(bootFirst)
		return
	}
	b.running = true
	b.times++
	if alone {
		clear(r.carrier.reaches) // what failed before may have been our fault
	}
	r.routing.Bootstrap(now, seeds, func(now time.Time, err error) {
		b.running = false
		if err != nil {
			b.pause = min(max(2*b.pause, bootFirst), bootLast)
			b.at = now.Add(b.pause/2 + rand.N(b.pause))
			return
		}
		b.pause = 0
		b.at = now.Add(bootRepeat/2 + rand.N(bootRepeat))
		r.names.publishAt = now
	})
}

// seeds returns members to begin with: those that there is a session with, then
// those who were reached directly before, then others by chance.
func (r *router) seeds(now time.Time) []*routing.Member {
	var seeds []*routing.Member
	add := func(peer routing.PeerID) {
		if len(seeds) >= bootSeeds || peer == r.routing.Self().Peer || slices.ContainsFunc(seeds, func(m *routing.Member) bool { return m.Peer == peer }) {
			return
		}
		if info := r.member(now, peer); info != nil {
			seeds = append(seeds, info.m)
		}
	}
	for peer := range r.carrier.sessions {
		add(peer)
	}
	remembered, others := r.node.grid.peers(now), []ri2n.PeerID(nil)
	rand.Shuffle(len(remembered), func(i, j int) { remembered[i], remembered[j] = remembered[j], remembered[i] })
	for _, id := range remembered {
		if len(r.node.remembered.of(id)) > 0 {
			add(routing.PeerID(id))
		} else {
			others = append(others, id)
		}
	}
	for _, id := range others {
		add(routing.PeerID(id))
	}
	return seeds
}

// peers returns the members that are known.
func (t *gridTable) peers(now time.Time) []ri2n.PeerID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []ri2n.PeerID
	for id, k := range t.members {
		if id != t.self && t.validLocked(k.member, now) {
			list = append(list, id)
		}
	}
	return list
}
