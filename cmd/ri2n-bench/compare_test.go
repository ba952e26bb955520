package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestCompare runs two scenarios for a moment in real namespaces.
func TestCompare(t *testing.T) {
	if err := kernel.Check(); errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Setenv(childVariable, "1")
	page := filepath.Join(t.TempDir(), "bench.html")
	code, stdout, stderr := run(t, "compare", "--json", "--scenario", "ping,bulk", "--contenders", "ri2n,tcp",
		"--rounds", "1", "--seconds", "0.3", "--pings", "50", "--html", page)
	d := parseBench(t, stdout)
	if code != cli.ExitOK {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	figures := map[string][]string{
		"bulk": {"goodput_bps", "goodput_bps_min", "goodput_bps_max", "cpu_seconds_per_gb"},
		"ping": {"ping_p50_us", "ping_p99_us"},
	}
	var got []string
	for _, r := range d.Rows {
		scenario := r["scenario"].(string)
		got = append(got, scenario+" "+r["contender"].(string))
		for _, f := range figures[scenario] {
			if n, ok := r[f].(float64); !ok || n <= 0 {
				t.Errorf("%v: %s = %v, want a positive number", got[len(got)-1], f, r[f])
			}
		}
	}
	if want := []string{"bulk ri2n", "bulk tcp", "ping ri2n", "ping tcp"}; !slices.Equal(got, want) {
		t.Errorf("rows = %q, want %q", got, want)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	checkPage(t, html)
	if n := bytes.Count(html, []byte("<svg")); n != 2 {
		t.Errorf("plots = %d, want 2", n)
	}
}

// checkPage: the page is well-formed and asks for nothing from elsewhere.
func checkPage(t *testing.T, page []byte) {
	t.Helper()
	for _, outside := range []string{"<script", "src=", "href=", "@import", "url("} {
		if bytes.Contains(page, []byte(outside)) {
			t.Errorf("the page holds %q", outside)
		}
	}
	for rest := page; ; {
		_, after, found := bytes.Cut(rest, []byte("<svg"))
		if !found {
			break
		}
		end := bytes.Index(after, []byte("</svg>"))
		if end < 0 {
			t.Fatal("a plot does not end")
		}
		dec := xml.NewDecoder(bytes.NewReader(append([]byte("<svg"), after[:end+6]...)))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("plot: %v", err)
			}
		}
		rest = after[end:]
	}
}

// TestRefusalIsADocument: without the means, every row says so.
func TestRefusalIsADocument(t *testing.T) {
	k := comparison{wanted: map[string]bool{"ri2n": true, "udp": true}}
	for _, s := range scenarios {
		for _, v := range s.variants {
			k.refuse(s, v, kernel.ErrNotPermitted)
		}
	}
	b, err := cli.AppendDocument(nil, "bench", document{Rows: k.rows()})
	if err != nil {
		t.Fatal(err)
	}
	d := parseBench(t, string(b))
	seen := make(map[string]bool)
	for _, r := range d.Rows {
		seen[r["scenario"].(string)] = true
		if r["error"] == nil || r["goodput_bps"] != nil {
			t.Errorf("row = %v, want an error and no figures", r)
		}
	}
	if len(seen) != len(scenarios) {
		t.Errorf("scenarios with rows = %d, want %d", len(seen), len(scenarios))
	}
	if err := failure(k.rows()); err == nil {
		t.Error("a comparison of failures counts as done")
	}
}

// TestInterruptedCompare: what was not measured says why.
func TestInterruptedCompare(t *testing.T) {
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errOut)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code := cli.Run(ctx, root, []string{"compare", "--json", "--scenario", "bulk"}, explain)
	d := parseBench(t, out.String())
	if len(d.Rows) == 0 || d.Rows[0]["error"] == nil {
		t.Errorf("rows = %v, want errors", d.Rows)
	}
	if want := []int{cli.ExitInterrupted, cli.ExitFailed}; !slices.Contains(want, code) { // failed: not root
		t.Errorf("exit code = %d, %s", code, errOut.String())
	}
}

func TestScenarioNames(t *testing.T) {
	want := []string{"bulk", "cut", "ping", "setup", "loss", "two-links", "unequal-links", "link-dies", "flap", "redundant", "idle", "fair"}
	all, err := scenariosNamed("all")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.name)
		for _, v := range s.variants {
			for _, name := range append(slices.Clone(v.contenders), v.rival) {
				if _, ok := contenderNamed(name); !ok && name != "" && name != "ceiling" && name != "udp" {
					t.Errorf("%s has an unknown contender %q", v.label(s), name)
				}
			}
			if !strings.HasPrefix(v.contenders[0], "ri2n") {
				t.Errorf("%s does not begin with ri2n", v.label(s))
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("scenarios = %q, want %q", got, want)
	}
	some, err := scenariosNamed("fair, bulk")
	if err != nil || len(some) != 2 || some[0].name != "bulk" || some[1].name != "fair" {
		t.Errorf("fair, bulk = %v, %v", some, err)
	}
}

func TestMeter(t *testing.T) {
	start := time.Unix(100, 0)
	var m meter
	for _, e := range []struct {
		at time.Duration
		n  int
	}{{0, 500}, {10 * time.Millisecond, 100}, {60 * time.Millisecond, 200}, {260 * time.Millisecond, 300}} {
		m.count(e.n, start.Add(e.at))
	}
	m.end(start.Add(300 * time.Millisecond))
	got := m.report()
	if got.Bytes != 600 || got.Seconds != 0.3 || got.LongestGap != 0.2 || got.Started != start.UnixNano() {
		t.Errorf("report = %+v", got)
	}
	if want := []int64{100, 200, 0, 0, 0, 300}; !slices.Equal(got.Steps, want) {
		t.Errorf("steps = %v, want %v", got.Steps, want)
	}
	m.end(start.Add(time.Second))
	if got := m.report().LongestGap; got != 0.7 {
		t.Errorf("gap with the silence at the end = %v, want 0.7", got)
	}
}

func TestGoodputAfterFault(t *testing.T) {
	r := bulkReport{Started: time.Unix(50, 0).UnixNano(), Seconds: 2, Steps: slices.Repeat([]int64{1000}, 40)}
	for i := range 20 {
		r.Steps[i] = 7
	}
	for _, tt := range []struct {
		name string
		at   time.Duration
		want float64
	}{
		{"second half", time.Second, 1000 * 8 / 0.05},
		{"before the start", -time.Second, math.NaN()},
		{"too near the end", 1900 * time.Millisecond, math.NaN()},
		{"after the end", 3 * time.Second, math.NaN()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := r.after(time.Unix(50, 0).Add(tt.at))
			if math.Abs(got-tt.want) > 1e-6 && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
				t.Errorf("after %v = %v, want %v", tt.at, got, tt.want)
			}
		})
	}
}

func TestSamplesToRow(t *testing.T) {
	s := samples{ended: 3, goodput: []float64{3, 1, 2}, cpuPerGB: []float64{5, 5, 8}, gap: []float64{10, 30, 20}}
	b, err := json.Marshal(s.row("bulk", "", "ri2n"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"scenario":"bulk","contender":"ri2n","rounds":3,"goodput_bps":2,"goodput_bps_min":1,"goodput_bps_max":3,"cpu_seconds_per_gb":5,"longest_gap_ms":30}`
	if string(b) != want {
		t.Errorf("row = %s\nwant  %s", b, want)
	}
	// A measured zero is there.
	s = samples{ended: 1, idle: &idle{Sessions: 7}, err: errors.New("broke")}
	if b, err = json.Marshal(s.row("idle", "v", "tcp")); err != nil {
		t.Fatal(err)
	}
	want = `{"scenario":"idle","variant":"v","contender":"tcp","rounds":1,"sessions":7,"rss_bytes_per_session":0,"goroutines_per_session":0,"idle_cpu_share":0,"error":"broke"}`
	if string(b) != want {
		t.Errorf("row = %s\nwant  %s", b, want)
	}
}

func TestGoals(t *testing.T) {
	nan := cli.Number(math.NaN())
	bulk := func(name string, goodput, cpu float64) row {
		s := samples{goodput: []float64{goodput}, cpuPerGB: []float64{cpu}}
		return s.row("bulk", "", name)
	}
	goals := goalsOf([]row{bulk("ri2n", 9, 1), bulk("quic", 3, 2)})
	want := []goal{
		{"bulk", "goodput / ceiling", 0.45, nan, nan, false},
		{"bulk", "goodput / quic-go", 3, nan, 3, true},
		{"bulk", "CPU-seconds per GB / quic-go", nan, 0.40, 0.5, false},
	}
	verdicts := []string{"not measured", "met", "NOT MET"}
	if len(goals) != len(want) {
		t.Fatalf("goals = %+v, want %d", goals, len(want))
	}
	same := func(a, b cli.Number) bool { return a == b || a.IsZero() && b.IsZero() }
	for i, g := range goals {
		w := want[i]
		if g.Figure != w.Figure || g.Met != w.Met || !same(g.Value, w.Value) || !same(g.AtLeast, w.AtLeast) || !same(g.AtMost, w.AtMost) || g.verdict() != verdicts[i] {
			t.Errorf("goal %d = %+v (%s), want %+v (%s)", i, g, g.verdict(), w, verdicts[i])
		}
	}
	if got := goalsOf([]row{bulk("quic", 3, 2)}); len(got) != 0 {
		t.Errorf("goals without ri2n = %v", got)
	}
}

func TestBulkRequest(t *testing.T) {
	for _, q := range []bulkRequest{{}, {For: 1500 * time.Millisecond}, {For: time.Minute, Verify: true}} {
		b := appendBulkRequest(nil, q)
		if got, err := parseBulkRequest(b); err != nil || got != q {
			t.Errorf("%+v encodes to %x, which decodes to %+v, %v", q, b, got, err)
		}
	}
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"short", make([]byte, 4)},
		{"unknown flag", []byte{2, 0, 0, 0, 0}},
		{"forever", []byte{0, 255, 255, 255, 255}},
	} {
		if got, err := parseBulkRequest(tt.b); err == nil {
			t.Errorf("%s: %x decodes to %+v", tt.name, tt.b, got)
		}
	}
}

// TestPatternShows: a byte that is lost, repeated or moved is seen.
func TestPatternShows(t *testing.T) {
	for _, shift := range []int64{1, 256, 1448, writeSize, patternPeriod - 1} {
		if bytes.Equal(patternAt(0, 1000), patternAt(shift, 1000)) {
			t.Errorf("a shift by %d does not show", shift)
		}
	}
	if !bytes.Equal(patternAt(patternPeriod+5, 100), patternAt(5, 100)) {
		t.Error("the pattern does not repeat")
	}
}

// TestVerifiedTransfer: every byte is compared, on every transport that
// repairs loss.
func TestVerifiedTransfer(t *testing.T) {
	for _, name := range []string{"ri2n", "tls", "quic", "kcp", "tcp"} {
		t.Run(name, func(t *testing.T) {
			c, _ := contenderNamed(name)
			to := startInProcess(t, c)
			key, err := newIdentity()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			d, err := c.dialer(ctx, to, key)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			b, err := measureBulk(ctx, d, bulkRequest{Size: 2 << 20, Verify: true})
			if err != nil {
				t.Fatal(err)
			}
			if b.Report.Bytes <= 0 || b.Report.Bytes > 2<<20 {
				t.Errorf("bytes = %d", b.Report.Bytes)
			}
		})
	}
}

// twoLinks is a faulty network whose second link is the busier.
type twoLinks struct{ set map[int]netsim.Link }

func (n twoLinks) SetLink(i int, l netsim.Link) error {
	n.set[i] = l
	return nil
}

func (n twoLinks) busiest(context.Context) (int, error) { return 1, nil }

func TestCutBusiest(t *testing.T) {
	n := twoLinks{make(map[int]netsim.Link)}
	at, err := cutBusiest(t.Context(), n, time.Millisecond)
	if l := n.set[1]; err != nil || at.IsZero() || len(n.set) != 1 || !l.Cut || l.Rate != failingLinks[1].Rate {
		t.Errorf("cut at %v, %v: %+v", at, err, n.set)
	}
	clear(n.set)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if at, err := cutBusiest(ctx, n, time.Hour); err != nil || !at.IsZero() || len(n.set) != 0 {
		t.Errorf("after the end: cut at %v, %v: %+v", at, err, n.set)
	}
}

func TestWithoutCPU(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"worker --cpu 1", "worker"},
		{"worker --cpu=1 --json", "worker --json"},
		{"worker", "worker"},
		{"worker --cpu", "worker"},
	} {
		if got := strings.Join(withoutCPU(strings.Fields(tt.args)), " "); got != tt.want {
			t.Errorf("withoutCPU(%q) = %q, want %q", tt.args, got, tt.want)
		}
	}
}
