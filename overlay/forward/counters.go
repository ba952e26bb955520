package forward

import "sync/atomic"

// Counters count what a [Streams] or [Packets] has done. The tags are names for
// users.
type Counters struct {
	Taken    atomic.Uint64 `counter:"taken"`          // connections, or sources of packets
	Failed   atomic.Uint64 `counter:"failed"`         // that could not be passed on
	Dropped  atomic.Uint64 `counter:"dropped"`        // packets, and sources beyond the limit
	Sent     atomic.Uint64 `counter:"bytes_sent"`     // bytes towards what was dialed; of connections, when they have ended
	Received atomic.Uint64 `counter:"bytes_received"` // bytes from there
	Open     atomic.Int64  `counter:"open"`           // now
}
