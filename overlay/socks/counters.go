package socks

import "sync/atomic"

// Counters count since the server was made. The tags are names for
// users.
type Counters struct {
	Connected   atomic.Uint64 `counter:"connected"`      // connections made
	Associated  atomic.Uint64 `counter:"associated"`     // clients that send packets
	Outside     atomic.Uint64 `counter:"outside"`        // refused: outside the grid
	Failed      atomic.Uint64 `counter:"failed"`         // that could not be made
	Malformed   atomic.Uint64 `counter:"malformed"`      // requests and packets that make no sense
	Slow        atomic.Uint64 `counter:"slow"`           // clients that took too long to ask
	Dropped     atomic.Uint64 `counter:"dropped"`        // packets that could not be passed on
	Unsupported atomic.Uint64 `counter:"unsupported"`    // commands that we do not know
	Sent        atomic.Uint64 `counter:"bytes_sent"`     // bytes to the grid
	Received    atomic.Uint64 `counter:"bytes_received"` // bytes from it
	Open        atomic.Int64  `counter:"open"`           // clients now
}
