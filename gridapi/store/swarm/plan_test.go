package swarm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var testPlan = planConfig{
	settle: 2 * time.Second, stall: 20 * time.Second, patience: 30 * time.Second,
	horizon: time.Second, maxFlight: 32, falseHaves: 16,
}

// A mesh runs plans that hear of each other in random order, without any I/O.
type mesh struct {
	cfg   planConfig
	t     *testing.T
	rng   *rand.Rand
	now   time.Time
	ids   []chunk.ID
	nodes map[string]*meshNode
	names []string
	late  map[[2]string][]func() // messages on their way, in order
	pairs [][2]string
	sent  map[chunk.ID]int
	cross map[string]map[chunk.ID]int // into a site
}

type meshNode struct {
	name, site string
	plan       *plan
	held       map[chunk.ID]bool
	wants      bool
	counts     Counters
	queue      map[string][]chunk.ID // asks of others, not answered
}

func newMesh(t *testing.T, seed uint64, cfg planConfig, sites, each, chunks int) *mesh {
	m := &mesh{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		late:  make(map[[2]string][]func()),
		nodes: make(map[string]*meshNode), sent: make(map[chunk.ID]int), cross: make(map[string]map[chunk.ID]int),
	}
	for i := range chunks {
		m.ids = append(m.ids, chunk.Sum([]byte{byte(i), byte(i >> 8), byte(seed)}))
	}
	m.cfg = cfg
	m.add("source", "office", m.ids)
	for i := range sites {
		for j := range each {
			m.add(fmt.Sprintf("w%d%d", i, j), fmt.Sprintf("home%d", i), nil)
		}
	}
	return m
}

func (m *mesh) add(name, site string, held []chunk.ID) {
	cfg := m.cfg
	cfg.self, cfg.site = name, site
	n := &meshNode{name: name, site: site, held: make(map[chunk.ID]bool), wants: held == nil, queue: make(map[string][]chunk.ID)}
	n.plan = newPlan(cfg, rand.New(rand.NewPCG(m.rng.Uint64(), 1)), &n.counts)
	for _, id := range held {
		n.held[id] = true
	}
	m.nodes[name] = n
	m.names = append(m.names, name)
}

// begin connects all with all, and has the workers want everything.
func (m *mesh) begin() {
	for _, a := range m.names {
		n := m.nodes[a]
		for _, b := range m.names {
			if a != b {
				n.plan.join(m.now, b, m.nodes[b].site)
			}
		}
		if n.wants {
			for _, id := range m.ids {
				n.plan.want(m.now, id, false)
			}
		}
	}
	// Each tells what it wants when it connects, and answers others after that.
	for _, a := range m.names {
		for _, b := range m.names {
			if p := m.nodes[b]; a != b && m.nodes[a].wants {
				m.later(a, b, func() {
					for _, id := range m.ids {
						p.plan.wants(m.now, a, id)
					}
				})
			}
		}
	}
	for _, a := range m.names {
		for _, b := range m.names {
			if n := m.nodes[a]; a != b && n.wants {
				m.later(a, b, func() {
					p := m.nodes[b]
					if p == nil {
						return
					}
					for _, id := range m.ids {
						holds := p.held[id]
						m.later(b, a, func() { n.plan.answer(m.now, b, id, holds) })
					}
				})
			}
		}
	}
}

func (m *mesh) later(from, to string, do func()) {
	pair := [2]string{from, to}
	if len(m.late[pair]) == 0 {
		m.pairs = append(m.pairs, pair)
	}
	m.late[pair] = append(m.late[pair], do)
}

// step delivers a random message, or lets a peer answer an ask, or time pass.
func (m *mesh) step() {
	for range m.rng.IntN(16) {
		if len(m.pairs) == 0 {
			break
		}
		i := m.rng.IntN(len(m.pairs))
		pair := m.pairs[i]
		do := m.late[pair][0]
		if m.late[pair] = m.late[pair][1:]; len(m.late[pair]) == 0 {
			m.pairs = slices.Delete(m.pairs, i, i+1)
		}
		do()
	}
	if m.rng.IntN(4) == 0 {
		m.now = m.now.Add(time.Duration(m.rng.IntN(100)) * time.Millisecond)
	}
	if m.rng.IntN(50) == 0 {
		m.now = m.now.Add(tick)
		for _, name := range m.names {
			m.nodes[name].plan.advance(m.now)
		}
	}
	name := m.names[m.rng.IntN(len(m.names))]
	n := m.nodes[name]
	n.plan.dispatch(m.now)
	for _, d := range n.plan.take() {
		p := m.nodes[d.peer]
		if p == nil {
			continue
		}
		switch d.kind {
		case askPeer:
			if n.held[d.id] {
				m.t.Fatalf("%s asks for what it holds", name)
			}
			p.queue[name] = append(p.queue[name], d.id)
		case cancelAsk:
			if i := slices.Index(p.queue[name], d.id); i >= 0 {
				p.queue[name] = slices.Delete(p.queue[name], i, i+1)
				n.plan.missed(m.now, d.peer, d.id, codeWithdrawn)
			}
		}
	}
	for q, asks := range n.queue { // a random one, as maps are
		if len(asks) == 0 {
			continue
		}
		id := asks[0]
		n.queue[q] = asks[1:]
		to := m.nodes[q]
		if to == nil {
			continue
		}
		if !n.held[id] {
			to.plan.missed(m.now, name, id, codeNotHeld)
			continue
		}
		if name == "source" {
			m.sent[id]++
		}
		if n.site != to.site {
			if m.cross[to.site] == nil {
				m.cross[to.site] = make(map[chunk.ID]int)
			}
			m.cross[to.site][id]++
		}
		to.plan.started(m.now, name, id)
		to.plan.arrived(m.now, name, id, 64<<10)
		to.held[id] = true
		for _, other := range m.names {
			if x := m.nodes[other]; x != to && x.wants {
				m.later(q, other, func() { x.plan.has(m.now, q, id) })
			}
		}
		break
	}
}

// kill takes a node out; the others are told.
func (m *mesh) kill(name string) {
	delete(m.nodes, name)
	m.names = slices.DeleteFunc(m.names, func(x string) bool { return x == name })
	for _, other := range m.names {
		m.nodes[other].plan.leave(name)
		delete(m.nodes[other].queue, name)
	}
}

func (m *mesh) done() bool {
	for _, name := range m.names {
		if n := m.nodes[name]; n.wants && len(n.held) < len(m.ids) {
			return false
		}
	}
	return true
}

// TestPlanOneCopy: whatever the order of what they hear, each chunk leaves the
// source once and enters each site once.
func TestPlanOneCopy(t *testing.T) {
	for seed := range uint64(20) {
		cfg := testPlan
		cfg.settle, cfg.patience, cfg.stall = time.Hour, time.Hour, time.Hour // messages are never late
		m := newMesh(t, seed, cfg, 4, 1+int(seed%4), 60)
		m.begin()
		for n := 0; !m.done(); n++ {
			if n > 200_000 {
				t.Fatalf("seed %d: no end", seed)
			}
			m.step()
		}
		for id, n := range m.sent {
			if n != 1 {
				t.Errorf("seed %d: chunk %v left the source %d times", seed, id, n)
			}
		}
		for site, ids := range m.cross {
			for id, n := range ids {
				if n != 1 {
					t.Errorf("seed %d: chunk %v entered %s %d times", seed, id, site, n)
				}
			}
		}
	}
}

// TestPlanSurvivesDeaths: as long as somebody holds a chunk, all who are left
// get it.
func TestPlanSurvivesDeaths(t *testing.T) {
	for seed := range uint64(20) {
		m := newMesh(t, seed, testPlan, 4, 3, 40)
		m.begin()
		deaths := 0
		for n := 0; !m.done(); n++ {
			if n > 400_000 {
				t.Fatalf("seed %d: no end after %d deaths", seed, deaths)
			}
			if deaths < 6 && m.rng.IntN(300) == 0 {
				name := m.names[m.rng.IntN(len(m.names))]
				if name != "source" {
					m.kill(name)
					deaths++
				}
			}
			m.step()
		}
	}
}

func TestWindow(t *testing.T) {
	p := newPlan(testPlan, rand.New(rand.NewPCG(1, 1)), &Counters{})
	p.mean = 100_000
	for _, tt := range []struct {
		name string
		rate float64
		want int
	}{
		{"unknown", 0, 2},
		{"slow", 10_000, 2},
		{"a second's worth and one", 1_000_000, 11},
		{"the limit", 1e9, 32},
	} {
		if got := p.window(&planPeer{rate: tt.rate}); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
