package netsim

import (
	"cmp"
	"fmt"
	"slices"
)

// A DropCause says why a packet ended before its destination.
type DropCause int

const (
	DropCut           DropCause = iota // the link is cut
	DropMTU                            // larger than the link's MTU
	DropQueue                          // the queue before the link's rate was full
	DropLoss                           // lost on the line
	DropNoRoute                        // nobody on the core or a home network has the address
	DropNoMapping                      // at a NAT: no mapping has the outside port
	DropFiltered                       // at a NAT: the mapping does not let the source in
	DropHairpin                        // at a NAT without hairpinning
	DropNoPort                         // at a NAT: every outside port is taken
	DropNoSocket                       // at a host: no socket has the port
	DropReceiveBuffer                  // at a host: the reader is too slow
	DropBlocked                        // at a firewall: UDP, its port or its content is not allowed
	DropRate                           // at a firewall: too many packets a second
	DropFirst                          // at a firewall: the first packets of a mapping
	DropSessions                       // at a NAT: the host has all the mappings that it may have
	DropAsleep                         // at a host: it sleeps
	causes
)

var causeNames = [causes]string{
	"cut", "mtu", "queue", "loss", "no-route", "no-mapping", "filtered",
	"hairpin", "no-port", "no-socket", "receive-buffer", "blocked", "rate",
	"first", "sessions", "asleep",
}

func (c DropCause) String() string {
	if c < 0 || c >= causes {
		return "unknown"
	}
	return causeNames[c]
}

// A Drop counts the packets that ended at one place for one cause. A place is
// the name of a node, "core", or a direction of a node's link: "NAME up" leads
// toward the parent, "NAME down" toward the node.
type Drop struct {
	Place   string
	Cause   DropCause
	Packets uint64
}

func (d Drop) String() string { return fmt.Sprintf("%s: %v %d", d.Place, d.Cause, d.Packets) }

// Stats counts packets since the start.
type Stats struct {
	Sent      uint64 // by sockets
	Delivered uint64 // to sockets
	Dropped   uint64 // of all causes
	InFlight  int    // on links
}

// statistics returns the counters as they stand.
func (c *core) statistics() Stats {
	st := c.stats
	for _, n := range c.nodes {
		st.InFlight += n.up.inFlight + n.down.inFlight
	}
	return st
}

// appendDrops adds what counts holds above zero.
func appendDrops(out []Drop, place string, counts *[causes]uint64) []Drop {
	for c, n := range counts {
		if n > 0 {
			out = append(out, Drop{Place: place, Cause: DropCause(c), Packets: n})
		}
	}
	return out
}

// drops returns what was dropped, by place and then by cause.
func (c *core) drops() []Drop {
	out := appendDrops(nil, "core", &c.root.drops)
	for _, n := range c.nodes {
		out = appendDrops(out, n.up.place, &n.up.drops)
		out = appendDrops(out, n.down.place, &n.down.drops)
		out = appendDrops(out, n.name, &n.drops)
		if n.inside != nil {
			out = appendDrops(out, n.name, &n.inside.drops)
		}
	}
	slices.SortFunc(out, func(a, b Drop) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.Cause, b.Cause))
	})
	return out
}

func (c *core) drop(p *packet, counts *[causes]uint64, place string, cause DropCause) {
	counts[cause]++
	c.stats.Dropped++
	if c.trace != nil {
		c.trace(c.now, TraceDrop, place, cause, p)
	}
	p.free()
}
