package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

func TestOverlay(t *testing.T) {
	code, stdout, stderr := command(t, "overlay", "--nodes", "100", "--churn", "0.1", "--lookups", "50", "--objects", "5", "--json")
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var d map[string]any
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"nodes", "lookups", "correct", "hops_median", "hops_max", "bytes_per_node", "objects_lost"} {
		if _, ok := d[field].(float64); !ok {
			t.Errorf("%s = %v, want a number", field, d[field])
		}
	}
	if d["correct"] != 50.0 || d["objects_lost"] != 0.0 {
		t.Errorf("correct %v, objects lost %v", d["correct"], d["objects_lost"])
	}
	_, stdout, _ = command(t, "overlay", "--nodes", "60", "--lookups", "20", "--objects", "0")
	if !strings.Contains(stdout, "20 of 20 right") {
		t.Errorf("printed %q", stdout)
	}
}

func TestOverlayUsage(t *testing.T) {
	for _, args := range []string{"--nodes 1", "--churn 1", "--lookups 0", "--objects 201"} {
		if code, _, stderr := command(t, append([]string{"overlay"}, strings.Fields(args)...)...); code != cli.ExitUsage || !strings.Contains(stderr, "not between") {
			t.Errorf("%s: exit code %d, %q", args, code, stderr)
		}
	}
}
