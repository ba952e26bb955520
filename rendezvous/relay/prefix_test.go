package relay

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestPrefixes(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.0.2.200", "192.0.2.0/24"},
		{"::ffff:192.0.2.200", "192.0.2.0/24"},
		{"2001:db8:1:2ff::1", "2001:db8:1:200::/56"},
		{"fe80::1%eth0", "fe80::/56"},
	} {
		if got := fmt.Sprint(PrefixOf(netip.MustParseAddr(tt.addr))); got != tt.want {
			t.Errorf("PrefixOf(%s) = %s, want %s", tt.addr, got, tt.want)
		}
	}
	if got := PrefixOf(netip.Addr{}); got.IsValid() {
		t.Errorf("PrefixOf(nothing) = %s", got)
	}
}
