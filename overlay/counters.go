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
}

// Transport returns the counters of the node's endpoint, which all its sessions
// share, those with the rendezvous included.
func (n *Node) Transport() ri2n.Stats { return n.endpoint.Stats() }

// counters are the counters behind Counters.
type counters struct {
	dials, dialsFailed, peersRefused, channelsRefused, proofsRefused,
	streamsAccepted, streamsRefused, backlogOverflows, malformed,
	signalsDropped, proofsDropped, eventsDropped atomic.Uint64
}

func (c *counters) snapshot() Counters {
	return Counters{
		Dials: c.dials.Load(), DialsFailed: c.dialsFailed.Load(),
		PeersRefused: c.peersRefused.Load(), ChannelsRefused: c.channelsRefused.Load(),
		ProofsRefused: c.proofsRefused.Load(), StreamsAccepted: c.streamsAccepted.Load(),
		StreamsRefused: c.streamsRefused.Load(), BacklogOverflows: c.backlogOverflows.Load(),
		Malformed: c.malformed.Load(), SignalsDropped: c.signalsDropped.Load(),
		ProofsDropped: c.proofsDropped.Load(), EventsDropped: c.eventsDropped.Load(),
	}
}
