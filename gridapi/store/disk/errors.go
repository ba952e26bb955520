package disk

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// ErrClosed reports a call after Close.
var ErrClosed = errors.New("disk: closed")

// A FullError reports that a chunk was not kept for lack of room. What was kept
// before is still there.
type FullError struct {
	Dir   string
	Need  int64 // bytes
	Quota int64 // bytes; zero: the file system is full, whatever the quota is
	Err   error // of the file system; nil: the quota is reached
}

func (e *FullError) Error() string { return "disk: " + e.Object() + ": " + e.Cause() }
func (e *FullError) Unwrap() error { return e.Err }

// Object names the directory.
func (e *FullError) Object() string { return "store in " + e.Dir }

// Cause says what is full.
func (e *FullError) Cause() string {
	if e.Err != nil {
		return fmt.Sprintf("no room for %d bytes: %v", e.Need, e.Err)
	}
	return fmt.Sprintf("no room for %d bytes within its quota of %d: the rest is pinned", e.Need, e.Quota)
}

// Next says what to do.
func (e *FullError) Next() string {
	if e.Err != nil {
		return "free some room on that disk"
	}
	return "raise the quota (store.quota), or let go of something: grid ls, then grid unpin or grid rm"
}

// A DamagedError reports a chunk whose bytes on the disk are not those that
// were written. It is forgotten, so that it can be fetched again:
// errors.Is(err, chunk.ErrNotHeld) holds.
type DamagedError struct {
	ID      chunk.ID
	Segment string // the file
	Offset  int64  // of the record in it
}

func (e *DamagedError) Error() string { return "disk: " + e.Object() + ": " + e.Cause() }

// Object names the chunk.
func (e *DamagedError) Object() string { return "chunk " + e.ID.String() }

// Cause says where it is damaged.
func (e *DamagedError) Cause() string {
	return fmt.Sprintf("its bytes on the disk are not those that were written (%s at %d)", e.Segment, e.Offset)
}

// Next says what to do.
func (e *DamagedError) Next() string {
	return "get it again, from a member that has it; and look at the health of this disk"
}

// Is makes a damaged chunk one that is not held.
func (e *DamagedError) Is(target error) bool { return target == chunk.ErrNotHeld }

// isFull reports whether err says that the file system has no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
