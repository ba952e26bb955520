package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"golang.org/x/sys/unix"
)

var (
	behaviors   = []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}
	allocations = []string{"preserving", "sequential", "random"}
)

// allTypes returns one home and one host for each mapping, filtering and
// allocation.
func allTypes() (sc netsim.Scenario) {
	sc.Hosts = []netsim.HostNode{{Name: "server-1"}, {Name: "server-2"}}
	for m := range behaviors {
		for f := range behaviors {
			for a := range allocations {
				id := fmt.Sprintf("%d%d%d", m, f, a)
				sc.NATs = append(sc.NATs, netsim.NATNode{Name: "home-" + id, NAT: netsim.NAT{
					Mapping: netsim.Behavior(m), Filtering: netsim.Behavior(f), Allocation: netsim.Allocation(a),
				}})
				sc.Hosts = append(sc.Hosts, netsim.HostNode{Name: id, Parent: "home-" + id})
			}
		}
	}
	return sc
}

// The behavior of each NAT is measured as RFC 5780 does it: by four transport
// addresses on two hosts.
func TestNATTypes(t *testing.T) {
	sc := allTypes()
	n := start(t, sc)
	plan, err := sc.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	server := listen(t, n, "server-1", 3478)
	otherPort := listen(t, n, "server-1", 3479)
	otherHost := listen(t, n, "server-2", 3478)

	type measured struct {
		nat    netsim.NAT
		filter end // a socket that has sent to server alone
	}
	all := make(map[string]measured)
	for _, node := range sc.NATs {
		nat := node.NAT
		name := fmt.Sprintf("mapping=%s/filtering=%s/allocation=%s",
			behaviors[nat.Mapping], behaviors[nat.Filtering], allocations[nat.Allocation])
		host := node.Name[len("home-"):]
		t.Run(name, func(t *testing.T) {
			e := listen(t, n, host, 5000)
			var ports []int
			for _, s := range []end{server, otherPort, otherHost, server} {
				m := e.mapped(s)
				if m.Addr() != plan[node.Name].Addr {
					t.Errorf("mapped to %v, want the address %v", m, plan[node.Name].Addr)
				}
				ports = append(ports, int(m.Port()))
			}
			same := func(i, j int) bool { return ports[i] == ports[j] }
			if !same(0, 3) {
				t.Errorf("mapped to ports %v, want the last as the first", ports)
			}
			if same(0, 1) != (nat.Mapping != netsim.AddressAndPortDependent) ||
				same(0, 2) != (nat.Mapping == netsim.EndpointIndependent) {
				t.Errorf("mapped to ports %v, which is not %s", ports, behaviors[nat.Mapping])
			}
			switch distinct := slices.Compact(slices.Clone(ports[:3])); nat.Allocation {
			case netsim.Preserving:
				if ports[0] != 5000 {
					t.Errorf("mapped to port %d first, want 5000", ports[0])
				}
			case netsim.Sequential:
				for i := 1; i < len(distinct); i++ {
					if distinct[i] != distinct[i-1]+1 {
						t.Errorf("mapped to ports %v, want consecutive ones", distinct)
					}
				}
			case netsim.Random:
				if ports[0] == 5000 || ports[0] < lowestPort {
					t.Errorf("mapped to port %d, want a random one", ports[0])
				}
			}
		})
		e := listen(t, n, host, 6000)
		outside := e.mapped(server)
		server.send(outside, "server")
		otherPort.send(outside, "other port")
		otherHost.send(outside, "other host")
		all[name] = measured{nat, e}
	}
	got := make(map[string][]string)
	for name, m := range all {
		for range wantThrough(m.nat) {
			text, _ := m.filter.receive()
			got[name] = append(got[name], text)
		}
	}
	time.Sleep(150 * time.Millisecond) // for what should not arrive
	for name, m := range all {
		if text, _, ok := m.filter.within(time.Millisecond); ok {
			got[name] = append(got[name], text)
		}
		slices.Sort(got[name])
		if want := wantThrough(m.nat); !slices.Equal(got[name], want) {
			t.Errorf("%s: received from %q, want %q", name, got[name], want)
		}
	}
}

// wantThrough returns, sorted, who of TestNATTypes reaches a host behind nat
// that has sent to the server alone.
func wantThrough(nat netsim.NAT) []string {
	return []string{"other host", "other port", "server"}[nat.Filtering:]
}

// A puncher is one side of a pair. It checks the way to where the server saw
// its peer and to wherever its peer's packets came from. As in ICE, a check
// succeeds when its answer comes from the address that it was sent to
// (RFC 8445, section 7.2.5.2.1).
type puncher struct {
	end
	peers     []netip.AddrPort
	succeeded bool
}

func (p *puncher) check() {
	for _, to := range p.peers {
		p.send(to, "check "+to.String())
	}
}

func (p *puncher) listen() {
	for {
		text, from, ok := p.within(time.Millisecond)
		if !ok {
			return
		}
		if to, isAnswer := strings.CutPrefix(text, "answer "); isAnswer {
			p.succeeded = p.succeeded || to == from.String()
			continue
		}
		p.send(from, strings.Replace(text, "check", "answer", 1))
		if !slices.Contains(p.peers, from) {
			p.peers = append(p.peers, from)
		}
	}
}

type natPair struct {
	name string
	a, b *puncher
	want bool
}

func (p natPair) direct() bool { return p.a.succeeded && p.b.succeeded }

// All 45 pairs of the nine types with random ports, in two homes each, are direct
// as the model says.
func TestPairsOfNATs(t *testing.T) {
	types := netsim.NATTypes()
	sc := netsim.Scenario{Hosts: []netsim.HostNode{{Name: "server"}}}
	for i, nt := range types {
		nat := netsim.NAT{Mapping: nt.Mapping, Filtering: nt.Filtering, Allocation: netsim.Random}
		for _, side := range []string{"a", "b"} {
			name := fmt.Sprintf("%s%d", side, i)
			sc.NATs = append(sc.NATs, netsim.NATNode{Name: "home-" + name, NAT: nat})
			sc.Hosts = append(sc.Hosts, netsim.HostNode{Name: name, Parent: "home-" + name})
		}
	}
	n := start(t, sc)
	s := listen(t, n, "server", 3478)
	var pairs []natPair
	for i, a := range types {
		for j, b := range types[i:] {
			p := natPair{
				name: fmt.Sprintf("%v and %v", a, b),
				a:    &puncher{end: listen(t, n, fmt.Sprintf("a%d", i), 0)},
				b:    &puncher{end: listen(t, n, fmt.Sprintf("b%d", i+j), 0)},
				want: netsim.DirectPossible(a, b),
			}
			p.a.peers = []netip.AddrPort{p.b.mapped(s)}
			p.b.peers = []netip.AddrPort{p.a.mapped(s)}
			pairs = append(pairs, p)
		}
	}
	missing := func() bool {
		return slices.ContainsFunc(pairs, func(p natPair) bool { return p.want && !p.direct() })
	}
	// Eight rounds are ample; a busy machine may need more.
	for round := 0; round < 8 || round < 50 && missing(); round++ {
		for _, p := range pairs {
			p.a.check()
			p.b.check()
		}
		time.Sleep(60 * time.Millisecond)
		for _, p := range pairs {
			p.a.listen()
			p.b.listen()
		}
	}
	count := 0
	for _, p := range pairs {
		got := p.direct()
		if got {
			count++
		}
		if got != p.want {
			t.Errorf("%s: direct = %v, want %v", p.name, got, p.want)
		}
	}
	if len(pairs) != 45 || count != 23 {
		t.Errorf("%d of %d pairs are direct, want 23 of 45", count, len(pairs))
	}
}

func TestMappingLifetime(t *testing.T) {
	const (
		short = 200 * time.Millisecond
		long  = 1500 * time.Millisecond // a busy machine may send late
	)
	for _, tt := range []struct {
		name    string
		nat     netsim.NAT
		wait    time.Duration
		inbound bool // packets keep coming in
		want    bool // still mapped
	}{
		{"idle", netsim.NAT{Lifetime: short}, 2 * short, false, false},
		{"inbound only", netsim.NAT{Lifetime: short}, 2 * short, true, false},
		{"inbound refresh", netsim.NAT{Lifetime: long, InboundRefresh: true}, 2 * long, true, true},
		{"inbound refresh, address-dependent", netsim.NAT{
			Mapping: netsim.AddressDependent, Filtering: netsim.AddressAndPortDependent,
			Lifetime: time.Hour, InboundRefresh: true,
		}, short, true, true},
		{"for ever", netsim.NAT{Lifetime: -1}, short, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.nat.Allocation = netsim.Random
			n := start(t, twoHomes(tt.nat, tt.nat))
			s, a := listen(t, n, "server", 3478), listen(t, n, "a", 5000)
			outside := a.mapped(s)
			for range 20 {
				time.Sleep(tt.wait / 20)
				if tt.inbound {
					s.send(outside, "refresh")
				}
			}
			s.send(outside, "late")
			arrived := false
			for {
				text, _, ok := a.within(200 * time.Millisecond)
				if !ok {
					break
				}
				arrived = arrived || text == "late"
			}
			if arrived != tt.want {
				t.Errorf("after %v a packet came in = %v, want %v", tt.wait, arrived, tt.want)
			}
			if again := a.mapped(s); (again == outside) != tt.want {
				t.Errorf("mapped to %v, then %v, want the same = %v", outside, again, tt.want)
			}
		})
	}
}

func TestRebootOfMappingNAT(t *testing.T) {
	random := netsim.NAT{Allocation: netsim.Random}
	n := start(t, twoHomes(random, netsim.NAT{}))
	s, a, b := listen(t, n, "server", 3478), listen(t, n, "a", 5000), listen(t, n, "b", 5000)
	outA, outB := a.mapped(s), b.mapped(s)
	for _, nat := range []string{"home-a", "home-b"} {
		if err := n.Reboot(nat); err != nil {
			t.Fatal(err)
		}
	}
	s.send(outA, "late")
	s.send(outB, "late")
	a.silent()
	b.silent()
	if again := a.mapped(s); again == outA {
		t.Errorf("mapped to %v again", again)
	}
	if again := b.mapped(s); again != outB {
		t.Errorf("mapped to %v, want %v", again, outB)
	}
}

// Two insiders with one port: the first keeps it, the second gets another.
func TestInsidersWithOnePort(t *testing.T) {
	sc := netsim.Scenario{
		NATs:  []netsim.NATNode{{Name: "home"}},
		Hosts: []netsim.HostNode{{Name: "server"}, {Name: "a", Parent: "home"}, {Name: "b", Parent: "home"}},
	}
	n := start(t, sc)
	s, a, b := listen(t, n, "server", 3478), listen(t, n, "a", 5000), listen(t, n, "b", 5000)
	outA, outB := a.mapped(s), b.mapped(s)
	if outA.Port() != 5000 || outB.Port() == 5000 {
		t.Errorf("mapped to %v and %v, want port 5000 for the first alone", outA, outB)
	}
	for _, tt := range []struct {
		to   netip.AddrPort
		end  end
		text string
	}{{outA, a, "for a"}, {outB, b, "for b"}} {
		s.send(tt.to, tt.text)
		if got, _ := tt.end.receive(); got != tt.text {
			t.Errorf("%v received %q, want %q", tt.end.addr(), got, tt.text)
		}
	}
}

func TestHairpinning(t *testing.T) {
	restricted := portRestricted // by rules without connection tracking
	restricted.Hairpinning = true
	for _, tt := range []struct {
		name string
		nat  netsim.NAT
		want bool // both ways
	}{
		{"none", portRestricted, false},
		{"none, by rules", netsim.NAT{}, false},
		{"port-restricted", restricted, true},
		{"open", netsim.NAT{Hairpinning: true, Allocation: netsim.Random}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sc := netsim.Scenario{
				NATs:  []netsim.NATNode{{Name: "home", NAT: tt.nat}},
				Hosts: []netsim.HostNode{{Name: "server"}, {Name: "a", Parent: "home"}, {Name: "b", Parent: "home"}},
			}
			n := start(t, sc)
			s, a, b := listen(t, n, "server", 3478), listen(t, n, "a", 5000), listen(t, n, "b", 5001)
			outA, outB := a.mapped(s), b.mapped(s)
			a.send(outB, "first") // opens a's mapping toward b
			a.silent()
			for _, way := range []struct {
				from, to end
				dst, src netip.AddrPort
			}{{b, a, outA, outB}, {a, b, outB, outA}} {
				way.from.send(way.dst, "hairpin")
				wait := 150 * time.Millisecond
				if tt.want {
					wait = 10 * time.Second
				}
				text, src, ok := way.to.within(wait)
				for text == "first" {
					text, src, ok = way.to.within(wait)
				}
				if ok != tt.want {
					t.Fatalf("%v to %v arrived = %v, want %v", way.from.addr(), way.dst, ok, tt.want)
				}
				if ok && (text != "hairpin" || src != way.src) {
					t.Errorf("received %q from %v, want hairpin from %v", text, src, way.src)
				}
			}
			if got := a.mapped(s); got != outA {
				t.Errorf("then mapped to %v, want %v", got, outA)
			}
		})
	}
}

// Batches that a socket hands to the kernel in one piece (UDP_SEGMENT), and
// packets that it has to fragment, pass NATs of both kinds in both directions.
func TestSegmentsAndFragments(t *testing.T) {
	byRules := portRestricted
	byRules.Allocation = netsim.Random
	n := start(t, twoHomes(portRestricted, byRules))
	s := listen(t, n, "server", 3478)
	const size, count = 1200, 20
	segment := func(e end, size int) {
		raw, err := e.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, host := range []string{"a", "b"} {
		e := listen(t, n, host, 5000)
		outside := e.mapped(s)
		for _, way := range []struct {
			name     string
			from, to end
			dst, src netip.AddrPort
		}{{"out", e, s, s.addr(), outside}, {"in", s, e, outside, s.addr()}} {
			segment(way.from, size)
			way.from.send(way.dst, strings.Repeat("x", size*count))
			for i := range count {
				if text, src := way.to.receive(); len(text) != size || src != way.src {
					t.Fatalf("%s %s: segment %d has %d bytes from %v, want %d from %v",
						host, way.name, i, len(text), src, size, way.src)
				}
			}
			segment(way.from, 0)
			way.from.send(way.dst, strings.Repeat("x", 2000))
			if text, src := way.to.receive(); len(text) != 2000 || src != way.src {
				t.Errorf("%s %s: %d bytes in fragments from %v, want 2000 from %v", host, way.name, len(text), src, way.src)
			}
		}
	}
}

func TestSupports(t *testing.T) {
	for _, tt := range []struct {
		name string
		nat  netsim.NAT
		want bool
	}{
		{"zero", netsim.NAT{}, true},
		{"port-restricted", portRestricted, true},
		{"symmetric", symmetric, true},
		{"hairpinning", netsim.NAT{Hairpinning: true}, true},
		{"inbound refresh", netsim.NAT{InboundRefresh: true}, true},
		{"inbound refresh through a weak filter", netsim.NAT{
			Mapping: netsim.AddressDependent, InboundRefresh: true,
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Supports(tt.nat)
			if (err == nil) != tt.want {
				t.Errorf("Supports returned %v, want support = %v", err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrUnsupported) {
				t.Errorf("%v does not wrap ErrUnsupported", err)
			}
		})
	}
}
