package rendezvous

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/ri2n"
)

func testPeer(fill byte) (id ri2n.PeerID) {
	for i := range id {
		id[i] = fill
	}
	return id
}

func TestAddressSurvivesItsTextForm(t *testing.T) {
	id := testPeer(0xab)
	for _, tt := range []struct {
		text string
		want Address
	}{
		{"192.0.2.1:3478#" + id.String(), Address{"192.0.2.1", 3478, id}},
		{"[2001:db8::1]:443#" + id.String(), Address{"2001:db8::1", 443, id}},
		{"grid.example.org:3478#" + id.String(), Address{"grid.example.org", 3478, id}},
	} {
		got, err := ParseAddress(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("ParseAddress(%q) = %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
		if got.String() != tt.text {
			t.Errorf("String = %q, want %q", got.String(), tt.text)
		}
		b, err := json.Marshal(map[string]Address{"server": got})
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]Address
		if err := json.Unmarshal(b, &again); err != nil || again["server"] != got {
			t.Errorf("JSON %s gives %+v, %v", b, again, err)
		}
	}
}

func TestBadAddressesAreNamed(t *testing.T) {
	id := testPeer(1).String()
	for _, tt := range []struct{ text, want string }{
		{"192.0.2.1:3478", "no #"},
		{"192.0.2.1#" + id, "HOST:PORT"},
		{":3478#" + id, "host is missing"},
		{"192.0.2.1:0#" + id, `port "0"`},
		{"192.0.2.1:70000#" + id, `port "70000"`},
		{"192.0.2.1:x#" + id, `port "x"`},
		{"a b:1#" + id, "neither a name nor"},
		{"[fe80::1%eth0]:1#" + id, "zone"},
		{"192.0.2.1:3478#" + id[1:], "peer ID"},
		{"192.0.2.1:3478#" + id + "#", "peer ID"},
		{strings.Repeat("a", 254) + ":1#" + id, "longer"},
		{"", "no #"},
	} {
		a, err := ParseAddress(tt.text)
		var e *AddressError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseAddress(%q) = %v, %v; want an AddressError with %q", tt.text, a, err, tt.want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("192.0.2.1:3478#" + testPeer(1).String())
	f.Add("[2001:db8::1]:1#" + testPeer(2).String())
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q gives %+v, whose text gives %+v, %v", s, a, again, err)
		}
	})
}
