package punch

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestSurvey(t *testing.T) {
	const apd = netsim.AddressAndPortDependent
	for _, tt := range []struct {
		name    string
		nat     netsim.NAT
		ports   Ports // Next is any
		hairpin Finding
	}{
		{"preserving", netsim.NAT{Filtering: apd}, Ports{Allocation: AllocationPreserving, Low: 1024, High: 65535, Parity: Yes}, No},
		{"two steps down", netsim.NAT{Mapping: apd, Allocation: netsim.Sequential, Delta: -2, Hairpinning: true}, Ports{Allocation: AllocationSequential, Delta: -2, Low: 1024, High: 65535, Parity: No}, Yes},
		{"hairpinning behind a filter", netsim.NAT{Filtering: apd, Allocation: netsim.Random, Hairpinning: true}, Ports{Allocation: AllocationRandom, Low: 1024, High: 65535}, Yes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 2)
				servers := serveSTUN(t, world.Host())
				s := MakeSurvey(t.Context(), listenOn(world.NAT(tt.nat).Host()), servers[0])
				got := s.Ports
				got.Next = 0
				if tt.ports.Allocation != AllocationPreserving {
					got.Low, got.High = tt.ports.Low, tt.ports.High // eight steps are a block as well
				}
				if tt.ports.Parity == NotMeasured {
					got.Parity = NotMeasured
				}
				if tt.ports.Allocation == AllocationPreserving {
					got.Low, got.High = 1024, 65535
				}
				if got != tt.ports || s.Hairpinning != tt.hairpin {
					t.Errorf("got %+v, want %+v and hairpinning %v", s, tt.ports, tt.hairpin)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		world := netsim.New(t, 2)
		nobody := netip.AddrPortFrom(world.Host().Addr(), 3478)
		if s := MakeSurvey(t.Context(), listenOn(world.Host()), nobody); s != (Survey{}) {
			t.Errorf("without a server: %+v", s)
		}
	})
}

func TestAdvice(t *testing.T) {
	for _, tt := range []struct {
		b    Behavior
		want string
	}{
		{Behavior{UDPBlocked: Yes}, "Let UDP out"},
		{Behavior{Mapping: AddressDependent}, "endpoint-independent mapping"},
		{Behavior{Mapping: byDestination}, "forward a UDP port"},
		{Behavior{}, "two addresses"},
		{Behavior{Mapping: EndpointIndependent, Filtering: AddressAndPortDependent}, "Nothing needs"},
		{Behavior{Mapping: EndpointIndependent}, "Nothing needs"},
	} {
		if got := tt.b.Advice(); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want something with %q", tt.b, got, tt.want)
		}
	}
}
