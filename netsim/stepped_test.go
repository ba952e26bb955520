package netsim_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// pair returns a scenario of two homes and a rendezvous in the core.
func pair(seed uint64, a, b netsim.NAT, uplink netsim.Link) netsim.Scenario {
	return netsim.Scenario{
		Seed: seed,
		NATs: []netsim.NATNode{
			{Name: "home-a", NAT: a, Uplink: uplink},
			{Name: "home-b", NAT: b, Uplink: uplink},
		},
		Hosts: []netsim.HostNode{
			{Name: "rendezvous"},
			{Name: "a", Parent: "home-a"},
			{Name: "b", Parent: "home-b"},
		},
	}
}

// A puncher is a host that gets through NATs as ICE does, without its
// messages: it probes what it was told and what it hears from, and answers
// every probe to where it came from.
type puncher struct {
	net     *netsim.Stepped
	port    *netsim.Port
	remotes []netip.AddrPort
	told    bool // who the peer is
	direct  bool // a probe was answered from where it was sent
}

func (p *puncher) receive(from netip.AddrPort, payload []byte) {
	switch kind, text, _ := strings.Cut(string(payload), " "); kind {
	case "peer":
		p.learn(netip.MustParseAddrPort(text))
		if !p.told {
			p.told = true
			p.probe()
		}
	case "probe":
		p.learn(from)
		p.port.Send(from, []byte("answer "+text))
	case "answer":
		// RFC 8445, section 7.2.5.2.1: an answer from elsewhere fails the check.
		if from.String() == text {
			p.direct = true
		}
	}
}

func (p *puncher) learn(remote netip.AddrPort) {
	// The cap on peer-reflexive candidates: two hosts whose mappings depend on
	// the destination make them without end.
	if !slices.Contains(p.remotes, remote) && len(p.remotes) < 16 {
		p.remotes = append(p.remotes, remote)
	}
}

func (p *puncher) probe() {
	for _, r := range p.remotes {
		p.port.Send(r, []byte("probe "+r.String()))
	}
	p.net.At(p.net.Now()+50*time.Millisecond, p.probe)
}

// punch introduces the hosts a and b of s to each other by a rendezvous, and
// returns them.
func punch(t testing.TB, s *netsim.Stepped) (a, b *puncher) {
	t.Helper()
	bind := func(host string, receive func(netip.AddrPort, []byte)) *netsim.Port {
		port, err := s.Bind(host, 5000, receive)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	var rendezvous *netsim.Port
	var heard []netip.AddrPort
	rendezvous = bind("rendezvous", func(from netip.AddrPort, _ []byte) {
		if !slices.Contains(heard, from) {
			heard = append(heard, from)
		}
		if len(heard) == 2 {
			rendezvous.Send(heard[0], []byte("peer "+heard[1].String()))
			rendezvous.Send(heard[1], []byte("peer "+heard[0].String()))
		}
	})
	a, b = &puncher{net: s}, &puncher{net: s}
	for _, h := range []struct {
		name string
		p    *puncher
	}{{"a", a}, {"b", b}} {
		host, p := h.name, h.p
		p.port = bind(host, p.receive)
	}
	for _, p := range []*puncher{a, b} {
		var hello func()
		hello = func() {
			if !p.told {
				p.port.Send(rendezvous.Addr(), []byte("hello"))
				s.At(s.Now()+250*time.Millisecond, hello)
			}
		}
		s.At(0, hello)
	}
	return a, b
}

// TestDirectPossibleInSimulator checks the rule against the NATs: 45 pairs,
// 10 seeds each.
func TestDirectPossibleInSimulator(t *testing.T) {
	types := netsim.NATTypes()
	for i, ta := range types {
		for _, tb := range types[i:] {
			want := netsim.DirectPossible(ta, tb)
			for seed := range uint64(10) {
				na, nb := ta.NAT(), tb.NAT()
				na.Allocation, nb.Allocation = netsim.Random, netsim.Random
				s, err := netsim.NewStepped(pair(seed, na, nb, netsim.Link{Delay: 10 * time.Millisecond}))
				if err != nil {
					t.Fatal(err)
				}
				a, b := punch(t, s)
				s.Run(time.Second)
				if a.direct != want || b.direct != want {
					t.Errorf("%v with %v, seed %d: direct at a %v, at b %v; want %v", ta, tb, seed, a.direct, b.direct, want)
				}
			}
		}
	}
}

// TestEqualSeedsGiveEqualTraces is the promise of the stepped driver.
func TestEqualSeedsGiveEqualTraces(t *testing.T) {
	run := func(seed uint64) uint64 {
		apdm := netsim.NAT{Mapping: netsim.AddressAndPortDependent, Allocation: netsim.Random}
		s, err := netsim.NewStepped(pair(seed, apdm, apdm, netsim.Link{
			Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: 0.3,
			Loss: 0.05, Duplicate: 0.05, Rate: 10e6,
			Burst: &netsim.GilbertElliott{GoodToBad: 0.1, BadToGood: 0.3, LossBad: 0.5},
		}))
		if err != nil {
			t.Fatal(err)
		}
		punch(t, s)
		s.Run(5 * time.Second)
		if st := s.Stats(); st.Sent < 1000 || st.Dropped < 100 {
			t.Fatalf("too little happened: %+v", st)
		}
		return s.Hash()
	}
	seen := make(map[uint64]uint64)
	for seed := range uint64(8) {
		h := run(seed)
		if again := run(seed); again != h {
			t.Errorf("seed %d: hash %x, then %x", seed, h, again)
		}
		if other, ok := seen[h]; ok {
			t.Errorf("seeds %d and %d give one trace", seed, other)
		}
		seen[h] = seed
	}
}

// TestEqualSeedsGiveEqualTracesOfScenarios: so do the scenarios that ship, with
// their events, and whether or not somebody looks at the trace.
func TestEqualSeedsGiveEqualTracesOfScenarios(t *testing.T) {
	for _, name := range netsim.Scenarios() {
		t.Run(name, func(t *testing.T) {
			run := func(see func(netsim.TraceEvent)) uint64 {
				sc, err := netsim.NamedScenario(name)
				if err != nil {
					t.Fatal(err)
				}
				s, err := netsim.NewStepped(sc)
				if err != nil {
					t.Fatal(err)
				}
				s.Trace(see)
				punch(t, s)
				s.Run(20 * time.Second)
				return s.Hash()
			}
			seen := 0
			one, two := run(nil), run(func(netsim.TraceEvent) { seen++ })
			if one != two {
				t.Errorf("hash %x, then %x", one, two)
			}
			if seen < 100 {
				t.Errorf("%d steps: too little happened", seen)
			}
		})
	}
}

// TestPunchTranscript shows hole punching between two port-restricted homes,
// packet by packet.
func TestPunchTranscript(t *testing.T) {
	sc, err := netsim.NamedScenario("two-homes-port-restricted")
	if err != nil {
		t.Fatal(err)
	}
	s, err := netsim.NewStepped(sc)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s.Trace(func(e netsim.TraceEvent) { fmt.Fprintf(&out, "%v  %q\n", e, e.Payload) })
	a, b := punch(t, s)
	s.Run(60 * time.Millisecond)
	if !a.direct || !b.direct {
		t.Errorf("direct at a %v, at b %v; want both", a.direct, b.direct)
	}
	golden(t, "punch.txt", out.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
