package overlay

import (
	"slices"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A relayRig is a grid with two members in homes that map by destination, so
// that nothing direct comes up, and members on public hosts that relay.
type relayRig struct {
	*gridRig
	alice, bob *Node
	relays     []*Node
	relayHosts []netsim.Host
	noRouting  bool // nobody has sessions but those that a test makes
}

// newRelayRig starts it with n relays, the first one the nearest.
func newRelayRig(t *testing.T, n int, change func(*Config)) *relayRig {
	t.Helper()
	return startRelayRig(t, &relayRig{}, n, change)
}

func startRelayRig(t *testing.T, r *relayRig, n int, change func(*Config)) *relayRig {
	t.Helper()
	r.gridRig = newGridRig(t)
	r.homeA, r.homeB = r.world.NAT(symmetric, access), r.world.NAT(symmetric, access)
	r.hostA, r.hostB = r.homeA.Host(), r.homeB.Host()
	plain := r.invite(membership.InviteOptions{Uses: 2})
	for i := range n {
		h := r.world.Host(netsim.Delay(time.Duration(5*i) * time.Millisecond))
		token := r.invite(membership.InviteOptions{Uses: 1, Roles: membership.Relay})
		name := string(rune('p'+i)) + "-relay"
		dir := r.join(h, 20+i, name, token)
		r.open, r.relayHosts = append(r.open, h.Addr()), append(r.relayHosts, h)
		r.relays = append(r.relays, r.start(h, 20+i, func(c *Config) {
			c.Dir, c.Rendezvous, c.Routing.Off = dir, "", r.noRouting
			if change != nil {
				change(c)
			}
		}))
	}
	aliceDir, bobDir := r.join(r.hostA, 2, "alice", plain), r.join(r.hostB, 3, "bob", plain)
	writePolicy(t, bobDir, "rules:\n  - names: [\"*\"]\n    ports: [all]\n")
	r.alice, r.bob = r.member(r.hostA, 2, aliceDir), r.member(r.hostB, 3, bobDir)
	r.ready(append(r.relays, r.alice, r.bob)...)
	return r
}

// member starts a node that does not relay.
func (r *relayRig) member(h netsim.Host, number int, dir string) *Node {
	return r.start(h, number, func(c *Config) { c.Dir, c.Rendezvous, c.Routing.Off = dir, "", r.noRouting })
}

// registered waits until nodes are registered with as many relays.
func (r *relayRig) registered(want int, nodes ...*Node) {
	r.t.Helper()
	for _, n := range nodes {
		for end := time.Now().Add(time.Minute); len(n.Status().Relay.With) < want; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				r.t.Fatalf("registered with %v, want %d relays; status %+v", n.Status().Relay.With, want, n.Status())
			}
		}
	}
}

// kindOf returns over what n sends to its peer.
func kindOf(n *Node, peer ri2n.PeerID) PathStatus {
	for _, p := range n.Status().Peers {
		if p.ID == peer {
			return p.Path
		}
	}
	return PathStatus{}
}

// awaitKind waits until both ends of the session say kind.
func (r *relayRig) awaitKind(kind string, d time.Duration) PathStatus {
	r.t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(50 * time.Millisecond) {
		a, b := kindOf(r.alice, r.bob.PeerID()), kindOf(r.bob, r.alice.PeerID())
		if a.Kind == kind && b.Kind == kind {
			return a
		}
		if time.Now().After(end) {
			r.t.Fatalf("after %v the paths are\n%+v and\n%+v, want %s\nall %+v", d, a, b, kind, r.alice.Status().Peers)
		}
	}
}

// memberStandsBy waits until each of alice's sessions with bob has a path through a
// member.
func (r *relayRig) memberStandsBy() {
	r.t.Helper()
	has := func(p ri2n.PathInfo) bool {
		_, member := relayOf(p.Link)
		return member && (p.State == ri2n.PathActive || p.State == ri2n.PathStandby)
	}
	lacks := func(a *association) bool { return !slices.ContainsFunc(a.session.Paths(), has) }
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if all := r.alice.peerByID(r.bob.PeerID()).all(); len(all) > 0 && !slices.ContainsFunc(all, lacks) {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("no path through a member stands by: %+v", r.alice.Status().Peers)
		}
	}
}

// Two members that reach neither each other nor the rendezvous talk through a
// third, whether they had a session when the rendezvous went, as routing makes
// it, or had none.
func TestPeerRelayWithoutRendezvous(t *testing.T) {
	t.Run("no session", func(t *testing.T) { testPeerRelayWithoutRendezvous(t, true) })
	t.Run("a session that has just begun", func(t *testing.T) { testPeerRelayWithoutRendezvous(t, false) })
}

func testPeerRelayWithoutRendezvous(t *testing.T, noRouting bool) {
	bubble(t, func(t *testing.T) {
		r := startRelayRig(t, &relayRig{noRouting: noRouting}, 1, nil)
		r.registered(1, r.alice, r.bob)
		r.server.Close()
		time.Sleep(10 * time.Second)
		echo(t, r.bob, ":7000")
		start := time.Now()
		c := dial(t, r.alice, r.bob.PeerID(), 7000)
		defer c.Close()
		says(t, c, "through a member")
		t.Logf("echo after %v", time.Since(start))
		p := r.awaitKind(KindPeerRelay, 5*time.Second)
		if p.Relay == nil || p.Relay.Peer != r.relays[0].PeerID() || p.Relay.Name != "p-relay" || p.Reason == "" {
			t.Errorf("path = %+v", p)
		}
		time.Sleep(3 * time.Minute)
		says(t, c, "still")
		if st := r.relays[0].Status().Relay; st.Channels == 0 || st.Bytes == 0 || !st.Serves || st.Members != 2 {
			t.Errorf("the relay's status is %+v", st)
		}
	})
}

// One transfer goes over every kind of path, as one after the other ends:
// rendezvous, member, direct, member, rendezvous. Its stream does not notice.
func TestTransferOverEveryKindOfPath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
		r.homeA, r.homeB = r.world.NAT(restricted, access), r.world.NAT(restricted, access)
		r.hostA, r.hostB = r.homeA.Host(), r.homeB.Host()
		r.alice, r.bob = r.move(r.alice, r.hostA, 2), r.move(r.bob, r.hostB, 3)
		r.setUplinks(netsim.Link{Delay: 10 * time.Millisecond, Rate: 1e6})
		happens := func(node string, do netsim.Action) {
			t.Helper()
			if err := r.world.Apply(netsim.Event{Node: node, Do: do}); err != nil {
				t.Fatal(err)
			}
		}
		happens(r.relayHosts[0].Name(), netsim.Cut) // for the first step
		r.cut.Store(true)                           // something between the homes lets nothing through
		r.ready(r.alice, r.bob)

		const size = 13 << 20
		start := time.Now()
		x, c := sendFile(t, r.alice, r.bob, size)
		defer c.Close()
		step := func(kind, why string) {
			t.Helper()
			p := r.awaitKind(kind, time.Minute) // a new address is noticed within half of one
			t.Logf("%6.2fs %s: %s", time.Since(start).Seconds(), why, p.Kind)
			time.Sleep(5 * time.Second)
			if got := kindOf(r.alice, r.bob.PeerID()); got.Kind != kind {
				t.Errorf("5 s later: %+v", got)
			}
		}
		step(KindRelay, "at first")
		happens(r.relayHosts[0].Name(), netsim.Restore)
		r.registered(1, r.alice, r.bob)
		r.memberStandsBy()

		happens(r.public.Name(), netsim.Cut) // as if killed: nobody says goodbye
		step(KindPeerRelay, "rendezvous killed")

		happens(r.homeA.Name(), netsim.Renumber)
		r.cut.Store(false)
		step(KindDirect, "another address, and nothing between the homes")

		r.cut.Store(true)
		step(KindPeerRelay, "direct path cut")

		happens(r.public.Name(), netsim.Restore)
		time.Sleep(30 * time.Second) // both register again
		happens(r.relayHosts[0].Name(), netsim.Cut)
		step(KindRelay, "member that relays killed")

		pause := x.finish()
		t.Logf("%6.2fs all %d MiB are there; longest pause %v", time.Since(start).Seconds(), size>>20, pause)
		if pause > 4*time.Second {
			t.Errorf("longest pause %v, want at most 4s", pause)
		}
	})
}

// move starts a member's node again on another host.
func (r *relayRig) move(n *Node, h netsim.Host, number int) *Node {
	r.t.Helper()
	dir := string(n.dir)
	n.Close()
	return r.member(h, number, dir)
}

// Two congestion controls work on a relayed stream, one above the other. Over
// links of 20 Mbit/s, each way used once, it still gets most of what they carry.
func TestRelayedGoodput(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
		r.registered(1, r.alice, r.bob)
		link := netsim.Link{Delay: 5 * time.Millisecond, Rate: 20e6}
		r.setUplinks(link)
		if err := r.world.SetUplink(r.relayHosts[0].Name(), link); err != nil {
			t.Fatal(err)
		}
		r.server.Close()
		time.Sleep(10 * time.Second)
		const size = 4 << 20
		start := time.Now()
		x, c := sendFile(t, r.alice, r.bob, size)
		defer c.Close()
		r.awaitKind(KindPeerRelay, 5*time.Second)
		x.finish()
		rate := float64(size) * 8 / time.Since(start).Seconds() / 1e6
		t.Logf("%.1f Mbit/s of 20, simulated", rate)
		if rate < 14 {
			t.Errorf("%.1f Mbit/s, want at least 14", rate)
		}
	})
}

// A dialer that has no relay in common with the peer finds the peer's.
func TestDialFindsThePeersRelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := startRelayRig(t, &relayRig{noRouting: true}, 3, nil) // registrations are counted
		r.registered(1, r.alice, r.bob)
		// Each keeps a registration that the other has not.
		only := func(n *Node, relay *Node) {
			for _, other := range r.relays {
				p := n.peerByID(other.PeerID())
				if l := n.legs.leg(p.id); l != nil && other != relay {
					n.legs.drop(l)
				}
				n.legs.mu.Lock()
				if other != relay {
					n.legs.trouble[p.id] = &trouble{until: time.Now().Add(12 * time.Second)}
				}
				n.legs.mu.Unlock()
				if other != relay {
					p.Close()
				}
			}
			if _, err := n.Connect(t.Context(), relay.PeerID()); err != nil {
				t.Fatal(err)
			}
			r.registered(1, n)
		}
		only(r.alice, r.relays[0])
		only(r.bob, r.relays[1])
		r.server.Close()
		time.Sleep(5 * time.Second)
		if got := r.alice.Status().Relay.With; len(got) != 1 || got[0].Peer != r.relays[0].PeerID() {
			t.Fatalf("alice is registered with %v", got)
		}
		if got := r.bob.Status().Relay.With; len(got) != 1 || got[0].Peer != r.relays[1].PeerID() {
			t.Fatalf("bob is registered with %v", got)
		}
		time.Sleep(8 * time.Second) // alice may try the others again
		echo(t, r.bob, ":7000")
		start := time.Now()
		c := dial(t, r.alice, r.bob.PeerID(), 7000)
		defer c.Close()
		says(t, c, "found")
		t.Logf("echo after %v through %s", time.Since(start), kindOf(r.alice, r.bob.PeerID()).Relay.Name)
	})
}

// The nearest relay is chosen by both halves; another takes over once it is
// clearly nearer for a while, and not for little.
func TestNearestRelayIsChosen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 2, nil)
		r.registered(2, r.alice, r.bob)
		r.server.Close()
		time.Sleep(30 * time.Second)
		echo(t, r.bob, ":7000")
		c := dial(t, r.alice, r.bob.PeerID(), 7000)
		defer c.Close()
		says(t, c, "hello")
		over := func() string {
			p := kindOf(r.alice, r.bob.PeerID())
			if p.Relay == nil {
				return p.Kind
			}
			return p.Relay.Name
		}
		delay := func(i int, d time.Duration) {
			if err := r.world.SetUplink(r.relayHosts[i].Name(), netsim.Delay(d)); err != nil {
				t.Fatal(err)
			}
		}
		moves, was := 0, ""
		live := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
				says(t, c, "tick")
				if now := over(); now != was {
					moves, was = moves+1, now
				}
			}
		}
		live(time.Minute)
		if was != "p-relay" {
			t.Errorf("over %s, want the nearer p-relay", was)
		}
		delay(0, 8*time.Millisecond) // a little farther than the other one now
		moves = 0
		live(2 * time.Minute)
		if was != "p-relay" || moves > 0 {
			t.Errorf("over %s after %d moves, want none for so little", was, moves)
		}
		delay(0, 60*time.Millisecond)
		live(2 * time.Minute)
		if was != "q-relay" || moves > 1 {
			t.Errorf("over %s after %d moves, want q-relay after one", was, moves)
		}
	})
}

// A member that is near is a better relay than a rendezvous far away.
func TestMemberNearerThanTheRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
		r.registered(1, r.alice, r.bob)
		if err := r.world.SetUplink(r.public.Name(), netsim.Delay(100*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		echo(t, r.bob, ":7000")
		c := dial(t, r.alice, r.bob.PeerID(), 7000)
		defer c.Close()
		says(t, c, "hello")
		r.awaitKind(KindPeerRelay, 30*time.Second)
		rtt, _, err := r.alice.peerByID(r.bob.PeerID()).Ping(t.Context())
		if err != nil || rtt > 60*time.Millisecond {
			t.Errorf("a round trip takes %v (%v), 240 ms over the rendezvous", rtt, err)
		}
		all := map[string]bool{}
		for _, p := range r.alice.peerByID(r.bob.PeerID()).Status().Paths {
			all[p.Kind] = true
		}
		if !all[KindRelay] {
			t.Error("the rendezvous does not stand by")
		}
	})
}
