package overlay

import (
	"context"
	"errors"
	"fmt"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// An Explained error says what it is about, what is wrong with it, and what to
// do next, each as one clause. Every error type of this package and of package
// rendezvous is one.
type Explained = rendezvous.Explained

// explain names the peer in an error of a dial or a session. What explains
// itself already stays.
func (p *Peer) explain(err error) error {
	if err == nil {
		return nil
	}
	var explained Explained
	if errors.As(err, &explained) {
		var refused *rendezvous.RefusedError
		if !errors.As(err, &refused) || refused.Reason != rendezvous.ReasonClosed {
			return err
		}
	}
	return &PeerError{Peer: p.id, Self: p.node.PeerID(), Err: err}
}

// A PeerError is a peer that cannot be reached, or was lost.
type PeerError struct {
	Peer ri2n.PeerID
	Self ri2n.PeerID
	Err  error
}

func (e *PeerError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *PeerError) Unwrap() error { return e.Err }

// Object names the peer.
func (e *PeerError) Object() string { return "peer " + e.Peer.String() }

// refused reports whether the peer, or its end of the relay, said no.
func (e *PeerError) refused() bool {
	var refused *rendezvous.RefusedError
	return errors.Is(e.Err, ri2n.ErrRefused) || errors.As(e.Err, &refused) && refused.Reason == rendezvous.ReasonClosed
}

// Cause says what happened.
func (e *PeerError) Cause() string {
	var mismatch *ri2n.PeerMismatchError
	var version *ri2n.VersionError
	var remote *ri2n.RemoteError
	switch {
	case e.refused():
		return "it does not accept us"
	case errors.As(e.Err, &mismatch):
		return "somebody else answers there: peer " + mismatch.Got.String()
	case errors.As(e.Err, &version):
		return version.Error()
	case errors.Is(e.Err, ri2n.ErrHandshakeTimeout):
		return "no answer"
	case errors.Is(e.Err, ri2n.ErrIdleTimeout):
		return "it has been silent for too long: it is switched off, or its network is gone"
	case errors.Is(e.Err, ri2n.ErrStatelessReset):
		return "it was restarted"
	case errors.As(e.Err, &remote) && remote.Code == closeMember:
		return "it does not accept our membership: " + remote.Reason
	case errors.As(e.Err, &remote) && remote.Code == closeRevoked:
		return "it says that our membership was revoked"
	case errors.As(e.Err, &remote) && remote.Code == closeName:
		return "it knows another member of our name: " + remote.Reason
	case errors.As(e.Err, &remote) && remote.Code == 0:
		return "it has ended the session"
	case errors.Is(e.Err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(e.Err, context.Canceled):
		return "interrupted"
	}
	return fmt.Sprint(e.Err)
}

// Next says what to do.
func (e *PeerError) Next() string {
	var mismatch *ri2n.PeerMismatchError
	var version *ri2n.VersionError
	var remote *ri2n.RemoteError
	switch {
	case errors.As(e.Err, &remote) && remote.Code == closeMember:
		return "compare the clocks of both computers (date -u), and see what this one is: grid members"
	case errors.As(e.Err, &remote) && remote.Code == closeRevoked:
		return "ask the grid's admin for a new invitation, and join with a new key"
	case errors.As(e.Err, &remote) && remote.Code == closeName:
		return "choose another name: grid join --name NAME TOKEN"
	case e.refused():
		return "have the other side allow this peer: grid up --allow " + e.Self.String()
	case errors.As(e.Err, &mismatch):
		return "compare the peer ID with what grid id prints there"
	case errors.As(e.Err, &version):
		return "upgrade the older of the two: grid version"
	case errors.Is(e.Err, context.Canceled):
		return "run it again"
	}
	return "check that it runs there and is registered: grid status"
}

// Timeout reports whether the peer did not answer in time.
func (e *PeerError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is part of [net.Error].
func (e *PeerError) Temporary() bool { return false }

// A NoWayError is a peer that no way leads to: the node has no rendezvous now,
// knows no address of the peer, and no relay that knows the peer.
type NoWayError struct {
	Peer   ri2n.PeerID // zero: any
	Relays int         // members that were asked in vain
	// Discovery says that the peer was not heard on the local network either.
	Discovery bool
}

func (e *NoWayError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the peer, or else what is missing.
func (e *NoWayError) Object() string {
	if e.Peer.IsZero() {
		return "rendezvous"
	}
	return "peer " + e.Peer.String()
}

// Cause says what is missing.
func (e *NoWayError) Cause() string {
	if e.Peer.IsZero() {
		return "none is configured"
	}
	if e.Relays > 0 {
		return fmt.Sprintf("there is no rendezvous now, and none of the relays that were asked (%d) knows the peer", e.Relays)
	}
	if e.Discovery {
		return "no rendezvous is configured, no address of the peer is known, and it is not heard on this local network"
	}
	return "no rendezvous is configured, and no address of the peer is known"
}

// Next says how to configure one.
func (e *NoWayError) Next() string {
	if e.Relays > 0 {
		return "see that it runs there and is connected to a member that relays: grid status"
	}
	if e.Discovery {
		return "see whether grid up runs there, and who is heard: grid status"
	}
	return "name one as rendezvous prints it at start: --rendezvous HOST:PORT#PEERID"
}

// A TooManyError is a limit of this node.
type TooManyError struct {
	What  string
	Limit int
}

func (e *TooManyError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object says of what there are too many.
func (e *TooManyError) Object() string { return e.What }

// Cause names the limit.
func (e *TooManyError) Cause() string { return fmt.Sprintf("there are %d already", e.Limit) }

// Next says what to do.
func (e *TooManyError) Next() string { return "close one of them first" }

// A NotDirectError says why a session does not send on a direct path.
type NotDirectError struct {
	Peer   ri2n.PeerID
	Reason string // of punch's closed list
	Advice string // what would change it
	Err    error  // the context's error if waiting ended before an answer; else nil
}

func newNotDirectError(peer ri2n.PeerID, r punch.Reason, err error) *NotDirectError {
	return &NotDirectError{Peer: peer, Reason: string(r), Advice: r.Advice(), Err: err}
}

func (e *NotDirectError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *NotDirectError) Unwrap() error { return e.Err }

// Object names the peer.
func (e *NotDirectError) Object() string { return "peer " + e.Peer.String() }

// Cause names the reason.
func (e *NotDirectError) Cause() string { return "not direct: " + e.Reason }

// Next says what would change it.
func (e *NotDirectError) Next() string { return e.Advice }
