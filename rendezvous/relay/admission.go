package relay

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Mode says whom the server serves besides the guests of deposited tokens.
type Mode int

const (
	Members Mode = iota // Config.Members and SetMembers, and the members of the ledger's grids
	Open                // everybody
	Key                 // the members of the ledger's grids alone
	Chosen              // everybody that Serve is given, and no guests
)

// A Ledger knows the members of grids (package rendezvous/ledger).
type Ledger interface {
	// IsMember reports whether peer is a member of any grid at now.
	IsMember(now time.Time, peer ri2n.PeerID) bool
	// Expects reports whether there is a grid that somebody could join.
	Expects() bool
}

// String returns the mode as it is written on the command line.
func (m Mode) String() string {
	switch m {
	case Open:
		return "open"
	case Key:
		return "key"
	case Chosen:
		return "chosen"
	}
	return "members"
}

// ParseMode decodes the command line's word.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "members":
		return Members, nil
	case "open":
		return Open, nil
	case "key":
		return Key, nil
	}
	return Members, fmt.Errorf("relay: admission mode %q is none of members, open and key", s)
}

// A role is what an agent may do.
type role int

const (
	roleRefused  role = iota // no session
	roleStranger             // show the key of a deposit, nothing else
	roleGuest                // reach whoever deposited its token
	roleMember               // everything
)

const (
	// maxStrangers is how many sessions of strangers there may be, and
	// strangerTime how long such a session lives without a valid key. Both
	// are guesses: a guest needs one round trip.
	maxStrangers          = 256
	maxStrangersPerPrefix = 16
	strangerTime          = 5 * time.Second
	// handshakeTime is how long a stranger's place is kept for a handshake
	// that never completes (ri2n.Config.HandshakeTimeout).
	handshakeTime = 10 * time.Second

	maxDeposits         = 4096
	maxDepositsPerOwner = 64
	// maxDepositLife is a token's 24 h and an hour for clocks that differ.
	maxDepositLife = 25 * time.Hour
	// rememberExpired is how long a token that is too old is told from one
	// that never was.
	rememberExpired = time.Hour
	// withdrawGrace lets the last packets of a transfer through after its
	// token was withdrawn.
	withdrawGrace = time.Minute
)

// A deposit admits one guest to its owner (security rule 10). Its allowance is
// shared by both directions of all that the guest relays.
type deposit struct {
	owner  ri2n.PeerID
	digest [sha256.Size]byte
	expiry time.Time
	guest  ri2n.PeerID // zero: not used yet

	limiter *rate.Limiter // nil: no limit
	left    int64         // bytes; the table's owner counts down
}

// An admission decides who gets a session. It is safe for concurrent use.
type admission struct {
	mode       Mode
	ledger     Ledger // nil: none
	guestRate  int64  // bytes a second; zero: no limit
	guestQuota int64  // bytes

	mu        sync.Mutex
	members   map[ri2n.PeerID]struct{}
	deposits  map[[sha256.Size]byte]*deposit
	owned     map[ri2n.PeerID]int        // deposits of each owner
	guests    map[ri2n.PeerID][]*deposit // what admitted them
	strangers map[ri2n.PeerID]time.Time  // until when their place is kept
}

func newAdmission(mode Mode, guestRate, guestQuota int64) *admission {
	return &admission{
		mode:       mode,
		guestRate:  guestRate,
		guestQuota: guestQuota,
		members:    make(map[ri2n.PeerID]struct{}),
		deposits:   make(map[[sha256.Size]byte]*deposit),
		owned:      make(map[ri2n.PeerID]int),
		guests:     make(map[ri2n.PeerID][]*deposit),
		strangers:  make(map[ri2n.PeerID]time.Time),
	}
}

// setMembers replaces the list.
func (a *admission) setMembers(list []ri2n.PeerID) {
	members := make(map[ri2n.PeerID]struct{}, len(list))
	for _, id := range list {
		members[id] = struct{}{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members = members
}

// roleOf returns what peer may do at now.
func (a *admission) roleOf(now time.Time, peer ri2n.PeerID) role {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roleLocked(now, peer)
}

func (a *admission) roleLocked(now time.Time, peer ri2n.PeerID) role {
	if a.mode == Open || a.mode == Chosen {
		return roleMember
	}
	if _, ok := a.members[peer]; ok && a.mode == Members {
		return roleMember
	}
	if a.ledger != nil && a.ledger.IsMember(now, peer) {
		return roleMember
	}
	for _, d := range a.guests[peer] {
		if now.Before(d.expiry) {
			return roleGuest
		}
	}
	return roleRefused
}

// authorize is roleOf for a peer that asks for a session: somebody unknown is
// a stranger while the server remembers any deposit and has a place left, which
// is then taken until leave; likewise while the ledger knows a grid that could
// be joined. (A used or expired deposit counts, so that the
// guest who comes too late hears why.)
func (a *admission) authorize(now time.Time, peer ri2n.PeerID) role {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.roleLocked(now, peer); r != roleRefused {
		return r
	}
	if len(a.deposits) == 0 && (a.ledger == nil || !a.ledger.Expects()) {
		return roleRefused
	}
	if _, again := a.strangers[peer]; !again && len(a.strangers) >= maxStrangers {
		for id, until := range a.strangers {
			if !now.Before(until) {
				delete(a.strangers, id)
			}
		}
		if len(a.strangers) >= maxStrangers {
			return roleRefused
		}
	}
	a.strangers[peer] = now.Add(handshakeTime + strangerTime)
	return roleStranger
}

// leave gives a stranger's place back.
func (a *admission) leave(peer ri2n.PeerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.strangers, peer)
}

// deposit records what owner wants admitted. An expiry that has passed
// withdraws it. It returns ReasonNone when done.
func (a *admission) deposit(now time.Time, owner ri2n.PeerID, digest [sha256.Size]byte, expiry time.Time) protocol.Reason {
	if a.mode == Chosen {
		return protocol.ReasonNotAdmitted
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if latest := now.Add(maxDepositLife); expiry.After(latest) {
		expiry = latest
	}
	d := a.deposits[digest]
	if d != nil && d.owner != owner {
		return protocol.ReasonTokenUsed
	}
	if !now.Before(expiry) {
		switch {
		case d == nil:
		case d.guest.IsZero():
			a.removeLocked(d)
		case d.expiry.After(now.Add(withdrawGrace)):
			d.expiry = now.Add(withdrawGrace)
		}
		return protocol.ReasonNone
	}
	if d != nil {
		d.expiry = expiry
		return protocol.ReasonNone
	}
	if a.owned[owner] >= maxDepositsPerOwner {
		return protocol.ReasonLimit
	}
	if len(a.deposits) >= maxDeposits {
		return protocol.ReasonBusy
	}
	d = &deposit{owner: owner, digest: digest, expiry: expiry, left: a.guestQuota}
	if a.guestRate > 0 {
		d.limiter = newByteLimiter(a.guestRate)
	}
	a.deposits[digest] = d
	a.owned[owner]++
	return protocol.ReasonNone
}

// admit takes the key that peer shows. The first to show it is the guest; the
// same peer may show it again.
func (a *admission) admit(now time.Time, peer ri2n.PeerID, key [32]byte) protocol.Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.deposits[sha256.Sum256(key[:])]
	switch {
	case d == nil:
		return protocol.ReasonTokenUnknown
	case !now.Before(d.expiry):
		return protocol.ReasonTokenExpired
	case d.guest == peer:
		return protocol.ReasonNone
	case !d.guest.IsZero():
		return protocol.ReasonTokenUsed
	}
	d.guest = peer
	a.guests[peer] = append(a.guests[peer], d)
	delete(a.strangers, peer)
	return protocol.ReasonNone
}

// grant returns the deposit that lets guest and owner reach each other at now,
// or nil.
func (a *admission) grant(now time.Time, guest, owner ri2n.PeerID) *deposit {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.guests[guest] {
		if d.owner == owner && now.Before(d.expiry) {
			return d
		}
	}
	return nil
}

// expire forgets what is long over.
func (a *admission) expire(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.deposits {
		if !now.Before(d.expiry.Add(rememberExpired)) {
			a.removeLocked(d)
		}
	}
	for id, until := range a.strangers {
		if !now.Before(until) {
			delete(a.strangers, id)
		}
	}
}

func (a *admission) removeLocked(d *deposit) {
	delete(a.deposits, d.digest)
	if a.owned[d.owner]--; a.owned[d.owner] == 0 {
		delete(a.owned, d.owner)
	}
	if d.guest.IsZero() {
		return
	}
	kept := a.guests[d.guest][:0]
	for _, other := range a.guests[d.guest] {
		if other != d {
			kept = append(kept, other)
		}
	}
	if len(kept) == 0 {
		delete(a.guests, d.guest)
	} else {
		a.guests[d.guest] = kept
	}
}

// counts returns the sizes for metrics.
func (a *admission) counts() (members, deposits, strangers int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.members), len(a.deposits), len(a.strangers)
}

// minBurst is what a byte limiter lets through at once at least: a flight of
// full-size packets.
const minBurst = 64 << 10

// newByteLimiter allows perSecond bytes, with a burst of a tenth of a second.
func newByteLimiter(perSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/10, minBurst)))
}
