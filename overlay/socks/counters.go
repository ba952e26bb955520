package socks

import "sync/atomic"

// Counters count since the server was made.
type Counters struct {
	Connected   atomic.Uint64 // connections made
	Associated  atomic.Uint64 // clients that send packets
	Outside     atomic.Uint64 // refused: outside the grid
	Failed      atomic.Uint64 // that could not be made
	Malformed   atomic.Uint64 // requests and packets that make no sense
	Slow        atomic.Uint64 // clients that took too long to ask
	Dropped     atomic.Uint64 // packets that could not be passed on
	Unsupported atomic.Uint64 // commands that we do not know
	Sent        atomic.Uint64 // bytes to the grid
	Received    atomic.Uint64 // bytes from it
	Open        atomic.Int64  // clients now
}

// Counts are Counters at one moment; they encode as JSON as they are.
type Counts struct {
	Connected   uint64 `json:"connected"`
	Associated  uint64 `json:"associated"`
	Outside     uint64 `json:"outside"`
	Failed      uint64 `json:"failed"`
	Malformed   uint64 `json:"malformed"`
	Slow        uint64 `json:"slow"`
	Dropped     uint64 `json:"dropped"`
	Unsupported uint64 `json:"unsupported"`
	Sent        uint64 `json:"bytes_sent"`
	Received    uint64 `json:"bytes_received"`
	Open        int64  `json:"open"`
}

// Snapshot returns the counts of now.
func (c *Counters) Snapshot() Counts {
	return Counts{
		Connected: c.Connected.Load(), Associated: c.Associated.Load(), Outside: c.Outside.Load(),
		Failed: c.Failed.Load(), Malformed: c.Malformed.Load(), Slow: c.Slow.Load(),
		Dropped: c.Dropped.Load(), Unsupported: c.Unsupported.Load(), Sent: c.Sent.Load(),
		Received: c.Received.Load(), Open: c.Open.Load(),
	}
}
