package punch

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Dependence is the set of answers, still possible after what has been
// measured, to the question what a NAT's mapping or filtering depends on
// (RFC 4787, sections 4.1 and 5). A set of one is an answer; the zero value
// says that nothing was measured, which leaves all three possible.
type Dependence uint8

const (
	// EndpointIndependent ignores the destination.
	EndpointIndependent Dependence = 1 << iota
	// AddressDependent looks at the destination's address.
	AddressDependent
	// AddressAndPortDependent looks at the destination's address and port.
	AddressAndPortDependent

	// Unknown is the zero value.
	Unknown Dependence = 0

	everyDependence = EndpointIndependent | AddressDependent | AddressAndPortDependent
)

// possible returns the set with Unknown spelled out.
func (d Dependence) possible() Dependence {
	if d&everyDependence == 0 {
		return everyDependence
	}
	return d & everyDependence
}

// may reports whether some member of set is possible.
func (d Dependence) may(set Dependence) bool { return d.possible()&set != 0 }

// must reports whether only members of set are possible.
func (d Dependence) must(set Dependence) bool { return d.possible()&^set == 0 }

// Known reports whether exactly one answer is left.
func (d Dependence) Known() bool {
	p := d.possible()
	return p&(p-1) == 0
}

// dependenceNames are the words of RFC 4787.
var dependenceNames = [...]struct {
	one  Dependence
	name string
}{
	{EndpointIndependent, "endpoint-independent"},
	{AddressDependent, "address-dependent"},
	{AddressAndPortDependent, "address and port-dependent"},
}

// String returns the words of RFC 4787, several joined by " or ", or
// "unknown".
func (d Dependence) String() string {
	if d.possible() == everyDependence {
		return "unknown"
	}
	var names []string
	for _, n := range dependenceNames {
		if d.possible()&n.one != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, " or ")
}

// MarshalText implements [encoding.TextMarshaler].
func (d Dependence) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [Dependence.String] returns.
func (d *Dependence) UnmarshalText(b []byte) error {
	if string(b) == "unknown" {
		*d = Unknown
		return nil
	}
	var set Dependence
	for _, word := range strings.Split(string(b), " or ") {
		known := false
		for _, n := range dependenceNames {
			if n.name == word {
				set |= n.one
				known = true
			}
		}
		if !known {
			return fmt.Errorf("punch: %q is no NAT behavior of RFC 4787", b)
		}
	}
	*d = set
	return nil
}

// A Finding is the answer to a question of yes or no that may be open.
type Finding uint8

const (
	NotMeasured Finding = iota
	Yes
	No
)

// String returns "unknown", "yes" or "no".
func (f Finding) String() string {
	switch f {
	case Yes:
		return "yes"
	case No:
		return "no"
	default:
		return "unknown"
	}
}

// MarshalText implements [encoding.TextMarshaler].
func (f Finding) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [Finding.String] returns.
func (f *Finding) UnmarshalText(b []byte) error {
	for _, x := range []Finding{NotMeasured, Yes, No} {
		if x.String() == string(b) {
			*f = x
			return nil
		}
	}
	return fmt.Errorf("punch: %q is neither unknown, yes nor no", b)
}

// found turns a measured bool into a Finding.
func found(yes bool) Finding {
	if yes {
		return Yes
	}
	return No
}

// Behavior is what is known about the network between one socket and the
// Internet. The zero value knows nothing.
type Behavior struct {
	Mapping   Dependence `json:"mapping"`
	Filtering Dependence `json:"filtering"`
	// Translated says whether the mapped address differs from the socket's own.
	Translated Finding `json:"translated"`
	// PortPreserving says whether the outside port equals the inside port
	// (RFC 4787, section 4.2.1).
	PortPreserving Finding `json:"port_preserving"`
	// PortDelta is the step between the outside ports of mappings made one
	// after the other, where it was the same each time; zero: no step seen.
	PortDelta int16 `json:"port_delta"`
	// UDPBlocked says whether no Binding request was answered at all.
	UDPBlocked Finding `json:"udp_blocked"`
}

// String names mapping and filtering in the words of RFC 4787.
func (b Behavior) String() string {
	if b.UDPBlocked == Yes {
		return "UDP blocked"
	}
	return fmt.Sprintf("%v mapping, %v filtering", b.Mapping, b.Filtering)
}

// Sentence says in one sentence with whom this network connects directly.
func (b Behavior) Sentence() string {
	switch {
	case b.UDPBlocked == Yes:
		return "UDP is blocked here, so every connection goes through the relay."
	case b.Mapping.possible() == everyDependence:
		return "Too little was measured to say with whom this network connects directly."
	}
	// For each mapping of the peer, the peer's filterings that surely work.
	var full, part []string
	for _, m := range dependenceNames {
		var some []string
		for _, f := range dependenceNames {
			if direct, certain := predict(b, Behavior{Mapping: m.one, Filtering: f.one}); direct && certain {
				some = append(some, f.name)
			}
		}
		switch len(some) {
		case 0:
		case len(dependenceNames):
			full = append(full, m.name)
		default:
			part = append(part, fmt.Sprintf("%s mapping if their filtering is %s", m.name, strings.Join(some, " or ")))
		}
	}
	if len(full) == len(dependenceNames) {
		return "This network connects directly with every network that lets UDP through."
	}
	var with []string
	if len(full) > 0 {
		with = append(with, strings.Join(full, " or ")+" mapping")
	}
	with = append(with, part...)
	if len(with) == 0 {
		return "As far as was measured, this network may need the relay for every peer behind a NAT."
	}
	return "This network connects directly with networks of " + strings.Join(with, ", and of ") + "; others may need the relay."
}

// Advice says in one sentence what to change in the router, or that nothing
// needs to change.
func (b Behavior) Advice() string {
	switch {
	case b.UDPBlocked == Yes:
		return "Let UDP out to any port in the router or firewall, or use another network."
	case b.Mapping.must(byDestination):
		return "In the router, choose endpoint-independent mapping (often called full cone, open or moderate NAT), or forward a UDP port to this computer and set it as node.listen_port."
	case !b.Mapping.Known():
		return "Ask a STUN server with two addresses too (--stun), which tells whether the router should change."
	case b.Filtering == AddressAndPortDependent:
		return "Nothing needs to change; a UDP port forwarded to this computer, and set as node.listen_port, makes connections with stricter networks faster."
	default:
		return "Nothing needs to change."
	}
}

// An Observation is one Binding transaction: the server that was asked and the
// reflexive transport address it saw. Mapped is the zero value where no answer
// came.
type Observation struct {
	Server netip.AddrPort `json:"server"`
	Mapped netip.AddrPort `json:"mapped"`
}

// Classify derives the mapping behavior of the network before the socket at
// local from what several servers saw of it, in the order asked (RFC 5780,
// section 4.3). What these servers cannot tell apart stays possible: two ports
// of one address never separate endpoint-independent from address-dependent
// mapping, for instance. Filtering is left unknown; see [Mux.Discover].
func Classify(local netip.AddrPort, seen []Observation) Behavior {
	var b Behavior
	var answered []Observation
	for _, o := range seen {
		if o.Mapped.IsValid() {
			answered = append(answered, Observation{Server: canonical(o.Server), Mapped: canonical(o.Mapped)})
		}
	}
	if len(answered) == 0 {
		if len(seen) > 0 {
			b.UDPBlocked = Yes
		}
		return b
	}
	b.UDPBlocked = No
	local = canonical(local)
	b.PortPreserving = found(answered[0].Mapped.Port() == local.Port())
	if !local.Addr().IsUnspecified() {
		b.Translated = found(answered[0].Mapped != local)
		if b.Translated == No {
			// Nothing maps; a firewall may still filter.
			b.Mapping = EndpointIndependent
		}
	}
	possible := b.Mapping.possible()
	for i, x := range answered {
		for _, y := range answered[:i] {
			if x.Server == y.Server || x.Server.Addr().Is4() != y.Server.Addr().Is4() {
				continue
			}
			samePlace := x.Server.Addr() == y.Server.Addr()
			switch {
			case x.Mapped == y.Mapped && samePlace:
				possible &^= AddressAndPortDependent
			case x.Mapped == y.Mapped:
				possible &= EndpointIndependent
			case samePlace:
				possible &= AddressAndPortDependent
			default:
				possible &^= EndpointIndependent
			}
		}
	}
	// Contradictions (a mapping that moved while we asked, an arbitrary pool of
	// outside addresses) leave nothing possible, which reads as unknown.
	if possible != everyDependence {
		b.Mapping = possible
	}
	b.PortDelta = portDelta(answered)
	return b
}

// portDelta returns the common step between successive outside ports, or zero.
func portDelta(seen []Observation) int16 {
	if len(seen) < 3 {
		return 0
	}
	step := int(seen[1].Mapped.Port()) - int(seen[0].Mapped.Port())
	for i := 2; i < len(seen); i++ {
		if int(seen[i].Mapped.Port())-int(seen[i-1].Mapped.Port()) != step {
			return 0
		}
	}
	if step < -1<<15 || step >= 1<<15 {
		return 0
	}
	return int16(step)
}

// canonical returns a with an IPv4 address in its 4-byte form and no zone.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
