package punch

import (
	"net/netip"
	"testing"
)

func TestRouterOf(t *testing.T) {
	gateways := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("10.0.0.1")}
	own := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("192.168.1.20/24")}
	for _, tt := range []struct{ local, gateway, from string }{
		{"0.0.0.0", "192.168.1.1", "192.168.1.20"},
		{"10.0.0.7", "10.0.0.1", "10.0.0.7"},
		{"127.0.0.1", "", ""},
	} {
		g, f := routerOf(netip.MustParseAddr(tt.local), gateways, own)
		if tt.gateway == "" && (g.IsValid() || f.IsValid()) || tt.gateway != "" && (g.String() != tt.gateway || f.String() != tt.from) {
			t.Errorf("%s: router %v from %v, want %s from %s", tt.local, g, f, tt.gateway, tt.from)
		}
	}
}
