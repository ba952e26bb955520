//go:build !race

// Nine agents, of which three are killed: it waits for time-outs of the overlay,
// and longer still under the race detector.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// TestDurableOfPrograms has one member put something that six others keep parts
// of, as real programs; kills two of these, and the one that put, reads it on
// another, and waits until others keep what the two have lost.
func TestDurableOfPrograms(t *testing.T) {
	_, admin := startGrid(t)
	const members = 9
	token := invited(t, admin, "--uses", fmt.Sprint(members), "--ttl", "1h")
	dirs := make(map[string]string)
	var names []string
	for i := range members {
		name := fmt.Sprintf("m%d", i)
		names, dirs[name] = append(names, name), t.TempDir()
	}
	var wg sync.WaitGroup
	for name, dir := range dirs {
		policyFor(t, dir, "rules:\n  - roles: [worker, submitter]\n    ports: [30, 31]\n")
		writeConfig(t, dir, "store:\n  quota: 64\n  patience: 2s\n")
		wg.Go(func() { grid(t, dir, "", "join", "--name", name, token).want(t, cli.ExitOK) })
	}
	wg.Wait()
	grid(t, dirs["m0"], "", "store", "key", "--new").want(t, cli.ExitOK)
	key, err := os.ReadFile(filepath.Join(dirs["m0"], storeKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	agents := make(map[string]*process)
	up := func(name string) {
		if err := os.WriteFile(filepath.Join(dirs[name], storeKeyFile), key, 0o600); err != nil {
			t.Fatal(err)
		}
		agents[name] = grid(t, dirs[name], "", "up")
		agents[name].line(t)
	}
	ready := func(name string) {
		eventually(t, func() bool {
			_, code := grid(t, dirs[name], "", "store", "status").wait(t)
			return code == cli.ExitOK
		})
	}
	for _, name := range names[:3] {
		up(name)
	}
	ready("m0")
	file, sum := randomFile(t, "data.bin", 3<<20)
	early := grid(t, dirs["m0"], "", "put", "--durable", file)
	early.want(t, cli.ExitUnreachable)
	if s := early.stderr.String(); !strings.Contains(s, "6 other members") || !strings.Contains(s, "grid store protect") {
		t.Errorf("a durable put with too few members: %s", s)
	}
	for _, name := range names[3:] {
		up(name)
	}
	var put struct {
		ID      string
		Durable struct {
			Parts int
			There int `json:"parts_there"`
		}
	}
	eventually(t, func() bool {
		out, code := grid(t, dirs["m0"], "", "put", "--durable", "--json", "--name", "data", file).wait(t)
		if code == cli.ExitOK {
			document(t, out, &put)
		}
		return code == cli.ExitOK
	})
	if put.Durable.Parts != 6 || put.Durable.There != 6 {
		t.Errorf("the put is durable: %+v", put.Durable)
	}
	holders := func(name string) (list []string) {
		var doc struct{ Holders [][]string }
		out, code := grid(t, dirs[name], "", "store", "protect", "--json", put.ID).wait(t)
		if code != cli.ExitOK {
			return nil
		}
		document(t, out, &doc)
		for _, slot := range doc.Holders {
			list = append(list, slot[0])
		}
		return list
	}
	first := holders("m0")
	if len(first) != 6 {
		t.Fatalf("holders: %v", first)
	}
	if out := grid(t, dirs["m0"], "", "ls").want(t, cli.ExitOK); !strings.Contains(out, "6/6") {
		t.Errorf("the list of who put it:\n%s", out)
	}
	for _, name := range []string{first[0], first[1], "m0"} {
		agents[name].kill()
		delete(agents, name)
	}
	reader := "" // one that holds no part
	for name := range agents {
		if !strings.Contains(strings.Join(first, " "), name) {
			reader = name
		}
	}
	copied := filepath.Join(t.TempDir(), "copy.bin")
	eventually(t, func() bool {
		p := grid(t, dirs[reader], "", "get", put.ID, "-o", copied)
		_, code := p.wait(t)
		if code != cli.ExitOK {
			t.Log(p.stderr.String())
		}
		return code == cli.ExitOK
	})
	if hashOf(t, copied) != sum {
		t.Error("the copy differs")
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for name := range agents {
			t.Logf("%s: %s\n%s", name, grid(t, dirs[name], "", "store", "status", "--json").want(t, cli.ExitOK), agents[name].stderr.String())
		}
	})
	eventually(t, func() bool { // repaired
		now := holders(reader)
		for _, name := range now {
			if agents[name] == nil {
				return false
			}
		}
		return len(now) == 6
	})
	repaired := 0
	for name := range agents {
		var status struct {
			Durable struct{ Repairs, Objects int }
		}
		document(t, grid(t, dirs[name], "", "store", "status", "--json").want(t, cli.ExitOK), &status)
		repaired += status.Durable.Repairs
	}
	if repaired == 0 {
		t.Error("nobody counts a repair")
	}
}
