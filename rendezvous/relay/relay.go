package relay

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Relay]. Its zero value relays for nobody.
type Config struct {
	// Mode says whom the relay serves.
	Mode Mode

	// Ledger knows members as well. Nil: none.
	Ledger Ledger

	Limits Limits

	// STUNPorts are told to agents: where Bindings are answered. Zero: none.
	STUNPorts [2]uint16

	// Header is what every datagram that leaves begins with. A Session takes
	// it off those that arrive, and off MaxDatagramSize.
	Header []byte

	// NewAsker answers the questions of one session. Nil: they are skipped.
	NewAsker func(*Agent) Asker

	// Logger receives what an operator should know. Nil is silent.
	Logger *slog.Logger
}

// An Asker answers what one session asks.
type Asker interface {
	// Ask takes a part of a question. The error ends the session.
	Ask(ctx context.Context, m protocol.Ask) error
	// Stop is called once the session asks nothing more.
	Stop()
}

// A Relay is a running relay. Its methods may be called concurrently.
type Relay struct {
	cfg       Config
	log       *slog.Logger
	admission *admission
	writing   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	table   *table
	closing bool
}

// New makes a relay. It works while [Relay.Run] runs.
func New(cfg Config) *Relay {
	limits := cfg.Limits.withDefaults()
	r := &Relay{cfg: cfg, log: cfg.Logger, admission: newAdmission(cfg.Mode, limits.GuestRate, limits.GuestQuota)}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.admission.ledger = cfg.Ledger
	r.table = newTable(cfg.Limits, r.admission, cfg.STUNPorts)
	return r
}

// MaxSessions is how many sessions the limits leave room for.
func (r *Relay) MaxSessions() int { return r.table.limits.Registrations + maxStrangers }

// Authorize reports whether peer may have a session, which takes a stranger's
// place if it is one.
func (r *Relay) Authorize(now time.Time, peer ri2n.PeerID) bool {
	return r.admission.authorize(now, peer) != roleRefused
}

// SetMembers replaces the list of members. Sessions of those who are no longer
// on it end within a second or so.
func (r *Relay) SetMembers(members []ri2n.PeerID) { r.admission.setMembers(members) }

// Run does each second what no event brings about, until ctx ends.
func (r *Relay) Run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var watched []*Agent
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// Sessions are asked for their sizes outside of the lock, which their
		// own locks are not below.
		watched = watched[:0]
		r.mu.Lock()
		for a := range r.table.agents {
			if len(a.ends) > 0 {
				watched = append(watched, a)
			}
		}
		r.unlock()
		for _, a := range watched {
			r.measure(a)
		}
		clear(watched)
		r.mu.Lock()
		r.table.expire(time.Now())
		r.unlock()
	}
}

// measure tells the table how large the datagrams of a may be now.
func (r *Relay) measure(a *Agent) {
	outer := a.session.MaxDatagramSize()
	r.mu.Lock()
	r.table.resize(a, outer)
	r.unlock()
}

// unlock releases the mutex and has written what the table wants written.
func (r *Relay) unlock() {
	woken := r.table.woken
	r.table.woken = nil
	r.mu.Unlock()
	for _, a := range woken {
		r.writing.Go(func() { r.write(a) })
	}
}

// Shutdown tells all agents that the relay stops, serves nobody any more, and
// waits up to patience for the sessions to end.
func (r *Relay) Shutdown(patience time.Duration) {
	r.mu.Lock()
	r.closing = true
	now := time.Now()
	ending := make([]Session, 0, len(r.table.agents))
	for a := range r.table.agents {
		r.table.end(now, a, protocol.ReasonShutdown)
		ending = append(ending, a.session)
	}
	r.unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, sess := range ending {
		select {
		case <-sess.Done():
		case <-timer.C:
			timer.Reset(0) // for all the others too
		}
	}
}

// Wait returns when nothing is written any more. It is called after all
// sessions have ended.
func (r *Relay) Wait() { r.writing.Wait() }

// End ends the sessions of peer, which is told why.
func (r *Relay) End(peer ri2n.PeerID, reason protocol.Reason) {
	r.mu.Lock()
	for a := range r.table.agents {
		if a.peer == peer {
			r.table.end(time.Now(), a, reason)
		}
	}
	r.unlock()
}

// A Snapshot is what a relay shows of one moment.
type Snapshot struct {
	Counters
	Sessions, Registered, Channels, Held int // Held: datagrams that wait for their channel
	Members, OpenDeposits, Strangers     int
	Closing                              bool
}

// Snapshot returns what there is now.
func (r *Relay) Snapshot() Snapshot {
	var v Snapshot
	r.mu.Lock()
	v.Counters = r.table.counters
	v.Sessions = len(r.table.agents)
	v.Registered = len(r.table.peers)
	v.Channels = len(r.table.channels)
	v.Closing = r.closing
	for a := range r.table.agents {
		v.Held += a.hold.Len()
	}
	r.mu.Unlock()
	v.Members, v.OpenDeposits, v.Strangers = r.admission.counts()
	return v
}

// PeerUse is what one peer has used of the relay while it was here.
type PeerUse struct {
	Peer      ri2n.PeerID `json:"peer"`
	Role      string      `json:"role"` // member or guest
	Observed  string      `json:"observed"`
	Since     time.Time   `json:"since"`
	Channels  int         `json:"channels"`
	Bytes     uint64      `json:"bytes"`     // sent by the peer and relayed
	Datagrams uint64      `json:"datagrams"` // likewise
	Dropped   uint64      `json:"dropped"`   // sent by the peer and not relayed
}

// Peers returns what registered peers use, sorted by peer ID.
func (r *Relay) Peers() []PeerUse {
	r.mu.Lock()
	list := make([]PeerUse, 0, len(r.table.peers))
	for _, a := range r.table.peers {
		role := "member"
		if a.role == roleGuest {
			role = "guest"
		}
		list = append(list, PeerUse{
			Peer:      a.peer,
			Role:      role,
			Observed:  a.observed.String(),
			Since:     a.since,
			Channels:  len(a.ends),
			Bytes:     a.account.bytes,
			Datagrams: a.account.datagrams,
			Dropped:   a.account.dropped,
		})
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b PeerUse) int { return strings.Compare(a.Peer.String(), b.Peer.String()) })
	return list
}

// A Standing is what an agent may do now.
type Standing int

const (
	Gone     Standing = iota // its session is ending
	Stranger                 // it has nothing to show yet
	Guest                    // of a token
	Member
)

// Peer returns whose session it is.
func (a *Agent) Peer() ri2n.PeerID { return a.peer }

// Standing returns what a may do now.
func (r *Relay) Standing(a *Agent) Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case a.gone:
		return Gone
	case a.role == roleMember:
		return Member
	case a.role == roleGuest:
		return Guest
	}
	return Stranger
}

// Answer sends messages to a, which may have become a member by what it asked.
func (r *Relay) Answer(a *Agent, messages []protocol.Message) {
	r.mu.Lock()
	r.table.promote(time.Now(), a)
	for _, m := range messages {
		r.table.send(a, m)
	}
	r.unlock()
}

// EndBusy ends the session of an agent that asks for too much.
func (r *Relay) EndBusy(a *Agent) {
	r.mu.Lock()
	r.table.end(time.Now(), a, protocol.ReasonBusy)
	r.unlock()
}

// Waiting returns how many messages a has not read.
func (r *Relay) Waiting(a *Agent) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(a.outbox)
}
