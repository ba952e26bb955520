package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestMain lets the test binary be netsim itself, as which it is its own
// worker process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
	}
	os.Exit(m.Run())
}

// command runs netsim with args.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errOut)
	code = cli.Run(t.Context(), root, args, explain)
	return code, out.String(), errOut.String()
}

func TestCommandTree(t *testing.T) {
	for _, owed := range cli.CheckTree(newRoot()) {
		t.Error(owed)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		args string
		says string
	}{
		{"back end", "matrix --backend moon", "neither sim nor kernel"},
		{"allocation", "matrix --allocation odd", "none of preserving"},
		{"pair", "matrix --pair EIM/APDF", "not two NAT types"},
		{"types", "matrix --types 10", "neither 9 nor 27"},
		{"allocation of 27", "matrix --types 27 --allocation random", "every allocation"},
		{"pair of 27", "matrix --types 27 --pair EIM/APDF,EIM/APDF", "not two NAT types"},
		{"pair mixed", "matrix --pair EIM/APDF/random,EIM/APDF", "not two NAT types"},
		{"seeds", "matrix --seeds 0", "not between"},
		{"jobs", "matrix --jobs -1", "not between"},
		{"bytes", "matrix --bytes -1", "not between"},
		{"negative bytes", "run symmetric-pair --bytes -1", "negative"},
		{"no scenario", "run", "accepts 1 arg"},
		{"unknown scenario", "run nothing", "neither a file nor a built-in scenario"},
		{"unknown host", "run symmetric-pair --from c", "no such host"},
		{"one host", "run symmetric-pair --from a --to a", "cannot send to itself"},
		{"argument", "demo now", "unknown command"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := command(t, append(strings.Fields(tt.args), "--json")...)
			if code != cli.ExitUsage || !strings.Contains(stderr, tt.says) {
				t.Errorf("exit code %d, want %d; standard error %q must say %q", code, cli.ExitUsage, stderr, tt.says)
			}
			var d struct {
				Schema string
				Error  struct{ Next string }
			}
			if err := json.Unmarshal([]byte(stdout), &d); err != nil || d.Schema != "instantgrid/error/1" || d.Error.Next == "" {
				t.Errorf("document %s: %v", stdout, err)
			}
		})
	}
}

func TestScenarioFileIsRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good.yaml", "name: mine\nhosts:\n  - name: rendezvous\n  - name: x\n  - name: y\n")
	sc, err := loadScenario(good)
	if err != nil {
		t.Fatal(err)
	}
	if from, to, err := sendersOf(sc, "", ""); from != "x" || to != "y" || err != nil {
		t.Errorf("sendersOf = %q, %q, %v, want x, y", from, to, err)
	}
	if from, to, err := sendersOf(sc, "y", ""); from != "y" || to != "x" || err != nil {
		t.Errorf("sendersOf from y = %q, %q, %v, want y, x", from, to, err)
	}
	code, _, stderr := command(t, "run", write("bad.yaml", "name: mine\nhosts:\n  - name: x\n    parrent: home\n"))
	if code != cli.ExitUsage || !strings.Contains(stderr, "bad.yaml:4") {
		t.Errorf("a misspelt key: exit code %d, %s", code, stderr)
	}
	code, _, stderr = command(t, "run", write("alone.yaml", "name: alone\nhosts:\n  - name: x\n  - name: y\n"))
	if code != cli.ExitUsage || !strings.Contains(stderr, "no host is named rendezvous") {
		t.Errorf("no rendezvous: exit code %d, %s", code, stderr)
	}
}

func TestScenariosAreListed(t *testing.T) {
	code, stdout, stderr := command(t, "scenarios", "--json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var d struct {
		Schema string
		Rows   []scenarioRow
	}
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	if d.Schema != "instantgrid/scenarios/1" || len(d.Rows) != len(netsim.Scenarios()) {
		t.Errorf("schema %q with %d rows, want %d", d.Schema, len(d.Rows), len(netsim.Scenarios()))
	}
	for _, r := range d.Rows {
		if r.From == "" || r.To == "" {
			t.Errorf("scenario %s: nobody to send from %q to %q", r.Name, r.From, r.To)
		}
		if r.Kernel == (r.Why != "") {
			t.Errorf("scenario %s: kernel = %v with the reason %q", r.Name, r.Kernel, r.Why)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, err := range []error{
		&netsim.ScenarioError{Field: "hosts", Reason: "none"},
		kernel.ErrNotPermitted,
		kernel.ErrUnsupported,
	} {
		if e := explain(err); e == nil || e.Object == "" || e.Next == "" {
			t.Errorf("explain(%v) = %+v, want object and next command", err, e)
		}
	}
	if e := explain(errors.New("other")); e != nil {
		t.Errorf("explain of an unknown error = %+v, want nil", e)
	}
}

// TestWorkerThatDies: what a worker said last is in the outcome, and the next
// transfer has a new one.
func TestWorkerThatDies(t *testing.T) {
	var w worker
	defer w.stop()
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	w.in.Close() // it takes this for the end of its work
	x := transfer{Scenario: netsim.Scenario{}, Rendezvous: rendezvousHost}
	if o := w.run(t.Context(), x, nil); !strings.Contains(o.Failure, "worker") {
		t.Errorf("outcome of a dead worker = %+v", o)
	}
	if o := w.run(t.Context(), x, nil); !strings.Contains(o.Failure, `no host "rendezvous"`) {
		t.Errorf("outcome of the new worker = %+v", o)
	}
}

func TestInterruptedWorker(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o := runInSim(ctx, cells(sim, nil)[0].transfer(1, 1<<20), nil); o.Failure == "" || o.Intact {
		t.Errorf("outcome after an interrupt = %+v", o)
	}
}

func TestDemoFallsBackToTheSimulator(t *testing.T) {
	refuse := func() error { return kernel.ErrNotPermitted }
	allow := func() error { return nil }
	for _, tt := range []struct {
		name, asked string
		check       func() error
		want        backend
		note        bool
	}{
		{"root", "", allow, namespaces, false},
		{"user", "", refuse, sim, true},
		{"asked for", "sim", allow, sim, false},
	} {
		b, note, err := demoBackend(newDemo(), tt.asked, tt.check)
		if b != tt.want || (note != "") != tt.note || err != nil {
			t.Errorf("%s: back end %q with note %q and error %v", tt.name, b, note, err)
		}
	}
}

// TestGuideIsTrue: the scenario in docs/netsim.md is one, and the commands
// there have the flags that they show.
func TestGuideIsTrue(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "netsim.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(b), "```yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the guide shows no scenario")
	}
	sc, err := netsim.ParseScenario("docs/netsim.md", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sendersOf(sc, "", ""); err != nil {
		t.Error(err)
	}
	root := newRoot()
	cli.Prepare(root)
	commands := 0
	for line := range strings.Lines(string(b)) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "bin/netsim ")
		if !ok {
			continue
		}
		commands++
		cmd, rest, err := root.Find(strings.Fields(args))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		for _, word := range rest {
			name, isFlag := strings.CutPrefix(word, "--")
			if isFlag && cmd.Flags().Lookup(name) == nil && root.PersistentFlags().Lookup(name) == nil {
				t.Errorf("%s: there is no flag %s", strings.TrimSpace(line), word)
			}
		}
	}
	if commands < 5 {
		t.Errorf("%d commands found in the guide: the test looks for the wrong thing", commands)
	}
}
