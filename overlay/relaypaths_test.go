package overlay

import (
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
}

// newRelayRig starts it with n relays, the first one the nearest.
func newRelayRig(t *testing.T, n int, change func(*Config)) *relayRig {
	t.Helper()
	r := &relayRig{gridRig: newGridRig(t)}
	r.homeA, r.homeB = r.world.NAT(symmetric, access), r.world.NAT(symmetric, access)
	r.hostA, r.hostB = r.homeA.Host(), r.homeB.Host()
	plain := r.invite(membership.InviteOptions{Uses: 2})
	for i := range n {
		h := r.world.Host(netsim.Delay(time.Duration(5*i) * time.Millisecond))
		token := r.invite(membership.InviteOptions{Uses: 1, Roles: membership.Relay})
		name := string(rune('p'+i)) + "-relay"
		dir := r.join(h, 20+i, name, token)
		r.open = append(r.open, h.Addr())
		r.relays = append(r.relays, r.start(h, 20+i, func(c *Config) {
			c.Dir, c.Rendezvous = dir, ""
			if change != nil {
				change(c)
			}
		}))
	}
	aliceDir, bobDir := r.join(r.hostA, 2, "alice", plain), r.join(r.hostB, 3, "bob", plain)
	writePolicy(t, bobDir, "rules:\n  - names: [\"*\"]\n    ports: [all]\n")
	r.alice, r.bob = r.startIn(r.hostA, 2, aliceDir), r.startIn(r.hostB, 3, bobDir)
	r.ready(append(r.relays, r.alice, r.bob)...)
	return r
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

// Two members that reach neither each other nor the rendezvous talk through a
// third.
func TestPeerRelayWithoutRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRelayRig(t, 1, nil)
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
		r.setUplinks(netsim.Link{Delay: 10 * time.Millisecond, Rate: 20e6})
		r.cut.Store(true) // something between the homes lets nothing through
		r.ready(r.alice, r.bob)

		size := int64(192 << 20)
		if raceEnabled || testing.Short() {
			size = 96 << 20
		}
		start := time.Now()
		x, c := sendFile(t, r.alice, r.bob, size)
		defer c.Close()
		step := func(kind, why string) {
			t.Helper()
			p := r.awaitKind(kind, 30*time.Second)
			t.Logf("%6.2fs %s: %s", time.Since(start).Seconds(), why, p.Kind)
			time.Sleep(5 * time.Second)
			if got := kindOf(r.alice, r.bob.PeerID()); got.Kind != kind {
				t.Errorf("5 s later: %+v", got)
			}
		}
		step(KindRelay, "at first")
		r.registered(1, r.alice, r.bob)
		time.Sleep(time.Second)

		r.server.Close()
		step(KindPeerRelay, "rendezvous killed")

		if err := r.world.Apply(netsim.Event{Node: r.homeA.Name(), Do: netsim.Renumber}); err != nil {
			t.Fatal(err)
		}
		r.cut.Store(false)
		step(KindDirect, "another address, and nothing between the homes")

		r.cut.Store(true)
		step(KindPeerRelay, "direct path cut")

		r.startLedger()
		time.Sleep(30 * time.Second) // both register again
		r.relays[0].Close()
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
	return r.startIn(h, number, dir)
}
