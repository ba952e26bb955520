package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestDemoInSimulator is the demo as a user without privileges sees it, with
// smaller files.
func TestDemoInSimulator(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	code, stdout, stderr := command(t, "demo", "--backend", "sim", "--bytes", "3000000", "--relayed-bytes", "300000")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "demo: ok") {
		t.Errorf("last line %q", last)
	}
	for _, want := range []string{"in the simulator", "first byte", "direct", "rate", "sha256", "mapping-both"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the output does not mention %q:\n%s", want, stdout)
		}
	}
	nothingIn(t, dir)
}

// TestDemoWithPrograms is what make demo does as root, with smaller files. It
// needs root, namespaces and the Go tool.
func TestDemoWithPrograms(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	dir, temp := t.TempDir(), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator), "../rendezvous", "../grid", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	demo := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "netsim"), append([]string{"demo", "--json"}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+temp)
		return cmd
	}

	cmd := demo("--bytes", "4000000", "--relayed-bytes", "14000000")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	var d demoDocument
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !d.OK || d.Backend != namespaces || len(d.Rows) != 2 {
		t.Fatalf("document %s", out)
	}
	direct, relayed := d.Rows[0], d.Rows[1]
	if direct.Path != "direct" || direct.Reason != "" || direct.DirectMS == 0 || direct.SHA256 != direct.ReceivedSHA256 {
		t.Errorf("first part: %+v", direct)
	}
	if relayed.Path != "relay" || relayed.Reason != "mapping-both" || relayed.Advice == "" || relayed.SHA256 != relayed.ReceivedSHA256 {
		t.Errorf("second part: %+v", relayed)
	}
	nothingIn(t, temp)
	var pages []string
	for _, s := range d.Story {
		if s.Output == greeting+"\n" {
			pages = append(pages, s.Command)
		}
	}
	if len(pages) != 3 || !strings.Contains(pages[0], "SOCKS") || !strings.Contains(pages[1], "forwarded") || !strings.Contains(pages[2], "interface") {
		t.Errorf("bob's page came by %q", pages)
	}

	// Interrupted in mid-transfer, it says so and leaves nothing behind.
	cmd = demo("--bytes", "1000000000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(temp, "*", "0", "to")) // the receiver has begun
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != cli.ExitInterrupted {
		t.Errorf("exit code after an interrupt = %d, want %d", code, cli.ExitInterrupted)
	}
	nothingIn(t, temp)
}

// waitFor waits until a file matches.
func waitFor(t *testing.T, pattern string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return
		}
	}
	t.Fatalf("nothing matches %s within a minute", pattern)
}

// nothingIn reports what is left in dir.
func nothingIn(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind in %s: %v, %v", dir, left, err)
	}
}
