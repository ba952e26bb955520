package tun

import (
	"net/netip"
	"sync/atomic"
)

// Status is a snapshot of an [Interface]; it encodes as JSON as it is.
type Status struct {
	Device   string       `json:"device"`
	MTU      int          `json:"mtu"`
	Address  netip.Addr   `json:"address,omitzero"`
	Address6 netip.Addr   `json:"address6"`
	Network  netip.Prefix `json:"network,omitzero"`
	Network6 netip.Prefix `json:"network6"`
	Peers    int          `json:"peers"` // that packets were exchanged with lately
	Flows    int          `json:"flows"` // that the filter knows
	Counters Counters     `json:"counters"`
}

// Counters count since the interface was made. Packets are IP packets.
type Counters struct {
	PacketsSent     uint64 `json:"packets_sent"`
	BytesSent       uint64 `json:"bytes_sent"`
	PacketsReceived uint64 `json:"packets_received"`
	BytesReceived   uint64 `json:"bytes_received"`
	PacketsSplit    uint64 `json:"packets_split"`    // sent in two datagrams
	PacketsJoined   uint64 `json:"packets_joined"`   // received in two
	ProblemsSent    uint64 `json:"icmp_errors_sent"` // to this computer and to peers
	FlowsEvicted    uint64 `json:"flows_evicted"`    // that made room for others
	Dropped         Drops  `json:"dropped"`
}

// Drops are packets that were dropped, by reason.
type Drops struct {
	NotFromUs    uint64 `json:"not_from_us"`   // of this computer's, with a source that is not ours
	NoMember     uint64 `json:"no_member"`     // to an address that no member has
	Multicast    uint64 `json:"multicast"`     // to nobody in particular
	Unreachable  uint64 `json:"unreachable"`   // to a member that cannot be reached
	WaitingFull  uint64 `json:"waiting_full"`  // more than may wait for a session
	TooBig       uint64 `json:"too_big"`       // larger than two datagrams
	WrongSource  uint64 `json:"wrong_source"`  // of a peer's, with a source that is not its own
	NotToUs      uint64 `json:"not_to_us"`     // of a peer's, to somebody else
	Closed       uint64 `json:"closed"`        // by the policy
	Unrelated    uint64 `json:"unrelated"`     // ICMP about nothing that we do
	Fragments    uint64 `json:"fragments"`     // IP fragments whose first one was not let in
	Parts        uint64 `json:"parts"`         // halves whose other half did not come
	Malformed    uint64 `json:"malformed"`     // that make no sense
	DeviceErrors uint64 `json:"device_errors"` // reads and writes that the system refused
}

// counters are the counters behind Counters.
type counters struct {
	packetsSent, bytesSent, packetsReceived, bytesReceived, split, joined, problemsSent,
	notFromUs, noMember, multicast, unreachable, waitingFull, tooBig, wrongSource, notToUs, closed,
	unrelated, fragments, malformed, deviceErrors atomic.Uint64

	evicted, parts atomic.Uint64 // of peers that were forgotten
	dialing        atomic.Int64  // dials under way
}

func (c *counters) sent(n int) {
	c.packetsSent.Add(1)
	c.bytesSent.Add(uint64(n))
}

func (c *counters) received(n int) {
	c.packetsReceived.Add(1)
	c.bytesReceived.Add(uint64(n))
}

// forget keeps the counters of a peer that is forgotten.
func (c *counters) forget(p *peer) {
	_, evicted := p.flows.count()
	c.evicted.Add(evicted)
	c.parts.Add(p.parts.lostParts())
}

// Status returns a snapshot.
func (i *Interface) Status() Status {
	c := &i.counters
	s := Status{
		Device: i.device.Name(), MTU: i.device.MTU(),
		Address6: i.network.Self.Address6, Network6: i.network.Prefix6,
		Counters: Counters{
			PacketsSent: c.packetsSent.Load(), BytesSent: c.bytesSent.Load(),
			PacketsReceived: c.packetsReceived.Load(), BytesReceived: c.bytesReceived.Load(),
			PacketsSplit: c.split.Load(), PacketsJoined: c.joined.Load(), ProblemsSent: c.problemsSent.Load(),
			FlowsEvicted: c.evicted.Load(),
			Dropped: Drops{
				NotFromUs: c.notFromUs.Load(), NoMember: c.noMember.Load(), Multicast: c.multicast.Load(),
				Unreachable: c.unreachable.Load(), WaitingFull: c.waitingFull.Load(), TooBig: c.tooBig.Load(),
				WrongSource: c.wrongSource.Load(), NotToUs: c.notToUs.Load(), Closed: c.closed.Load(),
				Unrelated: c.unrelated.Load(), Fragments: c.fragments.Load(), Parts: c.parts.Load(),
				Malformed: c.malformed.Load(), DeviceErrors: c.deviceErrors.Load(),
			},
		},
	}
	if i.network.Self.Address.IsValid() {
		s.Address, s.Network = i.network.Self.Address, i.network.Prefix
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	s.Peers = len(i.byID)
	for _, p := range i.byID {
		flows, evicted := p.flows.count()
		s.Flows += flows
		s.Counters.FlowsEvicted += evicted
		s.Counters.Dropped.Parts += p.parts.lostParts()
	}
	return s
}
