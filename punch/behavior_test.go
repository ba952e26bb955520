package punch

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func seen(pairs ...string) []Observation {
	var list []Observation
	for i := 0; i < len(pairs); i += 2 {
		o := Observation{Server: netip.MustParseAddrPort(pairs[i])}
		if pairs[i+1] != "" {
			o.Mapped = netip.MustParseAddrPort(pairs[i+1])
		}
		list = append(list, o)
	}
	return list
}

func TestClassify(t *testing.T) {
	const a1, a2, b1, b2 = "5.0.0.1:3478", "5.0.0.1:3479", "5.0.0.2:3478", "5.0.0.2:3479"
	for _, tt := range []struct {
		name    string
		local   string
		seen    []Observation
		mapping Dependence
		more    func(Behavior) bool
	}{
		{"nobody answered", "192.168.1.2:4000", seen(a1, "", b1, ""), Unknown,
			func(b Behavior) bool { return b.UDPBlocked == Yes && b.Translated == NotMeasured }},
		{"nobody asked", "192.168.1.2:4000", nil, Unknown,
			func(b Behavior) bool { return b.UDPBlocked == NotMeasured }},
		{"one answer tells nothing", "192.168.1.2:4000", seen(a1, "9.0.0.1:5000"), Unknown,
			func(b Behavior) bool { return b.Translated == Yes && b.PortPreserving == No && b.UDPBlocked == No }},
		{"two ports of one address, equal", "192.168.1.2:4000", seen(a1, "9.0.0.1:5000", a2, "9.0.0.1:5000"),
			EndpointIndependent | AddressDependent, nil},
		{"two ports of one address, different", "192.168.1.2:4000", seen(a1, "9.0.0.1:5000", a2, "9.0.0.1:5001"),
			AddressAndPortDependent, nil},
		{"two addresses, equal", "192.168.1.2:5000", seen(a1, "9.0.0.1:5000", b1, "9.0.0.1:5000"),
			EndpointIndependent, func(b Behavior) bool { return b.PortPreserving == Yes }},
		{"two addresses, different", "192.168.1.2:4000", seen(a1, "9.0.0.1:5000", b1, "9.0.0.1:5001"),
			AddressDependent | AddressAndPortDependent, nil},
		{"address-dependent", "192.168.1.2:4000",
			seen(a1, "9.0.0.1:5000", a2, "9.0.0.1:5000", b1, "9.0.0.1:6000", b2, "9.0.0.1:6000"), AddressDependent, nil},
		{"sequential ports", "192.168.1.2:4000",
			seen(a1, "9.0.0.1:5000", a2, "9.0.0.1:5002", b1, "9.0.0.1:5004"), AddressAndPortDependent,
			func(b Behavior) bool { return b.PortDelta == 2 }},
		{"not behind a NAT", "9.0.0.1:5000", seen(a1, "9.0.0.1:5000"), EndpointIndependent,
			func(b Behavior) bool { return b.Translated == No && b.PortPreserving == Yes }},
		{"one server asked twice is no evidence", "192.168.1.2:4000",
			seen(a1, "9.0.0.1:5000", a1, "9.0.0.1:5001"), Unknown, nil},
		{"contradiction", "192.168.1.2:4000",
			seen(a1, "9.0.0.1:5000", a2, "9.0.0.1:5001", b1, "9.0.0.1:5000"), Unknown, nil},
		{"IPv4 spelled as IPv6", "[::ffff:192.168.1.2]:4000",
			seen(a1, "[::ffff:9.0.0.1]:5000", b1, "9.0.0.1:5000"), EndpointIndependent, nil},
		{"families are not compared", "192.168.1.2:4000",
			seen(a1, "9.0.0.1:5000", "[2a00::5]:3478", "[2a00::1]:5000"), Unknown, nil},
		{"wildcard socket", "[::]:4000", seen(a1, "9.0.0.1:4000"), Unknown,
			func(b Behavior) bool { return b.Translated == NotMeasured && b.PortPreserving == Yes }},
	} {
		b := Classify(netip.MustParseAddrPort(tt.local), tt.seen)
		if b.Mapping != tt.mapping || b.Filtering != Unknown {
			t.Errorf("%s: %v, want %v mapping and unknown filtering", tt.name, b, tt.mapping)
		}
		if tt.more != nil && !tt.more(b) {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
}

func TestBehaviorText(t *testing.T) {
	b := Behavior{Mapping: AddressDependent | AddressAndPortDependent, Filtering: Unknown, Translated: Yes, UDPBlocked: No}
	if got, want := b.String(), "address-dependent or address and port-dependent mapping, unknown filtering"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var back Behavior
	if err := json.Unmarshal(text, &back); err != nil || back != b {
		t.Errorf("%s decodes to %+v, %v", text, back, err)
	}
	var d Dependence
	if err := d.UnmarshalText([]byte("symmetric")); err == nil {
		t.Error("a word that RFC 4787 does not have is accepted")
	}
	var f Finding
	if err := f.UnmarshalText([]byte("perhaps")); err == nil {
		t.Error("perhaps is accepted as a finding")
	}
}

func TestSentence(t *testing.T) {
	for _, tt := range []struct {
		b    Behavior
		want string // a part
	}{
		{Behavior{Mapping: EndpointIndependent, Filtering: AddressDependent}, "directly with every network"},
		{Behavior{Mapping: EndpointIndependent, Filtering: AddressAndPortDependent}, "directly with every network"},
		{Behavior{Mapping: EndpointIndependent}, "directly with every network"},
		{Behavior{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent},
			"networks of endpoint-independent mapping; others"},
		{Behavior{UDPBlocked: Yes}, "UDP is blocked"},
		{Behavior{}, "Too little"},
	} {
		got := tt.b.Sentence()
		if !strings.Contains(got, tt.want) || strings.Count(got, ".") != 1 {
			t.Errorf("%v: %q, want one sentence with %q", tt.b, got, tt.want)
		}
	}
}

// TestExplain covers what the matrix of known types does not: open questions.
func TestExplain(t *testing.T) {
	hard := AddressDependent | AddressAndPortDependent
	for _, tt := range []struct {
		name          string
		local, remote Behavior
		want          Reason
	}{
		{"nothing known", Behavior{}, Behavior{}, Direct},
		{"UDP blocked there", Behavior{Mapping: EndpointIndependent}, Behavior{UDPBlocked: Yes}, UDPIsBlocked},
		{"maps by destination, filtering unknown", Behavior{Mapping: AddressAndPortDependent}, Behavior{Mapping: EndpointIndependent}, MappingAndFiltering},
		{"maps by destination, other side unknown", Behavior{Mapping: hard}, Behavior{}, MappingAndFiltering},
		{"maps by destination, other side filters by address", Behavior{Mapping: hard},
			Behavior{Mapping: EndpointIndependent, Filtering: AddressDependent}, Direct},
		{"both map by destination, rest unknown", Behavior{Mapping: hard}, Behavior{Mapping: hard}, MappingBoth},
		{"one address cannot tell", Behavior{Mapping: EndpointIndependent | AddressDependent},
			Behavior{Mapping: EndpointIndependent | AddressDependent}, Direct},
	} {
		for _, got := range []Reason{Explain(tt.local, tt.remote), Explain(tt.remote, tt.local)} {
			if got != tt.want {
				t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	want := []Reason{Direct, "connecting", "no-valid-pair", "mapping-and-filtering", "mapping-both",
		"udp-blocked", "proof-failed", "path-died", "policy", "peer-too-old"}
	var got []Reason
	for i, r := range reasons {
		got = append(got, r.reason)
		if code, ok := r.reason.code(); !ok || int(code) != i {
			t.Errorf("%q has code %d, %v, want %d", r.reason, code, ok, i)
		}
		if r.reason != Direct && r.reason.Advice() == "" {
			t.Errorf("%q has no advice", r.reason)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("reasons = %q, want %q", got, want)
	}
	if _, ok := Reason("symmetric").code(); ok {
		t.Error("the list of reasons is not closed")
	}
}
