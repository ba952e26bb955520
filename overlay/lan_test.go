package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/overlay/internal/simlan"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A lanRig is a home without anything outside: hosts on one local network that
// speak multicast DNS.
type lanRig struct {
	t     *testing.T
	home  *netsim.Home
	lan   *simlan.LAN
	admin string // the admin's directory
	hosts map[int]netsim.Host
}

func lanPrefix(h netsim.Host) netip.Prefix { return netip.PrefixFrom(h.Addr(), 24) }

// newLANRig makes a grid without a ledger whose admin is node 1.
func newLANRig(t *testing.T, network string) *lanRig {
	t.Helper()
	r := &lanRig{t: t, home: netsim.New(t, 1).NAT(restricted), lan: new(simlan.LAN), admin: t.TempDir(), hosts: make(map[int]netsim.Host)}
	cfg := FoundConfig{JoinConfig: JoinConfig{Dir: r.admin, Identity: identity(t, adminNumber), Name: "admin"}, GridName: "lab", Ledgerless: true}
	if network != "" {
		cfg.Network = netip.MustParsePrefix(network)
	}
	j, err := Found(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !j.Ledgerless || !j.Rendezvous.IsZero() {
		t.Errorf("founded %+v", j)
	}
	return r
}

func (r *lanRig) invite(o membership.InviteOptions) string {
	r.t.Helper()
	token, err := InviteMember(r.admin, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return token.Encode()
}

// join makes node number a member and returns its directory.
func (r *lanRig) join(number int, name, token string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	if _, err := Join(r.t.Context(), JoinConfig{Dir: dir, Identity: identity(r.t, number), Name: name}, token); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func (r *lanRig) start(number int, dir string, change func(*Config)) *Node {
	r.t.Helper()
	h := r.hosts[number]
	if h == nil {
		h = r.home.Host()
		r.hosts[number] = h
	}
	cfg := Config{
		Identity: identity(r.t, number), Dir: dir,
		Links: []LinkConfig{{Name: "eth0", Conn: listenPacket(r.t, h, 0), OwnPrefixes: []netip.Prefix{lanPrefix(h).Masked()}}},
		LAN:   func() (discovery.Wire, error) { return r.lan.Attach(lanPrefix(h)), nil },
	}
	if change != nil {
		change(&cfg)
	}
	n, err := Start(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { n.Close() })
	return n
}

func heardNames(n *Node) (list []string) {
	for _, h := range n.Status().LAN.Heard {
		list = append(list, h.Name+" "+h.State.String()+" "+h.Member)
	}
	return list
}

func memberNames(t *testing.T, n *Node) (list []string) {
	t.Helper()
	members, err := n.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		list = append(list, m.Name)
	}
	return list
}

const openPolicy = "rules:\n  - names: [\"*\"]\n    ports: [all]\n"

// A grid without any server: made, joined, its members find each other, connect
// by name, show their states, and take one of them back.
func TestGridWithoutLedger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		token := r.invite(membership.InviteOptions{})
		aliceDir, bobDir := r.join(2, "alice", token), r.join(3, "bob", token) // nobody counts
		writePolicy(t, bobDir, openPolicy)
		boss, alice, bob := r.start(adminNumber, r.admin, nil), r.start(2, aliceDir, nil), r.start(3, bobDir, nil)
		quiet := r.start(4, r.join(4, "quiet", token), func(c *Config) { c.NoDiscovery = true })
		echo(t, bob, ":7000")
		time.Sleep(8 * time.Second)

		for _, n := range []*Node{boss, alice, bob} {
			if got := memberNames(t, n); !slices.Equal(got, []string{"admin", "alice", "bob"}) {
				t.Errorf("members %q", got)
			}
		}
		if got := heardNames(alice); !slices.Equal(got, []string{"admin idle admin", "bob idle bob"}) {
			t.Errorf("alice hears %q", got)
		}
		if quiet.Status().LAN != nil {
			t.Error("a node that is to be silent is not")
		}
		c, err := alice.DialContext(t.Context(), "tcp", "bob.lab.grid:7000")
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "without any server")
		_, path, err := alice.peerByID(bob.PeerID()).Ping(t.Context())
		if err != nil || path.Kind != KindDirect {
			t.Errorf("path %+v, %v", path, err)
		}
		if g := alice.Status().Grid; g == nil || !g.Ledgerless || g.Stale || g.Members != 3 || g.Self == nil || !g.Self.Address.IsValid() {
			t.Errorf("grid %+v", g)
		}

		if err := bob.SetState(discovery.Coordinator); err != nil {
			t.Fatal(err)
		}
		if err := bob.SetState(7); err == nil {
			t.Error("a state that is none is taken")
		}
		time.Sleep(time.Second)
		if got := heardNames(alice); !slices.Equal(got, []string{"admin idle admin", "bob coordinator bob"}) {
			t.Errorf("alice hears %q", got)
		}

		// Alice is taken back; bob is told by the admin's node.
		list, err := Revoke(r.admin, nil, alice.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		if err := boss.Publish(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := bob.Status(); got.Grid.Revocations != 1 || got.Counters.SessionsRevoked == 0 {
			t.Errorf("revocations of bob %+v, %+v", got.Grid, got.Counters)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			if _, err = c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Error("a revoked member's connection goes on")
			}
		}
		if got := memberNames(t, bob); !slices.Equal(got, []string{"admin", "bob"}) {
			t.Errorf("members %q", got)
		}
		// A node that was away learns it from whom it meets.
		late := r.start(5, r.join(5, "late", token), nil)
		time.Sleep(8 * time.Second)
		if got := late.Status().Grid.Revocations; got != 1 {
			t.Errorf("who comes later has list %d", got)
		}
		if _, _, err := alice.peerByID(late.PeerID()).Ping(t.Context()); err == nil {
			t.Error("a revoked member is let in by who comes later")
		}
	})
}

// A grid without a ledger has routing too: members that have shown each other
// their certificates find keys and names, and watch each other.
func TestRoutingWithoutLedger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "100.126.0.0/16")
		token := r.invite(membership.InviteOptions{Uses: 3})
		var nodes []*Node
		for i, name := range []string{"alice", "bob", "carol"} {
			nodes = append(nodes, r.start(1+i, r.join(1+i, name, token), nil))
		}
		time.Sleep(5 * time.Second)
		for i, n := range nodes {
			for _, other := range nodes[:i] {
				if _, err := n.Connect(t.Context(), other.PeerID()); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(15 * time.Second)
		w := collect(t, nodes[0])
		for i, n := range nodes {
			found, err := n.Closest(t.Context(), Key{1, 2, 3}, 3)
			if err != nil || len(found) != 3 {
				t.Errorf("node %d finds %v, %v", i, found, err)
			}
			a, err := n.FindName(t.Context(), "bob")
			if err != nil || a.Peer != nodes[1].PeerID() {
				t.Errorf("node %d finds bob: %+v, %v", i, a, err)
			}
			c := n.Status().Routing.Counters
			if c.Malformed+c.Routing.Malformed+c.Routing.Lies != 0 {
				t.Errorf("node %d counts %d, %d malformed, %d lies", i, c.Malformed, c.Routing.Malformed, c.Routing.Lies)
			}
		}
		nodes[2].Close()
		time.Sleep(5 * time.Second)
		if len(w.of(nodes[2].PeerID(), MemberLeft)) == 0 {
			t.Errorf("nobody noticed that carol left: %+v", w.events)
		}
	})
}

// Whom the members knew first keeps its name; the other one is told.
func TestNamesakesWithoutLedger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		token := r.invite(membership.InviteOptions{Uses: 3})
		boss := r.start(adminNumber, r.admin, nil)
		first := r.start(2, r.join(2, "pc", token), nil)
		time.Sleep(8 * time.Second)
		dir := r.join(3, "pc", token)
		second := r.start(3, dir, nil)
		time.Sleep(8 * time.Second)
		for range 2 {
			if id, err := boss.Resolve(t.Context(), "pc"); err != nil || id != first.PeerID() {
				t.Errorf("pc is %v, %v", id, err)
			}
		}
		if second.Status().Grid.NameTaken == "" {
			t.Error("the second pc is not told in its status")
		}
		_, _, err := second.peerByID(boss.PeerID()).Ping(t.Context())
		var told *PeerError
		if !errors.As(err, &told) || told.Next() != "choose another name: grid join --name NAME TOKEN" {
			t.Errorf("the second pc is told %v", err)
		}
		// It takes the advice.
		second.Close()
		if _, err := Join(t.Context(), JoinConfig{Dir: dir, Identity: identity(t, 3), Name: "laptop"}, token); err != nil {
			t.Fatal(err)
		}
		second = r.start(3, dir, nil)
		time.Sleep(20 * time.Second)
		if id, err := boss.Resolve(t.Context(), "laptop"); err != nil || id != second.PeerID() {
			t.Errorf("laptop is %v, %v", id, err)
		}
	})
}

// In a network too small for its members each address is one member's, as far as
// any node knows.
func TestAddressesWithoutLedger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "10.9.9.0/30") // two addresses
		token := r.invite(membership.InviteOptions{})
		nodes := []*Node{r.start(adminNumber, r.admin, nil)}
		for n := 2; n <= 4; n++ {
			nodes = append(nodes, r.start(n, r.join(n, "node-"+string(rune('0'+n)), token), nil))
		}
		time.Sleep(10 * time.Second)
		for _, n := range nodes {
			list, err := n.Members(t.Context())
			if err != nil || len(list) != 4 {
				t.Fatalf("members %+v, %v", list, err)
			}
			seen := map[netip.Addr]bool{}
			for _, m := range list {
				if m.Address.IsValid() && seen[m.Address] {
					t.Errorf("two members have %v", m.Address)
				}
				if m.Self && !m.Address.IsValid() {
					t.Error("a node does not hold its own address")
				}
				seen[m.Address] = true
			}
		}
	})
}

// A home with a rendezvous outside, in which multicast DNS is spoken.
func startAtHome(g *gridRig, l *simlan.LAN, h netsim.Host, number int, dir string) *Node {
	g.t.Helper()
	return g.start(h, number, atHome(l, h, dir))
}

// atHome configures a node there.
func atHome(l *simlan.LAN, h netsim.Host, dir string) func(*Config) {
	return func(c *Config) {
		c.Dir, c.Rendezvous = dir, ""
		c.LAN = func() (discovery.Wire, error) { return l.Attach(lanPrefix(h)), nil }
	}
}

// Members of a grid with a ledger, in one home, whose rendezvous is gone: after a
// restart they find each other by name, known or not, at once and directly.
func TestLANWithoutRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 3})
		hosts := map[string]netsim.Host{"alice": g.hostA, "bob": g.homeA.Host(), "carol": g.homeA.Host()}
		dirs := map[string]string{}
		for i, name := range []string{"alice", "bob", "carol"} {
			dirs[name] = g.join(hosts[name], i+2, name, token)
			writePolicy(t, dirs[name], openPolicy)
		}
		l := new(simlan.LAN)
		alice, bob := startAtHome(g, l, hosts["alice"], 2, dirs["alice"]), startAtHome(g, l, hosts["bob"], 3, dirs["bob"])
		g.ready(alice, bob)
		time.Sleep(5 * time.Second)
		// With the rendezvous there the session begins directly all the same.
		begun := time.Now()
		if _, path, err := alice.peerByID(bob.PeerID()).Ping(t.Context()); err != nil || path.Kind != KindDirect || time.Since(begun) > 5*time.Millisecond {
			t.Errorf("the first ping took %v on %+v, %v", time.Since(begun), path, err)
		}
		alice.Close()
		bob.Close()
		g.server.Close()
		if err := os.Remove(filepath.Join(dirs["alice"], fileAddresses)); err != nil {
			t.Fatal(err) // as if bob had moved
		}

		alice, bob = startAtHome(g, l, hosts["alice"], 2, dirs["alice"]), startAtHome(g, l, hosts["bob"], 3, dirs["bob"])
		carol := startAtHome(g, l, hosts["carol"], 4, dirs["carol"]) // who has never asked for members
		echo(t, bob, ":7000")
		time.Sleep(2 * time.Second)
		for _, n := range []*Node{alice, carol} {
			begun := time.Now()
			c, err := n.DialContext(t.Context(), "tcp", "bob.lab.grid:7000")
			if err != nil {
				t.Fatal(err)
			}
			says(t, c, "nobody in between")
			if took := time.Since(begun); took > 200*time.Millisecond {
				t.Errorf("the dial took %v", took)
			}
		}
		// Nobody is waited for in vain for long.
		begun = time.Now()
		var unknown *NameError
		if _, err := carol.Resolve(t.Context(), "dave"); !errors.As(err, &unknown) || time.Since(begun) > 15*time.Second {
			t.Errorf("a name that nobody has: %v after %v", err, time.Since(begun))
		}
	})
}

// A peer that was reached before is reached again with neither rendezvous nor
// multicast: at the address where it was.
func TestRememberedWithoutRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 2})
		hostB := g.homeA.Host()
		aliceDir, bobDir := g.join(g.hostA, 2, "alice", token), g.join(hostB, 3, "bob", token)
		writePolicy(t, bobDir, openPolicy)
		run := func() (alice, bob *Node) {
			fixed := func(h netsim.Host, number int, dir string) *Node {
				return g.start(h, number, func(c *Config) {
					c.Dir, c.Rendezvous = dir, ""
					c.Links[0].Conn.Close()
					c.Links[0].Conn = listenPacket(t, h, 4000)
				})
			}
			return fixed(g.hostA, 2, aliceDir), fixed(hostB, 3, bobDir)
		}
		alice, bob := run()
		g.ready(alice, bob)
		if _, err := alice.peerByID(bob.PeerID()).WaitDirect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Members(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice.Close()
		bob.Close()
		g.server.Close()
		alice, bob = run()
		echo(t, bob, ":7000")
		c, err := alice.DialContext(t.Context(), "tcp", "bob:7000")
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "remembered")
	})
}

// announce sends an announcement by hand, from a host.
func announce(t *testing.T, l *simlan.LAN, grid membership.GridID, peer ri2n.PeerID, name string, at netip.AddrPort) {
	t.Helper()
	const service = "_grid-idle._udp.local."
	hdr := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 120}
	}
	m := &dns.Msg{Answer: []dns.RR{
		&dns.SRV{Hdr: hdr(name+"."+service, dns.TypeSRV), Port: at.Port(), Target: "x.local."},
		&dns.TXT{Hdr: hdr(name+"."+service, dns.TypeTXT), Txt: []string{"v=1", "grid=" + grid.String(), "peer=" + peer.String()}},
	}}
	m.Response = true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	l.Inject(netip.AddrPortFrom(at.Addr(), 5353), netip.AddrPort{}, b)
}

// Somebody on the network claims to be bob. One that is silent costs a dial the
// head start of what was heard; one that answers, wrongly, not even that.
func TestForgedAnnouncement(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(initial []byte) []byte // nil: none
		atMost time.Duration
		failed uint64
	}{
		{"silent", func([]byte) []byte { return nil }, 65 * time.Millisecond, 0},
		{"claims another version", func(b []byte) []byte {
			v := append([]byte{0xf0, 0, 0, 0, 0}, b[13:21]...)
			return append(append(v, b[5:13]...), 0x5a, 0x5a, 0x5a, 0x5a)
		}, 45 * time.Millisecond, 1},
		{"repeats", func(b []byte) []byte { return b }, 65 * time.Millisecond, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGridRig(t)
				token := g.invite(membership.InviteOptions{Uses: 2})
				aliceDir, bobDir := g.join(g.hostA, 2, "alice", token), g.join(g.hostB, 3, "bob", token)
				l := new(simlan.LAN)
				// Routing would dial before the test does.
				alice := g.start(g.hostA, 2, func(c *Config) {
					atHome(l, g.hostA, aliceDir)(c)
					c.Routing.Off = true
				})
				bob := g.start(g.hostB, 3, func(c *Config) { c.Dir, c.Rendezvous, c.Routing.Off = bobDir, "", true }) // far away
				g.ready(alice, bob)
				forger := listenPacket(t, g.homeA.Host(), 4000)
				go func() {
					b := make([]byte, 2048)
					for {
						n, from, err := forger.ReadFrom(b)
						if err != nil {
							return
						}
						if a := tt.answer(b[:n]); n > 21 && a != nil {
							forger.WriteTo(a, from)
						}
					}
				}()
				defer forger.Close()
				time.Sleep(5 * time.Second)
				announce(t, l, g.grid.ID(), bob.PeerID(), "bob", addrPortOf(forger.LocalAddr()))
				time.Sleep(time.Millisecond)
				if got := heardNames(alice); len(got) != 1 {
					t.Fatalf("heard %q", got)
				}
				begun := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := alice.Connect(ctx, bob.PeerID()); err != nil {
					t.Fatal(err)
				}
				took := time.Since(begun)
				t.Logf("the dial took %v", took)
				if took > tt.atMost {
					t.Errorf("the dial took %v, want at most %v", took, tt.atMost)
				}
				if got := alice.Status().Counters.HeardDialsFailed; got != tt.failed {
					t.Errorf("%d dials failed, want %d", got, tt.failed)
				}
			})
		})
	}
}

// The forger was there first, and the member itself is on the network: it is
// reached after the forger's head start.
func TestForgedBesideTheMember(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		token := r.invite(membership.InviteOptions{})
		bobDir := r.join(3, "bob", token)
		alice := r.start(2, r.join(2, "alice", token), nil)
		time.Sleep(5 * time.Second)
		silent := listenPacket(t, r.home.Host(), 4000)
		defer silent.Close()
		bob := identity(t, 3).PeerID()
		announce(t, r.lan, alice.Status().Grid.ID, bob, "bob", addrPortOf(silent.LocalAddr()))
		time.Sleep(time.Second)
		r.start(3, bobDir, func(c *Config) { c.Dir = bobDir })
		for len(alice.heardCandidates(bob)) < 2 {
			time.Sleep(10 * time.Millisecond)
		}
		alice.peerByID(bob).Close()
		begun := time.Now()
		if _, err := alice.Connect(t.Context(), bob); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > heardHead+5*time.Millisecond {
			t.Errorf("the dial took %v", took)
		}
	})
}

// Who is no member is announced nowhere, and a stranger with a name of ours is
// asked who it is, once, and not believed.
func TestStrangerOnTheLAN(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		alice := r.start(2, r.join(2, "alice", r.invite(membership.InviteOptions{})), nil)
		before := r.lan.Sent()
		stranger := r.start(9, t.TempDir(), nil)
		if stranger.Status().LAN != nil {
			t.Error("a node without a grid speaks on the LAN")
		}
		time.Sleep(10 * time.Second)
		id := alice.Status().Grid.ID
		announce(t, r.lan, id, stranger.PeerID(), "bob", linkAddr(stranger))
		announce(t, r.lan, membership.GridID{1}, identity(t, 44).PeerID(), "eve", linkAddr(stranger))
		var unknown *NameError
		if _, err := alice.DialContext(t.Context(), "tcp", "bob:7000"); !errors.As(err, &unknown) {
			t.Errorf("dial = %v", err)
		}
		if got := alice.Status().LAN.Counters; got.OtherGrids != 1 {
			t.Errorf("counters %+v", got)
		}
		if n := r.lan.Sent() - before; n > 40 {
			t.Errorf("%d datagrams in a quiet network", n)
		}
		if len(heardNames(alice)) != 1 {
			t.Errorf("heard %q", heardNames(alice))
		}
	})
}

// linkAddr returns the transport address of the one link of n.
func linkAddr(n *Node) netip.AddrPort { return n.Status().Links[0].Local }

// Multicast DNS that cannot be had is said, and stops nothing.
func TestNoMulticast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		n := r.start(adminNumber, r.admin, func(c *Config) {
			c.LAN = func() (discovery.Wire, error) { return nil, &net.OpError{Op: "listen", Err: os.ErrPermission} }
		})
		if s := n.Status().LAN; s == nil || s.Error == "" {
			t.Errorf("status %+v", s)
		}
		var no *NoWayError
		if _, err := n.Connect(t.Context(), identity(t, 9).PeerID()); !errors.As(err, &no) {
			t.Errorf("connect = %v", err)
		}
	})
}

// A session that never gets a control stream, since its client has another one
// that was faster, takes nobody's place.
func TestSlowerSessionTakesNoPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newLANRig(t, "")
		boss := r.start(adminNumber, r.admin, nil)
		dir := r.join(2, "alice", r.invite(membership.InviteOptions{}))
		writePolicy(t, r.admin, openPolicy)
		time.Sleep(2 * houseTime)
		alice := r.start(2, dir, nil)
		echo(t, boss, ":7000")
		time.Sleep(8 * time.Second)
		boss.eachPeer(func(p *Peer) { p.Close() })
		time.Sleep(time.Second)
		c, err := alice.DialContext(t.Context(), "tcp", "admin:7000")
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "first")
		second, err := alice.endpoint.Dial(t.Context(), boss.PeerID(), alice.heardCandidates(boss.PeerID())...)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		second.Close()
		time.Sleep(time.Second)
		says(t, c, "still there")
	})
}
