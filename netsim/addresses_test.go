package netsim_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestAddresses(t *testing.T) {
	carrier := netip.MustParsePrefix("100.64.0.0/24")
	sc := netsim.Scenario{
		NATs: []netsim.NATNode{
			{Name: "inner", Parent: "outer"}, // before its parent
			{Name: "outer", Inside: carrier},
			{Name: "plain"},
		},
		Hosts: []netsim.HostNode{
			{Name: "public"},
			{Name: "a", Parent: "inner"},
			{Name: "b", Parent: "inner"},
			{Name: "c", Parent: "plain"},
			{Name: "d", Parent: "outer"},
		},
	}
	got, err := sc.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"outer":  "5.1.1.10 100.64.0.0/24",
		"plain":  "5.1.2.10 192.168.1.0/24",
		"inner":  "100.64.0.2 192.168.2.0/24",
		"public": "5.1.3.10 invalid Prefix",
		"a":      "192.168.2.2 invalid Prefix",
		"b":      "192.168.2.3 invalid Prefix",
		"c":      "192.168.1.2 invalid Prefix",
		"d":      "100.64.0.3 invalid Prefix",
	}
	for name, w := range want {
		if g := fmt.Sprint(got[name].Addr, " ", got[name].Inside); g != w {
			t.Errorf("%s: %s, want %s", name, g, w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d addresses, want %d", len(got), len(want))
	}

	sim, err := netsim.Start(sc)
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	for _, h := range sc.Hosts {
		if g := sim.Host(h.Name).Addr(); g != got[h.Name].Addr {
			t.Errorf("%s: the simulator has %v, the plan %v", h.Name, g, got[h.Name].Addr)
		}
	}
	for _, n := range sc.NATs {
		g := sim.Gateway(n.Name)
		if g.Addr() != got[n.Name].Addr || g.Inside() != got[n.Name].Inside {
			t.Errorf("%s: the simulator has %v and %v, the plan %v", n.Name, g.Addr(), g.Inside(), got[n.Name])
		}
	}
}

func TestAddressesRunOut(t *testing.T) {
	sc := netsim.Scenario{NATs: []netsim.NATNode{{Name: "small", Inside: netip.MustParsePrefix("10.0.0.0/29")}}}
	for i := range 6 {
		_, err := sc.Addresses()
		if err != nil {
			t.Fatalf("%d hosts: %v", i, err)
		}
		sc.Hosts = append(sc.Hosts, netsim.HostNode{Name: fmt.Sprintf("h%d", i), Parent: "small"})
	}
	if _, err := sc.Addresses(); err == nil {
		t.Error("six hosts and a NAT fit in a /29")
	}
	if sim, err := netsim.Start(sc); err == nil {
		sim.Close()
		t.Error("the simulator found room")
	}
	many := netsim.Scenario{}
	for i := range 600 {
		many.NATs = append(many.NATs, netsim.NATNode{Name: fmt.Sprintf("n%d", i)})
	}
	got, err := many.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Prefix]bool)
	for name, a := range got {
		if seen[a.Inside] || !a.Inside.Addr().IsPrivate() || !a.Addr.IsGlobalUnicast() || a.Addr.IsPrivate() {
			t.Errorf("%s: %v and %v", name, a.Addr, a.Inside)
		}
		seen[a.Inside] = true
	}
}
