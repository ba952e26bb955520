package overlay

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n"
)

// The figure of architecture.md: at 40 ms of round trip port-restricted homes
// send directly within 250 ms of the dial, median of 20 seeds.
func TestTimeToDirect(t *testing.T) {
	var took []time.Duration
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, seed, restricted, restricted)
			a, b := r.pair(nil)
			echo(t, b, ":7000")
			start := time.Now()
			c := dial(t, a, b.PeerID(), 7000)
			defer c.Close()
			waitDirect(t, a, b)
			took = append(took, time.Since(start))
			says(t, c, "over the direct path")
			same(t, a, b)
		})
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("direct after %v (median), %v to %v", median, took[0], took[len(took)-1])
	if median > 250*time.Millisecond {
		t.Errorf("median %v, want at most 250ms", median)
	}
}

// waitDirect expects a to send to b directly within 10 s.
func waitDirect(t *testing.T, a, b *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p, err := a.Connect(ctx, b.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitDirect(ctx); err != nil {
		t.Fatalf("not direct: %v; paths %+v", err, p.Status().Paths)
	}
}

// pathOf returns what n shows for its session with peer.
func pathOf(t *testing.T, n *Node, peer ri2n.PeerID) PathStatus {
	t.Helper()
	for _, p := range n.Status().Peers {
		if p.ID == peer {
			return p.Path
		}
	}
	return PathStatus{}
}

// same expects both ends to show one kind of path and one reason within 1 s.
func same(t *testing.T, a, b *Node) PathStatus {
	t.Helper()
	var x, y PathStatus
	for range 20 {
		x, y = pathOf(t, a, b.PeerID()), pathOf(t, b, a.PeerID())
		if x.Kind == y.Kind && x.Reason == y.Reason && x.Kind != "" {
			return x
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("the ends disagree: %+v and %+v", x, y)
	return x
}

func TestNotDirectSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b netsim.NAT
		want punch.Reason
	}{
		{"both map by destination", symmetric, symmetric, punch.MappingBoth},
		{"one maps, the other filters", symmetric, restricted, punch.MappingAndFiltering},
		{"one filters, the other maps", restricted, symmetric, punch.MappingAndFiltering},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 7, tt.a, tt.b)
				a, b := r.pair(nil)
				echo(t, b, ":7000")
				c := dial(t, a, b.PeerID(), 7000)
				defer c.Close()
				p, err := a.Connect(t.Context(), b.PeerID())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				start := time.Now()
				st, err := p.WaitDirect(ctx)
				var not *NotDirectError
				if !errors.As(err, &not) || not.Reason != string(tt.want) || not.Advice == "" || not.Err != nil {
					t.Fatalf("WaitDirect = %+v, %v; want reason %q", st, err, tt.want)
				}
				t.Logf("known after %v", time.Since(start))
				both := same(t, a, b)
				if both.Kind != KindRelay || both.Reason != string(tt.want) || both.Advice == "" {
					t.Errorf("path = %+v, want relay for %q", both, tt.want)
				}
				says(t, c, "still here")
				// It is tried again, and the reason stays meanwhile.
				for range 40 {
					time.Sleep(time.Second)
					if got := same(t, a, b); got.Kind != KindRelay || got.Reason != string(tt.want) {
						t.Fatalf("path = %+v", got)
					}
				}
				says(t, c, "still here")
			})
		})
	}
}

func TestPolicy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		a, b   PathPolicy
		direct bool
	}{
		{"relay only at the client", PathRelayOnly, PathAny, false},
		{"relay only at the server", PathAny, PathRelayOnly, false},
		{"direct only at the client", PathDirectOnly, PathAny, true},
		{"direct only at the server", PathAny, PathDirectOnly, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 3, restricted, restricted)
				a := r.start(r.hostA, 1, func(c *Config) { c.Path = tt.a })
				b := r.start(r.hostB, 2, func(c *Config) { c.Path = tt.b; c.Allow = []ri2n.PeerID{a.PeerID()} })
				r.ready(a, b)
				echo(t, b, ":7000")
				c := dial(t, a, b.PeerID(), 7000)
				defer c.Close()
				says(t, c, "hello")
				time.Sleep(10 * time.Second)
				got := same(t, a, b)
				if tt.direct && got.Kind != KindDirect || !tt.direct && (got.Kind != KindRelay || got.Reason != string(punch.Policy)) {
					t.Errorf("path = %+v, want direct %v", got, tt.direct)
				}
				for _, p := range a.Status().Peers[0].Paths {
					if want := tt.direct; (p.Kind == KindDirect) != want {
						t.Errorf("policy %v and %v have the path %+v", tt.a, tt.b, p)
					}
				}
				says(t, c, "hello again")
			})
		})
	}
}

func TestDirectOnlyRefusesTheRelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 3, symmetric, symmetric)
		a := r.start(r.hostA, 1, func(c *Config) { c.Path = PathDirectOnly })
		b := r.start(r.hostB, 2, func(c *Config) { c.Allow = []ri2n.PeerID{a.PeerID()} })
		r.ready(a, b)
		echo(t, b, ":7000")
		_, err := a.DialContext(t.Context(), "tcp", Addr{b.PeerID(), 7000}.String())
		var not *NotDirectError
		if !errors.As(err, &not) || not.Reason != string(punch.MappingBoth) {
			t.Errorf("dial = %v, want a NotDirectError", err)
		}
	})
}
