package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A grid of a master in an office and workers in four homes, all behind NATs:
// what the stories of demo-rpc and bench-grid happen in.

const (
	workHomes    = 4
	masterHome   = "office"
	masterHost   = "master"
	callFunction = "codeml"
	callPort     = "7010"
	storePorts   = "30, 31"

	// makeGridTime bounds the making of the grid, before the story.
	makeGridTime = 2 * time.Minute
	// storeOpenTime bounds how long members wait for the key of the store.
	storeOpenTime = time.Minute
	storeMiB      = "512"
)

// homeAccess is what the homes have: 20 Mbit/s, 20 ms of round trip to the core.
var homeAccess = netsim.Link{Delay: 10 * time.Millisecond, Rate: 20_000_000}

func workerHome(i int) string { return "home-" + string(rune('a'+i)) }

// A homeMember is a worker.
type homeMember struct{ name, home string }

// homes are that grid. Each member is a computer with an agent that keeps a store.
type homes struct {
	grid    *story
	workers []homeMember

	mu       sync.Mutex            // guards what follows
	programs map[string][]*program // by computer: the agent, the worker
	others   []*program
}

// newHomes makes the networks, with so many workers in each home. The caller calls
// end.
func (p programs) newHomes(dir string, access netsim.Link, perHome int) (*homes, error) {
	nat := netsim.NAT{Mapping: netsim.EndpointIndependent, Filtering: netsim.AddressAndPortDependent}
	scenario := netsim.Scenario{
		Seed: 1, Hosts: []netsim.HostNode{{Name: rendezvousHost}, {Name: masterHost, Parent: masterHome}},
		NATs: []netsim.NATNode{{Name: masterHome, Uplink: access, NAT: nat}},
	}
	h := &homes{programs: make(map[string][]*program)}
	for i := range workHomes {
		scenario.NATs = append(scenario.NATs, netsim.NATNode{Name: workerHome(i), Uplink: access, NAT: nat})
		for j := range perHome {
			name := "w" + strconv.Itoa(i*perHome+j+1)
			scenario.Hosts = append(scenario.Hosts, netsim.HostNode{Name: name, Parent: workerHome(i)})
			h.workers = append(h.workers, homeMember{name, workerHome(i)})
		}
	}
	network, err := kernel.Start(scenario)
	if err != nil {
		return nil, err
	}
	h.grid = &story{programs: p, network: network, dir: dir, say: func(string, ...any) {}}
	return h, nil
}

// end kills what still runs, and removes the networks.
func (h *homes) end() {
	for _, list := range h.programs {
		h.others = append(h.others, list...)
	}
	for _, p := range h.others {
		p.cmd.Process.Signal(wakeSignal) // it may sleep
		p.stop()
	}
	h.grid.network.Close()
}

func (h *homes) keep(who string, p *program) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.programs[who] = append(h.programs[who], p)
}

// up starts the agent of who.
func (h *homes) up(living context.Context, who string) error {
	agent, err := h.grid.up(living, who, "--store", storeMiB)
	if err == nil {
		h.keep(who, agent)
	}
	return err
}

// start makes a grid of the master and the workers, and calls each with every
// worker whose agent runs. Programs live as long as living.
func (h *homes) start(ctx, living context.Context, each func(homeMember) error) error {
	ctx, cancel := context.WithTimeout(ctx, makeGridTime)
	defer cancel()
	s := h.grid
	public := s.network.Host(rendezvousHost).Addr().String()
	server, err := s.start(living, rendezvousHost, s.programs.rendezvous, "--json", "--admit", "key",
		"--dir", filepath.Join(s.dir, "rendezvous"), "--public-host", public,
		"--listen", public+":3478", "--stun-listen", public+":3479", "--metrics-listen", "")
	if err != nil {
		return err
	}
	h.others = append(h.others, server)
	started, err := first[rendezvousDocument](server)
	if err != nil {
		return err
	}
	if _, err := s.grid(ctx, masterHost, "init", "lab", "--rendezvous", started.Address, "--claim", started.Claim, "--name", masterHost); err != nil {
		return err
	}
	token, err := s.grid(ctx, masterHost, "invite", "--uses", strconv.Itoa(len(h.workers)), "--ttl", "1h")
	if err != nil {
		return err
	}
	if _, err := s.grid(ctx, masterHost, "store", "key", "--new"); err != nil {
		return err
	}
	if err := s.policyOf(masterHost, storePorts); err != nil {
		return err
	}
	if err := h.up(living, masterHost); err != nil {
		return err
	}
	for _, w := range h.workers {
		if _, err := s.grid(ctx, w.name, "join", "--name", w.name, strings.TrimSpace(token)); err != nil {
			return err
		}
		if err := s.policyOf(w.name, callPort+", "+storePorts); err != nil {
			return err
		}
		if err := h.up(living, w.name); err != nil {
			return err
		}
		if err := each(w); err != nil {
			return err
		}
	}
	return nil
}

// awaitStores waits until each member has the key of the store.
func (h *homes) awaitStores(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, storeOpenTime)
	defer cancel()
	for _, who := range append([]homeMember{{masterHost, masterHome}}, h.workers...) {
		for {
			_, err := h.grid.grid(limited, who.name, "store", "status")
			if err == nil {
				break
			}
			select {
			case <-time.After(500 * time.Millisecond):
			case <-limited.Done():
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return &cli.Error{Object: "demo, the store of " + who.name, Cause: "it does not open", Next: "run it again: netsim demo-rpc", Err: err}
			}
		}
	}
	return nil
}

// storyUplink is what has passed a home's uplink.
type storyUplink struct {
	Home     string `json:"home"`
	Sent     uint64 `json:"sent_bytes"`
	Received uint64 `json:"received_bytes"`
}

// uplinks returns the bytes that have passed so far, the office's first.
func (h *homes) uplinks() (list []storyUplink) {
	names := []string{masterHome}
	for i := range workHomes {
		names = append(names, workerHome(i))
	}
	for _, home := range names {
		up, down, err := h.grid.network.Counters(home)
		if err == nil {
			list = append(list, storyUplink{home, up.Bytes, down.Bytes})
		}
	}
	return list
}

// uplinksSince returns what has passed since before.
func (h *homes) uplinksSince(before []storyUplink) (list []storyUplink) {
	for i, u := range h.uplinks() {
		list = append(list, storyUplink{u.Home, u.Sent - before[i].Sent, u.Received - before[i].Received})
	}
	return list
}

// callWorker offers the program of the calls on the computer of who. work is how long
// each takes.
func (h *homes) callWorker(living context.Context, who string, work time.Duration, resultBytes int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s := h.grid
	worker, err := s.start(living, who, s.programs.grid, "worker", "--json", "--dir", s.stateOf(who), "--exec", self, "--name", callFunction,
		"--in", "ctl", "--out", "mlc", "--slots", "1", "--", "likelihood", work.String(), strconv.Itoa(resultBytes))
	if err != nil {
		return err
	}
	h.keep(who, worker)
	_, err = first[workerDocument](worker)
	return err
}
