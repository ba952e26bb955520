package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Errors that callers branch on. What is returned wraps them in types that
// name object, cause and what to do next.
var (
	// ErrPeerUnknown: the peer is not registered at this rendezvous now.
	ErrPeerUnknown = errors.New("rendezvous: peer is not registered")
	// ErrNotAdmitted: the rendezvous does not serve us.
	ErrNotAdmitted = errors.New("rendezvous: not admitted")
	// ErrNotRegistered: there is no session with the rendezvous now; the
	// client is already trying to make one.
	ErrNotRegistered = errors.New("rendezvous: not registered")
	// ErrClosed: the client or the channel was closed by its owner.
	ErrClosed = errors.New("rendezvous: closed")
)

// An Explained error says what it is about, what is wrong with it, and what to
// do next, each as one clause. Every error type of this package is one.
type Explained interface {
	error
	Object() string
	Cause() string
	Next() string
}

// A Reason is the code with which a rendezvous refuses something or ends a
// channel. Its String is the word used in JSON and metrics.
type Reason = protocol.Reason

// Reasons that a caller may meet.
const (
	ReasonClosed       = protocol.ReasonNone
	ReasonUnknownPeer  = protocol.ReasonUnknownPeer
	ReasonNotAdmitted  = protocol.ReasonNotAdmitted
	ReasonBusy         = protocol.ReasonBusy
	ReasonQuota        = protocol.ReasonQuota
	ReasonNoConsent    = protocol.ReasonNoConsent
	ReasonIdle         = protocol.ReasonIdle
	ReasonPeerGone     = protocol.ReasonPeerGone
	ReasonTokenUnknown = protocol.ReasonTokenUnknown
	ReasonTokenExpired = protocol.ReasonTokenExpired
	ReasonTokenUsed    = protocol.ReasonTokenUsed
	ReasonLimit        = protocol.ReasonLimit
	ReasonSuperseded   = protocol.ReasonSuperseded
	ReasonShutdown     = protocol.ReasonShutdown
	ReasonProtocol     = protocol.ReasonProtocol
	ReasonVersion      = protocol.ReasonVersion
)

// A RefusedError is the rendezvous saying no, to us or to one request.
type RefusedError struct {
	Server Address
	Self   ri2n.PeerID // who was refused
	Peer   ri2n.PeerID // whom the request was about; zero: no peer
	Reason Reason
	Text   string // the server's words; may be empty
}

func (e *RefusedError) Error() string {
	return "rendezvous: " + e.Object() + ": " + e.Cause()
}

// Object names the peer that was asked for, or else the server.
func (e *RefusedError) Object() string {
	if !e.Peer.IsZero() {
		return "peer " + e.Peer.String()
	}
	return "rendezvous " + e.Server.HostPort()
}

// Cause says why.
func (e *RefusedError) Cause() string {
	switch e.Reason {
	case ReasonClosed:
		return "the other side closed the relay channel"
	case ReasonUnknownPeer:
		return "it is not registered at " + e.Server.HostPort() + ": it is switched off, or uses another rendezvous"
	case ReasonNotAdmitted:
		if !e.Peer.IsZero() {
			return "the rendezvous does not let us reach it: a token admits to its sender only"
		}
		return "it does not know peer " + e.Self.String()
	case ReasonBusy:
		return "the rendezvous or the peer is at its limit"
	case ReasonQuota:
		return "the bytes that the rendezvous relays for a guest are used up"
	case ReasonNoConsent:
		return "it did not answer through the relay: it does not accept us, or is just going away"
	case ReasonIdle:
		return "nothing passed through the relay for too long"
	case ReasonPeerGone:
		return "it left the rendezvous"
	case ReasonTokenUnknown:
		return "no such token is known there: its sender has ended, or the token is for another rendezvous"
	case ReasonTokenExpired:
		return "the token is too old"
	case ReasonTokenUsed:
		return "the token was used by somebody else"
	case ReasonLimit:
		return "we hold as much there as one peer may"
	case ReasonSuperseded:
		return "another program with the same key registered there"
	case ReasonShutdown:
		return "it is being stopped"
	case ReasonVersion:
		return fmt.Sprintf("it and we have no protocol version in common (ours is %d)", protocol.Version)
	}
	if e.Text != "" {
		return e.Text
	}
	return "refused: " + e.Reason.String()
}

// Next says what to do about it.
func (e *RefusedError) Next() string {
	switch e.Reason {
	case ReasonUnknownPeer, ReasonPeerGone:
		return "start it there (grid up), and compare the rendezvous of both sides: grid status"
	case ReasonNotAdmitted:
		if !e.Peer.IsZero() {
			return "ask for a token of that peer, or for membership"
		}
		return "join a grid that it keeps (grid join TOKEN), or ask the operator to add this line to the members file: " + e.Self.String()
	case ReasonTokenUnknown, ReasonTokenExpired, ReasonTokenUsed:
		return "ask the sender for a new token: grid send FILE"
	case ReasonQuota:
		return "ask the operator for more (rendezvous --guest-quota), or for membership"
	case ReasonNoConsent:
		return "have the other side allow this peer: " + e.Self.String()
	case ReasonSuperseded:
		return "give each program a directory of its own, or stop the other one"
	case ReasonVersion:
		return "upgrade the older of the two: rendezvous version, grid version"
	}
	return "try again in a moment"
}

// Is makes the error equal to the sentinel of its reason.
func (e *RefusedError) Is(target error) bool {
	switch target {
	case ErrPeerUnknown:
		return e.Reason == ReasonUnknownPeer || e.Reason == ReasonPeerGone
	case ErrNotAdmitted:
		return e.Reason == ReasonNotAdmitted || e.Reason == ReasonTokenUnknown ||
			e.Reason == ReasonTokenExpired || e.Reason == ReasonTokenUsed
	}
	return false
}

// An UnreachableError: the rendezvous could not be reached, or was lost.
type UnreachableError struct {
	Server Address
	Err    error // what the last attempt met; nil: nothing yet
	ended  error // of the context that ended the waiting
}

func (e *UnreachableError) Error() string {
	return "rendezvous: " + e.Object() + ": " + e.Cause()
}

// Object names the server.
func (e *UnreachableError) Object() string { return "rendezvous " + e.Server.HostPort() }

// Cause says what happened last.
func (e *UnreachableError) Cause() string {
	var mismatch *ri2n.PeerMismatchError
	switch {
	case errors.As(e.Err, &mismatch):
		return "somebody else answers there: another key than its address names"
	case e.Err == nil:
		return "no answer yet"
	case errors.Is(e.Err, context.DeadlineExceeded), errors.Is(e.Err, ri2n.ErrHandshakeTimeout):
		// A server hears nobody who does not know its key.
		return "no answer: it is not running, UDP does not get there, or its key is another than " + e.Server.Peer.Short() + "..."
	}
	return "no answer: " + strings.TrimPrefix(e.Err.Error(), "rendezvous: ")
}

// Next says what to try.
func (e *UnreachableError) Next() string {
	var mismatch *ri2n.PeerMismatchError
	if errors.As(e.Err, &mismatch) {
		return "ask the operator for the address that the rendezvous prints at start"
	}
	return "compare the address with the one that it prints at start, and see whether UDP port " +
		strconv.Itoa(int(e.Server.Port)) + " gets there: grid netcheck"
}

func (e *UnreachableError) Unwrap() []error {
	var causes []error
	for _, err := range []error{e.Err, e.ended} {
		if err != nil {
			causes = append(causes, err)
		}
	}
	return causes
}

// An AddressError is a text that is no rendezvous address.
type AddressError struct {
	Text    string
	Problem string
}

func (e *AddressError) Error() string { return "rendezvous: " + e.Object() + ": " + e.Cause() }

// Object names the text.
func (e *AddressError) Object() string { return "rendezvous address " + strconv.Quote(e.Text) }

// Cause says what is wrong with it.
func (e *AddressError) Cause() string { return e.Problem }

// Next says where the right one is.
func (e *AddressError) Next() string {
	return "write it as HOST:PORT#PEERID, as the rendezvous prints it at start"
}

// A TokenProblem says what is wrong with a token.
type TokenProblem int

const (
	TokenMalformed TokenProblem = iota // not a token at all
	TokenDamaged                       // mistyped or cut short
	TokenVersion                       // made by a newer release
	TokenExpired
)

// A TokenError is a token that cannot be used. It never holds the token, which
// is a secret.
type TokenError struct {
	Problem TokenProblem
	Detail  string
}

func (e *TokenError) Error() string { return "rendezvous: " + e.Object() + ": " + e.Cause() }

// Object is "token".
func (e *TokenError) Object() string { return "token" }

// Cause says what is wrong with it.
func (e *TokenError) Cause() string {
	switch e.Problem {
	case TokenDamaged:
		return "it is damaged: " + e.Detail
	case TokenVersion:
		return "it was made by a newer release: " + e.Detail
	case TokenExpired:
		return "it has expired: " + e.Detail
	}
	return "this is not a token: " + e.Detail
}

// Next says how to get a good one.
func (e *TokenError) Next() string {
	switch e.Problem {
	case TokenVersion:
		return "upgrade this program: grid version"
	case TokenExpired:
		return "check this computer's clock (date); otherwise ask the sender for a new token: grid send FILE"
	}
	return "copy it again, as one piece, from where it was printed"
}
