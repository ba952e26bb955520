package kernel

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// On every scenario that ships, both back ends give each host the same address
// and map it to the same address outside, and to the same port where the NATs
// keep ports.
func TestAgreesWithSimulator(t *testing.T) {
	for _, name := range netsim.Scenarios() {
		sc, err := netsim.NamedScenario(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := SupportsScenario(sc); err != nil {
			t.Logf("%s is for the simulator alone: %v", name, err)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model, err := netsim.Start(sc)
			if err != nil {
				t.Fatal(err)
			}
			defer model.Close()
			kernel := start(t, sc)

			var server string
			for _, h := range sc.Hosts {
				if h.Parent == "" {
					server = h.Name
				}
			}
			keepsPorts := true
			for _, n := range sc.NATs {
				keepsPorts = keepsPorts && n.NAT.Allocation == netsim.Preserving
			}
			for _, h := range sc.Hosts {
				if h.Name == server {
					continue
				}
				want, got := seen(t, model, h.Name, server), seen(t, kernel, h.Name, server)
				if got.Addr() != want.Addr() || keepsPorts && got != want {
					t.Errorf("%s is seen as %v, in the simulator as %v", h.Name, got, want)
				}
			}
		})
	}
}

// seen returns the address that server sees of a socket of host on port 5000.
// Packets may be lost on the way.
func seen(t *testing.T, n netsim.Network, host, server string) netip.AddrPort {
	t.Helper()
	listen := func(name string, port uint16) net.PacketConn {
		conn, err := n.Host(name).ListenPacket(context.Background(), port)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	h, s := listen(host, 5000), listen(server, 3478)
	defer h.Close()
	defer s.Close()
	for range 50 {
		if _, err := h.WriteTo([]byte(host), s.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		s.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		b := make([]byte, 100)
		size, from, err := s.ReadFrom(b)
		if err == nil && string(b[:size]) == host {
			return netip.MustParseAddrPort(from.String())
		}
	}
	t.Fatalf("%s never reached %s", host, server)
	return netip.AddrPort{}
}
