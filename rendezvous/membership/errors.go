package membership

import (
	"fmt"
	"time"
)

// A Problem says why something does not hold.
type Problem string

// The problems there are.
const (
	BadSignature  Problem = "bad-signature"
	BadToken      Problem = "bad-token"
	Expired       Problem = "expired"
	NotYet        Problem = "not-yet-valid"
	InviteExpired Problem = "invite-expired"
	InviteUsed    Problem = "invite-used"
	Revoked       Problem = "revoked"
	OtherGrid     Problem = "other-grid"
	OtherKey      Problem = "other-key"
	OtherChain    Problem = "other-chain"
	NotLedger     Problem = "not-the-ledger"
	NoRecord      Problem = "no-record"
	WrongRole     Problem = "wrong-role"
	WrongName     Problem = "wrong-name"
	WrongAddress  Problem = "wrong-address"
	WrongTime     Problem = "wrong-time"
	NameTaken     Problem = "name-taken"
	TooMany       Problem = "too-many"
	NotMember     Problem = "not-a-member"
	NotAdmin      Problem = "not-an-admin"
	NoGrid        Problem = "no-such-grid"
	GridTaken     Problem = "grid-exists"
	BadClaim      Problem = "bad-claim"
	OldList       Problem = "old-list"
)

// An Error says what does not hold, and why. It explains itself: object, cause
// and what to do next.
type Error struct {
	Problem Problem
	What    string // "the membership record of \"alice\""
	Detail  string // more about it; may be empty

	// For problems of time: the span, and what the clock says.
	From, Until, Now time.Time
}

func (e *Error) Error() string { return "membership: " + e.What + ": " + e.Cause() }

// Is makes errors of one problem equal.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Problem == e.Problem && t.What == ""
}

// Object names what does not hold.
func (e *Error) Object() string { return e.What }

const timeForm = "2006-01-02 15:04 MST"

// Cause says why.
func (e *Error) Cause() string {
	text := string(e.Problem)
	switch e.Problem {
	case BadSignature:
		text = "its signature does not hold"
	case BadToken:
		text = "it cannot be read"
	case Expired:
		text = fmt.Sprintf("it was valid until %s, and the clock of this computer says %s", e.Until.UTC().Format(timeForm), e.Now.UTC().Format(timeForm))
	case NotYet:
		text = fmt.Sprintf("it is valid from %s on, and the clock of this computer says %s", e.From.UTC().Format(timeForm), e.Now.UTC().Format(timeForm))
	case InviteExpired:
		text = fmt.Sprintf("it could be used until %s, and the clock says %s", e.Until.UTC().Format(timeForm), e.Now.UTC().Format(timeForm))
	case InviteUsed:
		text = "it is used up"
	case Revoked:
		text = "it was revoked by the grid's admin"
	case OtherGrid:
		text = "it is of another grid"
	case OtherKey:
		text = "it is for another key than the one that shows it"
	case OtherChain:
		text = "it belongs to another certificate"
	case NotLedger:
		text = "it is not signed by a ledger of this grid"
	case NoRecord:
		text = "it has no record of the grid's ledger, which counts members in"
	case WrongRole:
		text = "it claims a role that it was not given"
	case WrongName:
		text = "it claims a name that it was not given"
	case WrongAddress:
		text = "its address is not one of this grid"
	case WrongTime:
		text = "it claims to hold for too long"
	case NameTaken:
		text = "another member has that name"
	case TooMany:
		text = "it is full"
	case NotMember:
		text = "it is not a member of this grid"
	case NotAdmin:
		text = "it is not an admin of this grid"
	case NoGrid:
		text = "the rendezvous keeps no ledger for it"
	case GridTaken:
		text = "the rendezvous keeps another description of it already"
	case BadClaim:
		text = "the rendezvous takes no further grid without its claim code"
	case OldList:
		text = "it is older than the one that is known"
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Next says what to do about it.
func (e *Error) Next() string {
	switch e.Problem {
	case BadToken:
		return "copy the invitation again, as a whole"
	case Expired, NotYet:
		return "compare the clocks of both computers (date -u); if they are right: grid join TOKEN, with a new invitation"
	case InviteExpired, InviteUsed, Revoked, WrongRole:
		return "ask the grid's admin for a new one: grid invite"
	case WrongName, NameTaken:
		return "choose another name: grid join --name NAME TOKEN"
	case NotMember, NotAdmin, NoRecord:
		return "ask the grid's admin for an invitation: grid invite --role ROLE"
	case NoGrid:
		return "have its admin set it up there: grid init NAME --rendezvous HOST:PORT#PEERID"
	case BadClaim:
		return "use the line that rendezvous prints at start: grid init NAME --claim CODE"
	case OldList:
		return "fetch the present list first: grid members"
	}
	return "see who belongs to the grid: grid members"
}
