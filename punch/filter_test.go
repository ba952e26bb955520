package punch

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestFilter(t *testing.T) {
	own := Filter{
		Own:      func() []netip.Prefix { return prefixes("192.168.7.0/24", "fd12::/16") },
		Gateways: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.168.7.1")} },
		Deny:     prefixes("fd99::/16", "9.9.9.0/24"),
	}
	for _, tt := range []struct {
		addr        string
		sameOutside bool
		want        string // ok, private or refused
	}{
		{"5.6.7.8:4000", false, "ok"},
		{"[::ffff:5.6.7.8]:4000", false, "ok"},
		{"[2a00:1450::1]:4000", false, "ok"},
		{"5.6.7.8:1023", false, "refused"},
		{"5.6.7.8:0", false, "refused"},
		// Special-purpose IPv4.
		{"0.0.0.0:4000", true, "refused"},
		{"0.1.2.3:4000", true, "refused"},
		{"127.0.0.1:4000", true, "refused"},
		{"127.255.255.254:4000", true, "refused"},
		{"169.254.169.254:4000", true, "refused"},
		{"169.254.1.1:4000", true, "refused"},
		{"192.0.0.192:4000", true, "refused"},
		{"192.0.2.1:4000", true, "refused"},
		{"192.88.99.1:4000", true, "refused"},
		{"198.18.0.1:4000", true, "refused"},
		{"198.51.100.1:4000", true, "refused"},
		{"203.0.113.1:4000", true, "refused"},
		{"224.0.0.251:4000", true, "refused"},
		{"239.255.255.250:4000", true, "refused"},
		{"240.0.0.1:4000", true, "refused"},
		{"255.255.255.255:4000", true, "refused"},
		{"100.100.100.200:4000", true, "refused"},
		{"168.63.129.16:4000", true, "refused"},
		// The same and others, spelled as IPv6.
		{"[::ffff:127.0.0.1]:4000", true, "refused"},
		{"[::ffff:7f00:1]:4000", true, "refused"},
		{"[::ffff:169.254.169.254]:4000", true, "refused"},
		{"[::ffff:0.0.0.0]:4000", true, "refused"},
		{"[::ffff:10.1.2.3]:4000", false, "refused"},
		{"[::127.0.0.1]:4000", true, "refused"},
		{"[::1]:4000", true, "refused"},
		{"[::]:4000", true, "refused"},
		{"[64:ff9b::7f00:1]:4000", true, "refused"},
		{"[64:ff9b::5.6.7.8]:4000", true, "refused"},
		{"[64:ff9b:1::7f00:1]:4000", true, "refused"},
		{"[2002:7f00:1::]:4000", true, "refused"},
		{"[2001::1]:4000", true, "refused"},
		{"[2001:20::1]:4000", true, "refused"},
		{"[2001:db8::1]:4000", true, "refused"},
		{"[3fff::1]:4000", true, "refused"},
		{"[100::1]:4000", true, "refused"},
		{"[fe80::1]:4000", true, "refused"},
		{"[fe80::1%eth0]:4000", true, "refused"},
		{"[2a00::1%eth0]:4000", true, "refused"},
		{"[fec0::1]:4000", true, "refused"},
		{"[ff02::fb]:4000", true, "refused"},
		{"[fd00:ec2::254]:4000", true, "refused"},
		// Private addresses.
		{"192.168.7.20:4000", false, "private"},
		{"[::ffff:192.168.7.20]:4000", false, "private"},
		{"[fd12::5]:4000", false, "private"},
		{"192.168.8.20:4000", false, "refused"},
		{"192.168.8.20:4000", true, "private"},
		{"10.0.0.1:4000", false, "refused"},
		{"172.31.0.1:4000", false, "refused"},
		{"172.32.0.1:4000", false, "ok"},
		{"100.64.0.1:4000", false, "refused"},
		{"100.127.0.1:4000", true, "private"},
		{"[fc00::1]:4000", false, "refused"},
		{"[fd13::5]:4000", true, "private"},
		// Our own rules.
		{"192.168.7.1:4000", true, "refused"},
		{"[::ffff:192.168.7.1]:4000", true, "refused"},
		{"[fd99::1]:4000", true, "refused"},
		{"9.9.9.9:4000", false, "refused"},
	} {
		private, err := own.Check(netip.MustParseAddrPort(tt.addr), tt.sameOutside)
		got := "ok"
		if err != nil {
			got = "refused"
			var fe *FilterError
			if !errors.As(err, &fe) || fe.Why == "" {
				t.Errorf("%s: error %v gives no reason", tt.addr, err)
			}
		} else if private {
			got = "private"
		}
		if got != tt.want {
			t.Errorf("%s, same outside %v: %s (%v), want %s", tt.addr, tt.sameOutside, got, err, tt.want)
		}
	}
	if _, err := own.Check(netip.AddrPort{}, true); err == nil {
		t.Error("no address at all passes")
	}
	test := Filter{Allow: prefixes("203.0.113.0/24", "127.0.0.0/8")}
	for _, s := range []string{"203.0.113.5:4000", "127.0.0.1:4000", "[::ffff:127.0.0.1]:4000"} {
		if private, err := test.Check(netip.MustParseAddrPort(s), false); private || err != nil {
			t.Errorf("allowed prefix: %v is private %v, %v", s, private, err)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	// The bytes of 192.168.1.1 in the order of a little-endian machine; on a
	// big-endian one the same text means another address.
	const table = "Iface\tDestination\tGateway \tFlags\n" +
		"eth0\t00000000\t0101A8C0\t0003\n" +
		"eth0\t0001A8C0\t00000000\t0001\n" +
		"ppp0\t00000000\t00000000\t0001\n" +
		"bad\t00000000\tzz\n"
	got := parseRoutes(strings.NewReader(table))
	if len(got) != 1 || got[0] != netip.MustParseAddr("192.168.1.1") && got[0] != netip.MustParseAddr("1.1.168.192") {
		t.Errorf("gateways = %v, want 192.168.1.1", got)
	}
}

func TestInterfaces(t *testing.T) {
	prefixes, hosts := InterfacePrefixes(), HostAddrs(4000)
	if len(prefixes) != len(hosts) {
		t.Fatalf("%d prefixes and %d addresses", len(prefixes), len(hosts))
	}
	for i, h := range hosts {
		if !prefixes[i].Contains(h.Addr()) || h.Port() != 4000 || h.Addr().IsLoopback() || h.Addr().IsLinkLocalUnicast() {
			t.Errorf("address %v in prefix %v", h, prefixes[i])
		}
	}
}
