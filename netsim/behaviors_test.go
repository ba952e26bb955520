package netsim_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

const apd = netsim.AddressAndPortDependent

// outs sends from x to n ports of s, and returns the outside addresses.
func (l *lab) outs(n int) []netip.AddrPort {
	l.tb.Helper()
	var all []netip.AddrPort
	for i := range n {
		all = append(all, l.out(l.port("x", 5000), l.port("s", 1+uint16(i))))
	}
	return all
}

// dropped returns how many packets ended at the NAT for cause.
func (l *lab) dropped(cause netsim.DropCause) uint64 {
	for _, d := range l.Drops() {
		if d.Place == "nat" && d.Cause == cause {
			return d.Packets
		}
	}
	return 0
}

func TestNATSequentialDelta(t *testing.T) {
	for _, delta := range []int{1, 2, 7, -1, -3} {
		l := newLab(t, 3, netsim.NAT{Mapping: apd, Allocation: netsim.Sequential, Delta: delta, FirstPort: 2000, LastPort: 2999})
		ports := l.outs(600)
		for i := 1; i < 300; i++ {
			got := int(ports[i].Port()) - int(ports[i-1].Port())
			if got != delta && got != delta+1000 && got != delta-1000 {
				t.Fatalf("delta %d: step %d is %d", delta, i, got)
			}
		}
	}
}

// The neighbors' mappings move the sequence by as many steps as a Poisson
// process of their rate has in the time.
func TestNATCrossTraffic(t *testing.T) {
	for _, rate := range []float64{2, 40, 500} {
		l := newLab(t, 1, netsim.NAT{Mapping: apd, Allocation: netsim.Sequential, CrossTraffic: rate})
		first := l.out(l.port("x", 5000), l.port("s", 1))
		const seconds = 20
		l.Run(seconds * time.Second)
		second := l.out(l.port("x", 5000), l.port("s", 2))
		steps := float64(int(second.Port())-int(first.Port())-1+64512) - 0
		for steps >= 64512 {
			steps -= 64512
		}
		mean := rate * seconds
		if deviation := steps - mean; deviation*deviation > 36*mean { // six standard deviations
			t.Errorf("rate %v: %v steps in %d s, want about %v", rate, steps, seconds, mean)
		}
	}
}

func TestNATBlocks(t *testing.T) {
	const block = 64
	l := newLab(t, 1, netsim.NAT{Mapping: apd, Allocation: netsim.Random, Block: block, FirstPort: 1024, LastPort: 1024 + 4*block - 1})
	blockOf := func(a netip.AddrPort) int { return (int(a.Port()) - 1024) / block }
	all := l.outs(block)
	for _, a := range all {
		if blockOf(a) != blockOf(all[0]) {
			t.Fatalf("%v is not of the block of %v", a, all[0])
		}
	}
	if y := l.out(l.port("y", 5000), l.port("s", 1)); blockOf(y) == blockOf(all[0]) {
		t.Errorf("two hosts share block %d", blockOf(y))
	}
	l.port("x", 5000).Send(l.port("t", 1).Addr(), nil)
	if got := l.dropped(netsim.DropNoPort); got != 1 {
		t.Errorf("dropped for want of a port in the block: %d, want 1", got)
	}
}

// RFC 4787, section 4.1, REQ-2.
func TestNATPooling(t *testing.T) {
	for _, pooling := range []netsim.Pooling{netsim.Paired, netsim.Arbitrary} {
		l := newLab(t, 1, netsim.NAT{Mapping: apd, Allocation: netsim.Random, Addresses: 4, Pooling: pooling})
		seen := make(map[netip.Addr]bool)
		for i, a := range l.outs(40) {
			seen[a.Addr()] = true
			if !l.in(l.port("s", 1+uint16(i)), a) {
				t.Errorf("%v: no answer through %v", pooling, a)
			}
		}
		if want := map[netsim.Pooling]int{netsim.Paired: 1, netsim.Arbitrary: 4}[pooling]; len(seen) != want {
			t.Errorf("%v: %d outside addresses, want %d", pooling, len(seen), want)
		}
	}
}

func TestNATLifetimeRules(t *testing.T) {
	life := netsim.NAT{Lifetime: 120 * time.Second, Unreplied: 30 * time.Second}
	lazy := netsim.NAT{Lifetime: 30 * time.Second, NoOutboundRefresh: true}
	for _, tt := range []struct {
		name    string
		nat     netsim.NAT
		inAt    time.Duration // zero: nothing comes in
		outAt   time.Duration // zero: nothing more goes out
		probeAt time.Duration
		want    bool
	}{
		{"unreplied before", life, 0, 0, 30*time.Second - 1, true},
		{"unreplied at its end", life, 0, 0, 30 * time.Second, false},
		{"replied lives long", life, 20 * time.Second, 0, 140*time.Second - 1, true},
		{"replied at its end", life, 20 * time.Second, 0, 140 * time.Second, false},
		{"outbound does not refresh", lazy, 0, 20 * time.Second, 30 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 1, tt.nat)
			x, s := l.port("x", 5000), l.port("s", 1)
			outside := l.out(x, s)
			if tt.inAt > 0 {
				l.Run(tt.inAt)
				l.in(s, outside)
			}
			if tt.outAt > 0 {
				l.Run(tt.outAt)
				l.out(x, s)
			}
			l.Run(tt.probeAt)
			if got := l.in(s, outside); got != tt.want {
				t.Errorf("let in at %v: %v, want %v", tt.probeAt, got, tt.want)
			}
		})
	}
}

func TestNATSessions(t *testing.T) {
	t.Run("refuse", func(t *testing.T) {
		l := newLab(t, 1, netsim.NAT{Mapping: apd, Sessions: 3})
		l.outs(3)
		l.port("x", 5000).Send(l.port("t", 1).Addr(), nil)
		l.Run(0)
		if got := l.dropped(netsim.DropSessions); got != 1 {
			t.Errorf("dropped %d, want 1", got)
		}
		l.out(l.port("y", 5000), l.port("s", 1)) // another host has its own
	})
	t.Run("evict the oldest", func(t *testing.T) {
		l := newLab(t, 1, netsim.NAT{Mapping: apd, Sessions: 3, EvictOldest: true})
		all := l.outs(3)
		l.Run(time.Second)
		l.out(l.port("x", 5000), l.port("s", 1)) // the first is no longer the oldest
		l.out(l.port("x", 5000), l.port("t", 1))
		for i, want := range []bool{true, false, true} {
			if got := l.in(l.port("s", 1+uint16(i)), all[i]); got != want {
				t.Errorf("mapping %d alive: %v, want %v", i, got, want)
			}
		}
	})
}

func TestNATRemap(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{Allocation: netsim.Random})
	x, s := l.port("x", 5000), l.port("s", 1)
	before := l.out(x, s)
	if err := l.Apply(netsim.Event{Node: "nat", Do: netsim.Remap}); err != nil {
		t.Fatal(err)
	}
	after := l.out(x, s)
	if after == before {
		t.Fatal("the mapping did not move")
	}
	if l.in(s, before) || !l.in(s, after) {
		t.Error("the old port works, or the new one does not")
	}
	if alive, _ := l.Mappings("nat"); alive != 1 {
		t.Errorf("mappings = %d, want 1", alive)
	}
}

// Against RFC 4787, REQ-9: the source is the inside address.
func TestNATHairpinInside(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{Hairpinning: true, HairpinInside: true})
	x, y := l.port("x", 5000), l.port("y", 6000)
	outsideY := l.out(y, l.port("s", 1))
	if !l.in(x, outsideY) || l.got[0] != "y:6000<"+x.Addr().String() {
		t.Errorf("y got %v, want a packet from %v", l.got, x.Addr())
	}
}

func TestFirewall(t *testing.T) {
	stun := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
	for _, tt := range []struct {
		name    string
		wall    netsim.Firewall
		port    uint16
		payload []byte
		sent    int
		arrive  int
		cause   netsim.DropCause
	}{
		{"UDP blocked", netsim.Firewall{BlockUDP: true}, 443, nil, 3, 0, netsim.DropBlocked},
		{"port allowed", netsim.Firewall{Ports: []uint16{53, 443}}, 443, nil, 3, 3, 0},
		{"port forbidden", netsim.Firewall{Ports: []uint16{53, 443}}, 3478, nil, 3, 0, netsim.DropBlocked},
		{"rate", netsim.Firewall{PacketRate: 100}, 1, nil, 50, 11, netsim.DropRate},
		{"first", netsim.Firewall{DropFirst: 2}, 1, nil, 5, 3, netsim.DropFirst},
		{"STUN", netsim.Firewall{DropSTUN: true}, 1, stun, 2, 0, netsim.DropBlocked},
		{"not STUN", netsim.Firewall{DropSTUN: true}, 1, stun[:19], 2, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 1, netsim.NAT{Firewall: &tt.wall})
			x, s := l.port("x", 5000), l.port("s", tt.port)
			for range tt.sent {
				x.Send(s.Addr(), tt.payload)
			}
			l.Run(0)
			if len(l.got) != tt.arrive {
				t.Errorf("%d of %d arrived, want %d", len(l.got), tt.sent, tt.arrive)
			}
			if want := uint64(tt.sent - tt.arrive); want > 0 && l.dropped(tt.cause) != want {
				t.Errorf("drops = %v, want %d for %v", l.Drops(), want, tt.cause)
			}
		})
	}
}

func TestFirewallInbound(t *testing.T) {
	l := newLab(t, 1, netsim.NAT{Firewall: &netsim.Firewall{Ports: []uint16{443}}})
	outside := l.out(l.port("x", 5000), l.port("s", 443))
	if l.in(l.port("s", 444), outside) {
		t.Error("a packet from a forbidden remote port came in")
	}
}

func TestEvents(t *testing.T) {
	sc := netsim.Scenario{
		NATs:  []netsim.NATNode{{Name: "nat", NAT: netsim.NAT{Lifetime: time.Hour}}},
		Hosts: []netsim.HostNode{{Name: "x", Parent: "nat"}, {Name: "s"}},
		Events: []netsim.Event{
			{At: 1 * time.Second, Node: "nat", Do: netsim.Cut},
			{At: 2 * time.Second, Node: "nat", Do: netsim.Restore},
			{At: 3 * time.Second, Node: "x", Do: netsim.Sleep, Every: 2 * time.Second, Times: 2},
			{At: 4 * time.Second, Node: "x", Do: netsim.Wake, Every: 2 * time.Second, Times: 2},
			{At: 7 * time.Second, Node: "nat", Do: netsim.Renumber},
			{At: 8 * time.Second, Node: "nat", Do: netsim.Relink, Uplink: netsim.Link{MTU: 100}},
		},
	}
	s, err := netsim.NewStepped(sc)
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(map[time.Duration]netip.Addr)
	to, err := s.Bind("s", 1, func(from netip.AddrPort, _ []byte) { arrived[s.Now()] = from.Addr() })
	if err != nil {
		t.Fatal(err)
	}
	x, err := s.Bind("x", 1, func(netip.AddrPort, []byte) {})
	if err != nil {
		t.Fatal(err)
	}
	old := s.Addr("nat")
	for i := range 9 {
		s.At(time.Duration(i)*time.Second+500*time.Millisecond, func() { x.Send(to.Addr(), make([]byte, 200)) })
	}
	s.Run(10 * time.Second)
	for i, want := range []bool{true, false, true, false, true, false, true, true, false} {
		from, ok := arrived[time.Duration(i)*time.Second+500*time.Millisecond]
		if ok != want {
			t.Errorf("at %d.5 s: arrived %v, want %v", i, ok, want)
		}
		if ok && (from == old) != (i < 7) {
			t.Errorf("at %d.5 s: from %v; the address was %v until 7 s", i, from, old)
		}
	}
}

// RFC 1191: who sends a packet above the MTU of a link further on is told,
// through its NAT, if the link tells.
func TestTooBig(t *testing.T) {
	for _, tells := range []bool{false, true} {
		for _, down := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				narrow := netsim.Link{Delay: 10 * time.Millisecond, MTU: 1124, TooBig: tells}
				var home *netsim.Home
				var far netsim.Host
				if down {
					home, far = world.NAT(netsim.NAT{Filtering: apd}), world.Host(narrow)
				} else {
					home, far = world.NAT(netsim.NAT{Filtering: apd}, narrow), world.Host()
				}
				a, err := home.Host().ListenPacket(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				b, err := far.ListenPacket(t.Context(), 1)
				if err != nil {
					t.Fatal(err)
				}
				send := func(size int) error {
					_, err := a.WriteTo(make([]byte, size-28), b.LocalAddr())
					time.Sleep(100 * time.Millisecond)
					return err
				}
				if err := send(1400); err != nil {
					t.Fatalf("first: %v", err)
				}
				if err := send(1125); errors.Is(err, syscall.EMSGSIZE) != tells {
					t.Errorf("tells %v, down %v: second large packet: %v", tells, down, err)
				}
				if err := send(1124); err != nil {
					t.Errorf("a packet of the MTU: %v", err)
				}
				if got := world.Stats().Delivered; got != 1 {
					t.Errorf("delivered %d, want 1", got)
				}
				// What was learned ends.
				time.Sleep(10 * time.Minute)
				if err := send(1400); err != nil {
					t.Errorf("after ten minutes: %v", err)
				}
			})
		}
	}
}

// Two hosts behind one NAT with one port, and peers that talk to both: each
// has a mapping of its own, under every allocation.
func TestEqualPortsBehindOneNAT(t *testing.T) {
	for _, allocation := range []netsim.Allocation{netsim.Preserving, netsim.Sequential, netsim.Random} {
		l := newLab(t, 1, netsim.NAT{Allocation: allocation, Filtering: apd})
		s := l.port("s", 1)
		x, y := l.out(l.port("x", 5000), s), l.out(l.port("y", 5000), s)
		if x == y || !l.in(s, x) || l.got[0][:6] != "x:5000" || !l.in(s, y) || l.got[0][:6] != "y:5000" {
			t.Errorf("%v: %v and %v reach %v", allocation, x, y, l.got)
		}
	}
}
