package mpi

import (
	"errors"
	"fmt"
	"strings"
)

// A Class is an error class of MPI 4.1, section 9.4, or of ULFM. Every error
// of this package that concerns a call matches one with errors.Is.
type Class int

// The classes.
const (
	ErrBuffer            Class = iota + 1 // an attached buffer is too small
	ErrCount                              // a count does not fit what it counts
	ErrType                               // a type of no fixed size
	ErrTag                                // a tag below 0 or above MaxTag
	ErrComm                               // a communicator that was freed
	ErrRank                               // no such rank
	ErrRequest                            // a request that does not exist
	ErrRoot                               // no such root
	ErrGroup                              // not a group of this communicator
	ErrOp                                 // not an operation on these values
	ErrTopology                           // no such topology, or no such place in it
	ErrDims                               // dimensions that do not fit
	ErrArg                                // any other argument
	ErrTruncate                           // the message is longer than the buffer
	ErrMismatch                           // collective calls that do not belong together (MPI: undefined)
	ErrPending                            // the request is not complete
	ErrOther                              // what the error itself tells
	ErrProcFailed                         // ULFM: a process needed for this call failed
	ErrProcFailedPending                  // ULFM: a receive from anybody may wait for a failed process; it is not complete
	ErrRevoked                            // ULFM: the communicator was revoked
	ErrFenced                             // the others hold this process for dead
	ErrClosed                             // this process has closed its endpoint
)

func (c Class) Error() string {
	texts := [...]string{
		ErrBuffer: "attached buffer too small", ErrCount: "wrong count", ErrType: "type without a fixed size",
		ErrTag: "tag out of range", ErrComm: "communicator is freed", ErrRank: "no such rank", ErrRequest: "no such request",
		ErrRoot: "no such root", ErrGroup: "no such group", ErrOp: "no such operation", ErrTopology: "no such topology",
		ErrDims: "dimensions do not fit", ErrArg: "bad argument", ErrTruncate: "message truncated",
		ErrMismatch: "collective calls differ", ErrPending: "request not complete", ErrOther: "failed",
		ErrProcFailed: "process failed", ErrProcFailedPending: "a process that may have been the sender failed",
		ErrRevoked: "communicator revoked", ErrFenced: "fenced: the others hold this process for dead", ErrClosed: "process closed",
	}
	if c < 1 || int(c) >= len(texts) {
		return fmt.Sprintf("error class %d", int(c))
	}
	return texts[c]
}

// An Error is what went wrong in one call.
type Error struct {
	Class Class
	Op    string // the call
	Rank  int    // in the communicator, whom it concerns; negative: nobody in particular
	Err   error  // the cause; may be nil
}

func (e *Error) Error() string { return "mpi: " + e.Object() + ": " + e.Cause() }

// Object names the call.
func (e *Error) Object() string {
	if e.Rank < 0 {
		return e.Op
	}
	return fmt.Sprintf("%s, rank %d", e.Op, e.Rank)
}

// Cause says what happened.
func (e *Error) Cause() string {
	if e.Err == nil {
		return e.Class.Error()
	}
	return e.Class.Error() + ": " + strings.TrimPrefix(e.Err.Error(), "mpi: ")
}

// Next says what to do.
func (e *Error) Next() string {
	switch e.Class {
	case ErrProcFailed:
		return "revoke the communicator, so that all learn of it, and go on with the one that Shrink returns"
	case ErrProcFailedPending:
		return "acknowledge the failure with AckFailed and wait again, or cancel the receive"
	case ErrRevoked:
		return "go on with the communicator that Shrink returns"
	case ErrTruncate:
		return "receive with a larger buffer, or ask Mprobe for the size first"
	case ErrMismatch:
		return "have all ranks make the same collective calls in the same order, with the same root, type, count and operation"
	case ErrFenced:
		return "end this process; start it again with a new incarnation"
	}
	return "correct the call"
}

// Unwrap gives class and cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

// fault returns an Error that concerns nobody.
func fault(class Class, op string, err error) error {
	return &Error{Class: class, Op: op, Rank: -1, Err: err}
}

// classOf returns the class of err, ErrOther if it has none.
func classOf(err error) Class {
	var c Class
	if errors.As(err, &c) {
		return c
	}
	return ErrOther
}
