package server_test

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/rendezvous/server"
)

// TestCoturnDiscovers has the programs of coturn, which are not ours, ask our
// STUN and behavior discovery from behind NATs of the kernel.
func TestCoturnDiscovers(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	for _, program := range []string{"turnutils_natdiscovery", "turnutils_stunclient"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v; scripts/setup installs it", err)
		}
	}
	for _, tt := range []struct {
		name      string
		nat       netsim.NATType
		mapping   string
		filtering string
	}{
		{"open", netsim.NATType{Mapping: netsim.EndpointIndependent, Filtering: netsim.EndpointIndependent}, "NAT with Endpoint Independent Mapping", "NAT with Endpoint Independent Filtering"},
		// For its third request natdiscovery takes the port from the second
		// answer, but goes back to the first address: it cannot see address-dependent
		// mapping, and says the next stricter word.
		{"restricted", netsim.NATType{Mapping: netsim.AddressDependent, Filtering: netsim.AddressDependent}, "NAT with Address and Port Dependent Mapping", "NAT with Address Dependent Filtering"},
		{"closed", netsim.NATType{Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent}, "NAT with Address and Port Dependent Mapping", "NAT with Address and Port Dependent Filtering"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for answers that are filtered
			nat := tt.nat.NAT()
			nat.Allocation = netsim.Random
			network, err := kernel.Start(netsim.Scenario{
				NATs: []netsim.NATNode{{Name: "home", NAT: nat}},
				Hosts: []netsim.HostNode{
					{Name: "rendezvous"}, {Name: "rendezvous-2", Of: "rendezvous"},
					{Name: "inside", Parent: "home"},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { network.Close() })
			open := func(host string, port uint16) net.PacketConn {
				pc, err := network.Host(host).ListenPacket(t.Context(), port)
				if err != nil {
					t.Fatal(err)
				}
				return pc
			}
			s, err := server.New(server.Config{
				Identity:  identity(t, serverIdentity),
				Listen:    []net.PacketConn{open("rendezvous", 3478)},
				Alternate: []net.PacketConn{open("rendezvous", 3479)},
				Other:     []net.PacketConn{open("rendezvous-2", 3478), open("rendezvous-2", 3479)},
				Mode:      server.Open,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })

			inside := network.Host("inside").(*kernel.Host)
			at := network.Host("rendezvous").Addr().String()
			run := func(args ...string) string {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				out, err := inside.Command(ctx, args[0], args[1:]...).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
				return string(out)
			}
			if out := run("turnutils_stunclient", at); !strings.Contains(out, "UDP reflexive addr:") {
				t.Errorf("turnutils_stunclient:\n%s", out)
			}
			out := run("turnutils_natdiscovery", "-m", "-f", "-P", at)
			for _, want := range []string{tt.mapping, tt.filtering} {
				if !strings.Contains(out, want) {
					t.Errorf("turnutils_natdiscovery does not say %q:\n%s", want, out)
				}
			}
		})
	}
}
