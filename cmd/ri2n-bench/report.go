package main

import (
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// writeReport writes the page to file, whole or not at all.
func (k *comparison) writeReport(file string, chosen []scenario, d document, started time.Time) error {
	return writeFile(file, func(w io.Writer) error { return k.page(w, chosen, d, started) })
}

// writeReports writes the result in three forms into a folder, which it makes.
func (k *comparison) writeReports(folder string, chosen []scenario, d document, started time.Time) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text := writeFile(filepath.Join(folder, "report.txt"), func(w io.Writer) error { return writeComparison(w, d) })
	machine := writeFile(filepath.Join(folder, "report.json"), func(w io.Writer) error {
		b, err := cli.AppendDocument(nil, "bench", d)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
	return errors.Join(text, machine, k.writeReport(filepath.Join(folder, "report.html"), chosen, d, started))
}

// writeFile writes file, whole or not at all.
func writeFile(file string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".ri2n-bench-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// A section is what the page says about one variant.
type section struct {
	Title, About string
	Head         []string
	Rows         []sectionRow
	Charts       []template.HTML
}

type sectionRow struct {
	Contender string
	Cells     []string
	Rounds    int
	Error     string
	Note      string
}

type goalRow struct{ Scenario, Figure, Limit, Value, Verdict string }

// page writes one page of HTML that needs no other file.
func (k *comparison) page(w io.Writer, chosen []scenario, d document, started time.Time) error {
	about := make(map[string]string)
	for _, s := range chosen {
		about[s.name] = s.about
	}
	var sections []section
	rest := k.results
	for _, t := range tablesOf(d.Rows) {
		of := rest[:len(t.rows)]
		rest = rest[len(t.rows):]
		s := section{Title: t.title(), About: about[t.scenario], Charts: charts(of)}
		for _, c := range t.columns {
			s.Head = append(s.Head, c.name)
		}
		for _, r := range t.rows {
			s.Rows = append(s.Rows, sectionRow{r.Contender, t.cells(r), r.Rounds, r.Error, r.Note})
		}
		sections = append(sections, s)
	}
	var goals []goalRow
	for _, g := range d.Goals {
		goals = append(goals, goalRow{g.Scenario, g.Figure, g.limit(), show(g.Value, 2), g.verdict()})
	}
	version := cli.Version("ri2n-bench")
	return pageTemplate.Execute(w, map[string]any{
		"Started":  started.Format(time.RFC1123),
		"Took":     time.Since(started).Round(time.Second),
		"Machine":  fmt.Sprintf("%d processors, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		"Version":  fmt.Sprint(version.Version),
		"Rounds":   k.rounds,
		"Seconds":  k.seconds,
		"Sections": sections,
		"Goals":    goals,
	})
}

// charts draws what the results of one variant have: throughput of each link
// over time, distributions of round trips.
func charts(results []result) []template.HTML {
	var out []template.HTML
	add := func(c chart.Chart) {
		if len(c.Series) > 0 {
			// The chart escapes what it is given.
			out = append(out, template.HTML(c.SVG()))
		}
	}
	latency := chart.Chart{Title: "round trips, cumulative", XLabel: "microseconds", YLabel: "part of all", LogX: true}
	throughput := chart.Chart{Title: "throughput on the link, first round", XLabel: "seconds", YLabel: "Mbit/s"}
	for _, r := range results {
		if len(r.pings) > 0 {
			us := in(r.pings, time.Microsecond)
			slices.Sort(us)
			latency.Series = append(latency.Series, chart.Distribution(r.Contender, us))
		}
		if len(r.links) == 1 {
			throughput.Series = append(throughput.Series, overTime(r.Contender, r.links[0]))
			continue
		}
		each := chart.Chart{Title: r.Contender + ": throughput of each link, first round", XLabel: "seconds", YLabel: "Mbit/s"}
		for i, l := range r.links {
			each.Series = append(each.Series, overTime(fmt.Sprintf("link %d", i+1), l))
		}
		add(each)
	}
	add(latency)
	add(throughput)
	return out
}

// overTime is the line of samples of bit/s.
func overTime(name string, samples []float64) chart.Series {
	s := chart.Series{Name: name}
	for i, v := range samples {
		s.X = append(s.X, float64(i+1)*sampleStep.Seconds())
		s.Y = append(s.Y, v/1e6)
	}
	return s
}

var pageTemplate = template.Must(template.New("report").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ri2n beside its peers</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: .6em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: right; }
th:first-child, td:first-child, .goals td, .goals th { text-align: left; }
.error, .missed { color: #a40000; }
.met { color: #00611c; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>ri2n beside its peers</h1>
<p>{{.Started}}, {{.Took}} in all. {{.Machine}}; ri2n-bench {{.Version}}. Up to {{.Rounds}} rounds in turns, transfers of
{{.Seconds}} s or a multiple. Goodput is what the receiver counted, the median of the rounds with the least and the
most; processor time is that of both ends, for each 10<sup>9</sup> bytes. All networks are namespaces of one machine,
and whatever else ran there took its part.</p>
{{if .Goals}}<h2>Figures to reach</h2>
<table class="goals"><tr><th>scenario</th><th>figure</th><th>to reach</th><th>reached</th><th></th></tr>
{{range .Goals}}<tr><td>{{.Scenario}}</td><td>{{.Figure}}</td><td>{{.Limit}}</td><td>{{.Value}}</td><td class="{{if eq .Verdict "met"}}met{{else}}missed{{end}}">{{.Verdict}}</td></tr>
{{end}}</table>{{end}}
{{range .Sections}}<h2>{{.Title}}</h2>
<p>{{.About}}.</p>
<table><tr><th>contender</th>{{range .Head}}<th>{{.}}</th>{{end}}<th>rounds</th></tr>
{{range .Rows}}<tr><td>{{.Contender}}</td>{{range .Cells}}<td>{{.}}</td>{{end}}<td>{{.Rounds}}</td></tr>
{{end}}</table>
{{range .Rows}}{{if .Note}}<p>{{.Contender}}: {{.Note}}</p>{{end}}{{if .Error}}<p class="error">{{.Contender}}: {{.Error}}</p>{{end}}
{{end}}{{range .Charts}}<p>{{.}}</p>
{{end}}{{end}}
</body>
</html>
`))
