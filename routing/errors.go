package routing

import (
	"errors"
	"fmt"
)

// ErrMalformed is the cause of every error that a parser of this package
// returns.
var ErrMalformed = errors.New("routing: malformed message")

// errShort is the commonest of them.
var errShort = fmt.Errorf("%w: it is cut short", ErrMalformed)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// ErrTimeout reports that a member did not answer in time. It may have
// received the request.
var ErrTimeout = errors.New("routing: no answer in time")

// ErrUnreachable reports that nothing could be sent to a member.
var ErrUnreachable = errors.New("routing: the member cannot be reached now")

// ErrBusy reports that a limit of this node is reached: as many requests or
// lookups are under way as Config allows. Trying later may succeed.
var ErrBusy = errors.New("routing: too much is under way")

// ErrNoMember reports that Config.Verify has refused somebody.
var ErrNoMember = errors.New("routing: not a member of the grid")

// ErrAlone reports that the node knows no other member to ask. Bootstrap with
// another seed may help.
var ErrAlone = errors.New("routing: no other member is known")

// A RefusedError says that a member answered a request with a refusal.
type RefusedError struct {
	Peer   PeerID
	Reason Reason
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("routing: %v refused: %v", e.Peer, e.Reason)
}

// A Reason is why a member refuses a request.
type Reason uint8

const (
	ReasonBusy    Reason = 1 // the sender exceeds its share of requests
	ReasonService Reason = 2 // nobody serves that service here
	ReasonHops    Reason = 3 // the message may travel no further
	ReasonInvalid Reason = 4 // the service cannot make sense of the request
)

func (r Reason) String() string {
	switch r {
	case ReasonBusy:
		return "busy"
	case ReasonService:
		return "unknown service"
	case ReasonHops:
		return "hop limit"
	case ReasonInvalid:
		return "invalid request"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
