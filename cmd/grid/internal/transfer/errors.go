package transfer

import (
	"errors"
	"fmt"
	"strconv"
)

// An AbortCode says why one side gave a transfer up. Codes are never reused;
// unknown ones read as "other".
type AbortCode uint8

const (
	AbortOther     AbortCode = iota
	AbortCancelled           // a person stopped it
	AbortSpace               // the receiver's disk is full
	AbortExists              // the receiver has another file of that name
	AbortName                // the receiver does not take that name
	AbortChanged             // the sender's file changed meanwhile
	AbortRead                // the sender's file cannot be read
	AbortWrite               // the receiver's file cannot be written
	AbortIntegrity           // the hashes differ
	AbortProtocol            // the other side broke the rules
	AbortBusy                // the receiver takes no file now
)

// abortCauses are what a person reads, from the side that was told.
var abortCauses = map[AbortCode]string{
	AbortCancelled: "the other side stopped the transfer",
	AbortSpace:     "the receiver's disk is full",
	AbortExists:    "the receiver has another file of that name",
	AbortName:      "the receiver does not take a file of that name",
	AbortChanged:   "the file changed at the sender while it was being sent",
	AbortRead:      "the sender cannot read its file",
	AbortWrite:     "the receiver cannot write its file",
	AbortIntegrity: "the hashes of both ends differ",
	AbortProtocol:  "the other side found what we sent against the protocol",
	AbortBusy:      "the receiver is busy with another transfer",
}

// An AbortError is the peer's word that it has given up. Its text is the
// peer's, made printable.
type AbortError struct {
	Code AbortCode
	Text string
}

func (e *AbortError) Error() string { return "transfer: " + e.Cause() }

// Cause says what happened, in one clause.
func (e *AbortError) Cause() string {
	cause, known := abortCauses[e.Code]
	if !known {
		cause = "the other side gave up"
	}
	if e.Text != "" {
		cause += " (" + e.Text + ")"
	}
	return cause
}

// Temporary reports whether the same transfer may be taken up again later
// without a change on our side.
func (e *AbortError) Temporary() bool {
	switch e.Code {
	case AbortCancelled, AbortSpace, AbortWrite, AbortBusy, AbortExists, AbortName:
		return true
	}
	return false
}

// A LostError is a connection that ended in mid-transfer. The next connection
// goes on where this one stopped.
type LostError struct{ Err error }

func (e *LostError) Error() string { return fmt.Sprintf("transfer: connection lost: %v", e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// A ProtocolError is a peer that broke the rules.
type ProtocolError struct{ Problem string }

func (e *ProtocolError) Error() string { return "transfer: " + e.Problem }

func protocolErrorf(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// A VersionError is a peer of another release.
type VersionError struct{ Ours, Theirs int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("transfer: the other side speaks version %d of the file protocol, this program version %d", e.Theirs, e.Ours)
}

// A NameError is a file name that does not travel.
type NameError struct {
	Name    string // made printable
	Problem string
}

func (e *NameError) Error() string {
	return "transfer: file name " + strconv.Quote(e.Name) + ": " + e.Problem
}

// A SpaceError is a disk without room for the rest of a file. What has arrived
// is kept.
type SpaceError struct {
	Path string // of the file that is being written
	Need int64  // bytes that are missing of the file
	Free int64  // bytes free on the disk; negative: unknown
	Err  error
}

func (e *SpaceError) Error() string { return "transfer: " + e.Path + ": " + e.Cause() }
func (e *SpaceError) Unwrap() error { return e.Err }

// Cause says how much is needed and how much there is.
func (e *SpaceError) Cause() string {
	if e.Free < 0 {
		return fmt.Sprintf("the disk is full; the file needs another %s", bytesText(e.Need))
	}
	return fmt.Sprintf("the disk is full; the file needs another %s and %s are free", bytesText(e.Need), bytesText(e.Free))
}

// An ObstacleError is something of the user's in the way of a file: one of the
// same name, or the rest of another transfer.
type ObstacleError struct {
	Path    string
	Problem string
	Other   string // a name that is free; empty: another name does not help
}

func (e *ObstacleError) Error() string { return "transfer: " + e.Path + ": " + e.Problem }

// A ChangedError is a file that was modified while it was being sent.
type ChangedError struct {
	Path   string
	Detail string
}

func (e *ChangedError) Error() string {
	return "transfer: " + e.Path + ": changed while it was being sent: " + e.Detail
}

// An IntegrityError is a file whose hashes differ at the two ends.
type IntegrityError struct {
	Path         string
	Ours, Theirs Sum
}

func (e *IntegrityError) Error() string {
	return fmt.Sprintf("transfer: %s: SHA-256 is %v here and %v at the other end", e.Path, e.Ours, e.Theirs)
}

// abortFor returns what the peer is told about err, an error of ours, or false
// if there is nobody to tell.
func abortFor(err error) (AbortError, bool) {
	var (
		told     *AbortError
		lost     *LostError
		protocol *ProtocolError
		version  *VersionError
		name     *NameError
		space    *SpaceError
		obstacle *ObstacleError
		changed  *ChangedError
		damaged  *IntegrityError
		file     *fileError
	)
	switch {
	case errors.As(err, &told), errors.As(err, &lost):
		return AbortError{}, false
	case errors.As(err, &protocol):
		return AbortError{AbortProtocol, protocol.Problem}, true
	case errors.As(err, &version):
		return AbortError{AbortProtocol, fmt.Sprintf("it speaks version %d, we speak %d", version.Ours, version.Theirs)}, true
	case errors.As(err, &name):
		return AbortError{AbortName, name.Problem}, true
	case errors.As(err, &space):
		return AbortError{AbortSpace, "it needs another " + bytesText(space.Need)}, true
	case errors.As(err, &obstacle):
		return AbortError{AbortExists, ""}, true
	case errors.As(err, &changed):
		return AbortError{AbortChanged, ""}, true
	case errors.As(err, &damaged):
		return AbortError{AbortIntegrity, ""}, true
	case errors.As(err, &file) && file.writing:
		return AbortError{AbortWrite, ""}, true
	case errors.As(err, &file):
		return AbortError{AbortRead, ""}, true
	}
	return AbortError{AbortCancelled, ""}, true
}

// A fileError is a local file that fails; the peer learns that and no path.
type fileError struct {
	writing bool
	err     error
}

func (e *fileError) Error() string { return "transfer: " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " bytes"
	}
	x, unit := float64(n), -1
	for x >= 1<<10 && unit < len(units)-1 {
		x /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", x, units[unit])
}
