package netsim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// check returns what is wrong with the tables of a NAT.
func (t *translator) check(now time.Duration) error {
	if len(t.byKey) != len(t.byOutside) {
		return fmt.Errorf("%d mappings by key, %d by outside address", len(t.byKey), len(t.byOutside))
	}
	taken := make(map[*pool]int)
	mappings := make(map[netip.Addr]int)
	listed := 0
	for _, list := range []*mapping{&t.unreplied, &t.idle} {
		last := time.Duration(-1)
		for m := list.next; m != list; m = m.next {
			listed++
			if m.last < last {
				return fmt.Errorf("the mapping of %v is out of order", m.inside)
			}
			last = m.last
			if t.byKey[m.key] != m || t.byOutside[m.outside] != m {
				return fmt.Errorf("a list and a table have other mappings of %v", m.inside)
			}
			if m.pool != nil {
				taken[m.pool]++
				if !m.pool.holds(int(m.outside.Port())) || m.pool.addr != m.outside.Addr() {
					return fmt.Errorf("%v is not of its pool", m.outside)
				}
			}
			mappings[m.inside.Addr()]++
			for remote, until := range m.allowed {
				if t.cfg.Lifetime > 0 && until > now+t.cfg.Lifetime {
					return fmt.Errorf("%v is let in for longer than a lifetime", remote)
				}
			}
		}
	}
	if listed != len(t.byKey) {
		return fmt.Errorf("%d mappings in lists, %d in tables", listed, len(t.byKey))
	}
	for _, p := range t.pools {
		if p.taken != taken[p] {
			return fmt.Errorf("a pool counts %d ports, its mappings have %d", p.taken, taken[p])
		}
	}
	for a, who := range t.insiders {
		if who.mappings != mappings[a] {
			return fmt.Errorf("%v counts %d mappings, and has %d", a, who.mappings, mappings[a])
		}
		if t.cfg.Sessions > 0 && who.mappings > t.cfg.Sessions {
			return fmt.Errorf("%v has %d mappings of %d", a, who.mappings, t.cfg.Sessions)
		}
	}
	return nil
}

// randomNAT returns any behavior that is valid.
func randomNAT(rng *rand.Rand) NAT {
	n := NAT{
		Mapping: Behavior(rng.IntN(3)), Filtering: Behavior(rng.IntN(3)), Allocation: Allocation(rng.IntN(3)),
		Addresses: rng.IntN(4), Pooling: Pooling(rng.IntN(2)),
		Lifetime: time.Duration(rng.IntN(20)) * time.Second, Unreplied: time.Duration(rng.IntN(8)) * time.Second,
		InboundRefresh: rng.IntN(2) == 0, NoOutboundRefresh: rng.IntN(4) == 0,
		Hairpinning: rng.IntN(2) == 0,
	}
	if n.Allocation == Sequential {
		n.Delta, n.CrossTraffic = rng.IntN(7)-3, float64(rng.IntN(20))
	}
	if rng.IntN(2) == 0 {
		n.FirstPort, n.LastPort = 2000, 2000+uint16(rng.IntN(60))
		n.Block = rng.IntN(int(n.LastPort-n.FirstPort) + 2)
	}
	if rng.IntN(2) == 0 {
		n.Sessions, n.EvictOldest = 1+rng.IntN(20), rng.IntN(2) == 0
	}
	n.HairpinInside = n.Hairpinning && rng.IntN(2) == 0
	if rng.IntN(3) == 0 {
		n.Firewall = &Firewall{PacketRate: 500, DropFirst: rng.IntN(2)}
	}
	return n
}

// TestInvariants has hosts send to everybody through NATs of every kind, while
// everything happens that can, and checks after every step that tables agree,
// that no packet is lost without a cause, and that no private address is seen
// in the core.
func TestInvariants(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		lossy := Link{Delay: 5 * time.Millisecond, Loss: 0.05, MTU: 400, TooBig: true}
		sc := Scenario{
			Seed: seed,
			NATs: []NATNode{
				{Name: "n", NAT: randomNAT(rng), Uplink: lossy},
				{Name: "m", NAT: randomNAT(rng), Uplink: lossy},
			},
			Hosts: []HostNode{{Name: "a", Parent: "n"}, {Name: "b", Parent: "n"}, {Name: "c", Parent: "m"}, {Name: "s"}},
		}
		for range 20 {
			e := Event{At: time.Duration(rng.IntN(30)) * time.Second, Node: "n", Do: Action(rng.IntN(int(actions)))}
			switch e.Do {
			case Sleep, Wake:
				e.Node = "a"
			case Relink:
				e.Uplink = lossy
			}
			sc.Events = append(sc.Events, e)
		}
		s, err := NewStepped(sc)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		// Whoever heard from an address may send there.
		heard := []netip.AddrPort{netip.AddrPortFrom(s.Addr("s"), 1)}
		var ports []*Port
		for _, h := range sc.Hosts {
			for p := range uint16(3) {
				port, err := s.Bind(h.Name, 1+p, func(from netip.AddrPort, _ []byte) { heard = append(heard, from) })
				if err != nil {
					t.Fatal(err)
				}
				ports = append(ports, port)
			}
		}
		s.Trace(func(e TraceEvent) {
			inCore := e.Place == "core" || e.Place == "s" || e.Place == "n up" || e.Place == "m up"
			if inCore && e.TooBig == 0 && e.Kind != TraceSend && e.Src.Addr().IsPrivate() {
				t.Errorf("seed %d: %v: a private source beyond the NATs", seed, e)
			}
			if e.Kind == TraceDrop && e.Cause >= causes {
				t.Errorf("seed %d: %v: no cause", seed, e)
			}
		})
		for i := range 3000 {
			s.At(time.Duration(i)*10*time.Millisecond, func() {
				to := heard[rng.IntN(len(heard))]
				ports[rng.IntN(len(ports))].Send(to, make([]byte, rng.IntN(500)))
			})
		}
		for now := time.Duration(0); now < 31*time.Second; now += 50 * time.Millisecond {
			s.Run(now)
			for _, name := range []string{"n", "m"} {
				nat := s.core.byName[name].nat
				nat.expire(now)
				if err := nat.check(now); err != nil {
					t.Fatalf("seed %d, %v, NAT %q %+v: %v", seed, now, name, nat.cfg, err)
				}
			}
		}
		s.Run(time.Minute)
		st := s.Stats()
		var dropped uint64
		for _, d := range s.Drops() {
			dropped += d.Packets
		}
		told := st.Delivered + st.Dropped - st.Sent // dropped ICMP messages are not sent by sockets
		if st.InFlight != 0 || dropped != st.Dropped || st.Delivered+st.Dropped < st.Sent || told > st.Dropped {
			t.Errorf("seed %d: %+v with %d drops by cause", seed, st, dropped)
		}
	}
}
