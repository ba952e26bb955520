package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/overlay/tun"
)

// killPlan is the environment variable that makes this test's binary the agent
// of TestKilledWhileChanging: a state directory, a file like resolv.conf, and at
// which step it is killed.
const killPlan = "INSTANTGRID_TEST_KILL"

// A killer is a journal whose process is killed at a step: when a change has
// been written down, when it has been made, and before and after its undoing.
type killer struct {
	journaled
	left int
}

func (k *killer) step() {
	if k.left--; k.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (k *killer) Make(kind string, data any, make func() error) (func() error, error) {
	undo, err := k.journaled.Make(kind, data, func() error {
		k.step()
		defer k.step()
		return make()
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		k.step()
		defer k.step()
		return undo()
	}, nil
}

func TestKillChild(t *testing.T) {
	plan := strings.Fields(os.Getenv(killPlan))
	if len(plan) != 3 {
		t.Skip("runs as a child of TestKilledWhileChanging")
	}
	j, err := openJournal(plan[0], discardLog())
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(plan[2])
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{journaled{j}, at}
	c, err := j.ReplaceFile(plan[1], []byte("nameserver 127.0.0.53\n"))
	if err != nil {
		t.Fatal(err)
	}
	k.step()
	_, undo, err := tun.Open(tun.Addressing{
		Name: "grid0", MTU: tun.DefaultMTU, Prefix: netip.MustParsePrefix("100.90.0.0/16"), Prefix6: netip.MustParsePrefix("fd00:1:2::/48"),
		Address: netip.MustParseAddr("100.90.1.2"), Address6: netip.MustParseAddr("fd00:1:2::7"),
	}, k)
	if err != nil {
		t.Fatal(err)
	}
	k.step()
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if err := j.Revert(c); err != nil {
		t.Fatal(err)
	}
	k.step()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// isKilled runs a child and reports whether it was killed. Any other failure is
// one of the test.
func isKilled(t *testing.T, child *kernel.Cmd) bool {
	t.Helper()
	out, err := child.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %v, %s", child.Env[len(child.Env)-1], err, out)
	}
	return true
}

// aHost returns a computer of the kernel's that may be changed at will.
func aHost(t *testing.T) *kernel.Host {
	t.Helper()
	pair, err := kernel.StartPair(1, netsim.Link{})
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pair.Close() })
	return pair.Host(0)
}

// Contract, line 17: an agent that is killed at any step leaves addresses,
// routes, rules and resolver as they were, after grid down or the next start.
func TestKilledWhileChanging(t *testing.T) {
	t.Parallel()
	h := aHost(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	resolver := filepath.Join(dir, "resolv.conf")
	const before = "nameserver 192.0.2.53\n"
	if err := os.WriteFile(resolver, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	network := networkOf(t, h)
	for step := 1; ; step++ {
		child := h.Command(t.Context(), exe, "-test.run", "^TestKillChild$")
		child.Env = append(os.Environ(), killPlan+"="+dir+" "+resolver+" "+strconv.Itoa(step))
		if !isKilled(t, child) {
			if step < 20 {
				t.Fatalf("only %d steps", step-1)
			}
			t.Logf("killed at %d steps", step-1)
			break
		}
		if step%2 == 0 {
			down := gridCommand(t, dir, "", "down")
			cmd := h.Command(t.Context(), down.Path, down.Args[1:]...)
			cmd.Env = down.Env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("step %d: grid down: %v, %s", step, err, out)
			}
		} else {
			// The next start.
			err := h.Do(func() error {
				j, err := openJournal(dir, discardLog())
				if err != nil {
					return err
				}
				return j.Close()
			})
			if err != nil {
				t.Fatalf("step %d: the next start: %v", step, err)
			}
		}
		if now := networkOf(t, h); now != network {
			t.Errorf("killed at step %d, the network is\n%s\nand was\n%s", step, now, network)
		}
		if b, err := os.ReadFile(resolver); err != nil || string(b) != before {
			t.Errorf("killed at step %d, the resolver is %q, %v", step, b, err)
		}
	}

	// Somebody else's interface of the same name is left alone.
	child := h.Command(t.Context(), exe, "-test.run", "^TestKillChild$")
	child.Env = append(os.Environ(), killPlan+"="+dir+" "+resolver+" 12")
	child.Run()
	err = h.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "grid0"}, PeerName: "grid1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	down := gridCommand(t, dir, "", "down", "--json")
	cmd := h.Command(t.Context(), down.Path, down.Args[1:]...)
	cmd.Env = down.Env
	out, err := cmd.Output()
	var doc struct{ Undone []string }
	document(t, string(out), &doc)
	if err != nil || len(doc.Undone) < 2 || doc.Undone[len(doc.Undone)-1] != "file "+resolver {
		t.Errorf("grid down: %v, %s", err, out)
	}
	if !strings.Contains(networkOf(t, h), "grid0") {
		t.Error("an interface of somebody else is gone")
	}
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
