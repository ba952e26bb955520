package main

import (
	"sync/atomic"

	"github.com/instantgrid/instantgrid/netsim"
)

// A probeCount counts the packets with which nodes look for paths.
type probeCount struct{ atomic.Int64 }

// see returns the tracer that counts in a transfer's network: what its two
// nodes send to others than the rendezvous, and what is no packet of a session,
// which has bit 6 of its first byte set (docs/wire-format.md).
func (c *probeCount) see(x transfer) func(netsim.TraceEvent) {
	addresses, err := x.Scenario.Addresses()
	if err != nil {
		return func(netsim.TraceEvent) {} // the scenario does not start either
	}
	server := addresses[x.Rendezvous].Addr
	nodes := make(map[string]bool)
	for _, h := range x.Scenario.Hosts {
		for _, name := range []string{x.From, x.To} {
			if h.Name == name || h.Of == name {
				nodes[h.Name] = true
			}
		}
	}
	return func(e netsim.TraceEvent) {
		if e.Kind == netsim.TraceSend && nodes[e.Place] && e.Dst.Addr() != server &&
			len(e.Payload) > 0 && e.Payload[0]&0x40 == 0 {
			c.Add(1)
		}
	}
}
