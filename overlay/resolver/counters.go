package resolver

import "sync/atomic"

// Counters count since the server was made. The tags are names for
// users.
type Counters struct {
	Answered   atomic.Uint64 `counter:"answered"`   // for names of the grid
	Missing    atomic.Uint64 `counter:"missing"`    // that do not exist
	Forwarded  atomic.Uint64 `counter:"forwarded"`  // to another resolver
	Unanswered atomic.Uint64 `counter:"unanswered"` // by any other resolver
	Refused    atomic.Uint64 `counter:"refused"`    // ANY, other names, other classes and operations
	Limited    atomic.Uint64 `counter:"limited"`    // dropped: too many of one network
	Malformed  atomic.Uint64 `counter:"malformed"`  // that make no sense
	Truncated  atomic.Uint64 `counter:"truncated"`  // answers over UDP that did not fit
}
