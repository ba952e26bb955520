package routing

import (
	"errors"
	"math/rand/v2"
	"time"
)

// A Messenger carries messages to members, over a session that has proven who
// is at its other end.
type Messenger interface {
	// Send takes msg, which belongs to the messenger from then on, towards
	// to, of whom only the peer ID may be known. It does not block, and does not call the node before it returns.
	// Messages may be lost, repeated and reordered, but not changed; what
	// cannot be sent is dropped. A messenger that has no session with to may
	// open one; when that fails, Node.Unreachable spares the node the wait.
	// Messages have at most MaxMessage bytes.
	Send(to *Member, msg []byte)
}

// A Config says how a node behaves. The zero value of every field but the
// first three works.
type Config struct {
	// Self is this node as others shall know it. Required.
	Self *Member

	// Messenger carries the node's messages. Required.
	Messenger Messenger

	// KnownOnly says that Verify knows members from elsewhere, and nothing in
	// them proves that the grid has them: then one that it refuses may be
	// merely unknown here, and is left out of an answer.
	KnownOnly bool

	// Verify reports why m is no member of the grid: its proof does not belong
	// to its peer ID and nonce, is not signed by the ledger, is out of date or
	// revoked. It is called before m enters the table, is asked anything or is
	// shown to anybody, and its verdict is kept for the last VerifiedCache
	// members and those in the table. Nothing of m may be kept. Required.
	Verify func(m *Member) error

	// Connected reports whether there is a session with a member. Routed
	// messages then prefer those contacts to nearer ones without, for which a
	// session would have to be opened first. Nil: all contacts are alike.
	Connected func(peer PeerID) bool

	// Rand chooses keys to refresh and numbers of requests. Others must not be
	// able to predict it. Nil means one seeded by the system.
	Rand *rand.Rand

	// K is the size of a bucket and of a lookup's result, at most 20. Zero
	// means 20 (Kademlia, section 2.2).
	K int

	// Alpha is how many requests of a lookup are in flight at a time. Zero
	// means 3 (Kademlia, section 2.3).
	Alpha int

	// Paths is how many disjoint paths a lookup takes (S/Kademlia). Zero means
	// 3, the smallest number that one liar cannot outvote; one is Kademlia's
	// own lookup.
	Paths int

	// Near is how many of the nearest members the table holds whatever the
	// size of buckets. Zero means 3 K.
	Near int

	// RequestTimeout is how long an answer may take. Zero means 3 s, in which
	// a session can be opened through a relay.
	RequestTimeout time.Duration

	// HedgeAfter is how long an answer may take before the request is sent
	// again, and a lookup or a routed message also tries somebody else. Zero
	// means 400 ms.
	HedgeAfter time.Duration

	// LookupTimeout bounds a lookup. Zero means 30 s.
	LookupTimeout time.Duration

	// CheckInterval is how often one contact is asked whether it still lives:
	// one that failed before, or the one heard from least recently. Zero means
	// 5 s; a negative value asks nobody.
	CheckInterval time.Duration

	// RefreshInterval is the age at which a bucket without lookups gets one.
	// Zero means 1 h (Kademlia, section 2.3); a negative value refreshes none.
	RefreshInterval time.Duration

	// MaxLookups and MaxRequests bound what this node has under way. Zero
	// means 64 and 1024.
	MaxLookups, MaxRequests int

	// RequestRate and RequestBurst bound the requests that one member is
	// answered, in 1/s and in number. Zero means 100 and 200.
	RequestRate, RequestBurst float64

	// VerifiedCache is how many members outside the table are remembered as
	// verified. Zero means 128.
	VerifiedCache int
}

// withDefaults returns c with every default filled in.
func (c Config) withDefaults() (Config, error) {
	if c.Self == nil || c.Messenger == nil || c.Verify == nil {
		return c, errors.New("routing: Config.Self, Messenger and Verify are required")
	}
	if c.K > maxFound {
		return c, errors.New("routing: Config.K is at most 20")
	}
	if c.Paths > 8 {
		return c, errors.New("routing: Config.Paths is at most 8")
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	def(&c.K, 20)
	def(&c.Alpha, 3)
	def(&c.Paths, 3)
	def(&c.Near, 3*c.K)
	def(&c.RequestTimeout, 3*time.Second)
	def(&c.HedgeAfter, 400*time.Millisecond)
	def(&c.LookupTimeout, 30*time.Second)
	def(&c.CheckInterval, 5*time.Second)
	def(&c.RefreshInterval, time.Hour)
	def(&c.MaxLookups, 64)
	def(&c.MaxRequests, 1024)
	def(&c.RequestRate, 100)
	def(&c.RequestBurst, 200)
	def(&c.VerifiedCache, 128)
	return c, nil
}

// def sets *v to the default d when it is zero.
func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
