package swim_test

import (
	"crypto/sha256"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/sim"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// members makes the simulated groups larger: go test ./routing/swim -members 50.
var members = flag.Int("members", 7, "members of each simulated group")

// A noted change is one call of Config.Changed.
type noted struct {
	at     time.Duration
	by, of int
	state  swim.State
}

// A group is a world of hosts that watch each other.
type group struct {
	*sim.World
	t         *testing.T
	detectors []*swim.Detector
	members   []*routing.Member
	index     map[routing.PeerID]int
	changes   []noted
}

// onDemand has the detectors of a group ask nobody without a reason.
func onDemand(cfg *swim.Config) { cfg.OnDemand = true }

type carrier struct {
	g *group
	i int
}

func (c carrier) Send(to *routing.Member, msg []byte) {
	if len(msg) > swim.MaxMessage {
		c.g.t.Errorf("a message has %d bytes", len(msg))
	}
	c.g.World.Send(c.i, c.g.index[to.Peer], msg)
}

// sign stands for Ed25519.
func sign(by routing.PeerID, msg []byte) (s [64]byte) {
	sum := sha256.Sum256(append(by[:], msg...))
	copy(s[:], sum[:])
	return s
}

func newGroup(t *testing.T, seed uint64, n int, change ...func(*swim.Config)) *group {
	t.Helper()
	g := &group{World: sim.NewWorld(seed), t: t, index: make(map[routing.PeerID]int)}
	for i := range n {
		m := sim.MakeMember(uint64(i))
		g.index[m.Peer] = i
		g.members = append(g.members, m)
		cfg := swim.Config{
			Self: m, Messenger: carrier{g, i},
			Rand: rand.New(rand.NewPCG(seed, uint64(i))),
			Sign: func(msg []byte) [64]byte { return sign(m.Peer, msg) },
			Verify: func(by *routing.Member, msg []byte, s [64]byte) bool {
				return s == sign(by.Peer, msg)
			},
			Changed: func(now time.Time, of *routing.Member, s swim.State) {
				g.changes = append(g.changes, noted{g.Elapsed(), i, g.index[of.Peer], s})
			},
		}
		for _, f := range change {
			f(&cfg)
		}
		d, err := swim.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		g.detectors = append(g.detectors, d)
		g.Add(&sim.Host{
			Machines: []sim.Machine{d},
			Receive:  func(now time.Time, from int, msg []byte) { d.Receive(now, g.members[from].Peer, msg) },
		})
	}
	for i, d := range g.detectors {
		for _, m := range g.members {
			if err := d.Add(g.Now(), m); err != nil {
				t.Fatal(err)
			}
		}
		g.Touch(i)
	}
	return g
}

// count returns how many changes to s there were, of a member or (-1) of any.
func (g *group) count(s swim.State, of int) (n int) {
	for _, c := range g.changes {
		if c.state == s && (of < 0 || c.of == of) {
			n++
		}
	}
	return n
}

// first returns when somebody, and when everybody, took of for s after since.
func (g *group) first(s swim.State, of int, since time.Duration) (one, all time.Duration) {
	told := make(map[int]bool)
	for _, c := range g.changes {
		if c.state == s && c.of == of && c.at >= since && !told[c.by] {
			if len(told) == 0 {
				one = c.at - since
			}
			told[c.by] = true
			all = c.at - since
		}
	}
	return one, all
}

// Nobody who lives is removed, whatever is wrong with it.
func TestNobodyAliveIsRemoved(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spoil   func(g *group)
		suspect bool // suspicions are to be expected
	}{
		{"all is well", func(*group) {}, false},
		{"10 % loss", func(g *group) { g.Loss = 0.1 }, true},
		{"stopped for 10 s", func(g *group) {
			for k := range 5 {
				g.After(time.Duration(k)*time.Minute, func() { g.Stall(k+1, 10*time.Second) })
			}
		}, true},
		{"two starved of processor time", func(g *group) {
			g.Starve(1, 2*time.Second)
			g.Starve(2, 5*time.Second)
		}, true},
		{"one hears nothing", func(g *group) { g.Drop = func(from, to int) bool { return to == 4 } }, true},
		{"one is heard by half", func(g *group) {
			g.Drop = func(from, to int) bool { return from == 4 && to%2 == 0 }
		}, true},
		{"loss in one direction of a third of all pairs", func(g *group) {
			g.Drop = func(from, to int) bool { return (from*31+to*17)%3 == 0 }
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGroup(t, 1, *members)
			tt.spoil(g)
			g.Run(10 * time.Minute)
			if got := g.count(swim.Removed, -1); got != 0 {
				t.Errorf("removed = %d, want none", got)
			}
			suspected := g.count(swim.Suspected, -1)
			if !tt.suspect && suspected != 0 {
				t.Errorf("suspected = %d, want none", suspected)
			}
			for _, d := range g.detectors {
				if c := d.Counters(); c.Forged != 0 || c.Malformed != 0 {
					t.Errorf("counters = %+v", c)
				}
			}
			t.Logf("suspected %d times, %d messages a minute and node, %d bytes each",
				suspected, g.Sent/10/uint64(*members), g.Bytes/g.Sent)
		})
	}
}

// A suspicion that was refuted leaves no trace.
func TestRefutedSuspicionLeavesNoTrace(t *testing.T) {
	g := newGroup(t, 2, *members)
	g.Run(10 * time.Second)
	g.Stall(5, 10*time.Second)
	g.Run(9 * time.Second)
	for i, d := range g.detectors {
		if i != 5 && d.State(g.members[5].Peer) != swim.Suspected {
			t.Errorf("node %d does not suspect the one that was stopped", i)
		}
	}
	g.Run(10 * time.Second)
	for i, d := range g.detectors {
		if len(d.Suspects()) != 0 {
			t.Errorf("node %d suspects %v", i, d.Suspects())
		}
		if d.Health() > 1 && i != 5 {
			t.Errorf("node %d has a health of %d", i, d.Health())
		}
	}
	if one, all := g.first(swim.Alive, 5, 20*time.Second); all == 0 || all > 2*time.Second {
		t.Errorf("alive again to one after %v, to all after %v", one, all)
	}
}

func TestDeathIsSuspectedWithinTwoSeconds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		min, max time.Duration // one-way delays
		loss     float64
	}{
		{"good network", 5 * time.Millisecond, 75 * time.Millisecond, 0},
		{"5 % loss, 200 ms each way", 200 * time.Millisecond, 200 * time.Millisecond, 0.05},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var worst, worstAll time.Duration
			for seed := range uint64(5) {
				g := newGroup(t, seed, *members)
				g.MinDelay, g.MaxDelay, g.Loss = tt.min, tt.max, tt.loss
				g.Run(20*time.Second + time.Duration(seed)*73*time.Millisecond)
				at := g.Elapsed()
				g.Kill(6)
				g.Run(40 * time.Second)
				one, all := g.first(swim.Suspected, 6, at)
				if one == 0 || one > 2*time.Second {
					t.Errorf("seed %d: suspected after %v, want at most 2 s", seed, one)
				}
				worst, worstAll = max(worst, one), max(worstAll, all)
				if got := g.count(swim.Removed, 6); got != *members-1 {
					t.Errorf("seed %d: removed by %d, want all others", seed, got)
				}
				if one, _ := g.first(swim.Removed, 6, at); one < 30*time.Second {
					t.Errorf("seed %d: removed after %v", seed, one)
				}
				if got := g.count(swim.Removed, -1); got != *members-1 {
					t.Errorf("seed %d: removed %d in all", seed, got)
				}
			}
			t.Logf("suspected by the first after at most %v, by the last after %v", worst, worstAll)
		})
	}
}

// Without a reason nobody is asked. With one, a death is known to those engaged
// within two seconds, to all others soon after, and nobody else is removed.
func TestOnDemand(t *testing.T) {
	for seed := range uint64(5) {
		g := newGroup(t, seed, 30, onDemand)
		g.Loss = 0.05
		g.Run(5 * time.Minute)
		if g.Sent != 0 {
			t.Errorf("%d messages without a reason", g.Sent)
		}
		g.detectors[1].Engage(g.Now(), g.members[6].Peer, true)
		g.Touch(1)
		g.Run(time.Minute)
		if got := g.count(swim.Suspected, -1); got > 1 {
			t.Errorf("%d suspicions", got)
		}
		at := g.Elapsed()
		g.Kill(6)
		g.Run(2 * time.Second)
		if one, _ := g.first(swim.Suspected, 6, at); one == 0 {
			t.Errorf("not suspected within 2 s")
		}
		g.Run(2 * time.Minute)
		one, all := g.first(swim.Suspected, 6, at)
		t.Logf("seed %d: suspected by the first after %v, by the last after %v; %d messages", seed, one, all, g.Sent)
		if got := g.count(swim.Removed, 6); got != 29 {
			t.Errorf("seed %d: removed by %d, want all", seed, got)
		}
		if got := g.count(swim.Removed, -1); got != 29 {
			t.Errorf("seed %d: removed %d in all", seed, got)
		}
		quiet := g.Sent
		g.Run(5 * time.Minute)
		if g.Sent != quiet {
			t.Errorf("%d messages after it was over", g.Sent-quiet)
		}
	}
}

// Somebody who lives and is doubted for no reason is not suspected; the doubt
// about one who is dead reaches all.
func TestDoubt(t *testing.T) {
	g := newGroup(t, 1, 10, onDemand)
	g.Run(time.Minute)
	g.detectors[0].Doubt(g.Now(), g.members[3].Peer)
	g.Touch(0)
	g.Run(time.Minute)
	if got := g.count(swim.Suspected, -1); got != 0 {
		t.Errorf("%d suspicions", got)
	}
	at := g.Elapsed()
	g.Kill(3)
	g.detectors[0].Doubt(g.Now(), g.members[3].Peer)
	g.Touch(0)
	g.Run(10 * time.Second)
	if got := g.count(swim.Suspected, 3); got != 9 {
		t.Errorf("suspected by %d, want 9", got)
	}
	one, all := g.first(swim.Suspected, 3, at)
	t.Logf("suspected after %v to %v", one, all)
	if one > 2*time.Second {
		t.Errorf("suspected after %v", one)
	}
}
