package netsim

import (
	"fmt"
	"strings"
	"time"
)

// A ScenarioError says which field of a scenario is wrong.
type ScenarioError struct {
	File   string // empty: not from a file
	Line   int    // in File, from 1; zero: not known
	Field  string // as in "hosts[2].uplink.loss"
	Node   string // the name of the node that holds the field; empty: none
	Reason string
}

func (e *ScenarioError) Error() string {
	var b strings.Builder
	b.WriteString("netsim: ")
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field)
		if e.Node != "" {
			fmt.Fprintf(&b, " (%s)", e.Node)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// Validate reports the first field that makes the scenario impossible, as a
// *ScenarioError.
func (sc Scenario) Validate() error {
	seen := make(map[string]string) // field that holds the name
	name := func(field, name string) error {
		switch {
		case name == "":
			return &ScenarioError{Field: field + ".name", Reason: "is missing"}
		case len(name) > 40 || strings.Trim(name, nameLetters) != "":
			return &ScenarioError{Field: field + ".name", Node: name,
				Reason: "is not 1 to 40 of a-z, 0-9 and -"}
		case seen[name] != "":
			return &ScenarioError{Field: field + ".name", Node: name, Reason: "is the name of " + seen[name]}
		}
		seen[name] = field
		return nil
	}
	nats := make(map[string]bool)
	for i, n := range sc.NATs {
		if err := name(fmt.Sprintf("nats[%d]", i), n.Name); err != nil {
			return err
		}
		nats[n.Name] = true
	}
	for i, h := range sc.Hosts {
		if err := name(fmt.Sprintf("hosts[%d]", i), h.Name); err != nil {
			return err
		}
	}
	parent := func(field, node, parent string) error {
		if parent == "" || nats[parent] {
			return nil
		}
		return &ScenarioError{Field: field + ".parent", Node: node, Reason: fmt.Sprintf("no NAT is named %q", parent)}
	}
	for i, n := range sc.NATs {
		field := fmt.Sprintf("nats[%d]", i)
		if err := parent(field, n.Name, n.Parent); err != nil {
			return err
		}
		if err := n.Uplink.validate(field+".uplink", n.Name); err != nil {
			return err
		}
		if err := n.NAT.validate(field+".nat", n.Name); err != nil {
			return err
		}
		if n.NAT.Addresses > 1 && n.Parent != "" {
			return &ScenarioError{Field: field + ".nat.addresses", Node: n.Name,
				Reason: "only a NAT on the core may have several"}
		}
		if p := n.Inside; p.IsValid() && (!p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29) {
			return &ScenarioError{Field: field + ".inside", Node: n.Name,
				Reason: fmt.Sprintf("%v is not an IPv4 network of /8 to /29", p)}
		}
	}
	for i, h := range sc.Hosts {
		field := fmt.Sprintf("hosts[%d]", i)
		if err := parent(field, h.Name, h.Parent); err != nil {
			return err
		}
		if err := h.Uplink.validate(field+".uplink", h.Name); err != nil {
			return err
		}
	}
	hosts := make(map[string]bool)
	for _, h := range sc.Hosts {
		hosts[h.Name] = h.Of == ""
	}
	for i, h := range sc.Hosts {
		if h.Of != "" && (!hosts[h.Of] || h.Of == h.Name) {
			return &ScenarioError{Field: fmt.Sprintf("hosts[%d].of", i), Node: h.Name,
				Reason: fmt.Sprintf("no host of its own is named %q", h.Of)}
		}
	}
	for _, h := range sc.Hosts {
		hosts[h.Name] = true
	}
	for i, e := range sc.Events {
		if err := e.validate(fmt.Sprintf("events[%d]", i), nats, hosts); err != nil {
			return err
		}
	}
	_, err := sc.natsParentsFirst()
	return err
}

const nameLetters = "abcdefghijklmnopqrstuvwxyz0123456789-"

// natsParentsFirst returns the NATs so that each follows its parent, else in
// the order of the description.
func (sc Scenario) natsParentsFirst() ([]NATNode, error) {
	placed := map[string]bool{"": true}
	out := make([]NATNode, 0, len(sc.NATs))
	for len(out) < len(sc.NATs) {
		before := len(out)
		for _, n := range sc.NATs {
			if !placed[n.Name] && placed[n.Parent] {
				placed[n.Name] = true
				out = append(out, n)
			}
		}
		if len(out) > before {
			continue
		}
		for i, n := range sc.NATs {
			if !placed[n.Name] {
				return nil, &ScenarioError{Field: fmt.Sprintf("nats[%d].parent", i), Node: n.Name,
					Reason: fmt.Sprintf("%q does not lead to the core", n.Parent)}
			}
		}
	}
	return out, nil
}

func (l Link) validate(field, node string) error {
	bad := func(name, format string, args ...any) error {
		return &ScenarioError{Field: field + "." + name, Node: node, Reason: fmt.Sprintf(format, args...)}
	}
	share := func(name string, p float64) error {
		if !(p >= 0 && p <= 1) { // not NaN either
			return bad(name, "%v is not in 0 to 1", p)
		}
		return nil
	}
	for _, s := range []struct {
		name  string
		value float64
	}{{"loss", l.Loss}, {"duplicate", l.Duplicate}, {"reorder", l.Reorder}} {
		if err := share(s.name, s.value); err != nil {
			return err
		}
	}
	if b := l.Burst; b != nil {
		for _, s := range []struct {
			name  string
			value float64
		}{
			{"burst.good_to_bad", b.GoodToBad}, {"burst.bad_to_good", b.BadToGood},
			{"burst.loss_good", b.LossGood}, {"burst.loss_bad", b.LossBad},
		} {
			if err := share(s.name, s.value); err != nil {
				return err
			}
		}
	}
	switch {
	case l.Delay < 0 || l.Delay > time.Hour:
		return bad("delay", "%v is not in 0 to 1h", l.Delay)
	case l.Jitter < 0 || l.Jitter > time.Hour:
		return bad("jitter", "%v is not in 0 to 1h", l.Jitter)
	case l.Reorder > 0 && l.Jitter == 0:
		return bad("reorder", "needs jitter, which is what reorders")
	case l.Rate < 0 || l.Rate > maxRate:
		return bad("rate", "%d bit/s is not in 0 to %d", l.Rate, int64(maxRate))
	case l.Queue < 0:
		return bad("queue", "%d bytes is negative", l.Queue)
	case l.Queue > 0 && l.Rate == 0:
		return bad("queue", "needs a rate to wait for")
	case l.MTU != 0 && (l.MTU < minMTU || l.MTU > maxMTU):
		return bad("mtu", "%d is not in %d to %d", l.MTU, minMTU, maxMTU)
	}
	if l.Down != nil {
		down := *l.Down
		down.Down = nil
		return down.validate(field+".down", node)
	}
	return nil
}

const (
	maxRate = 1e12 // bits per second; keeps nanosecond arithmetic in 64 bits
	minMTU  = 68   // RFC 791, section 3.2
	maxMTU  = 65535
)

func (n NAT) validate(field, node string) error {
	bad := func(name, format string, args ...any) error {
		return &ScenarioError{Field: field + "." + name, Node: node, Reason: fmt.Sprintf(format, args...)}
	}
	const unknown = "%d is not a known value"
	first, last := n.ports()
	switch {
	case n.Mapping < 0 || n.Mapping > AddressAndPortDependent:
		return bad("mapping", unknown, int(n.Mapping))
	case n.Filtering < 0 || n.Filtering > AddressAndPortDependent:
		return bad("filtering", unknown, int(n.Filtering))
	case n.Allocation < 0 || n.Allocation > Random:
		return bad("allocation", unknown, int(n.Allocation))
	case n.Pooling < 0 || n.Pooling > Arbitrary:
		return bad("pooling", unknown, int(n.Pooling))
	case n.Delta != 0 && n.Allocation != Sequential:
		return bad("delta", "needs sequential allocation, whose step it is")
	case n.Delta < -1000 || n.Delta > 1000:
		return bad("delta", "%d is not in -1000 to 1000", n.Delta)
	case !(n.CrossTraffic >= 0 && n.CrossTraffic <= 1e6): // not NaN either
		return bad("cross_traffic", "%v mappings a second is not in 0 to 1000000", n.CrossTraffic)
	case n.CrossTraffic > 0 && n.Allocation != Sequential:
		return bad("cross_traffic", "needs sequential allocation, which it moves")
	case first > last:
		return bad("first_port", "%d is above the last port %d", first, last)
	case n.Block != 0 && (n.Block < 1 || n.Block > int(last-first)+1):
		return bad("block", "%d ports is not in 1 to %d", n.Block, int(last-first)+1)
	case n.Addresses < 0 || n.Addresses > maxAddresses:
		return bad("addresses", "%d is not in 1 to %d", n.Addresses, maxAddresses)
	case n.Unreplied < 0:
		return bad("unreplied", "%v is negative", n.Unreplied)
	case n.Sessions < 0:
		return bad("sessions", "%d is negative", n.Sessions)
	case n.EvictOldest && n.Sessions == 0:
		return bad("evict_oldest", "needs a number of sessions")
	case n.HairpinInside && !n.Hairpinning:
		return bad("hairpin_inside", "needs hairpinning")
	}
	if f := n.Firewall; f != nil {
		for i, p := range f.Ports {
			if p == 0 {
				return bad(fmt.Sprintf("firewall.ports[%d]", i), "0 is not a port")
			}
		}
		switch {
		case f.PacketRate < 0:
			return bad("firewall.packet_rate", "%d is negative", f.PacketRate)
		case f.DropFirst < 0:
			return bad("firewall.drop_first", "%d is negative", f.DropFirst)
		}
	}
	return nil
}

// maxAddresses is how many outside addresses a NAT may have. They are those
// of a /24, of which the address plan uses .10 for the node itself.
const maxAddresses = 200
