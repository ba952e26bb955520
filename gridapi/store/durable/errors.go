package durable

import (
	"errors"
	"fmt"
)

var (
	// ErrNoRecord reports that the register knows nothing of an object.
	ErrNoRecord = errors.New("durable: no record of this object")
	// ErrConflict reports that a record was changed by somebody else meanwhile.
	ErrConflict = errors.New("durable: the record was changed meanwhile")
)

// A HoldersError is an object for which not enough holders are to be had.
type HoldersError struct {
	ID         [32]byte // of the object
	Have, Need int
	Doing      string // "protect" or "restore"
	Err        error  // of the last holder; may be nil
}

func (e *HoldersError) Error() string { return "durable: " + e.Object() + ": " + e.Cause() }
func (e *HoldersError) Unwrap() error { return e.Err }

// Object names the object.
func (e *HoldersError) Object() string { return fmt.Sprintf("%s object %x", e.Doing, e.ID[:8]) }

// Cause says how many there are.
func (e *HoldersError) Cause() string {
	s := fmt.Sprintf("%d holders of %d that are needed", e.Have, e.Need)
	if e.Err != nil {
		s += ", the last: " + e.Err.Error()
	}
	return s
}

// Next says what to do.
func (e *HoldersError) Next() string {
	if e.Doing == "restore" {
		return "wait until more of its holders are back"
	}
	return "let more members, on other sites, offer room"
}
