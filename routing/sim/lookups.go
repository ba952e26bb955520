package sim

import (
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// Lookups are the outcome of a number of lookups.
type Lookups struct {
	Count, Correct int
	Hops           []int // of each, sorted
	Asked          int   // requests in all
	Slowest        time.Duration
}

// Median returns the median number of hops.
func (l *Lookups) Median() int {
	if len(l.Hops) == 0 {
		return 0
	}
	return l.Hops[len(l.Hops)/2]
}

// Max returns the largest number of hops.
func (l *Lookups) Max() int {
	if len(l.Hops) == 0 {
		return 0
	}
	return l.Hops[len(l.Hops)-1]
}

// Look runs count lookups of random keys from random nodes, spread over the
// time given, and compares what each finds with the truth at its end.
func (g *Grid) Look(count int, over time.Duration) *Lookups {
	out, left := &Lookups{Count: count}, count
	for range count {
		g.After(time.Duration(g.rand.Int64N(int64(over)+1)), func() {
			i, key, began := g.RandomAlive(), g.RandomKey(), g.now
			g.Nodes[i].Lookup(g.now, key, func(now time.Time, r routing.Result) {
				left--
				out.Slowest = max(out.Slowest, now.Sub(began))
				out.Asked += r.Asked
				if want := g.Nearest(key, i); len(r.Closest) > 0 && r.Closest[0].Peer == g.Nodes[want].Self().Peer {
					out.Correct++
					out.Hops = append(out.Hops, r.Hops)
				}
			})
			g.Touch(i)
		})
	}
	g.RunUntil(over+time.Minute, func() bool { return left == 0 })
	slices.Sort(out.Hops)
	return out
}
