package overlay

import (
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/punch"
)

// direct returns how many direct and relayed paths n has to its one peer.
func pathKinds(n *Node) (direct, relayed int) {
	for _, p := range n.Status().Peers {
		for _, path := range p.Paths {
			if path.Kind == KindDirect {
				direct++
			} else {
				relayed++
			}
		}
	}
	return direct, relayed
}

func TestPathDiesAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 5, restricted, restricted)
		a, b := r.pair(nil)
		echo(t, b, ":7000")
		c := dial(t, a, b.PeerID(), 7000)
		defer c.Close()
		waitDirect(t, a, b)
		r.cut.Store(true)
		says(t, c, "over the relay")
		time.Sleep(time.Second)
		if got := same(t, a, b); got.Kind != KindRelay || got.Reason != string(punch.PathDied) {
			t.Errorf("a second after the cut: %+v, want relay for path-died", got)
		}
		time.Sleep(10 * time.Second)
		if got := same(t, a, b); got.Kind != KindRelay || got.Reason == "" {
			t.Errorf("ten seconds after the cut: %+v, want relay with a reason", got)
		}
		says(t, c, "over the relay")
		r.cut.Store(false)
		time.Sleep(70 * time.Second)
		if got := same(t, a, b); got.Kind != KindDirect {
			t.Errorf("after the repair: %+v, want direct", got)
		}
		says(t, c, "direct again")
	})
}

// The mappings of both homes are gone, also those toward the rendezvous.
func TestBothNATsRebooted(t *testing.T) {
	for _, traffic := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, 6, restricted, restricted)
			a, b := r.pair(nil)
			echo(t, b, ":7000")
			c := dial(t, a, b.PeerID(), 7000)
			defer c.Close()
			waitDirect(t, a, b)
			time.Sleep(20 * time.Second)
			r.homeA.Reboot()
			r.homeB.Reboot()
			if traffic {
				start := time.Now()
				says(t, c, "after the reboot")
				t.Logf("echo after %v", time.Since(start))
				// Both were idle: b, which only listens, learns of the reboot
				// with its next keepalive, 15 s after the last.
				if got := time.Since(start); got > 16*time.Second {
					t.Errorf("echo after %v, want at most 16s", got)
				}
				time.Sleep(10 * time.Second)
			} else {
				time.Sleep(60 * time.Second)
			}
			if got := same(t, a, b); got.Kind != KindDirect {
				t.Errorf("traffic %v: %+v, want direct again", traffic, got)
			}
			says(t, c, "direct again")
		})
	}
}

func TestRendezvousRestartsBothSidesRegisterAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 5, restricted, restricted)
		a, b := r.pair(nil)
		echo(t, b, ":7000")
		c := dial(t, a, b.PeerID(), 7000)
		defer c.Close()
		waitDirect(t, a, b)
		r.server.Close()
		says(t, c, "without a rendezvous")
		time.Sleep(3 * time.Minute)
		says(t, c, "long without a rendezvous")
		if st := a.Status().Rendezvous; st.Registered || st.Error == "" {
			t.Errorf("rendezvous is shown as %+v while it is down", st)
		}
		if got := same(t, a, b); got.Kind != KindDirect {
			t.Errorf("path = %+v, want direct", got)
		}
		r.startServer()
		time.Sleep(time.Minute)
		if st := a.Status().Rendezvous; !st.Registered {
			t.Errorf("rendezvous is shown as %+v after its return", st)
		}
		if direct, relayed := pathKinds(a); direct == 0 || relayed == 0 {
			t.Errorf("%d direct and %d relayed paths after the return, want both", direct, relayed)
		}
		r.cut.Store(true)
		start := time.Now()
		says(t, c, "over the new relay path")
		if got := time.Since(start); got > time.Second {
			t.Errorf("the relay took over after %v", got)
		}
	})
}
