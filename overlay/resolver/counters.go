package resolver

import "sync/atomic"

// Counters count since the server was made.
type Counters struct {
	Answered   atomic.Uint64 // for names of the grid
	Missing    atomic.Uint64 // that do not exist
	Forwarded  atomic.Uint64 // to another resolver
	Unanswered atomic.Uint64 // by any other resolver
	Refused    atomic.Uint64 // ANY, other names, other classes and operations
	Limited    atomic.Uint64 // dropped: too many of one network
	Malformed  atomic.Uint64 // that make no sense
	Truncated  atomic.Uint64 // answers over UDP that did not fit
}

// Counts are Counters at one moment; they encode as JSON as they are.
type Counts struct {
	Answered   uint64 `json:"answered"`
	Missing    uint64 `json:"missing"`
	Forwarded  uint64 `json:"forwarded"`
	Unanswered uint64 `json:"unanswered"`
	Refused    uint64 `json:"refused"`
	Limited    uint64 `json:"limited"`
	Malformed  uint64 `json:"malformed"`
	Truncated  uint64 `json:"truncated"`
}

// Snapshot returns the counts of now.
func (c *Counters) Snapshot() Counts {
	return Counts{
		Answered: c.Answered.Load(), Missing: c.Missing.Load(), Forwarded: c.Forwarded.Load(),
		Unanswered: c.Unanswered.Load(), Refused: c.Refused.Load(), Limited: c.Limited.Load(),
		Malformed: c.Malformed.Load(), Truncated: c.Truncated.Load(),
	}
}
