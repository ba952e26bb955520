package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// TestStoreOfPrograms puts on one member and gets on another, as real programs:
// by name and by hash, after a kill -9 of the one who put, and with the key handed
// over.
func TestStoreOfPrograms(t *testing.T) {
	_, admin := startGrid(t)
	alice, bob, work := t.TempDir(), t.TempDir(), t.TempDir()
	token := invited(t, admin, "--uses", "2", "--ttl", "1h")
	for dir, name := range map[string]string{alice: "alice", bob: "bob"} {
		grid(t, dir, "", "join", "--name", name, token).want(t, cli.ExitOK)
		policyFor(t, dir, "rules:\n  - names: [alice, bob]\n    ports: [30, 31]\n")
	}
	up := func(dir string) *process {
		p := grid(t, dir, "", "up", "--store", "64")
		p.line(t)
		return p
	}
	first := up(alice)
	file, sum := randomFile(t, "data.bin", 3<<20)
	early := grid(t, alice, "", "put", file)
	early.want(t, cli.ExitFailed)
	if s := early.stderr.String(); !strings.Contains(s, "grid store key --new") {
		t.Errorf("a put without a key: %s", s)
	}
	fingerprint := strings.TrimSpace(grid(t, alice, "", "store", "key", "--new").want(t, cli.ExitOK))
	grid(t, alice, "", "store", "key", "--new").want(t, cli.ExitUsage) // there is one
	eventually(t, func() bool {
		_, code := grid(t, alice, "", "store", "status").wait(t)
		return code == cli.ExitOK
	})
	id := strings.TrimSpace(grid(t, alice, "", "put", "--pin", "--name", "alice/data", file).want(t, cli.ExitOK))
	grid(t, alice, "", "put", "--name", "bob/data", file).want(t, cli.ExitUsage)
	first.kill() // what is acknowledged is there
	up(alice)
	up(bob)
	var status struct {
		Key   string
		Swarm struct {
			WANBytesIn, LANBytesIn int64
		}
	}
	eventually(t, func() bool { // bob asks for the key
		out, code := grid(t, bob, "", "store", "status", "--json").wait(t)
		if code == cli.ExitOK {
			document(t, out, &status)
		}
		return code == cli.ExitOK
	})
	if status.Key != fingerprint {
		t.Errorf("bob's key is %s, and alice's %s", status.Key, fingerprint)
	}
	copied := filepath.Join(work, "copy.bin")
	eventually(t, func() bool {
		_, code := grid(t, bob, "", "get", "alice/data", "-o", copied).wait(t)
		return code == cli.ExitOK
	})
	if hashOf(t, copied) != sum {
		t.Error("the copy differs")
	}
	grid(t, bob, "", "get", id, "-o", copied).want(t, cli.ExitUsage) // a file is there
	grid(t, bob, "", "get", id, "-o", copied, "--force").want(t, cli.ExitOK)

	// From the standard input to the standard output, and names that go on.
	c := gridCommand(t, bob, "", "put", "-", "--name", "text")
	c.Stdin = strings.NewReader("hello")
	start(t, c).want(t, cli.ExitOK)
	eventually(t, func() bool {
		out, code := grid(t, alice, "", "get", "text", "-o", "-").wait(t)
		return code == cli.ExitOK && out == "hello"
	})
	var list struct {
		Rows []struct {
			ID     string
			Names  []string
			Pinned bool
			Chunks int
			Held   int
		}
	}
	document(t, grid(t, alice, "", "ls", "--json").want(t, cli.ExitOK), &list)
	if len(list.Rows) != 2 || list.Rows[1].ID != id || !list.Rows[1].Pinned || list.Rows[1].Held != list.Rows[1].Chunks {
		t.Errorf("alice's list = %+v", list)
	}
	grid(t, bob, "", "pin", "alice/data").want(t, cli.ExitOK)
	grid(t, bob, "", "unpin", id).want(t, cli.ExitOK)
	if out := grid(t, bob, "", "ls").want(t, cli.ExitOK); !strings.Contains(out, "alice/data") || !strings.Contains(out, "100 %") {
		t.Errorf("bob's list:\n%s", out)
	}
	grid(t, alice, "", "rm", "alice/data").want(t, cli.ExitOK)
	grid(t, alice, "", "get", "alice/data", "-o", filepath.Join(work, "none")).want(t, cli.ExitUnreachable)
	if _, err := os.Stat(filepath.Join(work, "none")); err == nil {
		t.Error("a get that failed has left a file")
	}
}

// eventually waits until f is true.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}
