package netsim

import (
	"fmt"
	"strings"
)

var behaviorNames = [...]string{
	EndpointIndependent:     "endpoint-independent",
	AddressDependent:        "address-dependent",
	AddressAndPortDependent: "address-and-port-dependent",
}

// behaviorLetters open the short names, as in EIM and EIF.
var behaviorLetters = [...]string{
	EndpointIndependent:     "EI",
	AddressDependent:        "AD",
	AddressAndPortDependent: "APD",
}

// String returns the name in full: "endpoint-independent" and so on.
func (b Behavior) String() string { return nameOf(behaviorNames[:], int(b)) }

// MarshalText encodes the name in full.
func (b Behavior) MarshalText() ([]byte, error) { return marshalName(behaviorNames[:], int(b)) }

// UnmarshalText decodes the name in full.
func (b *Behavior) UnmarshalText(text []byte) error {
	return unmarshalName(behaviorNames[:], text, (*int)(b))
}

var allocationNames = [...]string{
	Preserving: "preserving",
	Sequential: "sequential",
	Random:     "random",
}

// String returns "preserving", "sequential" or "random".
func (a Allocation) String() string { return nameOf(allocationNames[:], int(a)) }

// MarshalText encodes the name.
func (a Allocation) MarshalText() ([]byte, error) { return marshalName(allocationNames[:], int(a)) }

// UnmarshalText decodes the name.
func (a *Allocation) UnmarshalText(text []byte) error {
	return unmarshalName(allocationNames[:], text, (*int)(a))
}

var poolingNames = [...]string{Paired: "paired", Arbitrary: "arbitrary"}

// String returns "paired" or "arbitrary".
func (p Pooling) String() string { return nameOf(poolingNames[:], int(p)) }

// MarshalText encodes the name.
func (p Pooling) MarshalText() ([]byte, error) { return marshalName(poolingNames[:], int(p)) }

// UnmarshalText decodes the name.
func (p *Pooling) UnmarshalText(text []byte) error {
	return unmarshalName(poolingNames[:], text, (*int)(p))
}

func nameOf(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return names[i]
}

func marshalName(names []string, i int) ([]byte, error) {
	if i < 0 || i >= len(names) {
		return nil, fmt.Errorf("netsim: %d is not a known value", i)
	}
	return []byte(names[i]), nil
}

func unmarshalName(names []string, text []byte, to *int) error {
	for i, name := range names {
		if name == string(text) {
			*to = i
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", text, strings.Join(names, ", "))
}

// A NATType is what decides which peers of a NAT can be reached directly.
type NATType struct {
	Mapping   Behavior
	Filtering Behavior
}

// NATTypes returns the nine types, mapping by mapping.
func NATTypes() []NATType {
	var out []NATType
	for m := EndpointIndependent; m <= AddressAndPortDependent; m++ {
		for f := EndpointIndependent; f <= AddressAndPortDependent; f++ {
			out = append(out, NATType{m, f})
		}
	}
	return out
}

// String returns a short name, as in "EIM/APDF": endpoint-independent mapping,
// address and port-dependent filtering.
func (t NATType) String() string {
	return nameOf(behaviorLetters[:], int(t.Mapping)) + "M/" + nameOf(behaviorLetters[:], int(t.Filtering)) + "F"
}

// ParseNATType is the inverse of NATType.String.
func ParseNATType(s string) (NATType, error) {
	for _, t := range NATTypes() {
		if t.String() == s {
			return t, nil
		}
	}
	return NATType{}, fmt.Errorf("netsim: NAT type %q is not MAPPING/FILTERING with one of EIM, ADM, APDM and one of EIF, ADF, APDF", s)
}

// MarshalText encodes the short name.
func (t NATType) MarshalText() ([]byte, error) {
	if _, err := ParseNATType(t.String()); err != nil {
		return nil, err
	}
	return []byte(t.String()), nil
}

// UnmarshalText decodes the short name.
func (t *NATType) UnmarshalText(text []byte) error {
	parsed, err := ParseNATType(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// NAT returns a NAT of type t, the rest as in NAT's zero value.
func (t NATType) NAT() NAT { return NAT{Mapping: t.Mapping, Filtering: t.Filtering} }

// Type returns the type of n.
func (n NAT) Type() NATType { return NATType{n.Mapping, n.Filtering} }
