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
	if len(names) != 5 {
		t.Errorf("scenarios = %v, want five", names)
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
      down: {rate: 1G, cut: true}
hosts:
  - name: pc
    parent: home
    uplink:
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
				InboundRefresh: true, Hairpinning: true,
			}},
			{Name: "home", Parent: "carrier", Uplink: netsim.Link{
				Delay: 10 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.01,
				Burst: &netsim.GilbertElliott{GoodToBad: 0.1, BadToGood: 0.5, LossGood: 0.001, LossBad: 0.9},
				Rate:  20e6, Queue: 65536, Duplicate: 0.002, Reorder: 0.25, MTU: 1400,
				Down: &netsim.Link{Rate: 1e9, Cut: true},
			}},
		},
		Hosts: []netsim.HostNode{{Name: "pc", Parent: "home"}},
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
