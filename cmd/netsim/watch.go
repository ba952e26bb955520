package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A watch looks at every step of a transfer's packets and holds the two nodes
// to rules that are to hold in every network:
//
//   - they send to nobody but nodes of the network: an address is that of a
//     node, or was the source of a packet (a NAT's further addresses, those
//     after a renumbering). Anything else is a scan of a stranger;
//   - a node sends at most probeRate probes a second, and both together at most
//     probeBudget, which is what a search for a path may cost. Probes are what
//     is neither a packet of a session nor the answer to a STUN request.
//
// One goroutine at a time uses it, as the network's tracer.
type watch struct {
	servers []netip.Addr
	nodes   map[string]*watched
	known   map[netip.Addr]bool
	probes  int
	rate    int
	broken  string
}

// watched is one node, by host or further link.
type watched struct {
	recent []time.Duration // when its last probes left, at most probeRate + 1 of them
}

// What a search for a path may cost: the design's budgets for hard NATs.
const (
	probeRate   = 250
	probeBudget = 2048
)

func newWatch(x transfer) *watch {
	w := &watch{nodes: make(map[string]*watched), known: make(map[netip.Addr]bool)}
	addresses, err := x.Scenario.Addresses()
	if err != nil {
		return w // the scenario does not start either
	}
	for _, a := range addresses {
		w.known[a.Addr] = true
	}
	w.servers = []netip.Addr{addresses[x.Rendezvous].Addr}
	if second := x.secondAddress(); second != "" {
		w.servers = append(w.servers, addresses[second].Addr)
	}
	for _, name := range []string{x.From, x.To} {
		node := new(watched)
		for _, h := range x.Scenario.Hosts {
			if h.Name == name || h.Of == name {
				w.nodes[h.Name] = node
			}
		}
	}
	return w
}

// see takes one step.
func (w *watch) see(e netsim.TraceEvent) {
	if e.TooBig > 0 {
		return
	}
	if e.Kind == netsim.TraceSend || e.Kind == netsim.TraceTranslate {
		w.known[e.Src.Addr()] = true
	}
	node := w.nodes[e.Place]
	if e.Kind != netsim.TraceSend || node == nil {
		return
	}
	if !w.known[e.Dst.Addr()] {
		w.breaks(e, "sent to a stranger, %v", e.Dst)
	}
	if slices.Contains(w.servers, e.Dst.Addr()) || !isProbe(e.Payload) {
		return
	}
	if w.probes++; w.probes > probeBudget {
		w.breaks(e, "sent probe %d", w.probes)
	}
	node.recent = append(node.recent, e.At)
	for e.At-node.recent[0] >= time.Second {
		node.recent = node.recent[1:]
	}
	w.rate = max(w.rate, len(node.recent))
	if len(node.recent) > probeRate {
		w.breaks(e, "sent %d probes in a second", len(node.recent))
	}
}

// isProbe reports whether a payload is neither a packet of a session, which has
// bit 6 of its first byte set (docs/wire-format.md), nor a STUN response (RFC
// 8489, section 5: the upper bit of the class).
func isProbe(b []byte) bool {
	const cookie = "\x21\x12\xa4\x42"
	answer := len(b) >= 20 && b[0] < 4 && b[0]&1 == 1 && string(b[4:8]) == cookie
	return len(b) > 0 && b[0]&0x40 == 0 && !answer
}

// breaks notes the first rule that is broken.
func (w *watch) breaks(e netsim.TraceEvent, format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("%s "+format+" after %v", append(append([]any{e.Place}, args...), e.At)...)
	}
}

// report tells what was seen.
func (w *watch) report(o *outcome) {
	o.Probes, o.ProbeRate, o.Broken = w.probes, w.rate, w.broken
}
