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
	Cut       bool    // nothing passes
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
	Sequential
	Random
)

// NAT is the behavior of one NAT. The zero value is an endpoint-independent,
// port-preserving NAT whose mappings live for two minutes.
type NAT struct {
	Mapping    Behavior
	Filtering  Behavior
	Allocation Allocation
	// Lifetime is how long an idle mapping, and each remote that its filter
	// lets in, is kept (RFC 4787, section 4.3). Zero means 2 min; a negative
	// value keeps them until a reboot. Outbound packets refresh both.
	Lifetime time.Duration
	// InboundRefresh says that inbound packets refresh the mapping, too.
	InboundRefresh bool
	// Hairpinning says that insiders reach one another by their outside
	// addresses, and see these as sources (RFC 4787, section 6).
	Hairpinning bool
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
