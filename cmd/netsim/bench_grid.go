package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A gridFigure is one figure that the grid's services are to reach.
type gridFigure struct {
	Scenario string     `json:"scenario"`
	Figure   string     `json:"figure"`
	AtLeast  cli.Number `json:"at_least,omitzero"`
	AtMost   cli.Number `json:"at_most,omitzero"`
	Value    cli.Number `json:"value"`
	Met      bool       `json:"met"`
}

// atMost returns a figure with an upper bound.
func atMost(scenario, figure string, limit, value float64) gridFigure {
	return gridFigure{scenario, figure, cli.Number(math.NaN()), cli.Number(limit), cli.Number(value), value <= limit}
}

// limit shows the bound for people.
func (f gridFigure) limit() string {
	switch {
	case !f.AtLeast.IsZero():
		return fmt.Sprintf("at least %.2f", float64(f.AtLeast))
	case !f.AtMost.IsZero():
		return fmt.Sprintf("at most %.2f", float64(f.AtMost))
	}
	return "stated"
}

func (f gridFigure) verdict() string {
	switch {
	case f.AtLeast.IsZero() && f.AtMost.IsZero():
		return ""
	case f.Met:
		return "met"
	}
	return "NOT MET"
}

// A benchSection is what one scenario has shown.
type benchSection struct {
	Scenario string       `json:"scenario"`
	About    string       `json:"about"`
	Figures  []gridFigure `json:"figures"`
	Data     any          `json:"data,omitempty"`
	Error    string       `json:"error,omitempty"`

	charts []chart.Chart
}

// A gridScenario measures something of the grid's services.
type gridScenario struct {
	name, about string
	run         func(ctx context.Context, b *gridBench) (*benchSection, error)
}

// gridScenarios are all there are, in order.
var gridScenarios = []gridScenario{
	{"small-call", "Calls of 64 bytes, one after another and 32 at once, between two namespaces that a veth pair joins; rpc over a direct path of the overlay, rpc and gRPC over kernel TCP, in turns and in one process", runSmallCalls},
	{"200-calls", "Calls of 100 KB in and 30 KB out over 8 workers in 4 homes behind NATs; one is killed, one put to sleep, one ten times slower", runManyCalls},
	{"common-data", "Data in the grid's store that 16 workers in 4 homes behind NATs get at once, and, beside that, calls with fewer bytes as their argument; 20 Mbit/s up, 100 Mbit/s down", runCommonData},
	{"one-link", "An object is put on one node and got on another, in one process with their disks, beside a bare stream of the same two nodes; over a link of 1 Gbit/s, and over a veth pair, where the two processors are what limits", runMove},
	{"holders", "Objects of 2 MB on six of eight members each, in one process over loopback, with disks; two members are lost for good", runHolders},
	{"many-objects", "Objects of 4 KiB, each acknowledged, on one disk, and gets of them, most from the page cache", runManyObjects},
}

// gridBench is what scenarios are run with.
type gridBench struct {
	rounds   int
	seconds  float64
	calls    callFlags
	store    storeFlags
	dir      string
	progress func(format string, args ...any)
}

// benchGridDocument is "instantgrid/bench-grid/1".
type benchGridDocument struct {
	Started  time.Time       `json:"started"`
	Machine  string          `json:"machine"`
	Version  string          `json:"version"`
	Sections []*benchSection `json:"sections"`
}

func newBenchGrid() *cobra.Command {
	var only, out string
	b := &gridBench{calls: defaultCalls(), store: defaultStoreBench()}
	b.calls.work = 2 * time.Second
	cmd := &cobra.Command{
		Use:   "bench-grid",
		Short: "Measure calls of functions and the store, in homes and beside what others do",
		Long: `Measure what the services of a grid cost and reach, in network namespaces of
Linux, which needs root: small calls beside gRPC over kernel TCP, 200 calls over
workers in homes behind NATs of which some are lost, common data for 16 workers in
four homes beside plain arguments, an object over one link beside a bare stream,
durable objects that lose two holders, and a million small objects. It prints each
figure beside the one to reach, and writes report.json and report.html to --out.

It needs about 12 GB of disk in the directory of temporary files (TMPDIR).`,
		Example: "netsim bench-grid --out bench\nnetsim bench-grid --scenario small-call --rounds 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := b.calls.check(cmd.CommandPath()); err != nil {
				return err
			}
			if err := b.store.check(cmd.CommandPath()); err != nil {
				return err
			}
			if b.rounds < 1 || b.seconds <= 0 {
				return cli.Usagef("--rounds and --seconds", "netsim bench-grid --rounds 10 --seconds 1", "both must be positive")
			}
			chosen, err := chooseScenarios(only)
			if err != nil {
				return err
			}
			if err := kernel.Check(); err != nil {
				return err
			}
			return b.run(cmd, chosen, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&only, "scenario", "", "`name` of the only scenario to run (default all)")
	f.StringVar(&out, "out", "", "`directory` for report.json and report.html (default none)")
	f.IntVar(&b.rounds, "rounds", 10, "of small calls, each contender once in each")
	f.Float64Var(&b.seconds, "seconds", 1, "how long a contender makes small calls in a round")
	b.calls.add(cmd)
	f.IntVar(&b.store.shareMB, "share-mb", b.store.shareMB, "`MB` of common data")
	f.IntVar(&b.store.moveMiB, "move-mib", b.store.moveMiB, "`MiB` of the object that goes over one link")
	f.IntVar(&b.store.objects, "objects", b.store.objects, "how many of 4 KiB")
	return cmd
}

func chooseScenarios(only string) ([]gridScenario, error) {
	if only == "" {
		return gridScenarios, nil
	}
	names := ""
	for _, s := range gridScenarios {
		if s.name == only {
			return []gridScenario{s}, nil
		}
		names += " " + s.name
	}
	return nil, cli.Usagef("--scenario "+only, "netsim bench-grid --scenario small-call", "there are only%s", names)
}

func (b *gridBench) run(cmd *cobra.Command, chosen []gridScenario, out string) error {
	started := time.Now()
	var err error
	if b.dir, err = os.MkdirTemp("", "instantgrid-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	line := newProgressLine(cmd.ErrOrStderr())
	b.progress = line.Set
	version := cli.Version("netsim")
	d := benchGridDocument{
		Started: started.UTC().Truncate(time.Second), Version: fmt.Sprint(version.Version),
		Machine: fmt.Sprintf("%d processors, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
	}
	var failed error
	for _, s := range chosen {
		b.progress("%s ...", s.name)
		section, err := s.run(cmd.Context(), b)
		line.Close()
		if stopped := interrupted(cmd); stopped != nil {
			return stopped
		}
		if err != nil {
			section = &benchSection{Error: err.Error(), Figures: []gridFigure{}}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		section.Scenario, section.About = s.name, s.about
		d.Sections = append(d.Sections, section)
	}
	if out != "" {
		if err := d.write(out); err != nil {
			return err
		}
	}
	if cli.JSON(cmd) {
		return errors.Join(cli.PrintJSON(cmd, "bench-grid", d), failed)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tFIGURE\tTO REACH\tREACHED\t")
	for _, s := range d.Sections {
		for _, f := range s.Figures {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Scenario, f.Figure, f.limit(), figureText(f.Value), f.verdict())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if out != "" {
		cli.Note(cmd, "report: %s and report.json", filepath.Join(out, "report.html"))
	}
	return failed
}

// figureText shows a value with as many digits as it needs.
func figureText(v cli.Number) string {
	switch f := math.Abs(float64(v)); {
	case v.IsZero():
		return "not measured"
	case f >= 1000:
		return fmt.Sprintf("%.0f", float64(v))
	case f >= 10:
		return fmt.Sprintf("%.1f", float64(v))
	}
	return fmt.Sprintf("%.2f", float64(v))
}

// write writes both reports.
func (d *benchGridDocument) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := cli.AppendDocument(nil, "bench-grid", d)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), b, 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "report.html"))
	if err != nil {
		return err
	}
	return errors.Join(d.page(f), f.Close())
}

// page writes one page of HTML that needs no other file.
func (d *benchGridDocument) page(w io.Writer) error {
	type row struct{ Figure, Limit, Value, Verdict string }
	type section struct {
		Title, About, Error, Data string
		Rows                      []row
		Charts                    []template.HTML
	}
	var sections []section
	for _, s := range d.Sections {
		data, err := json.MarshalIndent(s.Data, "", "  ")
		if err != nil {
			return err
		}
		x := section{Title: s.Scenario, About: s.About, Error: s.Error, Data: string(data)}
		for _, f := range s.Figures {
			x.Rows = append(x.Rows, row{f.Figure, f.limit(), figureText(f.Value), f.verdict()})
		}
		for _, c := range s.charts {
			x.Charts = append(x.Charts, template.HTML(c.SVG())) // the chart escapes what it is given
		}
		sections = append(sections, x)
	}
	return benchGridPage.Execute(w, map[string]any{"Started": d.Started.Format(time.RFC1123), "Machine": d.Machine, "Version": d.Version, "Sections": sections})
}

var benchGridPage = template.Must(template.New("bench-grid").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Services of a grid, measured</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: .6em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.error, .missed { color: #a40000; }
.met { color: #00611c; }
svg { max-width: 100%; height: auto; }
pre { overflow-x: auto; }
</style>
</head>
<body>
<h1>Services of a grid, measured</h1>
<p>{{.Started}}. {{.Machine}}; netsim {{.Version}}. All networks are namespaces of one machine, and whatever else ran
there took its part.</p>
{{range .Sections}}<h2>{{.Title}}</h2>
<p>{{.About}}.</p>
{{if .Error}}<p class="error">{{.Error}}</p>{{end}}
<table><tr><th>figure</th><th>to reach</th><th>reached</th><th></th></tr>
{{range .Rows}}<tr><td>{{.Figure}}</td><td>{{.Limit}}</td><td>{{.Value}}</td><td class="{{if eq .Verdict "met"}}met{{else}}missed{{end}}">{{.Verdict}}</td></tr>
{{end}}</table>
{{range .Charts}}<p>{{.}}</p>
{{end}}<details><summary>data</summary><pre>{{.Data}}</pre></details>
{{end}}
</body>
</html>
`))

// runManyCalls measures the story of demo-rpc.
func runManyCalls(ctx context.Context, b *gridBench) (*benchSection, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	h, err := programs.newHomes(filepath.Join(b.dir, "calls"), homeAccess, workersInHome)
	if err != nil {
		return nil, err
	}
	defer h.end()
	if err := h.startForCalls(ctx, b.calls); err != nil {
		return nil, err
	}
	s, err := h.tellCalls(ctx, b.calls, func(format string, args ...any) { b.progress("200-calls: "+format, args...) })
	if err != nil {
		return nil, err
	}
	line := chart.Series{Name: "results"}
	ideal := chart.Series{Name: "ideal schedule of the survivors", X: []float64{0, float64(s.IdealSeconds)}, Y: []float64{0, float64(s.Count)}}
	for i, at := range s.doneAt {
		line.X, line.Y = append(line.X, at), append(line.Y, float64(i+1))
	}
	return &benchSection{
		Data: s,
		Figures: []gridFigure{
			atMost("200-calls", "time / ideal schedule of the survivors", 1.15, float64(s.Ratio)),
			stated("200-calls", "results that are right", float64(s.Count)),
			stated("200-calls", "seconds", float64(s.Seconds)),
			stated("200-calls", "repetitions", float64(s.Repetitions)),
		},
		charts: []chart.Chart{{Title: "results over time", XLabel: "seconds", YLabel: "results", Series: []chart.Series{line, ideal}}},
	}, nil
}
