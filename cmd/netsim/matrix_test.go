package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func TestCells(t *testing.T) {
	all := cells(sim, nil)
	direct := 0
	for _, c := range all {
		if netsim.DirectPossible(c.A.Type(), c.B.Type()) {
			direct++
		}
		if err := c.scenario(1).Validate(); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	if len(all) != 45 || direct != 23 {
		t.Errorf("%d cells with %d direct by the rule, want 45 with 23", len(all), direct)
	}
	// Both back ends make every type.
	for i, c := range cells(namespaces, nil) {
		if c.A.Type() != all[i].A.Type() || c.B.Type() != all[i].B.Type() {
			t.Errorf("cell %d of the kernel is %v, of the simulator %v", i, c, all[i])
		}
		for _, n := range []netsim.NAT{c.A, c.B} {
			if kept := n.Allocation == netsim.Preserving; kept != (n.Type().String() == "EIM/APDF") {
				t.Errorf("in the kernel, %v has %v ports", n.Type(), n.Allocation)
			}
		}
	}
	sequential := netsim.Sequential
	for _, c := range cells(sim, &sequential) {
		if !c.expected() {
			t.Errorf("%v with sequential ports should be direct, whose ports can be told", c)
		}
	}
}

// 3 mapping x 3 filtering x 3 allocation = 27 types, 378 unordered pairs.
func TestAllCells(t *testing.T) {
	all := allCells(sim)
	if len(all) != 378 {
		t.Errorf("%d cells, want 378", len(all))
	}
	seen := make(map[string]bool)
	for _, c := range all {
		if seen[c.String()] {
			t.Errorf("%v twice", c)
		}
		seen[c.String()] = true
		if err := c.scenario(1).Validate(); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, 378},
		{[]string{"--types", "27"}, 378},
		{[]string{"--types", "9"}, 45},
		{[]string{"--allocation", "sequential"}, 45},
		{[]string{"--pair", "EIM/APDF/random,ADM/ADF/sequential"}, 1},
		{[]string{"--pair", "EIM/APDF,ADM/ADF"}, 1},
	} {
		var m matrix
		cmd := newMatrix()
		var f matrixFlags
		f.seeds, f.backend = 1, string(sim)
		cmd.Flags().Parse(c.args)
		f.types, _ = cmd.Flags().GetInt("types")
		f.allocation, _ = cmd.Flags().GetString("allocation")
		f.pair, _ = cmd.Flags().GetString("pair")
		m, err := f.plan(cmd)
		if err != nil || len(m.cells) != c.want {
			t.Errorf("%v: %d cells and error %v, want %d", c.args, len(m.cells), err, c.want)
		}
	}
}

// TestMatrixOfAllocations runs every other of the 378 cells once, in virtual
// time, and each type with itself. A search that chance fails is tried with
// another seed: two in a row happen less than once in ten thousand times.
func TestMatrixOfAllocations(t *testing.T) {
	for i, c := range allCells(sim) {
		if i%2 != 0 && c.nameOf(c.A) != c.nameOf(c.B) {
			continue
		}
		t.Run(strings.ReplaceAll(c.String(), "/", "-"), func(t *testing.T) {
			o := bubbles{t}.transfer(c.transfer(1, 4<<10), nil)
			row := rowOf(c, []outcome{o})
			if row.Differs && row.ExpectedDirect && !netsim.DirectPossible(c.A.Type(), c.B.Type()) {
				o = bubbles{t}.transfer(c.transfer(2, 4<<10), nil)
				row = rowOf(c, []outcome{o})
			}
			if p := row.problem(); p != "" {
				t.Errorf("%s: %+v", p, o)
			}
			if row.Direct == 1 && row.ProbesMax == 0 || row.ProbesMax > 2048 {
				t.Errorf("%d probes", row.ProbesMax)
			}
		})
	}
}

// TestPage: the heat map is one page that fetches nothing, with a square for
// each two types.
func TestPage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.html")
	code, _, stderr := command(t, "matrix", "--pair", "APDM/ADF/random,APDM/APDF/random", "--bytes", "1000", "--html", file)
	if code != 0 {
		t.Fatal(stderr)
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{"<!DOCTYPE html>", `<td class="relay" title="APDM/ADF/random with APDM/APDF/random: 0 of 1 runs direct, 1 relayed; first byte after 40 ms; at most`, "mapping-both</th><td>1 runs"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q:\n%s", want, text)
		}
	}
	for _, not := range []string{"<script", "http://", "https://", "src="} {
		if strings.Contains(text, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if n := strings.Count(text, "<td class"); n != 4 {
		t.Errorf("%d squares, want 4", n)
	}
	if code, _, stderr := command(t, "matrix", "--html", filepath.Join(t.TempDir(), "no", "m.html")); code != cli.ExitUsage || !strings.Contains(stderr, "--html") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// pair returns the cell of two types.
func pair(t *testing.T, a, b string) cell {
	t.Helper()
	all := cells(sim, nil)
	if strings.Count(a, "/") == 2 {
		all = allCells(sim)
	}
	c, err := findCell(all, a, b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFindCellKeepsTheOrder(t *testing.T) {
	c := pair(t, "APDM/APDF", "EIM/APDF")
	if got := c.String(); got != "APDM/APDF - EIM/APDF" {
		t.Errorf("cell = %s", got)
	}
}

func TestRow(t *testing.T) {
	const ms = time.Millisecond
	direct := func(after time.Duration) outcome {
		return outcome{Intact: true, FirstByte: 40 * ms, Direct: after, Path: "direct", PeerPath: "direct"}
	}
	relayed := func(reason string) outcome {
		return outcome{Intact: true, FirstByte: 40 * ms, Path: "relay", PeerPath: "relay", Reason: reason, PeerReason: reason, Advice: "do " + reason}
	}
	torn := direct(100 * ms)
	torn.PeerPath = "relay"
	easy, hard := [2]string{"EIM/APDF", "EIM/APDF"}, [2]string{"ADM/APDF", "APDM/APDF"}
	for _, tt := range []struct {
		name    string
		pair    [2]string
		runs    []outcome
		path    string
		ms      float64 // median until direct; NaN: never
		reason  string
		problem string
	}{
		{"direct", easy, []outcome{direct(100 * ms), direct(300 * ms), direct(160 * ms)}, "direct", 160, "", ""},
		{"even number", easy, []outcome{direct(100 * ms), direct(200 * ms)}, "direct", 150, "", ""},
		{"relayed", hard, []outcome{relayed("x"), relayed("y"), relayed("y")}, "relay", math.NaN(), "y", ""},
		{"mixed against the rule", easy, []outcome{direct(100 * ms), relayed("x")}, "mixed", 100, "x", "1 of 2 runs direct, and the rule says more"},
		{"direct against the rule", hard, []outcome{direct(100 * ms)}, "direct", 100, "", "1 of 1 runs direct, and the rule says none"},
		{"no reason", hard, []outcome{relayed("")}, "relay", math.NaN(), "", "relayed without a reason"},
		{"ends disagree", easy, []outcome{torn}, "direct", 100, "", "the two ends show different paths or reasons"},
		{"failed", easy, []outcome{{Failure: "no\nmore"}}, "failed", math.NaN(), "", "no"},
		{"torn file", easy, []outcome{{Path: "direct", PeerPath: "direct", Direct: ms}}, "direct", 1, "", "0 of 1 runs complete"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			row := rowOf(pair(t, tt.pair[0], tt.pair[1]), tt.runs)
			if row.path() != tt.path || row.Reason != tt.reason || row.problem() != tt.problem {
				t.Errorf("path %q, reason %q, problem %q; want %q, %q, %q", row.path(), row.Reason, row.problem(), tt.path, tt.reason, tt.problem)
			}
			if got := float64(row.DirectMS); got != tt.ms && !(math.IsNaN(got) && math.IsNaN(tt.ms)) {
				t.Errorf("median until direct = %v ms, want %v", got, tt.ms)
			}
			if row.Reason != "" && row.Advice != "do "+row.Reason {
				t.Errorf("advice %q does not belong to reason %q", row.Advice, row.Reason)
			}
		})
	}
}

// testBytes is what tests send through a cell; the command sends 1 MiB.
const testBytes = 64 << 10

// TestMatrix runs every cell once, in virtual time.
func TestMatrix(t *testing.T) {
	for _, c := range cells(sim, nil) {
		t.Run(strings.ReplaceAll(c.String(), "/", "-"), func(t *testing.T) {
			o := bubbles{t}.transfer(c.transfer(1, testBytes), nil)
			row := rowOf(c, []outcome{o})
			if row.Differs && row.ExpectedDirect && !netsim.DirectPossible(c.A.Type(), c.B.Type()) {
				o = bubbles{t}.transfer(c.transfer(2, testBytes), nil) // chance
				row = rowOf(c, []outcome{o})
			}
			if p := row.problem(); p != "" {
				t.Errorf("%s: %+v", p, o)
			}
			// docs/architecture.md, Clocks: written after one relay round trip.
			if want := 4 * uplinkDelay; o.FirstByte < want || o.FirstByte > want+want/4 {
				t.Errorf("first byte written after %v, want one round trip of %v", o.FirstByte, want)
			}
		})
	}
}

// TestSameSeedSameOutcome: whether a cell is direct, and why not, depends on
// the seed alone; times may differ a little, as goroutines of one moment run in
// any order.
func TestSameSeedSameOutcome(t *testing.T) {
	for _, c := range []cell{
		pair(t, "EIM/APDF", "EIM/APDF"),
		pair(t, "ADM/APDF", "APDM/APDF"),
		pair(t, "ADM/EIF", "APDM/ADF"),
		pair(t, "APDM/EIF", "APDM/EIF"),
	} {
		one := bubbles{t}.transfer(c.transfer(7, testBytes), nil)
		two := bubbles{t}.transfer(c.transfer(7, testBytes), nil)
		if one.Path != two.Path || one.Reason != two.Reason || one.SHA256 != two.SHA256 {
			t.Errorf("%v: first %+v, then %+v", c, one, two)
		}
	}
}

// TestTimeToDirect: docs/architecture.md, Clocks: at 40 ms round trip, the
// direct path of port-restricted pairs is in use within 0.25 s (median of 20
// seeds).
func TestTimeToDirect(t *testing.T) {
	c := pair(t, "EIM/APDF", "EIM/APDF")
	var runs []outcome
	for seed := range uint64(20) {
		runs = append(runs, bubbles{t}.transfer(c.transfer(seed, testBytes), nil))
	}
	row := rowOf(c, runs)
	if p := row.problem(); p != "" || row.DirectMS > 250 {
		t.Errorf("direct after %v ms (median of %d), want at most 250; problem: %q", row.DirectMS, row.Direct, p)
	}
}

// TestMatrixInKernel runs the pairs that connection tracking makes, as home
// routers have them. It needs root and namespaces.
func TestMatrixInKernel(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	m := matrix{backend: namespaces, seed: 1, seeds: 1, bytes: testBytes, jobs: 3}
	tracked := map[string]bool{"EIM/APDF": true, "APDM/APDF": true}
	for _, c := range cells(namespaces, nil) {
		if tracked[c.A.Type().String()] && tracked[c.B.Type().String()] {
			m.cells = append(m.cells, c)
		}
	}
	if len(m.cells) != 3 {
		t.Fatalf("%d cells, want 3", len(m.cells))
	}
	for i, runs := range m.run(t.Context(), func(int, int) {}) {
		if row := rowOf(m.cells[i], runs); row.Differs && row.ExpectedDirect && !netsim.DirectPossible(m.cells[i].A.Type(), m.cells[i].B.Type()) {
			again := m // chance
			again.cells = m.cells[i : i+1]
			runs = again.run(t.Context(), func(int, int) {})[0]
		}
		if p := rowOf(m.cells[i], runs).problem(); p != "" {
			t.Errorf("%v: %s: %+v", m.cells[i], p, runs)
		}
	}
}

// matrixJSON decodes what the command prints.
func matrixJSON(t *testing.T, stdout string) (d struct {
	Schema string
	Rows   []struct {
		A, B            string
		Runs            int
		Completed       int
		Direct, Relayed int
		FirstByteMS     *float64 `json:"first_byte_ms_median"`
		DirectMS        *float64 `json:"direct_ms_median"`
		ProbesMax       *int     `json:"probes_max"`
		Reason          string
		ExpectedDirect  *bool `json:"expected_direct"`
	}
}) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(stdout))
	if err := dec.Decode(&d); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if dec.More() {
		t.Errorf("more than one document: %s", stdout)
	}
	if d.Schema != "instantgrid/matrix/1" {
		t.Errorf("schema = %q", d.Schema)
	}
	return d
}

func TestMatrixCommand(t *testing.T) {
	code, stdout, stderr := command(t, "matrix", "--json", "--pair", "EIM/APDF,EIM/APDF", "--seeds", "3", "--bytes", "65536")
	d := matrixJSON(t, stdout)
	if code != 0 || len(d.Rows) != 1 {
		t.Fatalf("exit code %d with %d rows: %s", code, len(d.Rows), stderr)
	}
	if r := d.Rows[0]; r.Runs != 3 || r.Completed != 3 || r.Direct != 3 || r.Relayed != 0 || r.FirstByteMS == nil || r.DirectMS == nil || r.ProbesMax == nil || *r.ProbesMax == 0 || r.ExpectedDirect == nil || !*r.ExpectedDirect {
		t.Errorf("row = %+v", r)
	}
	if stderr != "" {
		t.Errorf("standard error off a terminal: %q", stderr)
	}
	code, stdout, stderr = command(t, "matrix", "--pair", "ADM/APDF,APDM/APDF", "--bytes", "65536")
	if code != 0 || !strings.Contains(stdout, "mapping-both") || !strings.Contains(stdout, "1 pairs: 1 complete, 0 direct, 1 relayed") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestMatrixOfFailures: the document is valid, and the exit code is 1.
func TestMatrixOfFailures(t *testing.T) {
	m := matrix{backend: sim, cells: cells(sim, nil)[:2], seed: 1, seeds: 1, bytes: 1}
	d := m.document([][]outcome{{{Failure: "broken"}}, {{Failure: "broken"}}})
	if len(d.bad()) != 2 || d.Summary.Failed != 2 {
		t.Errorf("document of failures = %+v", d)
	}
	b, err := cli.AppendDocument(nil, "matrix", d)
	if err != nil {
		t.Fatal(err)
	}
	if r := matrixJSON(t, string(b)).Rows[0]; r.FirstByteMS != nil || r.DirectMS != nil {
		t.Errorf("times of what never happened = %v, %v, want null", r.FirstByteMS, r.DirectMS)
	}
}
