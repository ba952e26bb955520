package ri2n

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// A timeoutError is a net.Error whose Timeout is true.
type timeoutError string

func (e timeoutError) Error() string   { return string(e) }
func (e timeoutError) Timeout() bool   { return true }
func (e timeoutError) Temporary() bool { return false }

var (
	// ErrIdleTimeout ends a session whose peer has been silent for the idle
	// time-out. It is a net.Error whose Timeout reports true.
	ErrIdleTimeout error = timeoutError("ri2n: session idle for too long")

	// ErrHandshakeTimeout ends a dial that nobody answered in time. It is a
	// net.Error whose Timeout reports true.
	ErrHandshakeTimeout error = timeoutError("ri2n: handshake timed out")

	// ErrRefused reports that the peer answered and its Authorize said no.
	// Dialing again succeeds only after the peer has changed its mind.
	ErrRefused = errors.New("ri2n: peer refused the session")

	// ErrStatelessReset reports that the peer no longer knows the session,
	// as after a restart. Dialing again may succeed.
	ErrStatelessReset = errors.New("ri2n: peer has forgotten the session")

	// ErrNoPath reports that a new path's full-size probes went unanswered.
	ErrNoPath = errors.New("ri2n: path probes were not answered")

	// ErrTooManyPaths reports that the peer's limit on path IDs is reached.
	ErrTooManyPaths = errors.New("ri2n: too many paths")

	// ErrLastPath reports an attempt to abandon the only path of a session.
	ErrLastPath = errors.New("ri2n: the last path cannot be abandoned")

	// ErrDatagramTooLarge reports a datagram above [Session.MaxDatagramSize].
	ErrDatagramTooLarge = errors.New("ri2n: datagram too large")

	// ErrTooManySessions reports that the endpoint's limit is reached.
	ErrTooManySessions = errors.New("ri2n: too many sessions")

	errEndpointClosed = fmt.Errorf("ri2n: endpoint closed: %w", net.ErrClosed)
)

// A VersionError reports that the peer speaks no version of ours.
type VersionError struct {
	Ours   uint32
	Theirs []uint32
}

func (e *VersionError) Error() string {
	newer := true
	for _, v := range e.Theirs {
		newer = newer && v > e.Ours
	}
	who := "the peer must upgrade"
	if newer {
		who = "this side must upgrade"
	}
	return fmt.Sprintf("ri2n: no common wire version: ours %#x, peer's %#x: %s", e.Ours, e.Theirs, who)
}

// A DialError says which peer could not be reached, and where it was tried.
type DialError struct {
	Peer  PeerID
	Tried []string // links and transport addresses
	Err   error
}

func (e *DialError) Error() string {
	where := "no candidate address"
	if len(e.Tried) > 0 {
		where = strings.Join(e.Tried, ", ")
	}
	return fmt.Sprintf("ri2n: dial %s via %s: %s", e.Peer.Short(), where, trimPrefix(e.Err))
}

func (e *DialError) Unwrap() error { return e.Err }

// trimPrefix keeps the package name from appearing twice in one message.
func trimPrefix(err error) string { return strings.TrimPrefix(err.Error(), "ri2n: ") }

// A PeerMismatchError reports that somebody else than the wanted peer
// answered a dial.
type PeerMismatchError struct{ Want, Got PeerID }

func (e *PeerMismatchError) Error() string {
	return fmt.Sprintf("ri2n: peer has ID %v, want %v", e.Got, e.Want)
}

// A RemoteError is the code and reason with which the peer closed the session.
type RemoteError struct {
	Code   uint64
	Reason string
}

func (e *RemoteError) Error() string {
	return "ri2n: closed by peer: " + describeClose(e.Code, e.Reason)
}

// Is makes a close with the refusal code equal to [ErrRefused].
func (e *RemoteError) Is(target error) bool {
	return target == ErrRefused && errorCode(e.Code) == codeRefused
}

// A LocalError is the code and reason with which this side closed the session.
type LocalError struct {
	Code   uint64
	Reason string
}

func (e *LocalError) Error() string {
	return "ri2n: closed: " + describeClose(e.Code, e.Reason)
}

func describeClose(code uint64, reason string) string {
	if reason == "" {
		return errorCode(code).String()
	}
	return fmt.Sprintf("%v: %s", errorCode(code), reason)
}

// A StreamError is the peer's reset of a stream, or its refusal to read more
// of it. errors.Is finds [syscall.ECONNRESET] in it.
type StreamError struct{ Code uint64 }

func (e *StreamError) Error() string {
	return fmt.Sprintf("ri2n: stream reset by peer with code %d", e.Code)
}

func (e *StreamError) Unwrap() error { return syscall.ECONNRESET }

// A violation is a breach of the protocol by an authenticated peer: it closes
// the session with its code.
type violation struct {
	code   errorCode
	reason string
}

func (v *violation) Error() string { return fmt.Sprintf("ri2n: %v: %s", v.code, v.reason) }
