package overlay

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
)

// stop stops node i for a time, as a process that gets a signal is: it neither
// sends, nor hears, nor counts the time.
func (c *crowd) stop(i int, d time.Duration) {
	c.wires[i].out.Store(true)
	_ = c.nodes[i].router.do(c.t.Context(), func(time.Time) { time.Sleep(d) })
	time.Sleep(d)
	c.wires[i].out.Store(false)
}

// Ten minutes (half a one under the race detector) at 10 % loss, and a node that is stopped for 10 s: nobody is removed.
func TestNobodyIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		size, length := 6, 10*time.Minute
		if raceEnabled {
			size, length = 4, 30*time.Second
		}
		c := newCrowd(t, size, nil, netsim.Link{Delay: 20 * time.Millisecond, Loss: 0.05})
		c.converse()
		var watchers []*collector
		for _, n := range c.nodes {
			watchers = append(watchers, collect(t, n))
		}
		time.Sleep(length / 2)
		stopped := c.nodes[2].PeerID()
		c.stop(2, 10*time.Second)
		time.Sleep(length / 2)
		suspected := 0
		for i, w := range watchers {
			if removed, left := w.count(MemberRemoved), w.count(MemberLeft); removed+left > 0 {
				t.Errorf("node %d removed %d and saw %d leave", i, removed, left)
			}
			suspected += len(w.of(stopped, MemberSuspected))
			if s := c.nodes[i].Status().Routing; len(s.Sessions) != len(c.nodes)-1 {
				t.Errorf("node %d has %d sessions", i, len(s.Sessions))
			} else {
				for _, x := range s.Sessions {
					if x.State != MemberAlive {
						t.Errorf("node %d holds %v for %s", i, x.Peer.Short(), x.State)
					}
				}
			}
		}
		if suspected == 0 {
			t.Error("nobody suspected the node that was stopped")
		}
	})
}

// A node dies at 5 % loss and 200 ms of round trip: it is suspected within 2 s,
// and removed after 30 s; farewells are known at once.
func TestDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 5, nil, netsim.Link{Delay: 50 * time.Millisecond, Loss: 0.025})
		c.converse()
		w := collect(t, c.nodes[0])
		time.Sleep(time.Minute)
		if got := c.nodes[0].Phi(c.nodes[3].PeerID()); got > 8 {
			t.Errorf("phi of a live session = %v", got)
		}
		dead, died := c.nodes[3].PeerID(), time.Now()
		c.kill(3)
		time.Sleep(10 * time.Second)
		if got := c.nodes[0].Phi(dead); got < 8 {
			t.Errorf("phi after 10 s of silence = %v", got)
		}
		time.Sleep(35 * time.Second)
		suspected, removed := w.of(dead, MemberSuspected), w.of(dead, MemberRemoved)
		if len(suspected) == 0 || len(removed) != 1 {
			t.Fatalf("events about the dead: %+v", w.events)
		}
		first := suspected[0].Time.Sub(died)
		t.Logf("suspected after %v, removed after %v", first, removed[0].Time.Sub(died))
		if first > 2*time.Second {
			t.Errorf("suspected after %v, want 2s at most", first)
		}
		if took := removed[0].Time.Sub(suspected[len(suspected)-1].Time); took < 30*time.Second {
			t.Errorf("removed %v after the suspicion", took)
		}
		e := suspected[0]
		if e.Name != "n3" || e.Roles != membership.Worker || e.Site == "" {
			t.Errorf("event = %+v", e)
		}
		leaver := c.nodes[4].PeerID()
		c.nodes[4].Close()
		time.Sleep(5 * time.Second)
		if left := w.of(leaver, MemberLeft); len(left) != 1 || len(w.of(leaver, MemberAlive)) > 1 || len(w.of(leaver, MemberRemoved)) > 0 {
			t.Errorf("a farewell: %+v", w.events)
		}
	})
}

// A node that has crashed and is there again, before others have missed it, learns
// of what site they are, as they name their own: at the latest when the sessions
// that they had with it before have ended.
func TestSitesAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 4, nil, netsim.Link{Delay: 10 * time.Millisecond})
		const crashed = 2
		c.kill(crashed)
		c.nodes[crashed].Close() // nobody hears of it
		c.startNode(c.world.NAT(restricted, netsim.Link{Delay: 10 * time.Millisecond}).Host(), crashed, nil)
		c.ready(c.nodes[crashed])
		w := collect(t, c.nodes[crashed])
		time.Sleep(100 * time.Second)
		for i, n := range c.nodes {
			if i == crashed {
				continue
			}
			told := w.of(n.PeerID(), MemberAlive)
			if len(told) == 0 || told[len(told)-1].Site != n.Site() || n.Site() == "" {
				t.Errorf("n%d is of site %q, and the one that crashed hears %+v", i, n.Site(), told)
			}
		}
	})
}

// In a grid without any traffic keepalives find a death out, and everybody hears
// of it. A short absence goes unnoticed.
func TestDeathInAnIdleGrid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 5, nil, netsim.Link{Delay: 50 * time.Millisecond, Loss: 0.025})
		var watchers []*collector
		for _, n := range c.nodes[:4] {
			watchers = append(watchers, collect(t, n))
		}
		time.Sleep(30 * time.Second)
		c.stop(1, 5*time.Second)
		time.Sleep(20 * time.Second)
		for i, n := range c.nodes {
			for _, s := range n.Status().Routing.Sessions {
				if s.State != MemberAlive {
					t.Errorf("node %d holds %v for %s after a short absence", i, s.Peer.Short(), s.State)
				}
			}
		}
		dead, died := c.nodes[4].PeerID(), time.Now()
		c.kill(4)
		time.Sleep(70 * time.Second)
		for i, w := range watchers {
			suspected, removed := w.of(dead, MemberSuspected), w.of(dead, MemberRemoved)
			if len(suspected) == 0 || len(removed) != 1 {
				t.Errorf("node %d saw %d suspicions and %d removals", i, len(suspected), len(removed))
				continue
			}
			first := suspected[0].Time.Sub(died)
			t.Logf("node %d: suspected after %v, removed after %v", i, first, removed[0].Time.Sub(died))
			if first > 21*time.Second {
				t.Errorf("node %d suspected it after %v", i, first)
			}
			if n := w.count(MemberRemoved); n != 1 {
				t.Errorf("node %d removed %d", i, n)
			}
		}
		// Then it is quiet again.
		before := c.nodes[0].Status().Routing.Counters.Liveness.Sent
		time.Sleep(time.Minute)
		if got := c.nodes[0].Status().Routing.Counters.Liveness.Sent - before; got > 10 {
			t.Errorf("%d messages of the failure detector a minute after the removal", got)
		}
	})
}

// What a liar says is refused, and counted.
func TestRoutingRefusesLies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 4, nil, access)
		n, liar := c.nodes[0], c.nodes[1]
		to := routing.PeerID(n.PeerID())
		say := func(p protocol, msg []byte) {
			t.Helper()
			done := make(chan bool, 1)
			if err := liar.router.do(t.Context(), func(time.Time) { done <- liar.router.carrier.sendNow(to, p, msg) }); err != nil || !<-done {
				t.Fatal("not sent", err)
			}
		}
		before := n.Status().Routing.Counters

		// An announcement in the name of another member, signed by the liar; and
		// one with a position that the ledger did not give.
		victim := c.nodes[2].router.routing.Self()
		for _, m := range []*routing.Member{
			victim,
			routing.NewMember(routing.PeerID(liar.PeerID()), routing.Nonce{1, 2, 3}, liar.router.routing.Self().Proof),
		} {
			a := &announcement{member: m, issued: uint64(time.Now().UnixMilli())}
			a.sign(ed25519.NewKeyFromSeed(liar.identity.Seed()))
			say(protocolAnnounce, appendAnnouncement(nil, a))
		}
		say(protocolRouting, []byte("nonsense"))
		say(protocolSwim, []byte("nonsense"))
		say(protocol(77), []byte("nonsense"))
		say(protocolMail, []byte("nonsense"))
		// A flood of lookups, answered as far as the limit goes.
		find := append(append([]byte{1, 3}, make([]byte, 8)...), make([]byte, 64)...)
		for range 1000 {
			find[9]++
			say(protocolRouting, find)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(2 * time.Second)
		after := n.Status().Routing.Counters
		if got := after.AnnouncementsForged - before.AnnouncementsForged; got != 2 {
			t.Errorf("%d forged announcements, want 2", got)
		}
		if after.Malformed-before.Malformed != 2 || after.Routing.Malformed-before.Routing.Malformed != 1 || after.Liveness.Malformed-before.Liveness.Malformed != 1 {
			t.Errorf("malformed: %+v", after)
		}
		if got := after.Routing.Limited - before.Routing.Limited; got < 500 {
			t.Errorf("%d requests of a flood refused", got)
		}
		if _, err := n.Closest(t.Context(), Key{1}, 1); err != nil {
			t.Errorf("after the flood: %v", err)
		}
		known := make(chan *named, 1)
		if err := n.router.do(t.Context(), func(time.Time) { known <- n.router.names.known[routing.PeerID(liar.PeerID())] }); err != nil {
			t.Fatal(err)
		}
		if a := <-known; a == nil || a.member.Nonce == (routing.Nonce{1, 2, 3}) {
			t.Error("the liar lives where it likes")
		}
	})
}

// A node outside every grid has no part in routing, and says so.
func TestNoRouting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		n := r.start(r.world.Host(), 1, nil)
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Closest":     func() error { _, err := n.Closest(ctx, Key{}, 1); return err },
			"Route":       func() error { return n.Route(ctx, Key{}, FirstService, nil) },
			"Handle":      func() error { _, err := n.Handle(FirstService, nil); return err },
			"Watch":       func() error { _, err := n.Watch(ctx); return err },
			"Get":         func() error { _, err := n.Objects().Get(ctx, Key{}); return err },
			"OpenMailbox": func() error { _, err := n.OpenMailbox(ctx, MailboxConfig{Owner: jobKey(t)}); return err },
		} {
			if err := call(); err != ErrNoRouting {
				t.Errorf("%s: %v, want ErrNoRouting", name, err)
			}
		}
		if n.Phi(ri2n.PeerID{1}) != 0 || n.Status().Routing != nil {
			t.Error("status of a node without routing")
		}
	})
}
