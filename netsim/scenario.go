package netsim

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// A Scenario describes a network: one Internet in the middle, homes behind
// NATs, hosts, and the links between them. The same description runs on both
// back ends: in the simulator and in kernel namespaces.
//
// NATs and hosts form a tree below the core. Each is attached to its parent by
// one link. The core itself adds no delay.
//
// Addresses are given in the order of the description, so that equal scenarios
// have equal addresses; see NATNode.Inside.
type Scenario struct {
	Name  string
	Seed  uint64 // of every random choice
	NATs  []NATNode
	Hosts []HostNode
	// Events happen by themselves while the scenario runs.
	Events []Event
}

// A NATNode is a router that translates addresses between its inside and its
// parent's network.
type NATNode struct {
	Name   string
	Parent string // a NAT's name; empty: the core
	Uplink Link   // toward the parent
	NAT    NAT
	// Inside is the network behind the NAT. The zero value picks the first
	// 192.168.N.0/24 that no other NAT has. A carrier's NAT may state a part
	// of 100.64.0.0/10 (RFC 6598); two homes may state the same network, as
	// real ones do.
	Inside netip.Prefix
}

// A HostNode is a computer.
type HostNode struct {
	Name   string
	Parent string // a NAT's name; empty: a public host on the core
	Uplink Link
	// Of names the host whose further link this is, as a notebook's second
	// uplink: it has its own name, address and sockets, and the program on
	// the other host uses them as well. Empty: a host of its own.
	Of string
}

// A Link describes one attachment, both directions alike unless Down is set.
// The zero value is a perfect link without delay.
type Link struct {
	Delay     time.Duration // one way
	Jitter    time.Duration // uniform in [0, Jitter), added to Delay; keeps order unless Reorder
	Loss      float64       // independent loss, 0 to 1
	Burst     *GilbertElliott
	Rate      int64 // bits per second; zero: unlimited
	Queue     int   // bytes that wait for Rate before tail drop; zero: 100 ms at Rate, at least 2 x MTU
	Duplicate float64
	Reorder   float64 // share of packets that jitter may deliver out of order
	MTU       int     // bytes of IP packet; zero: 1500; larger packets are dropped
	// TooBig says that the sender of a packet above MTU is told (ICMP type 3,
	// code 4, RFC 1191): its host then refuses to send larger ones there.
	TooBig bool
	Cut    bool // nothing passes
	// Down is the direction toward the node where it differs from the
	// direction toward the parent; its own Down is not used. Nil: alike.
	Down *Link
}

// GilbertElliott is two-state burst loss.
type GilbertElliott struct {
	GoodToBad, BadToGood float64 // transition probability per packet
	LossGood, LossBad    float64
}

// Behavior says what a NAT's mapping or filtering depends on (RFC 4787,
// sections 4.1 and 5).
type Behavior int

const (
	EndpointIndependent Behavior = iota
	AddressDependent
	AddressAndPortDependent
)

// Allocation says how a NAT picks the outside port (RFC 4787, section 4.2).
type Allocation int

const (
	Preserving Allocation = iota // the inside port where it is free, else random
	Sequential                   // the last port plus Delta (contiguous allocation)
	Random
)

// Pooling says which of several outside addresses a mapping gets (RFC 4787,
// section 4.1, REQ-2).
type Pooling int

const (
	Paired    Pooling = iota // all mappings of an inside address share one
	Arbitrary                // each mapping has any of them
)

// NAT is the behavior of one NAT. The zero value is an endpoint-independent,
// port-preserving NAT whose mappings live for two minutes.
type NAT struct {
	Mapping    Behavior
	Filtering  Behavior
	Allocation Allocation
	// Delta is the step of sequential allocation; zero means 1, a negative
	// value counts down.
	Delta int
	// CrossTraffic is how many mappings a second the neighbors behind the NAT
	// make, on average (a Poisson process): each moves sequential allocation
	// by one step.
	CrossTraffic float64
	// FirstPort and LastPort bound the outside ports; zero means 1024 and
	// 65535. Where they are given, ports below are not preserved either.
	FirstPort, LastPort uint16
	// Block is how many outside ports each inside address has, side by side,
	// as in a carrier's NAT (RFC 7422). Zero: all.
	Block int
	// Addresses is how many outside addresses the NAT has, from 1 to 200; zero
	// means 1. The further ones follow its own.
	Addresses int
	Pooling   Pooling
	// Lifetime is how long an idle mapping, and each remote that its filter
	// lets in, is kept (RFC 4787, section 4.3). Zero means 2 min; a negative
	// value keeps them until a reboot. Outbound packets refresh both.
	Lifetime time.Duration
	// Unreplied is the lifetime of a mapping through which nothing came in
	// yet; the first inbound packet refreshes it. Zero means Lifetime.
	Unreplied time.Duration
	// InboundRefresh says that inbound packets refresh the mapping, too.
	InboundRefresh bool
	// NoOutboundRefresh says that outbound packets do not, save for the first
	// (against RFC 4787, REQ-6).
	NoOutboundRefresh bool
	// Sessions is how many mappings an inside address may have; zero:
	// any number. One more is refused or, with EvictOldest, takes the place of
	// the one that was refreshed longest ago.
	Sessions    int
	EvictOldest bool
	// Hairpinning says that insiders reach one another by their outside
	// addresses, and see these as sources (RFC 4787, section 6).
	Hairpinning bool
	// HairpinInside says that they see the inside addresses as sources
	// (against REQ-9). It needs Hairpinning.
	HairpinInside bool
	// Firewall is what the router forbids. Nil: nothing.
	Firewall *Firewall
}

// A Firewall is what a router forbids besides its NAT's filtering, in both
// directions.
type Firewall struct {
	BlockUDP bool
	// Ports are the only remote ports that UDP may use; empty: all.
	Ports []uint16
	// PacketRate is how many packets a second pass, with a burst of a tenth of
	// it and one; zero: any number.
	PacketRate int
	// DropFirst is how many packets of each new mapping are lost on their way
	// out, as with inspection that decides late.
	DropFirst int
	// DropSTUN drops what has the magic cookie of STUN (RFC 8489, section 5).
	DropSTUN bool
}

// A Network is a running scenario.
type Network interface {
	// Host returns the host of that name, nil if the scenario has none.
	Host(name string) Host
	// Reboot makes a NAT forget all mappings.
	Reboot(nat string) error
	// SetUplink changes the link between a node and its parent.
	SetUplink(node string, l Link) error
	// Close ends the network: sockets return net.ErrClosed.
	Close() error
}

// A Host is a computer of a running scenario.
type Host interface {
	Name() string
	Addr() netip.Addr // on its own network; behind a NAT a private one
	// ListenPacket binds a UDP socket on the host's address; port zero picks one.
	ListenPacket(ctx context.Context, port uint16) (net.PacketConn, error)
}
