package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// startGrid runs a rendezvous that serves members of grids alone, and makes the
// grid lab in the directory that it returns with the address.
func startGrid(t *testing.T, args ...string) (address, admin string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real programs")
	}
	t.Parallel()
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err) // no Go tool here
	}
	args = append([]string{
		"--json", "--admit", "key", "--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0", "--metrics-listen", "", "--public-host", "127.0.0.1",
	}, args...)
	var doc struct{ Address, Claim string }
	document(t, start(t, exec.Command(program, args...)).line(t), &doc)
	admin = t.TempDir()
	grid(t, admin, doc.Address, "init", "lab", "--claim", "aaaaaaaaaaaaaaaa").want(t, cli.ExitRefused)
	out := grid(t, admin, doc.Address, "init", "lab", "--claim", doc.Claim, "--name", "desk").want(t, cli.ExitOK)
	if !strings.Contains(out, "name        desk.lab.grid\n") {
		t.Errorf("init prints %q", out)
	}
	return doc.Address, admin
}

// invited returns a token.
func invited(t *testing.T, admin string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(grid(t, admin, "", append([]string{"invite"}, args...)...).want(t, cli.ExitOK))
}

// policyFor opens ports of the node in dir.
func policyFor(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Friendliness, section 1, line 3, as real programs: rendezvous, init, invite,
// join, up, ping; then a file by name, and a member is taken back.
func TestGridOfPrograms(t *testing.T) {
	_, admin := startGrid(t)
	alice, bob, inbox := t.TempDir(), t.TempDir(), t.TempDir()
	token := invited(t, admin, "--uses", "2", "--ttl", "1h")
	out := grid(t, alice, "", "join", "--name", "alice", token).want(t, cli.ExitOK)
	if !strings.Contains(out, "alice.lab.grid") {
		t.Errorf("join prints %q", out)
	}
	// From the standard input, and a name that is taken.
	taken := gridCommand(t, bob, "", "join", "--name", "alice", "-")
	taken.Stdin = strings.NewReader(token + "\n")
	p := start(t, taken)
	p.want(t, cli.ExitRefused)
	if s := p.stderr.String(); !strings.Contains(s, "name alice") || !strings.Contains(s, "--name NAME") {
		t.Errorf("a name that is taken: %s", s)
	}
	grid(t, bob, "", "join", "--name", "bob", token).want(t, cli.ExitOK)
	third := grid(t, t.TempDir(), "", "join", token)
	third.want(t, cli.ExitRefused)
	if s := third.stderr.String(); !strings.Contains(s, "used up") || !strings.Contains(s, "next: ask the grid's admin for a new one: grid invite") {
		t.Errorf("a used-up token: %s", s)
	}

	up := grid(t, bob, "", "up", "--receive", inbox)
	up.line(t)
	if s := up.line(t); s != "name        bob.lab.grid" {
		t.Errorf("up prints %q; stderr %s", s, up.stderr)
	}
	out = grid(t, alice, "", "ping", "--count", "1", "bob").want(t, cli.ExitOK)
	if !strings.Contains(out, "pong from ") {
		t.Errorf("ping prints %q", out)
	}
	grid(t, alice, "", "ping", "--count", "1", "carol.lab.grid").want(t, cli.ExitFailed)

	// Routing needs somebody else, and says so.
	alone := grid(t, bob, "", "lookup", "alice")
	alone.want(t, cli.ExitFailed)
	if s := alone.stderr.String(); !strings.Contains(s, "no other member of the grid can be reached now") {
		t.Errorf("a lookup of a node that is alone: %s", s)
	}
	second := grid(t, admin, "", "up")
	second.line(t)
	var found struct {
		Closest []struct{ Name string }
		Name    struct{ Name string }
	}
	for end := time.Now().Add(patience); found.Name.Name != "desk"; time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("members that run do not find each other: %+v", found)
		}
		if out, code := grid(t, bob, "", "lookup", "desk", "--json").wait(t); code == cli.ExitOK {
			document(t, out, &found)
		}
	}
	if len(found.Closest) != 2 {
		t.Errorf("lookup = %+v", found)
	}
	second.kill()

	// Ports are closed until the policy opens them.
	file, sum := randomFile(t, "data.bin", 1<<20)
	closed := grid(t, alice, "", "send", file, "bob.lab.grid")
	closed.want(t, cli.ExitRefused)
	if s := closed.stderr.String(); !strings.Contains(s, "policy") {
		t.Errorf("a closed port: %s", s)
	}
	policyFor(t, bob, "rules:\n  - names: [alice]\n    ports: [2]\n")
	time.Sleep(6 * time.Second) // the agent looks every five
	grid(t, alice, "", "send", file, "bob.lab.grid").want(t, cli.ExitOK)
	if hashOf(t, filepath.Join(inbox, "data.bin")) != sum {
		t.Error("the file differs")
	}

	var members struct {
		Rows []struct {
			Name, Peer string
			Self       bool
		}
	}
	document(t, grid(t, bob, "", "members", "--json").want(t, cli.ExitOK), &members) // through the agent
	if len(members.Rows) != 3 || members.Rows[0].Name != "alice" || members.Rows[2].Name != "desk" || !members.Rows[1].Self {
		t.Errorf("members = %+v", members)
	}
	grid(t, bob, "", "revoke", "alice").want(t, cli.ExitFailed) // not an admin

	// While alice has a session, she is taken back.
	ping := grid(t, alice, "", "ping", "--count", "1000", "--interval", "200ms", "--timeout", "2s", "--json", "bob")
	time.Sleep(3 * time.Second)
	out = grid(t, admin, "", "revoke", "alice").want(t, cli.ExitOK)
	if !strings.Contains(out, members.Rows[0].Peer) {
		t.Errorf("revoke prints %q", out)
	}
	var status struct {
		Grid     struct{ Revocations uint64 }
		Counters struct {
			SessionsRevoked uint64 `json:"sessions_revoked"`
		}
	}
	for end := time.Now().Add(patience); status.Counters.SessionsRevoked == 0; time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the session of a revoked member is open after %v: %+v", patience, status)
		}
		document(t, grid(t, bob, "", "status", "--json").want(t, cli.ExitOK), &status)
	}
	ping.kill()
	grid(t, alice, "", "ping", "--count", "1", "--timeout", "5s", members.Rows[1].Peer).want(t, cli.ExitRefused)
	document(t, grid(t, admin, "", "members", "--json").want(t, cli.ExitOK), &members)
	if len(members.Rows) != 2 {
		t.Errorf("members after the revocation = %+v", members)
	}

	// What is secret is 0600, and in no output.
	seed, err := os.ReadFile(filepath.Join(admin, "grid.key"))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Fields(string(seed))[1]
	if strings.Contains(up.stderr.String()+out, secret) {
		t.Error("the grid key was printed")
	}
	for _, dir := range []string{admin, alice, bob} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && e.Name() != "invitations" && e.Type().IsRegular() && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", e.Name(), info.Mode())
			}
		}
	}
}

// A rendezvous that is killed has lost nobody who was told that it belongs.
func TestGridSurvivesItsRendezvous(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real programs")
	}
	t.Parallel()
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	args := []string{"--json", "--admit", "key", "--dir", dir, "--listen", "127.0.0.1:0", "--stun-listen", "", "--metrics-listen", "", "--public-host", "127.0.0.1"}
	var doc struct {
		Address, Claim string
		Listen         []string
	}
	server := start(t, exec.Command(program, args...))
	document(t, server.line(t), &doc)
	admin, alice := t.TempDir(), t.TempDir()
	grid(t, admin, doc.Address, "init", "lab", "--claim", doc.Claim).want(t, cli.ExitOK)
	token := invited(t, admin)
	grid(t, alice, "", "join", "--name", "alice", token).want(t, cli.ExitOK)
	server.kill()
	args[6] = doc.Listen[0]
	server = start(t, exec.Command(program, args...))
	document(t, server.line(t), &doc)
	out := grid(t, alice, "", "members").want(t, cli.ExitOK)
	if !strings.Contains(out, "alice.lab.grid") {
		t.Errorf("members = %s", out)
	}
	grid(t, t.TempDir(), "", "join", token).want(t, cli.ExitRefused)
}
