package netsim

import (
	"fmt"
	"time"
)

// A TB is what a World needs of a testing.TB, which netsim does not import as
// commands use netsim, too.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A World is a simulated network that a test builds node by node. It closes
// with the test, whose failure it follows with its seed and its drops.
type World struct {
	*Sim
	tb    TB
	nats  int
	hosts int
}

// New returns an empty world: a core without nodes. Its methods that build
// are for one goroutine.
func New(tb TB, seed uint64) *World {
	tb.Helper()
	s, err := Start(Scenario{Seed: seed})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		drops := s.Drops()
		if err := s.Close(); err != nil {
			tb.Logf("close the network: %v", err)
		}
		if tb.Failed() {
			tb.Logf("netsim: seed %d, dropped %v", seed, drops)
		}
	})
	return &World{Sim: s, tb: tb}
}

// NAT adds a NAT to the core, named "nat1" and so on. Its uplink is perfect
// unless given.
func (w *World) NAT(cfg NAT, uplink ...Link) *Home {
	w.tb.Helper()
	return w.addNAT("", cfg, uplink)
}

// Host adds a public host, named "host1" and so on. Its uplink is perfect
// unless given.
func (w *World) Host(uplink ...Link) Host {
	w.tb.Helper()
	return w.addHost("", uplink)
}

func (w *World) addNAT(parent string, cfg NAT, uplink []Link) *Home {
	w.tb.Helper()
	w.nats++
	d := NATNode{Name: fmt.Sprintf("nat%d", w.nats), Parent: parent, NAT: cfg, Uplink: only(w.tb, uplink)}
	if err := cfg.validate("nat", d.Name); err != nil {
		w.tb.Fatalf("%v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.core.addNAT(d)
	if err != nil {
		w.tb.Fatalf("%v", err)
	}
	return &Home{Gateway: &Gateway{w.Sim, n}, world: w}
}

func (w *World) addHost(parent string, uplink []Link) Host {
	w.tb.Helper()
	w.hosts++
	d := HostNode{Name: fmt.Sprintf("host%d", w.hosts), Parent: parent, Uplink: only(w.tb, uplink)}
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.core.addHost(d)
	if err != nil {
		w.tb.Fatalf("%v", err)
	}
	return &simHost{w.Sim, n}
}

func only(tb TB, uplink []Link) Link {
	tb.Helper()
	switch len(uplink) {
	case 0:
		return Link{}
	case 1:
		if err := uplink[0].validate("uplink", ""); err != nil {
			tb.Fatalf("%v", err)
		}
		return uplink[0]
	}
	tb.Fatalf("netsim: %d uplinks for one node", len(uplink))
	return Link{}
}

// A Home is a NAT of a World, with the network behind it.
type Home struct {
	*Gateway
	world *World
}

// Host adds a host behind the NAT.
func (h *Home) Host(uplink ...Link) Host {
	h.world.tb.Helper()
	return h.world.addHost(h.Name(), uplink)
}

// NAT adds a NAT behind the NAT.
func (h *Home) NAT(cfg NAT, uplink ...Link) *Home {
	h.world.tb.Helper()
	return h.world.addNAT(h.Name(), cfg, uplink)
}

// Delay returns a link that only delays, by d each way.
func Delay(d time.Duration) Link { return Link{Delay: d} }
