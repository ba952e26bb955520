package ri2n

import "time"

const (
	canarySample  = 64 // packets of each kind that are compared
	canaryQuick   = 16 // are enough when all of one kind were lost, or none
	canarySuspect = 4  // one in so many lost in bursts is looked into
	canaryRatio   = 4  // how much better lone packets must do
	canaryClean   = 8  // less than one in so many lost clears bursts
	canaryStrikes = 3  // verdicts in a row

	// canaryRest is how long bursts are cut up by us before the kernel gets
	// another chance: its offload may be of another network card by then.
	canaryRest = 10 * time.Minute
)

// A burstCanary finds out whether a path loses packets because they leave as a
// burst that the kernel or its network card cuts up. Linux 7.0 and some
// virtual network cards damage such bursts, which looks like loss.
//
// When bursts lose much, packets leave one by one for a while. If those do not
// get lost, it is a strike; after several in a row, without a clean burst
// between, bursts are no longer trusted on this path. Congestion that ends by
// itself clears the bursts as soon as they are tried again. The session's
// mutex guards it; the zero value trusts.
type burstCanary struct {
	phase   canaryPhase
	burst   lossCount // in this phase
	lone    lossCount
	strikes int
	until   time.Time // of canaryOff
}

type canaryPhase uint8

const (
	canaryTrusts canaryPhase = iota
	canaryTries              // lone packets
	canaryOff
)

// A lossCount counts packets.
type lossCount struct{ acked, lost int }

func (c *lossCount) add(o lossCount) { c.acked += o.acked; c.lost += o.lost }
func (c lossCount) total() int       { return c.acked + c.lost }

// enough reports whether c says something: canarySample packets, or
// canaryQuick if all of them had the same fate.
func (c lossCount) enough() bool {
	return c.total() >= canarySample || c.total() >= canaryQuick && (c.acked == 0 || c.lost == 0)
}

// allows reports whether a burst may leave in one piece at now.
func (c *burstCanary) allows(now time.Time) bool {
	if c.phase == canaryOff && !now.Before(c.until) {
		// One more strike, and it is off again.
		*c = burstCanary{strikes: canaryStrikes - 1}
	}
	return c.phase == canaryTrusts
}

// observe takes what became of packets that left in bursts and alone. It
// reports whether bursts have just lost all trust.
func (c *burstCanary) observe(now time.Time, burst, lone lossCount) (off bool) {
	c.burst.add(burst)
	c.lone.add(lone)
	switch c.phase {
	case canaryTrusts:
		if !c.burst.enough() {
			return false
		}
		switch {
		case c.burst.lost*canarySuspect >= c.burst.total():
			c.phase, c.lone = canaryTries, lossCount{}
			return false
		case c.burst.lost*canaryClean < c.burst.total():
			c.strikes = 0
		}
		c.burst = lossCount{}
	case canaryTries:
		if !c.lone.enough() {
			return false
		}
		// The burst's share of losses, canaryRatio times that of lone packets?
		if c.lone.lost*canaryRatio*c.burst.total() <= c.burst.lost*c.lone.total() {
			c.strikes++
		} else {
			c.strikes = 0
		}
		if c.strikes >= canaryStrikes {
			*c = burstCanary{phase: canaryOff, until: now.Add(canaryRest)}
			return true
		}
		*c = burstCanary{strikes: c.strikes}
	}
	return false
}
