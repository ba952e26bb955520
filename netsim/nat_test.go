package netsim_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A lab is one NAT with the hosts x and y behind it, and the public hosts s
// and t. Links have no delay, so that times are exact.
type lab struct {
	*netsim.Stepped
	tb    testing.TB
	ports map[string]*netsim.Port // by "host:port"
	got   []string                // "host:port<source", in order
}

func newLab(t testing.TB, seed uint64, nat netsim.NAT) *lab {
	t.Helper()
	s, err := netsim.NewStepped(netsim.Scenario{
		Seed: seed,
		NATs: []netsim.NATNode{{Name: "nat", NAT: nat}},
		Hosts: []netsim.HostNode{
			{Name: "x", Parent: "nat"}, {Name: "y", Parent: "nat"}, {Name: "s"}, {Name: "t"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &lab{Stepped: s, tb: t, ports: make(map[string]*netsim.Port)}
}

// port returns a bound port of a host.
func (l *lab) port(host string, number uint16) *netsim.Port {
	l.tb.Helper()
	key := fmt.Sprintf("%s:%d", host, number)
	if p := l.ports[key]; p != nil {
		return p
	}
	p, err := l.Bind(host, number, func(from netip.AddrPort, payload []byte) {
		l.got = append(l.got, fmt.Sprintf("%s<%v", key, from))
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	l.ports[key] = p
	return p
}

// out sends from host inside to a public one, at the present moment, and
// returns the source that the public one saw.
func (l *lab) out(from *netsim.Port, to *netsim.Port) netip.AddrPort {
	l.tb.Helper()
	l.got = nil
	from.Send(to.Addr(), []byte("out"))
	l.Run(l.Now())
	if len(l.got) != 1 {
		l.tb.Fatalf("%v -> %v: %v arrived, want one", from.Addr(), to.Addr(), l.got)
	}
	_, seen, _ := strings.Cut(l.got[0], "<")
	return netip.MustParseAddrPort(seen)
}

// in reports whether a packet from a public host to an outside address gets
// to anybody inside.
func (l *lab) in(from *netsim.Port, outside netip.AddrPort) bool {
	l.tb.Helper()
	l.got = nil
	from.Send(outside, []byte("in"))
	l.Run(l.Now())
	return len(l.got) == 1
}

// RFC 4787, section 4.1.
func TestNATMapping(t *testing.T) {
	for _, tt := range []struct {
		mapping                  netsim.Behavior
		otherPort, otherAddrSame bool // as the port of the first mapping
		mappings                 int
	}{
		{netsim.EndpointIndependent, true, true, 1},
		{netsim.AddressDependent, true, false, 2},
		{netsim.AddressAndPortDependent, false, false, 3},
	} {
		for _, allocation := range []netsim.Allocation{netsim.Preserving, netsim.Sequential, netsim.Random} {
			t.Run(fmt.Sprintf("%v/%v", tt.mapping, allocation), func(t *testing.T) {
				l := newLab(t, 1, netsim.NAT{Mapping: tt.mapping, Allocation: allocation})
				x := l.port("x", 5000)
				first := l.out(x, l.port("s", 1))
				again := l.out(x, l.port("s", 1))
				port := l.out(x, l.port("s", 2))
				addr := l.out(x, l.port("t", 1))
				if first.Addr() != l.Addr("nat") {
					t.Errorf("source = %v, want the NAT's address %v", first, l.Addr("nat"))
				}
				if again != first {
					t.Errorf("same destination: %v, then %v", first, again)
				}
				if got := port == first; got != tt.otherPort {
					t.Errorf("other port: same mapping %v, want %v", got, tt.otherPort)
				}
				if got := addr == first; got != tt.otherAddrSame {
					t.Errorf("other address: same mapping %v, want %v", got, tt.otherAddrSame)
				}
				if got, _ := l.Mappings("nat"); got != tt.mappings {
					t.Errorf("mappings = %d, want %d", got, tt.mappings)
				}
			})
		}
	}
}

// RFC 4787, section 5.
func TestNATFiltering(t *testing.T) {
	for _, tt := range []struct {
		filtering                   netsim.Behavior
		same, otherPort, otherAddr  bool
		afterOtherPort, afterOthers bool // once x has sent there through the same mapping
	}{
		{netsim.EndpointIndependent, true, true, true, true, true},
		{netsim.AddressDependent, true, true, false, true, true},
		{netsim.AddressAndPortDependent, true, false, false, true, true},
	} {
		t.Run(tt.filtering.String(), func(t *testing.T) {
			l := newLab(t, 1, netsim.NAT{Filtering: tt.filtering})
			x := l.port("x", 5000)
			outside := l.out(x, l.port("s", 1))
			check := func(what string, from *netsim.Port, want bool) {
				t.Helper()
				if got := l.in(from, outside); got != want {
					t.Errorf("from %s: let in %v, want %v", what, got, want)
				}
			}
			check("the destination", l.port("s", 1), tt.same)
			check("another port", l.port("s", 2), tt.otherPort)
			check("another address", l.port("t", 1), tt.otherAddr)
			l.out(x, l.port("s", 2))
			check("another port, once known", l.port("s", 2), tt.afterOtherPort)
			l.out(x, l.port("t", 1))
			check("another address, once known", l.port("t", 1), tt.afterOthers)
			if l.in(l.port("s", 1), netip.AddrPortFrom(l.Addr("nat"), 4999)) {
				t.Error("a port without mapping lets packets in")
			}
		})
	}
}

// Filter state belongs to one mapping: what x sent through its mapping to s
// says nothing about its mapping to t, nor about those of y.
func TestNATFilterStatePerMapping(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{Mapping: netsim.AddressDependent, Filtering: netsim.AddressDependent})
	x := l.port("x", 5000)
	toS, toT := l.out(x, l.port("s", 1)), l.out(x, l.port("t", 1))
	for _, tt := range []struct {
		from    string
		outside netip.AddrPort
		want    bool
	}{{"s", toS, true}, {"s", toT, false}, {"t", toT, true}, {"t", toS, false}} {
		if got := l.in(l.port(tt.from, 1), tt.outside); got != tt.want {
			t.Errorf("%s to %v: let in %v, want %v", tt.from, tt.outside, got, tt.want)
		}
	}
	if drops := l.Drops(); len(drops) != 1 || drops[0] != (netsim.Drop{Place: "nat", Cause: netsim.DropFiltered, Packets: 2}) {
		t.Errorf("drops = %v, want 2 filtered at the NAT", drops)
	}
}

// RFC 4787, section 4.2.
func TestNATAllocation(t *testing.T) {
	apdm := func(a netsim.Allocation) netsim.NAT {
		return netsim.NAT{Mapping: netsim.AddressAndPortDependent, Allocation: a}
	}
	t.Run("preserving", func(t *testing.T) {
		l := newLab(t, 1, apdm(netsim.Preserving))
		if got := l.out(l.port("x", 5000), l.port("s", 1)); got.Port() != 5000 {
			t.Errorf("port = %d, want 5000", got.Port())
		}
		// Two hosts behind one NAT with one port: both work.
		y := l.out(l.port("y", 5000), l.port("s", 1))
		if y.Port() == 5000 || y.Port() < 1024 {
			t.Errorf("port of the second host = %d", y.Port())
		}
		if !l.in(l.port("s", 1), y) || l.got[0][:6] != "y:5000" {
			t.Errorf("answer to %v reached %v, want y", y, l.got)
		}
	})
	t.Run("sequential", func(t *testing.T) {
		l := newLab(t, 1, apdm(netsim.Sequential))
		first := l.out(l.port("x", 5000), l.port("s", 1)).Port()
		for i := range uint16(100) {
			if got, want := l.out(l.port("x", 5000), l.port("s", 2+i)).Port(), first+1+i; got != want {
				t.Fatalf("port %d = %d, want %d", i, got, want)
			}
		}
	})
	t.Run("random", func(t *testing.T) {
		ports := func(seed uint64) (out [100]uint16) {
			l := newLab(t, seed, apdm(netsim.Random))
			seen := make(map[uint16]bool)
			for i := range out {
				out[i] = l.out(l.port("x", 5000), l.port("s", 1+uint16(i))).Port()
				if seen[out[i]] || out[i] < 1024 {
					t.Errorf("port %d = %d, which is taken or too low", i, out[i])
				}
				seen[out[i]] = true
			}
			return out
		}
		one := ports(1)
		if ports(1) != one {
			t.Error("equal seeds give different ports")
		}
		if ports(2) == one {
			t.Error("different seeds give equal ports")
		}
	})
	t.Run("exhausted", func(t *testing.T) {
		l := newLab(t, 1, apdm(netsim.Random))
		x, s := l.port("x", 5000), l.Addr("s")
		for port := 1; port <= 65535; port++ {
			x.Send(netip.AddrPortFrom(s, uint16(port)), nil)
		}
		const room = 65536 - 1024
		if got, _ := l.Mappings("nat"); got != room {
			t.Errorf("mappings = %d, want %d", got, room)
		}
		want := netsim.Drop{Place: "nat", Cause: netsim.DropNoPort, Packets: 65535 - room}
		if drops := l.Drops(); drops[0] != want {
			t.Errorf("drops = %v, want %v first", drops, want)
		}
	})
}

// RFC 4787, section 4.3.
func TestNATLifetime(t *testing.T) {
	const life = 30 * time.Second
	for _, tt := range []struct {
		name    string
		nat     netsim.NAT
		refresh time.Duration // when something refreshes; zero: nothing
		inbound bool          // the refresh comes from outside
		probe   time.Duration
		want    bool
	}{
		{"before", netsim.NAT{Lifetime: life}, 0, false, life - 1, true},
		{"at its end", netsim.NAT{Lifetime: life}, 0, false, life, false},
		{"default before", netsim.NAT{}, 0, false, 2*time.Minute - 1, true},
		{"default at its end", netsim.NAT{}, 0, false, 2 * time.Minute, false},
		{"never", netsim.NAT{Lifetime: -1}, 0, false, 1000 * time.Hour, true},
		{"outbound refreshes", netsim.NAT{Lifetime: life}, life / 2, false, life + life/2 - 1, true},
		{"outbound refreshes once", netsim.NAT{Lifetime: life}, life / 2, false, life + life/2, false},
		{"inbound does not", netsim.NAT{Lifetime: life}, life / 2, true, life, false},
		{"inbound refreshes if asked", netsim.NAT{Lifetime: life, InboundRefresh: true}, life / 2, true, life + life/2 - 1, true},
		{"the filter, too", netsim.NAT{Lifetime: life, InboundRefresh: true, Filtering: netsim.AddressAndPortDependent},
			life / 2, true, life + life/2 - 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 1, tt.nat)
			x, s := l.port("x", 5000), l.port("s", 1)
			outside := l.out(x, s)
			if tt.refresh > 0 {
				l.Run(tt.refresh)
				if tt.inbound {
					l.in(s, outside)
				} else {
					l.out(x, s)
				}
			}
			l.Run(tt.probe)
			if got := l.in(s, outside); got != tt.want {
				t.Errorf("let in after %v: %v, want %v", tt.probe, got, tt.want)
			}
			alive, expired := l.Mappings("nat")
			if wantAlive := map[bool]int{true: 1, false: 0}[tt.want]; alive != wantAlive || int(expired) != 1-wantAlive {
				t.Errorf("mappings alive %d, expired %d", alive, expired)
			}
		})
	}
}

// Each remote that the filter lets in has a lifetime of its own.
func TestNATFilterExpiry(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{Filtering: netsim.AddressAndPortDependent, Lifetime: 30 * time.Second})
	x := l.port("x", 5000)
	outside := l.out(x, l.port("s", 1))
	l.Run(20 * time.Second)
	l.out(x, l.port("t", 1)) // keeps the mapping
	l.Run(30 * time.Second)
	if l.in(l.port("s", 1), outside) {
		t.Error("s is let in a lifetime after x last sent to it")
	}
	if !l.in(l.port("t", 1), outside) {
		t.Error("t is not let in")
	}
}

func TestNATReboot(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{})
	x, s := l.port("x", 5000), l.port("s", 1)
	outside := l.out(x, s)
	if err := l.Reboot("nat"); err != nil {
		t.Fatal(err)
	}
	if l.in(s, outside) {
		t.Error("the mapping outlived the reboot")
	}
	if alive, expired := l.Mappings("nat"); alive != 0 || expired != 0 {
		t.Errorf("mappings alive %d, expired %d, want none", alive, expired)
	}
	l.out(x, s)
	if !l.in(s, outside) {
		t.Error("no mapping after the next outbound packet")
	}
	if err := l.Reboot("s"); err == nil {
		t.Error("a host was rebooted as a NAT")
	}
}

// RFC 4787, section 6.
func TestNATHairpinning(t *testing.T) {
	for _, tt := range []struct {
		name string
		nat  netsim.NAT
		want bool
	}{
		{"off", netsim.NAT{}, false},
		{"on", netsim.NAT{Hairpinning: true}, true},
		{"on and filtered", netsim.NAT{Hairpinning: true, Filtering: netsim.AddressDependent}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 1, tt.nat)
			x, y, s := l.port("x", 5000), l.port("y", 6000), l.port("s", 1)
			outsideX, outsideY := l.out(x, s), l.out(y, s)
			if got := l.in(x, outsideY); got != tt.want {
				t.Fatalf("x reaches y by its outside address: %v, want %v", got, tt.want)
			}
			// REQ-9: the source is the outside address, too.
			if want := "y:6000<" + outsideX.String(); tt.want && l.got[0] != want {
				t.Errorf("y saw %q, want %q", l.got[0], want)
			}
			// Within the network no translation takes place.
			if !l.in(x, y.Addr()) || l.got[0] != "y:6000<"+x.Addr().String() {
				t.Errorf("by its inside address y got %v", l.got)
			}
		})
	}
}

func TestNestedNATs(t *testing.T) {
	sc, err := netsim.NamedScenario("double-nat")
	if err != nil {
		t.Fatal(err)
	}
	s, err := netsim.NewStepped(sc)
	if err != nil {
		t.Fatal(err)
	}
	var atServer, atA netip.AddrPort
	server, err := s.Bind("rendezvous", 3478, func(from netip.AddrPort, _ []byte) { atServer = from })
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Bind("a", 5000, func(from netip.AddrPort, _ []byte) { atA = from })
	if err != nil {
		t.Fatal(err)
	}
	a.Send(server.Addr(), []byte("hello"))
	s.Run(time.Second)
	if atServer.Addr() != s.Addr("carrier") {
		t.Fatalf("source = %v, want the carrier's %v", atServer, s.Addr("carrier"))
	}
	if got := s.Addr("home-a"); !netip.MustParsePrefix("100.64.0.0/24").Contains(got) {
		t.Errorf("outside address of the home = %v, want a carrier's inside one", got)
	}
	server.Send(atServer, []byte("answer"))
	s.Run(2 * time.Second)
	if atA != server.Addr() {
		t.Errorf("answer came from %v, want %v", atA, server.Addr())
	}
	for _, nat := range []string{"carrier", "home-a"} {
		if got, _ := s.Mappings(nat); got != 1 {
			t.Errorf("mappings of %s = %d, want 1", nat, got)
		}
	}
}
