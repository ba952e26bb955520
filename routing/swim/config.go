package swim

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// A Messenger carries messages to members, over sessions that prove who is at
// the other end.
type Messenger interface {
	// Send takes msg, which belongs to the messenger from then on, towards
	// to. It does not block, and does not call the detector before it returns.
	// Messages may be lost, repeated and reordered; they have at most
	// MaxMessage bytes.
	Send(to *routing.Member, msg []byte)
}

// A Config says how a detector behaves. The zero value of every field after
// Verify works. With the defaults, whoever dies is suspected after 1.95 s at
// the latest: Period, then what a probe and an indirect probe may take.
type Config struct {
	// Self is the node itself. Required.
	Self *routing.Member

	// Messenger carries the messages. Required.
	Messenger Messenger

	// Sign signs with the node's Ed25519 key. Required.
	Sign func(msg []byte) [64]byte

	// Verify reports whether signature is by's for msg. Required.
	Verify func(by *routing.Member, msg []byte, signature [64]byte) bool

	// Changed is told of each change of a member's state, on the goroutine of
	// the caller that brought it. It may call the detector. Nil tells nobody.
	Changed func(now time.Time, m *routing.Member, s State)

	// Heard returns when the session with a member last brought anything, zero
	// if there is none. A member heard within the last sixth of a Period is
	// not probed: its data say that it lives. Nil: everybody is probed.
	Heard func(peer routing.PeerID) time.Time

	// OnDemand leaves members alone unless there is a reason to ask them: that
	// Engage names them, that Doubt does, or that they are suspected. Then the
	// sessions' own keepalives say that the others live, and a detector with
	// nothing to do sends nothing. Suspected members are asked every 7 Periods.
	// Otherwise all are probed in turn, in ring order and by chance.
	OnDemand bool

	// MaxEngaged is how many of the members that Engage names are probed in a
	// period, in turn, if OnDemand is set. Zero means 16.
	MaxEngaged int

	// Rand chooses whom to ask. Nil means one seeded by the system.
	Rand *rand.Rand

	// Period is the time between two probes of the same member by those who
	// always probe it. Zero means 600 ms.
	Period time.Duration

	// Successors is how many members that follow in the ring are probed at
	// each period. Zero means 2, so that each member has two that watch it.
	Successors int

	// Helpers is how many others are asked to probe a member that does not
	// answer. Zero means 3 (SWIM, section 3.1).
	Helpers int

	// MaxProbeTimeout and MaxIndirectTimeout bound what a probe and the
	// indirect ones after it may take; they follow the measured round trip
	// below that. Zero means 500 ms and 850 ms.
	MaxProbeTimeout, MaxIndirectTimeout time.Duration

	// RemoveAfter is how long a suspicion stands before the member is removed.
	// Zero means 30 s. A node that hears nobody at all removes nobody, for it
	// may be the one that is cut off; so the last other member of a grid stays
	// suspected.
	RemoveAfter time.Duration

	// Stall is how late the node may handle its own timers before it takes
	// itself for the cause of what it missed. Zero means 250 ms.
	Stall time.Duration

	// MaxMembers bounds who is watched. Zero means 4096.
	MaxMembers int
}

func (c Config) withDefaults() (Config, error) {
	if c.Self == nil || c.Messenger == nil || c.Sign == nil || c.Verify == nil {
		return c, errors.New("swim: Config.Self, Messenger, Sign and Verify are required")
	}
	if c.Changed == nil {
		c.Changed = func(time.Time, *routing.Member, State) {}
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	def(&c.Period, 600*time.Millisecond)
	def(&c.Successors, 2)
	def(&c.Helpers, 3)
	def(&c.MaxEngaged, 16)
	def(&c.MaxProbeTimeout, 500*time.Millisecond)
	def(&c.MaxIndirectTimeout, 850*time.Millisecond)
	def(&c.RemoveAfter, 30*time.Second)
	def(&c.Stall, 250*time.Millisecond)
	def(&c.MaxMembers, 4096)
	return c, nil
}

// def sets *v to the default d when it is zero.
func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// A State is what the detector thinks of a member.
type State uint8

const (
	Alive     State = iota + 1 // nothing speaks against it
	Suspected                  // nobody could reach it; it may refute that
	Removed                    // it has not refuted that, and is watched no more
	Left                       // it said farewell, and is watched no more
)

func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspected:
		return "suspected"
	case Removed:
		return "removed"
	case Left:
		return "left"
	}
	return "unknown"
}

// Counters count what a detector did since it was made.
type Counters struct {
	Sent      uint64 `json:"sent"` // messages
	Received  uint64 `json:"received"`
	Malformed uint64 `json:"malformed"` // messages that the parser did not take
	Strangers uint64 `json:"strangers"` // messages of, and rumours about, nobody who is watched
	Forged    uint64 `json:"forged"`    // pulses with a wrong signature

	Probes    uint64 `json:"probes"`    // members asked directly
	Spared    uint64 `json:"spared"`    // members not asked, since their session brought something just now
	Doubted   uint64 `json:"doubted"`   // members asked since something spoke against them
	Indirect  uint64 `json:"indirect"`  // of those, asked through helpers as well
	Suspected uint64 `json:"suspected"` // suspicions of our own
	Accused   uint64 `json:"accused"`   // suspicions heard of
	Refuted   uint64 `json:"refuted"`   // suspicions, of ours or others, that were wrong
	Removed   uint64 `json:"removed"`   // members removed
	Stalls    uint64 `json:"stalls"`    // times that this node itself was away
	Defended  uint64 `json:"defended"`  // suspicions about this node that it refuted
	Full      uint64 `json:"full"`      // requests for help refused since too many are under way
}
