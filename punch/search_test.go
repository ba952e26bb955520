package punch

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestClassifyPorts(t *testing.T) {
	of := func(pairs ...uint16) (list []PortSample) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, PortSample{pairs[i], pairs[i+1]})
		}
		return list
	}
	for _, tt := range []struct {
		name    string
		samples []PortSample
		want    Ports
	}{
		{"two samples", of(1, 2, 3, 4), Ports{}},
		{"preserving", of(5001, 5001, 5002, 5002, 5003, 5003), Ports{Allocation: AllocationPreserving, Low: 1024, High: 65535, Parity: Yes}},
		{"contiguous", of(5001, 7000, 5002, 7001, 5003, 7002), Ports{Allocation: AllocationSequential, Delta: 1, Next: 7003, Low: 1024, High: 65535, Parity: No}},
		{"contiguous, neighbors between", of(5001, 7000, 5002, 7003, 5003, 7004), Ports{Allocation: AllocationSequential, Delta: 1, Next: 7005, Low: 1024, High: 65535, Parity: No}},
		{"downward by two", of(5001, 7000, 5002, 6998, 5003, 6994), Ports{Allocation: AllocationSequential, Delta: -2, Next: 6992, Low: 1024, High: 65535, Parity: No}},
		{"random", of(5001, 40000, 5002, 2000, 5003, 61001, 5004, 33333, 5005, 10000), Ports{Allocation: AllocationRandom, Low: 1024, High: 65535, Parity: No}},
		{"block", of(5001, 20500, 5002, 20990, 5003, 20600, 5004, 20900, 5005, 20700), Ports{Allocation: AllocationRandom, Low: 20480, High: 21503, Parity: No}},
	} {
		if got := ClassifyPorts(tt.samples); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// docs/wire-format-punch.md, section 5.
func TestProbeGolden(t *testing.T) {
	const pwd = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
	p := probe{kind: probeOpen, attempt: 0x0102030405060708}
	b := appendProbe(nil, p, pwd)
	golden(t, "probe", b, []field{{1, "first byte"}, {1, "open"}, {8, "attempt"}, {74, "zero"}, {16, "code"}})
	if got, ok := parseProbe(b, pwd); !ok || got != p {
		t.Errorf("decodes to %+v, %v", got, ok)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, ok := parseProbe(bad, pwd); ok {
			t.Errorf("accepted with byte %d changed", i)
		}
		if _, ok := parseProbe(b[:i], pwd); ok {
			t.Errorf("the first %d bytes are accepted", i)
		}
	}
	if _, ok := parseProbe(b, pwd+"x"); ok {
		t.Error("accepted under another password")
	}
	if _, ok := parseProbe(appendProbe(nil, probe{kind: 5}, pwd), pwd); ok {
		t.Error("a kind that does not exist is accepted")
	}
}

func TestPlanRefusals(t *testing.T) {
	outside := netip.MustParseAddr("192.0.2.1")
	for name, p := range map[string]plan{
		"no address":              {kind: planFixed, ports: []uint16{5000}},
		"no port":                 {kind: planFixed, outside: outside},
		"privileged port":         {kind: planFixed, outside: outside, ports: []uint16{22}},
		"one of many privileged":  {kind: planListed, outside: outside, ports: []uint16{5000, 1023}},
		"too many ports":          {kind: planListed, outside: outside, ports: make([]uint16, burstSockets+1)},
		"no step":                 {kind: planStepped, outside: outside, first: 5000},
		"a step too far":          {kind: planStepped, outside: outside, first: 5000, step: maxPortStep + 1},
		"range upside down":       {kind: planRandom, outside: outside, low: 6000, high: 5999},
		"range of privileged":     {kind: planRandom, outside: outside, low: 1, high: 5999},
		"kind that is none":       {kind: planKinds, outside: outside},
		"IPv4 address spelled v6": {kind: planFixed, outside: netip.MustParseAddr("::ffff:192.0.2.1"), ports: []uint16{5000}},
		"nothing, with address":   {kind: planNone, outside: outside},
	} {
		b := appendMessage(nil, message{kind: messagePlan, attempt: 1, plan: p})
		if m, err := parseMessage(b); err == nil {
			t.Errorf("%s: decodes to %+v", name, m.plan)
		}
	}
}

// Whatever two plans say, both sides together stay within the design's budget
// of 2048 probes, and no probe goes below port 1024.
func TestShotsStayInBudget(t *testing.T) {
	outside := netip.MustParseAddr("192.0.2.1")
	plans := []plan{
		{},
		{kind: planFixed, outside: outside, ports: []uint16{5000}},
		{kind: planListed, outside: outside, ports: []uint16{5000, 5001, 5002}},
		{kind: planStepped, outside: outside, first: 65535, step: maxPortStep},
		{kind: planStepped, outside: outside, first: 1024, step: -maxPortStep},
		{kind: planRandom, outside: outside, low: 1024, high: 65535},
		{kind: planRandom, outside: outside, low: 4096, high: 4159},
		{kind: planRandom, outside: outside, low: 5000, high: 5000},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, a := range plans {
		for _, b := range plans {
			x, y := shots(a, b, true, rng), shots(b, a, false, rng)
			if (x == nil) != (y == nil) {
				t.Errorf("%+v searches toward %+v alone: %v and %v", a, b, len(x), len(y))
			}
			if n := len(x) + len(y); n > maxGuesses+maxSpray {
				t.Errorf("%+v and %+v: %d probes", a, b, n)
			}
			for _, s := range slices.Concat(x, y) {
				if s.port < leastPort {
					t.Errorf("%+v and %+v: probe to port %d", a, b, s.port)
				}
			}
		}
	}
}

// searchable gives both nodes what a search needs.
func searchable(a, b *node, hostA, hostB netsim.Host, servers []netip.AddrPort) {
	for n, h := range map[*node]netsim.Host{a: hostA, b: hostB} {
		n.link.Listen = listenOn(h)
		n.link.Servers = servers
	}
}

// hardHomes are homes whose nodes can search, and prove their addresses to each
// other after proof; zero: never.
func hardHomes(t *testing.T, seed uint64, x, y netsim.NAT, proof time.Duration) (a, b *node) {
	t.Helper()
	world := netsim.New(t, seed)
	servers := serveSTUN(t, world.Host())
	servers = append(servers, serveSTUN(t, world.Host())...)
	access := netsim.Delay(10 * time.Millisecond)
	homeA, homeB := world.NAT(x, access), world.NAT(y, access)
	hostA, hostB := homeA.Host(), homeB.Host()
	a, b = newNode(t, hostA, servers, Filter{}), newNode(t, hostB, servers, Filter{})
	searchable(a, b, hostA, hostB, servers)
	connect(t, a, b, 20*time.Millisecond, 40*time.Millisecond)
	for n, peer := range map[*node]*node{a: b, b: a} {
		n.agent.cfg.Prove = func() {
			if proof > 0 {
				time.AfterFunc(proof, func() { peer.agent.Proven(n.link.Candidates[1].Addr.Addr()) })
			}
		}
	}
	return a, b
}

func hardNAT(m, f netsim.Behavior, a netsim.Allocation) netsim.NAT {
	n := netsim.NAT{Mapping: m, Filtering: f, Allocation: a}
	if a == netsim.Sequential {
		n.CrossTraffic = 1
	}
	return n
}

// The cells that connectivity checks alone leave relayed (design, section 5).
func TestHardNATs(t *testing.T) {
	const ei, ad, apd = netsim.EndpointIndependent, netsim.AddressDependent, netsim.AddressAndPortDependent
	easy := hardNAT(ei, apd, netsim.Random)
	for _, tt := range []struct {
		name   string
		a, b   netsim.NAT
		direct bool
		most   uint64 // probes of both
	}{
		{"fixed and preserving", easy, hardNAT(apd, apd, netsim.Preserving), true, 200},
		{"fixed and sequential", easy, hardNAT(apd, apd, netsim.Sequential), true, 300},
		{"sequential and fixed", hardNAT(ad, apd, netsim.Sequential), easy, true, 300},
		{"fixed and random", easy, hardNAT(apd, apd, netsim.Random), true, 2048},
		{"random and fixed", hardNAT(ad, ad, netsim.Random), easy, true, 2048},
		{"fixed and a carrier's block", easy, netsim.NAT{Mapping: apd, Filtering: apd, Allocation: netsim.Random, Block: 512}, true, 400},
		{"fixed and preserving, open filter", easy, hardNAT(ad, ei, netsim.Preserving), true, 300},
		{"fixed and random, open filter", easy, hardNAT(ad, ei, netsim.Random), true, 2048},
		{"sequential both, open filter", hardNAT(apd, ei, netsim.Sequential), hardNAT(apd, ei, netsim.Sequential), true, 700},
		{"sequential both", hardNAT(apd, apd, netsim.Sequential), hardNAT(apd, apd, netsim.Sequential), true, 400},
		{"sequential and preserving", hardNAT(apd, apd, netsim.Sequential), hardNAT(apd, apd, netsim.Preserving), true, 400},
		{"random both", hardNAT(apd, apd, netsim.Random), hardNAT(apd, apd, netsim.Random), false, 0},
		{"random and sequential", hardNAT(apd, apd, netsim.Random), hardNAT(apd, apd, netsim.Sequential), false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := hardHomes(t, 3, tt.a, tt.b, 20*time.Millisecond)
				punchOnce(t, a, b)
				if tt.direct && a.last(t).Reason != Direct && tt.most == 2048 {
					// Two searches in a thousand miss. Two in a row do not.
					a, b = hardHomes(t, 4, tt.a, tt.b, 20*time.Millisecond)
					punchOnce(t, a, b)
				}
				ra, rb := a.last(t), b.last(t)
				if got := ra.Reason == Direct; got != tt.direct || ra.Reason != rb.Reason {
					t.Fatalf("reasons %q and %q after %v, want direct %v", ra.Reason, rb.Reason, ra.Took, tt.direct)
				}
				sa, sb := a.agent.Searches(), b.agent.Searches()
				if n := sa.Probes + sb.Probes; n > tt.most {
					t.Errorf("%d probes, want at most %d", n, tt.most)
				}
				t.Logf("direct %v after %v, %d and %d probes", tt.direct, ra.Took, sa.Probes, sb.Probes)
				if !tt.direct {
					return
				}
				through(t, a, b)
			})
		})
	}
}

// through sends a datagram over the pair that a search ended with, both ways.
func through(t *testing.T, a, b *node) {
	t.Helper()
	conn := make(map[*node]Pair)
	for _, n := range []*node{a, b} {
		pairs, _, _ := n.seen()
		p := pairs[len(pairs)-1]
		if p.Stage != Selected {
			t.Fatalf("the last pair is %v", p.Stage)
		}
		if p.Conn != nil {
			t.Cleanup(func() { p.Conn.Close() })
		}
		conn[n] = p
	}
	for from, to := range map[*node]*node{a: b, b: a} {
		before := to.mux.Stats().NotSTUN
		payload := []byte("a packet of the transport")
		var err error
		if c := conn[from].Conn; c != nil {
			_, err = c.WriteTo(payload, netUDP(conn[from].Remote))
		} else {
			err = from.mux.send(payload, conn[from].Remote)
		}
		if err != nil {
			t.Fatal(err)
		}
		c := conn[to].Conn
		if c == nil {
			time.Sleep(time.Second)
			if to.mux.Stats().NotSTUN == before {
				t.Error("nothing arrived on the link's socket")
			}
			continue
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		for buf := make([]byte, 200); ; {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				t.Fatalf("nothing arrived on the found socket: %v", err)
			}
			if bytes.Equal(buf[:n], payload) {
				break // what came before are late probes
			}
		}
	}
}

// Security rule 1 of the design: no search toward an address that the peer has
// not proven, and none without its plan.
func TestNoSearchWithoutProof(t *testing.T) {
	easy := hardNAT(netsim.EndpointIndependent, netsim.AddressAndPortDependent, netsim.Random)
	hard := hardNAT(netsim.AddressAndPortDependent, netsim.AddressAndPortDependent, netsim.Sequential)
	synctest.Test(t, func(t *testing.T) {
		a, b := hardHomes(t, 1, easy, hard, 0)
		punchOnce(t, a, b)
		if r := a.last(t).Reason; r != MappingAndFiltering {
			t.Errorf("reason %q, want %q", r, MappingAndFiltering)
		}
		for name, n := range map[string]*node{"a": a, "b": b} {
			if s := n.agent.Searches(); s.Probes != 0 || s.Begun != 0 || s.Unproven != 1 {
				t.Errorf("%s: %+v, want one search refused as unproven and no probe", name, s)
			}
		}
		// And a second attempt soon after asks in vain.
		punchOnce(t, a, b)
		if s := a.agent.Searches(); s.TooSoon != 1 || s.Probes != 0 {
			t.Errorf("after the second attempt: %+v, want one too soon", s)
		}
	})
}

// A peer that names an address of special purpose, though "proven", or of a
// third party gets no probe sent there.
func TestNoSearchTowardSpecialAddresses(t *testing.T) {
	easy := hardNAT(netsim.EndpointIndependent, netsim.AddressAndPortDependent, netsim.Random)
	hard := hardNAT(netsim.AddressAndPortDependent, netsim.AddressAndPortDependent, netsim.Sequential)
	for _, victim := range []string{"127.0.0.1", "169.254.169.254", "224.0.0.1", "100.100.100.200", "10.0.0.1", "192.168.7.7", "9.9.9.9"} {
		t.Run(victim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := hardHomes(t, 1, easy, hard, 20*time.Millisecond)
				addr := netip.MustParseAddr(victim)
				for i, c := range b.link.Candidates {
					if c.Kind == KindServerReflexive {
						b.link.Candidates[i].Addr = netip.AddrPortFrom(addr, c.Addr.Port())
					}
				}
				if victim != "9.9.9.9" {
					a.agent.Proven(addr) // even so
				} else {
					b.agent.cfg.Prove = func() {}
				}
				punchOnce(t, a, b)
				s := a.agent.Searches()
				if s.Probes != 0 || s.Refused+s.Unproven == 0 {
					t.Errorf("%+v, want no probe and a refusal", s)
				}
			})
		})
	}
}
