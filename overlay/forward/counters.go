package forward

import "sync/atomic"

// Counters count what a [Streams] or [Packets] has done.
type Counters struct {
	Taken    atomic.Uint64 // connections, or sources of packets
	Failed   atomic.Uint64 // that could not be passed on
	Dropped  atomic.Uint64 // packets, and sources beyond the limit
	Sent     atomic.Uint64 // bytes towards what was dialed; of connections, when they have ended
	Received atomic.Uint64 // bytes from there
	Open     atomic.Int64  // now
}

// Counts are Counters at one moment; they encode as JSON as they are.
type Counts struct {
	Taken    uint64 `json:"taken"`
	Failed   uint64 `json:"failed"`
	Dropped  uint64 `json:"dropped"`
	Sent     uint64 `json:"bytes_sent"`
	Received uint64 `json:"bytes_received"`
	Open     int64  `json:"open"`
}

// Snapshot returns the counts of now.
func (c *Counters) Snapshot() Counts {
	return Counts{
		Taken: c.Taken.Load(), Failed: c.Failed.Load(), Dropped: c.Dropped.Load(),
		Sent: c.Sent.Load(), Received: c.Received.Load(), Open: c.Open.Load(),
	}
}
