package overlay

import (
	"sync/atomic"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Counters count since the node's start. Each limit has one.
type Counters struct {
	Dials            uint64 `json:"dials"`
	DialsFailed      uint64 `json:"dials_failed"`
	PeersRefused     uint64 `json:"peers_refused"`    // not on the allow list
	ChannelsRefused  uint64 `json:"channels_refused"` // relay channels of such peers
	ProofsRefused    uint64 `json:"proofs_refused"`   // of tokens
	StreamsAccepted  uint64 `json:"streams_accepted"`
	StreamsRefused   uint64 `json:"streams_refused"` // nobody listens, or too many at once
	BacklogOverflows uint64 `json:"backlog_overflows"`
	Malformed        uint64 `json:"malformed"`       // headers and messages that made no sense
	SignalsDropped   uint64 `json:"signals_dropped"` // messages that found the queue full
	ProofsDropped    uint64 `json:"proofs_dropped"`  // addresses beyond the limit of an attempt
	EventsDropped    uint64 `json:"events_dropped"`
	PortsRefused     uint64 `json:"ports_refused"`    // connections that the policy does not open
	RevokedRefused   uint64 `json:"revoked_refused"`  // sessions that revoked peers asked for
	SessionsRevoked  uint64 `json:"sessions_revoked"` // sessions that a revocation ended
	MembersRefused   uint64 `json:"members_refused"`  // that a ledger lists and that are none
	ListsRefused     uint64 `json:"lists_refused"`    // revocation lists that do not hold
	ListsHidden      uint64 `json:"lists_hidden"`     // times that a ledger fell behind the members
	RenewalsFailed   uint64 `json:"renewals_failed"`
	HeardDialsFailed uint64 `json:"heard_dials_failed"` // at addresses heard on a local network
	DatagramsRefused uint64 `json:"datagrams_refused"`  // of no kind that we take, or of a peer that is not let in
	RelaysRefused    uint64 `json:"relays_refused"`     // registrations for relaying: we have not the role, or they no membership
	RelaysNested     uint64 `json:"relays_nested"`      // relays that would have been reached through a relay
	RelaysLeft       uint64 `json:"relays_left"`        // paths through a relay given up as it did not carry them

	SearchesBegun   uint64 `json:"searches_begun"`   // rounds of searches through hard NATs
	SearchesWon     uint64 `json:"searches_won"`     // that found a path
	SearchesRefused uint64 `json:"searches_refused"` // address not proven or of special purpose, too many sockets, or too soon
	SearchProbes    uint64 `json:"search_probes"`    // sent
	SearchForged    uint64 `json:"search_forged"`    // probes received that were not the peer's

	PortMapsMade    uint64 `json:"port_maps_made"`    // ports of routers, proved from outside
	PortMapsRenewed uint64 `json:"port_maps_renewed"` // in time
	PortMapsFailed  uint64 `json:"port_maps_failed"`  // times that a router gave none
	PortMapsRefused uint64 `json:"port_maps_refused"` // outside addresses that were not public, or did not lead here
	PortMapRestarts uint64 `json:"port_map_restarts"` // of routers, seen by their clocks
	PortMapGarbage  uint64 `json:"port_map_garbage"`  // answers that made no sense, or of others than the router
	PortMapsLeft    uint64 `json:"port_maps_left"`    // that a router did not confirm to have removed

	PacketsSent             uint64 `json:"packets_sent"` // between ports
	PacketsReceived         uint64 `json:"packets_received"`
	PacketsHalved           uint64 `json:"packets_halved"`           // sent in two halves
	HalvesLost              uint64 `json:"halves_lost"`              // whose other half did not come
	PacketsTooLarge         uint64 `json:"packets_too_large"`        // that a program wanted to send
	PacketsUnsent           uint64 `json:"packets_unsent"`           // while there was no session
	PacketsRefused          uint64 `json:"packets_refused"`          // that nobody took
	PacketsOverflowed       uint64 `json:"packets_overflowed"`       // that their program was too slow for
	CorrespondentsForgotten uint64 `json:"correspondents_forgotten"` // beyond those that a socket awaits answers from
}

// Transport returns the counters of the node's endpoint, which all its sessions
// share, those with the rendezvous included.
func (n *Node) Transport() ri2n.Stats { return n.endpoint.Stats() }

// counters are the counters behind Counters.
type counters struct {
	dials, dialsFailed, peersRefused, channelsRefused, proofsRefused,
	streamsAccepted, streamsRefused, backlogOverflows, malformed,
	signalsDropped, proofsDropped, eventsDropped, portsRefused, revokedRefused,
	sessionsRevoked, membersRefused, listsRefused, listsHidden, heardDialsFailed, renewalsFailed,
	datagramsRefused, relaysRefused, relaysNested, relaysLeft, packetsSent, packetsReceived, packetsHalved, halvesLost,
	packetsTooLarge, packetsUnsent, packetsRefused, packetsOverflowed,
	correspondentsForgotten atomic.Uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Dials: c.dials.Load(), DialsFailed: c.dialsFailed.Load(),
		PeersRefused: c.peersRefused.Load(), ChannelsRefused: c.channelsRefused.Load(),
		ProofsRefused: c.proofsRefused.Load(), StreamsAccepted: c.streamsAccepted.Load(),
		StreamsRefused: c.streamsRefused.Load(), BacklogOverflows: c.backlogOverflows.Load(),
		Malformed: c.malformed.Load(), SignalsDropped: c.signalsDropped.Load(),
		ProofsDropped: c.proofsDropped.Load(), EventsDropped: c.eventsDropped.Load(),
		PortsRefused: c.portsRefused.Load(), RevokedRefused: c.revokedRefused.Load(),
		SessionsRevoked: c.sessionsRevoked.Load(), MembersRefused: c.membersRefused.Load(),
		ListsRefused: c.listsRefused.Load(), ListsHidden: c.listsHidden.Load(), HeardDialsFailed: c.heardDialsFailed.Load(), RenewalsFailed: c.renewalsFailed.Load(),
		DatagramsRefused: c.datagramsRefused.Load(), RelaysRefused: c.relaysRefused.Load(),
		RelaysNested: c.relaysNested.Load(), RelaysLeft: c.relaysLeft.Load(),
		PacketsSent: c.packetsSent.Load(), PacketsReceived: c.packetsReceived.Load(), PacketsHalved: c.packetsHalved.Load(),
		HalvesLost: c.halvesLost.Load(), PacketsTooLarge: c.packetsTooLarge.Load(), PacketsUnsent: c.packetsUnsent.Load(),
		PacketsRefused: c.packetsRefused.Load(), PacketsOverflowed: c.packetsOverflowed.Load(),
		CorrespondentsForgotten: c.correspondentsForgotten.Load(),
	}
}

// countersNow returns the counters, with those that punch keeps.
func (n *Node) countersNow() Counters {
	c := n.counters.snapshot()
	s := n.links.budget.Searches()
	c.SearchesBegun, c.SearchesWon, c.SearchProbes, c.SearchForged = s.Begun, s.Won, s.Probes, s.Forged
	c.SearchesRefused = s.Unproven + s.Refused + s.TooSoon
	m := n.links.portMapsNow()
	c.PortMapsMade, c.PortMapsRenewed, c.PortMapsFailed, c.PortMapsRefused = m.Made, m.Renewed, m.Failed, m.Refused
	c.PortMapRestarts, c.PortMapGarbage, c.PortMapsLeft = m.Restarts, m.Malformed+m.Strangers, m.Unremoved
	return c
}
