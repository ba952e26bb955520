package overlay

import (
	"slices"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/object"
	"github.com/instantgrid/instantgrid/routing/shortcut"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// RoutingStatus describes a node's part in key-based routing. It is at most half
// a second old.
type RoutingStatus struct {
	Self         Contact         `json:"self"`
	Contacts     int             `json:"contacts"`     // in the table
	Nodes        int             `json:"nodes"`        // in the grid, estimated from how near they are
	Objects      int             `json:"objects"`      // location objects kept for the grid
	Names        int             `json:"names"`        // announcements kept for the grid
	Mailboxes    int             `json:"mailboxes"`    // open on this node
	Health       int             `json:"health"`       // 0: well; up to 8: this node misses what it should not
	MaxSessions  int             `json:"max_sessions"` // that routing opens
	OwnSessions  int             `json:"own_sessions"` // that it has opened, without shortcuts
	Shortcuts    int             `json:"shortcuts"`    // sessions that traffic has earned
	MaxShortcuts int             `json:"max_shortcuts"`
	Sessions     []RoutedSession `json:"sessions"` // with members, by peer ID
	Counters     RoutingCounters `json:"counters"`
}

// A RoutedSession is a session as routing sees it.
type RoutedSession struct {
	Peer     ri2n.PeerID `json:"peer"`
	State    Liveness    `json:"state"`
	Shortcut bool        `json:"shortcut"`
	Own      bool        `json:"own"` // routing opened it
	Phi      float64     `json:"phi"` // suspicion by silence; above 8 is a bad sign
}

// RoutingCounters count since the node's start.
type RoutingCounters struct {
	Routing   routing.Counters  `json:"routing"`
	Objects   object.Counters   `json:"objects"`
	Liveness  swim.Counters     `json:"liveness"`
	Shortcuts shortcut.Counters `json:"shortcuts"`

	SessionsOpened  uint64 `json:"sessions_opened"`
	SessionsRefused uint64 `json:"sessions_refused"` // not opened, at the cap or too soon after a failure
	SessionsFailed  uint64 `json:"sessions_failed"`
	SessionsClosed  uint64 `json:"sessions_closed"` // for want of use

	Bootstraps           uint64 `json:"bootstraps"`
	Published            uint64 `json:"published"`
	AnnouncementsForged  uint64 `json:"announcements_forged"`
	IntroductionsRefused uint64 `json:"introductions_refused"` // too many, or no room for a name

	Strangers    uint64 `json:"strangers"` // messages of nobody whose membership we know
	Malformed    uint64 `json:"malformed"`
	InboxDropped uint64 `json:"inbox_dropped"`
	LargeDropped uint64 `json:"large_dropped"`
	MailForged   uint64 `json:"mail_forged"` // frames that their job has not sealed
	MailboxFull  uint64 `json:"mailbox_full"`
}

// snapshot describes the router as it is now.
func (r *router) snapshot(now time.Time) *RoutingStatus {
	s := &RoutingStatus{
		Self:     contactOf(r.routing.Self()),
		Contacts: r.routing.Len(), Nodes: max(1, int(r.routing.Estimate()+0.5)), Objects: r.objects.Stored(), Names: len(r.names.stored),
		Mailboxes: len(r.mailboxes), Health: r.swim.Health(),
		MaxSessions: r.carrier.limit(), OwnSessions: r.carrier.ours(), Shortcuts: r.shortcuts.Open(), MaxShortcuts: r.shortcuts.Cap(),
		Sessions: make([]RoutedSession, 0, len(r.carrier.sessions)),
		Counters: RoutingCounters{
			Routing: r.routing.Counters(), Objects: r.objects.Counters(), Liveness: r.swim.Counters(), Shortcuts: r.shortcuts.Counters(),
			SessionsOpened: r.carrier.opened, SessionsRefused: r.carrier.refused, SessionsFailed: r.carrier.failed, SessionsClosed: r.carrier.closed,
			Bootstraps: r.boot.times, Published: r.names.published, AnnouncementsForged: r.names.forged, IntroductionsRefused: r.names.refused,
			Strangers: r.strangers.Load(), Malformed: r.malformed.Load(), InboxDropped: r.dropped.Load(), LargeDropped: r.large.Load(),
			MailForged: r.mailForged.Load(), MailboxFull: r.mailFull.Load(),
		},
	}
	for peer, x := range r.carrier.sessions {
		s.Sessions = append(s.Sessions, RoutedSession{
			Peer: ri2n.PeerID(peer), State: livenessOf(r.swim.State(peer)), Shortcut: x.shortcut, Own: x.opened, Phi: x.accrual.Phi(now),
		})
	}
	slices.SortFunc(s.Sessions, func(a, b RoutedSession) int { return strings.Compare(a.Peer.String(), b.Peer.String()) })
	return s
}

// Phi is the suspicion that the session with peer is dead, by the silence on it
// (phi accrual): about how many powers of ten rarer than usual such a silence is.
// Zero while there is no session, or too little is known of it.
func (n *Node) Phi(peer ri2n.PeerID) float64 {
	if n.router == nil {
		return 0
	}
	for _, s := range n.router.seen.Load().Sessions {
		if s.Peer == peer {
			return s.Phi
		}
	}
	return 0
}
