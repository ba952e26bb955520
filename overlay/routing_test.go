package overlay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A crowd is a grid of nodes, each in a home of its own, 40 ms from each other.
type crowd struct {
	*gridRig
	nodes []*Node
	dirs  []string
	wires []*wire
}

// firstNumber is that of the first node of a crowd.
const firstNumber = 100

// newCrowd starts count nodes, and waits until they know each other.
func newCrowd(t *testing.T, count int, change func(i int, c *Config), uplink netsim.Link) *crowd {
	t.Helper()
	c := &crowd{gridRig: newGridRig(t)}
	token := c.invite(membership.InviteOptions{Uses: count})
	for i := range count {
		home := c.world.NAT(restricted, uplink)
		c.wires = append(c.wires, nil)
		c.dirs = append(c.dirs, c.join(home.Host(), firstNumber+i, fmt.Sprintf("n%d", i), token))
		c.nodes = append(c.nodes, nil)
		c.startNode(home.Host(), i, change)
	}
	c.ready(c.nodes...)
	time.Sleep(12 * time.Second)
	return c
}

func (c *crowd) startNode(h netsim.Host, i int, change func(i int, c *Config)) {
	c.t.Helper()
	c.nodes[i] = c.start(h, firstNumber+i, func(cfg *Config) {
		cfg.Dir, cfg.Rendezvous = c.dirs[i], ""
		c.wires[i] = &wire{udpConn: cfg.Links[0].Conn.(udpConn)}
		cfg.Links[0].Conn = c.wires[i]
		if change != nil {
			change(i, cfg)
		}
	})
}

// A wire is a socket that can be pulled out: then nothing passes either way.
type wire struct {
	udpConn
	out  atomic.Bool
	sent atomic.Uint64 // packets
}

func (w *wire) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		n, from, err := w.udpConn.ReadFromUDPAddrPort(b)
		if err != nil || !w.out.Load() {
			return n, from, err
		}
	}
}

func (w *wire) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if w.out.Load() {
		return len(b), nil
	}
	w.sent.Add(1)
	return w.udpConn.WriteToUDPAddrPort(b, to)
}

// converse opens a connection between any two nodes, so that each exchanges data
// with each, and keeps it open.
func (c *crowd) converse() {
	c.t.Helper()
	for i, n := range c.nodes {
		writePolicy(c.t, c.dirs[i], "rules:\n  - names: [\"*\"]\n    ports: [7000]\n")
		echo(c.t, n, ":7000")
	}
	time.Sleep(houseTime) // the policies are read
	for i, n := range c.nodes {
		for _, other := range c.nodes[:i] {
			conn := dial(c.t, n, other.PeerID(), 7000)
			c.t.Cleanup(func() { conn.Close() })
			says(c.t, conn, "hello")
		}
	}
	time.Sleep(time.Second)
}

// kill makes node i vanish without a word.
func (c *crowd) kill(i int) { c.wires[i].out.Store(true) }

// alive returns the nodes that were not killed.
func (c *crowd) alive() (list []int) {
	for i, w := range c.wires {
		if !w.out.Load() {
			list = append(list, i)
		}
	}
	return list
}

// nearest returns the node alive that is nearest to key.
func (c *crowd) nearest(key Key) int {
	alive := c.alive()
	return slices.MinFunc(alive, func(a, b int) int {
		return key.Xor(c.nodes[a].router.self().Position).Compare(key.Xor(c.nodes[b].router.self().Position))
	})
}

// key returns a key by chance.
func key(r *rand.Rand) (k Key) {
	for i := range k {
		k[i] = byte(r.Uint32())
	}
	return k
}

// lookups has every node alive look up each keys, and returns how many found
// the right one.
func (c *crowd) lookups(keys int, r *rand.Rand) (right, all int) {
	for _, i := range c.alive() {
		for range keys {
			k := key(r)
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
			found, err := c.nodes[i].Closest(ctx, k, 1)
			cancel()
			all++
			if err == nil && found[0].Peer == c.nodes[c.nearest(k)].PeerID() {
				right++
			}
		}
	}
	return right, all
}

// Everybody finds everybody, also right after a fourth has vanished.
func TestLookups(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 12, nil, access)
		r := rand.New(rand.NewPCG(1, 1))
		if right, all := c.lookups(3, r); right != all {
			t.Errorf("%d of %d lookups right", right, all)
		}
		for i := range 3 {
			c.kill(4 * i)
		}
		time.Sleep(30 * time.Second)
		right, all := c.lookups(3, r)
		if right != all {
			t.Errorf("30 s after a fourth has vanished: %d of %d lookups right", right, all)
		}
		s := c.nodes[1].Status().Routing
		t.Logf("%d contacts, about %d nodes, %d sessions", s.Contacts, s.Nodes, len(s.Sessions))
		// A message by key arrives at the member nearest to it.
		got := make(chan Message, 1)
		k := key(r)
		at, from := c.nodes[c.nearest(k)], c.nodes[c.alive()[0]]
		stop, err := at.Handle(200, func(m Message) { got <- m })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		if err := from.Route(t.Context(), k, 200, []byte("spawn rank 4")); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			if m.From != from.PeerID() || m.Key != k || string(m.Payload) != "spawn rank 4" {
				t.Errorf("got %+v", m)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the message did not arrive: %+v", at.Status().Routing.Counters.Routing)
		}
	})
}

// The rendezvous is gone for good: members are dialed by name, those whom the
// dialer has never heard of as well.
func TestNamesWithoutRendezvous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 7, func(_ int, cfg *Config) { cfg.Routing.MaxSessions = 3 }, access)
		for _, i := range []int{3, 6} {
			echo(t, c.nodes[i], ":7000")
			writePolicy(t, c.dirs[i], "rules:\n  - names: [\"*\"]\n    ports: [7000]\n")
		}
		c.server.Close()
		time.Sleep(time.Minute)
		// Node 0 forgets one of them altogether.
		n := c.nodes[0]
		for _, i := range []int{3, 6} {
			p := n.peerByID(c.nodes[i].PeerID())
			p.Close()
			time.Sleep(time.Second)
		}
		forgotten := c.nodes[6].PeerID()
		n.grid.mu.Lock()
		delete(n.grid.members, forgotten)
		delete(n.grid.names, "n6")
		n.grid.mu.Unlock()
		n.remembered.mu.Lock()
		delete(n.remembered.peers, forgotten)
		n.remembered.mu.Unlock()
		for _, name := range []string{"n3.lab.grid:7000", "n6:7000"} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			begun := time.Now()
			conn, err := n.DialContext(ctx, "tcp", name)
			cancel()
			if err != nil {
				t.Fatalf("dial %s: %v\n%+v", name, err, n.Status().Routing)
			}
			t.Logf("dialed %s in %v", name, time.Since(begun))
			says(t, conn, "without a rendezvous")
			conn.Close()
		}
		if _, err := n.Resolve(t.Context(), "nobody"); err == nil {
			t.Error("a name that nobody has")
		}
	})
}

// A node whose network is gone for so long that all others have removed it, and
// that has no session left, finds its place again by itself.
func TestBootstrapAfterTotalLoss(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCrowd(t, 3, nil, access)
		c.wires[0].out.Store(true)
		time.Sleep(4 * time.Minute)
		n := c.nodes[0]
		if got := len(n.Status().Routing.Sessions); got != 0 {
			t.Errorf("%d sessions without a network", got)
		}
		before := n.Status().Routing.Counters.Bootstraps
		c.wires[0].out.Store(false)
		start := time.Now()
		for len(n.Status().Routing.Sessions) == 0 && time.Since(start) < 3*time.Minute {
			time.Sleep(time.Second)
		}
		t.Logf("the first session after %v, %d attempts", time.Since(start), n.Status().Routing.Counters.Bootstraps-before)
		time.Sleep(20 * time.Second)
		r := rand.New(rand.NewPCG(2, 2))
		if right, all := c.lookups(2, r); right != all {
			t.Errorf("%d of %d lookups right", right, all)
		}
	})
}

// A collector keeps the events of one node's Watch.
type collector struct {
	done   chan struct{}
	mu     sync.Mutex // guards what follows
	events []MemberEvent
}

func collect(t *testing.T, n *Node) *collector {
	t.Helper()
	c := &collector{done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	events, err := n.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		for e := range events {
			c.mu.Lock()
			c.events = append(c.events, e)
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-c.done })
	return c
}

// of returns the events about peer with that state.
func (c *collector) of(peer ri2n.PeerID, s Liveness) (list []MemberEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Peer == peer && e.State == s {
			list = append(list, e)
		}
	}
	return list
}

func (c *collector) count(s Liveness) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.State == s {
			n++
		}
	}
	return n
}
