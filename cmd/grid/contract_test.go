package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// leaves calls f with the words of each command that does something.
func leaves(cmd *cobra.Command, words []string, f func(words []string)) {
	if !cmd.HasSubCommands() {
		f(words)
	}
	for _, child := range cmd.Commands() {
		leaves(child, append(slices.Clone(words), child.Name()), f)
	}
}

// Friendliness, section 1, line 9: with --json each command answers a wrong
// command line with one document too, and nothing else on the standard output.
func TestEveryCommandFailsInJSON(t *testing.T) {
	root := newRoot()
	cli.Prepare(root)
	count := 0
	leaves(root, nil, func(words []string) {
		count++
		code, stdout, stderr := run(t, append(words, "--json", "--no-such-flag")...)
		var doc struct {
			Schema string
			Error  errorFields
		}
		if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Schema != "instantgrid/error/1" || code != cli.ExitUsage || doc.Error.Next == "" || stderr == "" {
			t.Errorf("grid %s: exit code %d, %q, %v", strings.Join(words, " "), code, stdout, err)
		}
	})
	if count < 20 {
		t.Errorf("%d commands found", count)
	}
}

// Line 16: what needs neither configuration, agent nor network works with a
// configuration that is broken.
func TestWithBrokenConfiguration(t *testing.T) {
	dir := t.TempDir()
	writeConfig(t, dir, "nonsense: [\n")
	for _, line := range []string{"version", "id", "--help", "up --help", "status --help", "config example", "completion bash", "service unit"} {
		if code, stdout, stderr := run(t, append(strings.Fields(line), "--dir", dir)...); code != cli.ExitOK || stdout == "" {
			t.Errorf("grid %s: exit code %d, %q", line, code, stderr)
		}
	}
	if code, _, stderr := run(t, "netcheck", "--dir", dir, "--timeout", "50ms", "--stun", "127.0.0.1:1"); code != cli.ExitUnreachable {
		t.Errorf("grid netcheck: exit code %d, %q", code, stderr)
	}
	if code, _, stderr := run(t, "up", "--check", "--dir", dir); code != cli.ExitUsage || !strings.Contains(stderr, filepath.Join(dir, configFile)+":1:") {
		t.Errorf("grid up --check: exit code %d, %q", code, stderr)
	}
}

// Lines 12 and 14: each command has a man page, made from the same source, with
// the table of exit codes.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := run(t, "man", dir); code != cli.ExitOK {
		t.Fatalf("grid man: exit code %d, %q", code, stderr)
	}
	root := newRoot()
	leaves(root, []string{"grid"}, func(words []string) {
		b, err := os.ReadFile(filepath.Join(dir, strings.Join(words, "-")+".1"))
		if err != nil {
			t.Error(err)
			return
		}
		if !strings.Contains(string(b), "interrupted by a signal") {
			t.Errorf("%s has no table of exit codes", strings.Join(words, "-"))
		}
	})
}
