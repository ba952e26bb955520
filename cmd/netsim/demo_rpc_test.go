package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestDemoRPC is what make demo-rpc does, with fewer and shorter calls. It needs
// root, namespaces and the Go tool.
func TestDemoRPC(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	dir, temp := t.TempDir(), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator), "../rendezvous", "../grid", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "netsim"), "demo-rpc", "--json", "--calls", "40", "--work", "100ms", "--share-mb", "2")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	var d demoRPCDocument
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !d.OK || d.Calls == nil || d.Calls.Count != 40 || len(d.Calls.Workers) != 8 || len(d.Calls.Uplinks) != 5 {
		t.Fatalf("document %s", out)
	}
	sum := 0
	for _, w := range d.Calls.Workers {
		sum += w.Calls
		if fate := map[string]string{killedWorker: "killed", sleepingWorker: "put to sleep", slowWorker: "slower"}[w.Name]; !strings.Contains(w.Fate, fate) {
			t.Errorf("%+v", w)
		}
	}
	// Every argument left the office, and every result came back to it.
	office := d.Calls.Uplinks[0]
	if sum != 40 || office.Sent < 40*100_000 || office.Received < 40*30_000 {
		t.Errorf("%d calls in the table; %+v", sum, office)
	}
	// Everybody got the data, which came from the office, and no worker of a home took
	// all of it from outside by itself.
	share := d.Share
	if share == nil || share.Size != 2_000_000 || len(share.Getters) != 8 || len(share.Uplinks) != 5 || len(share.Hash) != 64 {
		t.Fatalf("document %s", out)
	}
	if left := share.Uplinks[0].Sent; left < 2_000_000 || left > 8*2_000_000 {
		t.Errorf("%d bytes left the office", left)
	}
	for _, home := range []int{1, 4} { // those where nobody was lost
		if u := share.Uplinks[home]; u.Received > 2*2_000_000 {
			t.Errorf("%s has received %d bytes", u.Home, u.Received)
		}
	}
	nothingIn(t, temp)
}

func TestIdealSchedule(t *testing.T) {
	for _, tt := range []struct {
		n, fast, slow int
		want          float64
	}{
		{8, 8, 0, 1}, {9, 8, 0, 2}, {51, 5, 1, 10}, {52, 5, 1, 11}, {200, 5, 1, 40},
	} {
		if got := idealSeconds(tt.n, tt.fast, tt.slow, 1); got != tt.want {
			t.Errorf("%d calls on %d workers and %d slow ones take %v, want %v", tt.n, tt.fast, tt.slow, got, tt.want)
		}
	}
}

func TestBenchGridReport(t *testing.T) {
	none := cli.Number(math.NaN())
	d := benchGridDocument{Machine: "a machine", Sections: []*benchSection{
		{Scenario: "small-call", About: "calls", Figures: []gridFigure{
			atMost("small-call", "p50 / gRPC", 1.5, 1.2), atMost("small-call", "p99 <x>", 1, 2), {"small-call", "calls/s", none, none, 12345, true},
		}, charts: []chart.Chart{{Title: "latency", Series: []chart.Series{{Name: "rpc", X: []float64{1, 2}, Y: []float64{0, 1}}}}}},
		{Scenario: "200-calls", Error: "not permitted", Figures: []gridFigure{}},
	}}
	dir := t.TempDir()
	if err := d.write(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"at most 1.50", "1.20", "NOT MET", "p99 &lt;x&gt;", "12345", "<svg", "not permitted"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page lacks %q", want)
		}
	}
	machine, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil || !json.Valid(machine) || !bytes.Contains(machine, []byte(`"schema":"instantgrid/bench-grid/1"`)) {
		t.Errorf("%s, %v", machine, err)
	}
	code, _, stderr := command(t, "bench-grid", "--scenario", "none")
	if code != cli.ExitUsage || !strings.Contains(stderr, "small-call 200-calls") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
