package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/rpc/program"
)

func TestSweep(t *testing.T) {
	if _, err := exec.LookPath("awk"); err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "params")
	if err := os.WriteFile(file, []byte("1 2\n3 4\n5 6\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines, err := readLines(file)
	if err != nil {
		t.Fatal(err)
	}
	// A program that fails for one line fails that line alone.
	addresses, end, err := startWorkers(2, "awk", program.Config{Path: "awk", Args: []string{`$1 == 9 { exit 3 } { print $1 * $2 }`}})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	var out bytes.Buffer
	s := sweep{function: "awk", lines: lines, addresses: addresses, out: &out}
	if err := s.run(t.Context()); err != nil || out.String() != "2\n12\n30\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	s.lines = []string{"9 9", "7 7"}
	if err := s.run(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") || out.String() != "49\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
