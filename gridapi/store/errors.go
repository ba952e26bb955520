package store

import (
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// ErrClosed reports a call after Close.
var ErrClosed = errors.New("store: closed")

// A NotFoundError reports an object or a name that cannot be had now: nobody
// who can be reached has it, or all of it.
type NotFoundError struct {
	What  string   // "object ID" or "name NAME"
	Chunk chunk.ID // that is missing; zero: everything
	Err   error    // of the fetcher or the directory; nil: there is none, or it found nothing
}

func (e *NotFoundError) Error() string { return "store: " + e.Object() + ": " + e.Cause() }
func (e *NotFoundError) Unwrap() error { return e.Err }

// Object names the object or name.
func (e *NotFoundError) Object() string { return e.What }

// Cause says what is missing.
func (e *NotFoundError) Cause() string {
	cause := "nobody who can be reached has it"
	if e.Chunk != (chunk.ID{}) {
		cause = "chunk " + e.Chunk.String() + " is missing"
	}
	if e.Err != nil {
		cause += ": " + e.Err.Error()
	}
	return cause
}

// Next says what to do.
func (e *NotFoundError) Next() string {
	return "see whether a computer that has it is on: grid members; and whether its policy opens the port of the store"
}

// A ContentError reports an object that is here but cannot be read.
type ContentError struct {
	ID    chunk.ID // of the object
	Chunk chunk.ID // that cannot be read
	Err   error
}

func (e *ContentError) Error() string { return "store: " + e.Object() + ": " + e.Cause() }
func (e *ContentError) Unwrap() error { return e.Err }

// Object names the object.
func (e *ContentError) Object() string { return "object " + e.ID.String() }

// Cause says what is wrong.
func (e *ContentError) Cause() string {
	return fmt.Sprintf("chunk %s cannot be read: %v", e.Chunk, e.Err)
}

// Next says what to do.
func (e *ContentError) Next() string {
	return "compare the fingerprints of the store's key on both computers: grid store status"
}

// A NameError reports a name or a record of one that is not taken.
type NameError struct {
	Name    string
	Problem string
	Err     error // what the problem comes from, or nil
}

func (e *NameError) Error() string { return "store: " + e.Object() + ": " + e.Cause() }
func (e *NameError) Unwrap() error { return e.Err }

// Object names the name.
func (e *NameError) Object() string { return fmt.Sprintf("name %q", e.Name) }

// Cause says what is wrong.
func (e *NameError) Cause() string {
	if e.Err != nil {
		return e.Problem + ": " + e.Err.Error()
	}
	return e.Problem
}

// Next says what to do.
func (e *NameError) Next() string {
	return "a name has up to 128 of the characters a-z A-Z 0-9 . _ - and /, and NAME/... is for the member NAME only"
}
