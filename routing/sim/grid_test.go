package sim

import (
	"flag"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/object"
)

// nodes makes the simulations larger: go test ./routing/sim -nodes 10000.
var nodes = flag.Int("nodes", 80, "nodes of each simulated grid")

func TestLookups(t *testing.T) {
	r, err := Run(Options{Seed: 1, Nodes: *nodes, Lookups: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.JoinFailed != 0 || r.Correct != r.Lookups {
		t.Errorf("%d could not join, %d of %d lookups are right", r.JoinFailed, r.Correct, r.Lookups)
	}
	if r.HopsMax > r.HopsBound {
		t.Errorf("hops = %d, want at most %d", r.HopsMax, r.HopsBound)
	}
	if r.BytesPerNode > 128<<10 {
		t.Errorf("a node takes %d bytes", r.BytesPerNode)
	}
}

// A fifth of all nodes leave at once. After 30 s, 99.9 % of lookups are right
// and no object is lost.
func TestChurn(t *testing.T) {
	r, err := Run(Options{Seed: 2, Nodes: *nodes, Lookups: 100, Churn: 0.2, Objects: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if float64(r.Correct) < 0.999*float64(r.Lookups) {
		t.Errorf("%d of %d lookups are right", r.Correct, r.Lookups)
	}
	if r.ObjectsLost != 0 {
		t.Errorf("%d of %d objects are lost", r.ObjectsLost, r.Objects)
	}
}

func TestSameSeedSameRun(t *testing.T) {
	run := func() Report {
		r, err := Run(Options{Seed: 3, Nodes: 40, Lookups: 20, Churn: 0.1, Objects: 4})
		if err != nil {
			t.Fatal(err)
		}
		r.RealSeconds, r.BytesPerNode = 0, 0
		return r
	}
	if a, b := run(), run(); a != b {
		t.Errorf("the same seed gave\n%+v and\n%+v", a, b)
	}
}

// Messages that are routed reach the node nearest to their key, once.
func TestRoute(t *testing.T) {
	g := NewGrid(4)
	g.Grow(*nodes, 50)
	const service = 200
	delivered := make(map[string][]int)
	hops := 0
	for i, n := range g.Nodes {
		n.Handle(service, routing.Handler{Deliver: func(_ time.Time, d routing.Delivery) {
			delivered[string(d.Payload)] = append(delivered[string(d.Payload)], i)
			hops = max(hops, d.Hops)
		}})
	}
	const messages = 100
	want := make(map[string]int)
	for k := range messages {
		i, key := g.RandomAlive(), g.RandomKey()
		payload := string([]byte{byte(k >> 8), byte(k)})
		want[payload] = g.Nearest(key, -1)
		g.Nodes[i].Route(g.Now(), key, service, []byte(payload))
		g.Touch(i)
		g.Run(10 * time.Millisecond)
	}
	g.Run(10 * time.Second)
	for payload, w := range want {
		if got := delivered[payload]; len(got) != 1 || got[0] != w {
			t.Errorf("message %x was delivered at %v, want once at %d", payload, got, w)
		}
	}
	if bound := int(math.Ceil(math.Log2(float64(*nodes)))) + 1; hops > bound {
		t.Errorf("hops = %d, want at most %d", hops, bound)
	}
	t.Logf("at most %d hops", hops)
}

// placeSybils adds count members whose positions are nearer to key than those
// of any honest node, and lets them join. The ledger prevents that; here
// somebody owns the ledger.
func (g *Grid) placeSybils(t *testing.T, key routing.Key, count int) (sybils []*routing.Member) {
	t.Helper()
	// Positions are hashes, so they are found by trying.
	nearer := func(a, b *routing.Member) int { return key.Xor(a.Position()).Compare(key.Xor(b.Position())) }
	for range 150 * len(g.Nodes) {
		k := g.RandomKey()
		if sybils = append(sybils, MemberOf(routing.PeerID(k))); len(sybils) > 50*count {
			slices.SortFunc(sybils, nearer)
			sybils = sybils[:count]
		}
	}
	slices.SortFunc(sybils, nearer)
	sybils = sybils[:count]
	joining := count
	for _, m := range sybils {
		i := g.AddNode(m)
		g.Nodes[i].Bootstrap(g.now, []*routing.Member{g.Nodes[0].Self()}, func(time.Time, error) { joining-- })
		g.Touch(i)
	}
	if !g.RunUntil(time.Minute, func() bool { return joining == 0 }) {
		t.Fatal("the sybils could not join")
	}
	// They keep themselves in everybody's table before they begin.
	g.Run(30 * time.Second)
	return sybils
}

// Kinds of messages, as docs/routing-protocol.md numbers them.
const (
	kindFind  = 0x03
	kindFound = 0x04
	kindRoute = 0x05
	kindAsk   = 0x07
)

// lying returns a liar that names nobody but its friends, and swallows what it
// shall pass on.
func (g *Grid) lying(i int, friends []*routing.Member) Liar {
	return func(_ time.Time, from int, msg []byte) bool {
		answer := append([]byte{msg[0], kindFound}, msg[2:10]...)
		switch msg[1] {
		case kindFind:
			answer = append(answer, byte(len(friends)))
			for _, f := range friends {
				answer = routing.AppendMember(answer, f)
			}
		case kindRoute:
			answer[1] = 0x06 // ROUTED
		case kindAsk:
			answer[1] = 0x08 // ANSWER of the location objects
			answer = append(answer, 3)
			if msg[11] == 1 { // GET
				answer[len(answer)-1] = 1
			}
		default:
			return false
		}
		g.Send(i, from, answer)
		return true
	}
}

// Twenty sybils are nearest to a key.
func TestSybils(t *testing.T) {
	silent := func(time.Time, int, []byte) bool { return true }
	for _, tt := range []struct {
		name string
		lie  func(g *Grid, i int, friends []*routing.Member) Liar
	}{
		{"lying", (*Grid).lying},
		{"silent", func(*Grid, int, []*routing.Member) Liar { return silent }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := NewGrid(5)
			g.Grow(*nodes, max(50, *nodes/20))
			// One key in a small grid, three in a large one.
			o := g.store(1 + 2*min(1, *nodes/1000))
			asked, found, keys, named, gets, got := 0, 0, 0, 0, 0, 0
			for _, r := range o.records {
				key := r.Key()
				sybils := g.placeSybils(t, key, 20)
				for _, s := range sybils {
					i, _ := g.Index(s.Peer)
					g.Lie(i, tt.lie(g, i, sybils))
				}
				near := g.Nearest(key, -1)
				target := g.Nodes[near].Self()
				// What is written now has to be found, too.
				g.Run(time.Minute)
				for range 20 {
					i := g.RandomAlive()
					for i == near {
						i = g.RandomAlive()
					}
					g.Nodes[i].Lookup(g.now, target.Position(), func(_ time.Time, r routing.Result) {
						asked++
						if len(r.Closest) > 0 && r.Closest[0].Peer == target.Peer {
							found++
						}
					})
					g.Nodes[i].Lookup(g.now, key, func(_ time.Time, r routing.Result) {
						keys++
						all := append(slices.Clone(r.Closest), r.Beyond...)
						if slices.ContainsFunc(all, func(m *routing.Member) bool { return m.Peer == target.Peer }) {
							named++
						}
					})
					o.services[i%len(o.services)].Get(g.now, key, func(_ time.Time, _ object.Entry, err error) {
						gets++
						if err == nil {
							got++
						}
					})
					g.Touch(i)
					g.Touch(i % len(o.services))
					g.Run(200 * time.Millisecond)
				}
				g.Run(time.Minute)
			}
			t.Logf("nodes found: %d of %d; neighbours of the key: %d of %d; objects: %d of %d", found, asked, named, keys, got, gets)
			if found*100 < 99*asked || named*100 < 99*keys || got*100 < 99*gets {
				t.Error("fewer than 99 % are right")
			}
		})
	}
}
