package swarm

import (
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// ErrClosed reports that the Swarm was closed.
var ErrClosed = errors.New("swarm: closed")

// A MissingError is a fetch that ended without all its chunks. Those that came
// are held; fetching again gets the rest.
type MissingError struct {
	Missing int      // chunks
	First   chunk.ID // one of them
	Asked   int      // members that were connected
	Stalled bool     // some say that they hold them, and send nothing
}

func (e *MissingError) Error() string { return "swarm: " + e.Object() + ": " + e.Cause() }

// Object says what is missing.
func (e *MissingError) Object() string {
	if e.Missing == 1 {
		return "chunk " + e.First.String()[:16]
	}
	return fmt.Sprintf("%d chunks, %s among them", e.Missing, e.First.String()[:16])
}

// Cause says why.
func (e *MissingError) Cause() string {
	switch {
	case e.Asked == 0:
		return "no member that could hold them is connected"
	case e.Stalled:
		return "members say that they hold them, and send nothing"
	}
	return fmt.Sprintf("none of the %d members that are connected holds them", e.Asked)
}

// Next says what to do.
func (e *MissingError) Next() string {
	return "wait until a member that holds them is back, and fetch again: what has come is kept"
}

// A KeepError is a chunk that a member does not keep or give up as it was asked
// to, or cannot show.
type KeepError struct {
	Member string
	ID     chunk.ID
	Reason string
	NoRoom bool // another member may have room
	Absent bool // the member does not hold it
	Wrong  bool // the member sent something else
}

func (e *KeepError) Error() string { return "swarm: " + e.Object() + ": " + e.Cause() }

// Object names chunk and member.
func (e *KeepError) Object() string { return "chunk " + e.ID.String()[:16] + " at " + e.Member }

// Cause says what the member said.
func (e *KeepError) Cause() string { return e.Reason }

// Next says what to do.
func (e *KeepError) Next() string { return "ask another member" }

// A PeerError is why a connection to a member ended.
type PeerError struct {
	Member string
	Reason string
	Err    error // may be nil
}

func (e *PeerError) Error() string { return "swarm: " + e.Object() + ": " + e.Cause() }

// Object names the member.
func (e *PeerError) Object() string { return "member " + e.Member }

// Cause says why.
func (e *PeerError) Cause() string {
	if e.Err != nil {
		return e.Reason + ": " + e.Err.Error()
	}
	return e.Reason
}

// Next says what to do.
func (e *PeerError) Next() string {
	return "nothing: what was asked of it is asked of other members, and it is dialed again"
}

func (e *PeerError) Unwrap() error { return e.Err }

// Proves reports what the answer proves about the member: that it does not hold
// the chunk, or that it altered it.
func (e *KeepError) Proves() (absent, wrong bool) { return e.Absent, e.Wrong }
