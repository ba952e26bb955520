package ri2n

import (
	"math"
	"time"
)

const (
	// singlePathBytes is how much outstanding data one path alone carries:
	// what is sent within a round trip or two gains nothing from a second path
	// and would wait for the slower one. A guess, as is usual (MPTCP: a burst
	// of 64 KB).
	singlePathBytes = 64 << 10

	// blestFactor allows for growth of the fast path's rate while a packet is
	// on the slow one (BLEST, IFIP Networking 2016, section 4).
	blestFactor = 1.25

	// tailShare is the part of a fast path's round trip that a copy must gain
	// to be worth sending.
	tailShare = 4
)

// A pathView is what a scheduler knows of one path that may carry data.
type pathView struct {
	srtt, rttvar time.Duration
	oneWay       time.Duration // there, with the queue as it is
	rate         float64       // bytes per second; above zero
	room         int           // bytes that may leave now; zero: none
	wait         time.Duration // until there is room for a packet; zero with room
	favored      bool          // the session's first choice
}

// A demand is what waits for a path.
type demand struct {
	lost        int // bytes to be sent again
	fresh       int // bytes to be sent first, as far as credit allows
	outstanding int // bytes that the peer has not acknowledged, those above included
	window      int // bytes of credit
}

// A choice is a scheduler's answer. The path may be one without room: then the
// burst waits for it.
type choice struct {
	path      int  // index into the views; negative: none
	freshOnly bool // what is to be sent again waits for another path
}

// arrival estimates when the last of n bytes would arrive on v, from now.
func (v *pathView) arrival(n int) time.Duration {
	t := v.wait + v.oneWay
	if v.rate > 0 {
		t += time.Duration(math.Min(float64(n)/v.rate*1e9, math.MaxInt32*1e9))
	}
	return t
}

// burst is what would leave on v at once.
func (v *pathView) burst() int { return min(max(v.room, 1), maxBurst) }

// aggregate chooses the path on which a burst completes first. It waits for a
// path without room if even all that waits would arrive sooner there than one
// burst on the best path with room (ECF, CoNEXT 2017), and it leaves out a
// slow path if the faster ones would run out of credit while the burst is on
// its way (BLEST).
func aggregate(views []pathView, d demand) choice {
	if d.outstanding < singlePathBytes {
		return choice{path: single(views, max(d.lost+d.fresh, 1))}
	}
	if d.lost > 0 {
		// What a reader waits for goes where all of it arrives first.
		best := earliest(views, d.lost)
		if best < 0 || views[best].room > 0 {
			return choice{path: best}
		}
		other := sendable(views, d.window)
		if other < 0 {
			return choice{path: best}
		}
		if d.lost+d.fresh == 0 || !waitFor(&views[best], &views[other], d.lost) {
			return choice{path: other}
		}
		if d.fresh == 0 || waitFor(&views[best], &views[other], d.lost+d.fresh) {
			return choice{path: best}
		}
		return choice{path: other, freshOnly: true}
	}
	best := sendable(views, d.window)
	if best < 0 {
		return choice{path: fastest(views)}
	}
	fast := earliest(views, max(d.fresh, 1))
	if fast >= 0 && views[fast].room == 0 && waitFor(&views[fast], &views[best], d.fresh) {
		return choice{path: fast}
	}
	return choice{path: best}
}

// waitFor reports whether n bytes arrive sooner on fast, which has no room
// yet, than one burst on best, which has.
func waitFor(fast, best *pathView, n int) bool {
	return fast.arrival(n)+max(fast.rttvar, best.rttvar) < best.arrival(best.burst())
}

// earliest returns the path on which n bytes arrive first, with room or not,
// or -1 without any path.
func earliest(views []pathView, n int) int {
	best, least := -1, time.Duration(0)
	for i := range views {
		if t := views[i].arrival(n); best < 0 || t < least {
			best, least = i, t
		}
	}
	return best
}

// single returns the one path for n bytes that stay together: the favored one
// unless another is better by more than the measurements vary.
func single(views []pathView, n int) int {
	best := earliest(views, n)
	for i := range views {
		if !views[i].favored || best < 0 {
			continue
		}
		slack := max(views[i].rttvar, views[best].rttvar) + views[best].srtt/8
		if views[i].arrival(n) <= views[best].arrival(n)+slack {
			return i
		}
	}
	return best
}

// sendable returns the path with room on which a burst completes first, or -1.
// Of the others it leaves out those on which a burst would outlast the credit
// of window bytes, which the fastest path uses meanwhile.
func sendable(views []pathView, window int) int {
	fast := fastest(views)
	best, least := -1, time.Duration(0)
	for i := range views {
		v := &views[i]
		if v.room == 0 {
			continue
		}
		if i != fast && v.srtt > views[fast].srtt &&
			views[fast].rate*(v.srtt-views[fast].srtt/2).Seconds()*blestFactor > float64(window) {
			continue
		}
		if t := v.arrival(v.burst()); best < 0 || t < least {
			best, least = i, t
		}
	}
	return best
}

// fastest returns the path with the least round-trip time, or -1.
func fastest(views []pathView) int {
	best := -1
	for i := range views {
		if best < 0 || views[i].srtt < views[best].srtt {
			best = i
		}
	}
	return best
}

// shortest returns the path with the least round-trip time that has room, or
// the least of all if none has.
func shortest(views []pathView, d demand) choice {
	best := -1
	for i := range views {
		v := &views[i]
		if best < 0 || v.room > 0 && views[best].room == 0 ||
			(v.room > 0) == (views[best].room > 0) && v.srtt < views[best].srtt {
			best = i
		}
	}
	// A little data does not leave its path for a slower one at once.
	if best >= 0 && d.outstanding < singlePathBytes {
		if i := single(views, max(d.lost+d.fresh, 1)); views[i].wait < views[best].srtt/2 {
			best = i
		}
	}
	return choice{path: best}
}

// favored returns the session's first choice.
func favored(views []pathView) choice {
	for i := range views {
		if views[i].favored {
			return choice{path: i}
		}
	}
	return choice{path: -1}
}

// pick chooses the path for the next burst of data under policy p.
func (p Policy) pick(views []pathView, d demand) choice {
	switch {
	case p == PolicyBackup:
		return favored(views)
	case p == PolicyLatency, p.copies() > 1:
		return shortest(views, d)
	}
	return aggregate(views, d)
}

// worthCopying reports whether what left on slow sentAgo ago would arrive on
// fast so much sooner that a copy pays.
func worthCopying(slow, fast *pathView, sentAgo time.Duration) bool {
	return slow.oneWay-sentAgo > fast.wait+fast.oneWay+fast.srtt/tailShare
}
