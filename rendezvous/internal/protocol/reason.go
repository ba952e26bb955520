package protocol

import "fmt"

// A Reason is the code with which a rendezvous refuses a request, or either
// side ends a channel or a session (docs/rendezvous-protocol.md, section 6).
type Reason uint8

const (
	ReasonNone          Reason = 0  // ended by whoever opened or accepted it
	ReasonUnknownPeer   Reason = 1  // nobody is registered under that peer ID
	ReasonNotAdmitted   Reason = 2  // the server does not serve this peer, or not for this
	ReasonBusy          Reason = 3  // a limit of the server or of the target is reached
	ReasonQuota         Reason = 4  // the peer's allowance of relayed bytes is used up
	ReasonStale         Reason = 5  // a newer generation of this channel exists
	ReasonNoConsent     Reason = 6  // the target never sent anything back
	ReasonIdle          Reason = 7  // nothing passed for too long
	ReasonPeerGone      Reason = 8  // the other end's registration ended
	ReasonTokenUnknown  Reason = 9  // no deposit matches the key that was shown
	ReasonTokenExpired  Reason = 10 // the deposit's life is over
	ReasonTokenUsed     Reason = 11 // the deposit admitted somebody else
	ReasonLimit         Reason = 12 // this peer holds as many as one peer may
	ReasonSuperseded    Reason = 13 // replaced by a newer one of the same peer
	ReasonShutdown      Reason = 14 // the server stops
	ReasonProtocol      Reason = 15 // the message was malformed or out of place
	ReasonVersion       Reason = 16 // no common protocol version
	ReasonNotRegistered Reason = 17 // registration ran out, or never was
)

var reasonNames = [...]string{
	ReasonNone:          "closed",
	ReasonUnknownPeer:   "unknown-peer",
	ReasonNotAdmitted:   "not-admitted",
	ReasonBusy:          "busy",
	ReasonQuota:         "quota",
	ReasonStale:         "stale",
	ReasonNoConsent:     "no-consent",
	ReasonIdle:          "idle",
	ReasonPeerGone:      "peer-gone",
	ReasonTokenUnknown:  "token-unknown",
	ReasonTokenExpired:  "token-expired",
	ReasonTokenUsed:     "token-used",
	ReasonLimit:         "limit",
	ReasonSuperseded:    "superseded",
	ReasonShutdown:      "shutdown",
	ReasonProtocol:      "protocol",
	ReasonVersion:       "version",
	ReasonNotRegistered: "not-registered",
}

// String returns the reason's word in JSON, metrics and messages.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// firstCode is where ri2n's codes of applications begin.
const firstCode = 0x1000

// CloseCode returns the code with which a session is closed for r.
func (r Reason) CloseCode() uint64 { return firstCode + uint64(r) }

// ReasonOf returns the reason that a close code stands for, or false when it
// is not one of this protocol.
func ReasonOf(code uint64) (Reason, bool) {
	if code < firstCode || code > firstCode+0xff {
		return 0, false
	}
	return Reason(code - firstCode), true
}
