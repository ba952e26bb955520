package punch

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pion/stun/v4"
)

func buildSTUN(t testing.TB, setters ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func TestParseSTUN(t *testing.T) {
	id := transactionID{1, 2, 3}
	set := stun.NewTransactionIDSetter(id)
	for _, tt := range []struct {
		name  string
		bytes []byte
		want  stunHeader
		bad   bool
	}{
		{"request", buildSTUN(t, set, stun.BindingRequest, stun.NewUsername("local:remote")),
			stunHeader{classRequest, id, "local"}, false},
		{"username after others", buildSTUN(t, set, stun.BindingRequest, stun.NewSoftware("abc"), stun.NewUsername("local:remote")),
			stunHeader{classRequest, id, "local"}, false},
		{"username without a colon", buildSTUN(t, set, stun.BindingRequest, stun.NewUsername("local")),
			stunHeader{classRequest, id, ""}, false},
		{"ufrag longer than ours may be", buildSTUN(t, set, stun.BindingRequest, stun.NewUsername(strings.Repeat("a", 33)+":b")),
			stunHeader{classRequest, id, ""}, false},
		{"success", buildSTUN(t, set, stun.BindingSuccess), stunHeader{classSuccess, id, ""}, false},
		{"error", buildSTUN(t, set, stun.BindingError), stunHeader{classError, id, ""}, false},
		{"indication", buildSTUN(t, set, stun.NewType(stun.MethodBinding, stun.ClassIndication)),
			stunHeader{classIndication, id, ""}, false},
		{"another method", buildSTUN(t, set, stun.NewType(stun.MethodAllocate, stun.ClassRequest)), stunHeader{}, true},
		{"empty", nil, stunHeader{}, true},
		{"short", make([]byte, 19), stunHeader{}, true},
		{"no cookie", make([]byte, 20), stunHeader{}, true},
		{"bytes behind", append(buildSTUN(t, set, stun.BindingRequest), 0, 0, 0, 0), stunHeader{}, true},
		{"attribute too long", func() []byte {
			b := buildSTUN(t, set, stun.BindingRequest, stun.NewUsername("a:b"))
			b[23] = 200
			return b
		}(), stunHeader{}, true},
	} {
		got, err := parseSTUN(tt.bytes)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// FuzzParseSTUN holds the mux's own reading against the library's.
func FuzzParseSTUN(f *testing.F) {
	f.Add(buildSTUN(f, stun.TransactionID, stun.BindingRequest, stun.NewUsername("local:remote"), stun.Fingerprint))
	f.Add(buildSTUN(f, stun.TransactionID, stun.BindingSuccess,
		&stun.XORMappedAddress{IP: net.IPv4(5, 6, 7, 8), Port: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseSTUN(b)
		if err != nil {
			return
		}
		m, err := decodeSTUN(b)
		if err != nil {
			t.Fatalf("we read %x, the library says %v", b, err)
		}
		if m.TransactionID != h.id {
			t.Errorf("transaction ID %x, want %x", h.id, m.TransactionID)
		}
		if len(h.ufrag) > maxUfrag {
			t.Errorf("ufrag of %d characters", len(h.ufrag))
		}
		if mapped, err := mappedAddress(m); err == nil && !mapped.IsValid() {
			t.Error("an invalid mapped address without an error")
		}
		otherAddress(m)
	})
}

func TestBindingRequestLength(t *testing.T) {
	for _, change := range []changeRequest{changeNothing, changePort, changeAddress | changePort} {
		b := newBinding(transactionID{1}, change)
		if _, err := parseSTUN(b); err != nil {
			t.Errorf("change %d: %v", change, err)
		}
		// The longest answer of RFC 5780 with IPv6 addresses and a SOFTWARE.
		longest := buildSTUN(t, stun.TransactionID, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: net.ParseIP("2001:db8::1"), Port: 1},
			&stun.OtherAddress{IP: net.ParseIP("2001:db8::1"), Port: 1},
			&stun.ResponseOrigin{IP: net.ParseIP("2001:db8::1"), Port: 1},
			stun.NewSoftware("instantgrid"), stun.Fingerprint)
		if len(b) < len(longest) {
			t.Errorf("change %d: request of %d bytes, answer of %d", change, len(b), len(longest))
		}
	}
}

func TestMappedAddress(t *testing.T) {
	for _, tt := range []struct {
		name string
		ip   string
		port int
		want string // empty: refused
	}{
		{"IPv4", "5.6.7.8", 9, "5.6.7.8:9"},
		{"IPv6", "2a00::1", 9, "[2a00::1]:9"},
		{"private, as seen by a server inside", "192.168.1.2", 9, "192.168.1.2:9"},
		{"unspecified", "0.0.0.0", 9, ""},
		{"unspecified IPv6", "::", 9, ""},
		{"broadcast", "255.255.255.255", 9, ""},
		{"multicast", "224.0.0.1", 9, ""},
		{"link-local", "169.254.1.1", 9, ""},
		{"port zero", "5.6.7.8", 0, ""},
	} {
		m, err := decodeSTUN(buildSTUN(t, stun.TransactionID, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: net.ParseIP(tt.ip), Port: tt.port}))
		if err != nil {
			t.Fatal(err)
		}
		got, err := mappedAddress(m)
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s: got %v, want an error", tt.name, got)
			}
		} else if want := netip.MustParseAddrPort(tt.want); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, want)
		}
	}
	m, _ := decodeSTUN(buildSTUN(t, stun.TransactionID, stun.BindingSuccess))
	if _, err := mappedAddress(m); err == nil {
		t.Error("an answer without XOR-MAPPED-ADDRESS is accepted")
	}
}
