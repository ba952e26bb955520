package netsim_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestNamedScenarios(t *testing.T) {
	names := netsim.Scenarios()
	if len(names) != 11 {
		t.Errorf("scenarios = %v, want eleven", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			sc, err := netsim.NamedScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			if sc.Name != name {
				t.Errorf("name = %q, want that of the file", sc.Name)
			}
			sim, err := netsim.Start(sc)
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			for _, h := range []string{"rendezvous", "a", "b"} {
				if sim.Host(h) == nil {
					t.Errorf("no host %q", h)
				}
			}
		})
	}
	if _, err := netsim.NamedScenario("nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown scenario: %v, want fs.ErrNotExist", err)
	}
}

func TestParseScenario(t *testing.T) {
	got, err := netsim.ParseScenario("all.yaml", []byte(`
name: all
seed: 18446744073709551615
nats:
  - name: carrier
    inside: 100.64.0.0/16
    nat:
      mapping: address-dependent
      filtering: address-and-port-dependent
      allocation: sequential
      lifetime: 30s
      inbound_refresh: true
      hairpinning: true
      hairpin_inside: true
      delta: -2
      cross_traffic: 2.5
      first_port: 2000
      last_port: 2999
      block: 64
      addresses: 4
      pooling: arbitrary
      unreplied: 20s
      no_outbound_refresh: true
      sessions: 30
      evict_oldest: true
      firewall: {block_udp: true, ports: [53, 443], packet_rate: 100, drop_first: 2, drop_stun: true}
  - name: home
    parent: carrier
    uplink:
      delay: 10ms
      jitter: 2ms
      loss: 0.01
      burst: {good_to_bad: 0.1, bad_to_good: 0.5, loss_good: 0.001, loss_bad: 0.9}
      rate: 20M
      queue: 65536
      duplicate: 0.002
      reorder: 0.25
      mtu: 1400
      too_big: true
      down: {rate: 1G, cut: true}
hosts:
  - name: pc
    parent: home
    uplink:
  - name: phone
    of: pc
events:
  - {at: 2s, node: home, do: relink, uplink: {mtu: 1280}, every: 3s, times: 4}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := netsim.Scenario{
		Name: "all",
		Seed: 1<<64 - 1,
		NATs: []netsim.NATNode{
			{Name: "carrier", Inside: netip.MustParsePrefix("100.64.0.0/16"), NAT: netsim.NAT{
				Mapping: netsim.AddressDependent, Filtering: netsim.AddressAndPortDependent,
				Allocation: netsim.Sequential, Lifetime: 30 * time.Second,
				InboundRefresh: true, Hairpinning: true, HairpinInside: true,
				Delta: -2, CrossTraffic: 2.5, FirstPort: 2000, LastPort: 2999, Block: 64,
				Addresses: 4, Pooling: netsim.Arbitrary, Unreplied: 20 * time.Second,
				NoOutboundRefresh: true, Sessions: 30, EvictOldest: true,
				Firewall: &netsim.Firewall{BlockUDP: true, Ports: []uint16{53, 443}, PacketRate: 100, DropFirst: 2, DropSTUN: true},
			}},
			{Name: "home", Parent: "carrier", Uplink: netsim.Link{
				Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.01,
				Burst: &netsim.GilbertElliott{GoodToBad: 0.1, BadToGood: 0.5, LossGood: 0.001, LossBad: 0.9},
				Rate:  20e6, Queue: 65536, Duplicate: 0.002, Reorder: 0.25, MTU: 1400, TooBig: true,
				Down: &netsim.Link{Rate: 1e9, Cut: true},
			}},
		},
		Hosts:  []netsim.HostNode{{Name: "pc", Parent: "home"}, {Name: "phone", Of: "pc"}},
		Events: []netsim.Event{{At: 2 * time.Second, Node: "home", Do: netsim.Relink, Uplink: netsim.Link{MTU: 1280}, Every: 3 * time.Second, Times: 4}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseScenarioErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		yaml string
		want string
	}{
		{"empty", "", "netsim: f.yaml: holds 0 documents, not one scenario"},
		{"two documents", "name: a\n---\nname: b\n", "netsim: f.yaml: holds 2 documents, not one scenario"},
		{"not a mapping", "- 1\n", "netsim: f.yaml:1: "},
		{"syntax", "name: [\n", "netsim: f.yaml:1: "},
		{"unknown key", "name: a\nhost: []\n", `netsim: f.yaml:2: unknown field "host"`},
		{"unknown key below", "hosts:\n- name: a\n  uplink:\n    dealy: 1ms\n", `netsim: f.yaml:4: unknown field "dealy"`},
		{"key twice", "name: a\nname: b\n", "netsim: f.yaml:2: "},
		{"duration", "hosts:\n- name: a\n  uplink:\n    delay: 10\n",
			`netsim: f.yaml:4: hosts[0].uplink.delay: "10" is not a duration such as 10ms or 2m`},
		{"rate", "hosts:\n- name: a\n  uplink: {rate: fast}\n",
			`netsim: f.yaml:3: hosts[0].uplink.rate: "fast" is not a rate in bit/s such as 20M`},
		{"rate overflows", "hosts:\n- name: a\n  uplink: {rate: 9999999999G}\n",
			`netsim: f.yaml:3: hosts[0].uplink.rate: "9999999999G" is not a rate in bit/s such as 20M`},
		{"list for a value", "hosts:\n- name: [a]\n", "netsim: f.yaml:2: hosts[0].name: is not a single value"},
		{"behavior", "nats:\n- name: n\n  nat:\n    mapping: symmetric\n",
			`netsim: f.yaml:4: nats[0].nat.mapping: "symmetric" is not one of endpoint-independent, address-dependent, address-and-port-dependent`},
		{"no name", "hosts:\n- name: a\n- parent: n\n", "netsim: f.yaml:3: hosts[1].name: is missing"},
		{"name with a space", "hosts:\n- name: a b\n", "netsim: f.yaml:2: hosts[0].name (a b): is not 1 to 40 of a-z, 0-9 and -"},
		{"name twice", "nats:\n- name: x\nhosts:\n- name: x\n", "netsim: f.yaml:4: hosts[0].name (x): is the name of nats[0]"},
		{"parent absent", "hosts:\n- name: a\n  parent: n\n", `netsim: f.yaml:3: hosts[0].parent (a): no NAT is named "n"`},
		{"parent is a host", "hosts:\n- name: a\n- name: b\n  parent: a\n", `netsim: f.yaml:4: hosts[1].parent (b): no NAT is named "a"`},
		{"circle", "nats:\n- name: a\n  parent: b\n- name: b\n  parent: a\n", `netsim: f.yaml:3: nats[0].parent (a): "b" does not lead to the core`},
		{"loss above one", "hosts:\n- name: a\n  uplink:\n    loss: 1.5\n", "netsim: f.yaml:4: hosts[0].uplink.loss (a): 1.5 is not in 0 to 1"},
		{"loss not a number", "hosts:\n- name: a\n  uplink:\n    loss: nan\n", "netsim: f.yaml:4: hosts[0].uplink.loss (a): NaN is not in 0 to 1"},
		{"loss down", "hosts:\n- name: a\n  uplink:\n    down:\n      loss: -1\n", "netsim: f.yaml:5: hosts[0].uplink.down.loss (a): -1 is not in 0 to 1"},
		{"negative delay", "hosts:\n- name: a\n  uplink: {delay: -1ms}\n", "netsim: f.yaml:3: hosts[0].uplink.delay (a): -1ms is not in 0 to 1h"},
		{"reorder alone", "hosts:\n- name: a\n  uplink: {reorder: 0.1}\n", "netsim: f.yaml:3: hosts[0].uplink.reorder (a): needs jitter, which is what reorders"},
		{"queue alone", "hosts:\n- name: a\n  uplink: {queue: 1000}\n", "netsim: f.yaml:3: hosts[0].uplink.queue (a): needs a rate to wait for"},
		{"small MTU", "hosts:\n- name: a\n  uplink: {mtu: 60}\n", "netsim: f.yaml:3: hosts[0].uplink.mtu (a): 60 is not in 68 to 65535"},
		{"delta without sequence", "nats:\n- name: n\n  nat:\n    delta: 2\n", "netsim: f.yaml:4: nats[0].nat.delta (n): needs sequential allocation, whose step it is"},
		{"ports reversed", "nats:\n- name: n\n  nat:\n    first_port: 3000\n    last_port: 2000\n", "netsim: f.yaml:4: nats[0].nat.first_port (n): 3000 is above the last port 2000"},
		{"port zero", "nats:\n- name: n\n  nat:\n    first_port: 0\n", `netsim: f.yaml:4: nats[0].nat.first_port: "0" is not a port from 1 to 65535`},
		{"huge block", "nats:\n- name: n\n  nat:\n    block: 70000\n", "netsim: f.yaml:4: nats[0].nat.block (n): 70000 ports is not in 1 to 64512"},
		{"addresses within", "nats:\n- name: c\n- name: n\n  parent: c\n  nat:\n    addresses: 2\n", "netsim: f.yaml:6: nats[1].nat.addresses (n): only a NAT on the core may have several"},
		{"firewall key", "nats:\n- name: n\n  nat:\n    firewall:\n      blok_udp: true\n", `netsim: f.yaml:5: unknown field "blok_udp"`},
		{"firewall rate", "nats:\n- name: n\n  nat:\n    firewall:\n      packet_rate: -1\n", "netsim: f.yaml:5: nats[0].nat.firewall.packet_rate (n): -1 is negative"},
		{"firewall port", "nats:\n- name: n\n  nat:\n    firewall:\n      ports: [53, x]\n", `netsim: f.yaml:5: nats[0].nat.firewall.ports[1]: "x" is not a port from 1 to 65535`},
		{"of nobody", "hosts:\n- name: a\n- name: b\n  of: c\n", `netsim: f.yaml:4: hosts[1].of (b): no host of its own is named "c"`},
		{"of a further link", "hosts:\n- name: a\n- name: b\n  of: a\n- name: c\n  of: b\n", `netsim: f.yaml:6: hosts[2].of (c): no host of its own is named "b"`},
		{"event without action", "hosts:\n- name: a\nevents:\n- node: a\n", "netsim: f.yaml:4: events[0].do: is missing"},
		{"event of nobody", "hosts:\n- name: a\nevents:\n- node: b\n  do: cut\n", `netsim: f.yaml:4: events[0].node (b): no node is named "b"`},
		{"reboot of a host", "hosts:\n- name: a\nevents:\n- node: a\n  do: reboot\n", "netsim: f.yaml:5: events[0].do (a): reboot is for a NAT"},
		{"unknown action", "hosts:\n- name: a\nevents:\n- node: a\n  do: explode\n", `netsim: f.yaml:5: events[0].do: "explode" is not one of cut, restore,`},
		{"times alone", "hosts:\n- name: a\nevents:\n- node: a\n  do: cut\n  times: 3\n", "netsim: f.yaml:6: events[0].times (a): needs every, the time between two"},
		{"IPv6 inside", "nats:\n- name: n\n  inside: fd00::/64\n", "netsim: f.yaml:3: nats[0].inside (n): fd00::/64 is not an IPv4 network of /8 to /29"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := netsim.ParseScenario("f.yaml", []byte(tt.yaml))
			var bad *netsim.ScenarioError
			if !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %v", err, tt.want)
			}
		})
	}
}

func TestLoadScenario(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.yaml")
	if _, err := netsim.LoadScenario(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(file, []byte("name: s\nhosts: [{name: a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sc, err := netsim.LoadScenario(file)
	if err != nil || sc.Name != "s" || len(sc.Hosts) != 1 {
		t.Errorf("got %+v, error %v", sc, err)
	}
	if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := netsim.LoadScenario(file); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
}

func FuzzParseScenario(f *testing.F) {
	for _, name := range netsim.Scenarios() {
		data, err := os.ReadFile(filepath.Join("scenarios", name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("hosts: [{name: a, parent: b, uplink: {delay: 1ms, down: {rate: 1M, cut: true}}}]"))
	f.Add([]byte("&a nats:\n- name: !!str b\n  <<: *a\n  inside: 10.0.0.0/8\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			t.Skip("the parser takes quadratic time for deep nesting")
		}
		sc, err := netsim.ParseScenario("f.yaml", data)
		if err != nil {
			return
		}
		if err := sc.Validate(); err != nil {
			t.Errorf("accepted and invalid: %v", err)
		}
	})
}
