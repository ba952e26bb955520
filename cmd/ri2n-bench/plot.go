package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/chart"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

func newPlot() *cobra.Command {
	var out, session string
	cmd := &cobra.Command{
		Use:   "plot TRACE",
		Short: "Draw a trace that --qlog wrote",
		Long: `plot reads a trace of ri2n and writes one page of HTML that opens without a
network: throughput, congestion window, bytes in flight, round trip and losses of
each path over time, and a table of what happened to paths, keys and the session.
A trace that was cut off is drawn as far as it goes.`,
		Example: "ri2n-bench plot trace.sqlog\nri2n-bench plot --html out.html --session 2 trace.sqlog",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			p, err := readPlot(f, session)
			if errors.Is(err, qlog.ErrNotTrace) {
				return &cli.Error{Object: args[0], Cause: "it is not a trace of ri2n", Next: "make one: ri2n-bench local --contenders ri2n --qlog trace.sqlog", Code: cli.ExitFailed, Err: err}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".html"
			}
			if err := writeFile(out, p.page); err != nil {
				return err
			}
			d := plotDocument{File: out, Sessions: len(p.sessions), Skipped: p.skipped, Missing: p.missing}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "bench-plot", d)
			}
			if p.skipped > 0 || p.missing > 0 {
				cli.Note(cmd, "the trace lacks %d events, and %d of its records cannot be read", p.missing, p.skipped)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), out)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "html", "", "`file` to write (default: that of the trace with .html at its end)")
	cmd.Flags().StringVar(&session, "session", "", "`number` of the only session to draw (default: the first eight)")
	return cmd
}

// plotDocument is "instantgrid/bench-plot/1".
type plotDocument struct {
	File     string `json:"file"`
	Sessions int    `json:"sessions"`
	Skipped  int    `json:"skipped_records"`
	Missing  uint64 `json:"missing_events"`
}

const (
	maxPlotted    = 8    // sessions
	maxMilestones = 1000 // of one session; the rest is counted
	throughputsAt = 200  // points of a line of throughput, about
)

// A plot is what a trace tells of some sessions.
type plot struct {
	title    string
	sessions []*plottedSession
	skipped  int    // records that could not be read
	missing  uint64 // events that the trace says it lacks
	others   map[string]bool
}

type plottedSession struct {
	group      string
	about      string
	paths      map[uint32]*plottedPath
	milestones []milestone
	more       int // milestones that were left out
}

type plottedPath struct {
	name                                         string
	at                                           []float64 // seconds
	sent, delivered, received                    []float64 // bytes so far
	window, inFlight, rtt, minRTT, lost, resends []float64
}

// A milestone is a rare event, for the table.
type milestone struct {
	At   float64 // seconds
	What string
}

// readPlot reads a trace; session "" stands for the first ones.
func readPlot(r io.Reader, session string) (*plot, error) {
	p := &plot{others: make(map[string]bool)}
	h, skipped, err := qlog.Read(r, func(rec qlog.Record) error {
		if rec.Name == qlog.NameEventsDropped {
			var d qlog.EventsDropped
			if json.Unmarshal(rec.Data, &d) == nil {
				p.missing += d.Count
			}
			return nil
		}
		if s := p.session(rec.Group, session); s != nil {
			s.take(rec)
		}
		return nil
	})
	p.title, p.skipped = h.Title, skipped
	return p, err
}

// session returns the session of a group, or nil if it is not drawn.
func (p *plot) session(group, wanted string) *plottedSession {
	for _, s := range p.sessions {
		if s.group == group {
			return s
		}
	}
	if group == "" || wanted != "" && group != wanted || len(p.sessions) == maxPlotted {
		if len(p.others) < 1<<16 {
			p.others[group] = true
		}
		return nil
	}
	s := &plottedSession{group: group, paths: make(map[uint32]*plottedPath)}
	p.sessions = append(p.sessions, s)
	return s
}

// take adds one event. Data of another form is passed over.
func (s *plottedSession) take(r qlog.Record) {
	at := r.Time / 1000
	say := func(format string, args ...any) {
		if len(s.milestones) == maxMilestones {
			s.more++
			return
		}
		s.milestones = append(s.milestones, milestone{at, fmt.Sprintf(format, args...)})
	}
	switch r.Name {
	case qlog.NameStarted:
		if d, ok := dataOf[qlog.Started](r); ok {
			s.about = fmt.Sprintf("%v, the %s, with %v", d.Local, d.Vantage, d.Remote)
			say("session begins")
		}
	case qlog.NameClosed:
		if d, ok := dataOf[qlog.Closed](r); ok {
			say("session ends, by the %s side: %s", d.Initiator, d.Reason)
		}
	case qlog.NameKeyUpdated:
		if d, ok := dataOf[qlog.KeyUpdated](r); ok {
			say("key update %d of what we %s", d.Phase, d.Direction)
		}
	case qlog.NamePath:
		if d, ok := dataOf[qlog.Path](r); ok {
			p := s.path(d.Path)
			where := ""
			if d.Remote.IsValid() {
				where = fmt.Sprintf(", %v to %v", d.Local, d.Remote)
			}
			if d.Link != "" {
				p.name = fmt.Sprintf("path %d, %s", d.Path, d.Link)
			}
			sending := "no new data goes here"
			if d.Sending {
				sending = "new data may go here"
			}
			say("path %d (%s%s): %s to %s; %s", d.Path, d.Link, where, d.Old, d.New, sending)
		}
	case qlog.NameMetrics:
		if d, ok := dataOf[qlog.Metrics](r); ok {
			s.path(d.Path).sample(at, d)
		}
	}
}

func dataOf[T any](r qlog.Record) (d T, ok bool) {
	return d, json.Unmarshal(r.Data, &d) == nil
}

func (s *plottedSession) path(id uint32) *plottedPath {
	p := s.paths[id]
	if p == nil {
		p = &plottedPath{name: fmt.Sprintf("path %d", id)}
		s.paths[id] = p
	}
	return p
}

func (p *plottedPath) sample(at float64, d qlog.Metrics) {
	p.at = append(p.at, at)
	p.sent = append(p.sent, float64(d.BytesSent))
	p.delivered = append(p.delivered, float64(d.BytesDelivered))
	p.received = append(p.received, float64(d.BytesReceived))
	p.window = append(p.window, float64(d.CongestionWindow)/1e3)
	p.inFlight = append(p.inFlight, float64(d.BytesInFlight)/1e3)
	p.rtt = append(p.rtt, d.SmoothedRTT)
	p.minRTT = append(p.minRTT, d.MinRTT)
	p.lost = append(p.lost, float64(d.PacketsLost))
	p.resends = append(p.resends, float64(d.Reinjected))
}

// rate turns a count of bytes into Mbit/s, over steps of at least the given
// number of seconds.
func rate(name string, at, bytes []float64, step float64) chart.Series {
	s := chart.Series{Name: name}
	last := 0
	for i := range at {
		if d := at[i] - at[last]; d >= step && d > 0 {
			s.X = append(s.X, at[i])
			s.Y = append(s.Y, (bytes[i]-bytes[last])*8/d/1e6)
			last = i
		}
	}
	return s
}

// charts draws what is known of all paths.
func (s *plottedSession) charts() []template.HTML {
	ids := make([]uint32, 0, len(s.paths))
	begin, end := -1.0, 0.0
	for id, p := range s.paths {
		if len(p.at) == 0 {
			continue
		}
		ids = append(ids, id)
		if begin < 0 || p.at[0] < begin {
			begin = p.at[0]
		}
		end = max(end, p.at[len(p.at)-1])
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	step := max((end-begin)/throughputsAt, 0.02)
	const seconds = "seconds"
	delivered := chart.Chart{Title: "acknowledged by the peer", XLabel: seconds, YLabel: "Mbit/s"}
	received := chart.Chart{Title: "received", XLabel: seconds, YLabel: "Mbit/s"}
	window := chart.Chart{Title: "congestion window and bytes in flight", XLabel: seconds, YLabel: "kB"}
	rtt := chart.Chart{Title: "round trip, smoothed and least", XLabel: seconds, YLabel: "ms"}
	lost := chart.Chart{Title: "packets lost, and sent again elsewhere, so far", XLabel: seconds, YLabel: "packets"}
	for _, id := range ids {
		p := s.paths[id]
		delivered.Series = append(delivered.Series, rate(p.name, p.at, p.delivered, step))
		received.Series = append(received.Series, rate(p.name, p.at, p.received, step))
		window.Series = append(window.Series, chart.Series{Name: p.name + ": window", X: p.at, Y: p.window}, chart.Series{Name: p.name + ": in flight", X: p.at, Y: p.inFlight})
		rtt.Series = append(rtt.Series, chart.Series{Name: p.name, X: p.at, Y: p.rtt}, chart.Series{Name: p.name + ": least", X: p.at, Y: p.minRTT})
		lost.Series = append(lost.Series, chart.Series{Name: p.name + ": lost", X: p.at, Y: p.lost}, chart.Series{Name: p.name + ": elsewhere", X: p.at, Y: p.resends})
	}
	if len(ids) == 0 {
		return nil
	}
	var out []template.HTML
	for _, c := range []chart.Chart{delivered, received, window, rtt, lost} {
		out = append(out, template.HTML(c.SVG())) // the chart escapes what it is given
	}
	return out
}

// page writes one page of HTML that needs no other file.
func (p *plot) page(w io.Writer) error {
	type view struct {
		Group, About string
		Charts       []template.HTML
		Milestones   []milestone
		More         int
	}
	var sessions []view
	for _, s := range p.sessions {
		sessions = append(sessions, view{s.group, s.about, s.charts(), s.milestones, s.more})
	}
	return plotTemplate.Execute(w, map[string]any{
		"Title": p.title, "Sessions": sessions, "Others": len(p.others), "Missing": p.missing, "Skipped": p.skipped,
	})
}

var plotTemplate = template.Must(template.New("plot").Funcs(template.FuncMap{
	"seconds": func(v float64) string { return fmt.Sprintf("%.3f", v) },
}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: .6em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left; }
td:first-child { text-align: right; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{if .Missing}}<p>{{.Missing}} events are missing: they came faster than the file took them.</p>{{end}}
{{if .Skipped}}<p>{{.Skipped}} records could not be read: the file was cut off or changed.</p>{{end}}
{{if not .Sessions}}<p>The trace holds no session.</p>{{end}}
{{range .Sessions}}<h2>Session {{.Group}}</h2>
<p>{{.About}}</p>
{{range .Charts}}<p>{{.}}</p>
{{end}}
<table><tr><th>seconds</th><th>event</th></tr>
{{range .Milestones}}<tr><td>{{seconds .At}}</td><td>{{.What}}</td></tr>
{{end}}</table>
{{if .More}}<p>And {{.More}} more events.</p>{{end}}
{{end}}
{{if .Others}}<p>{{.Others}} further sessions are not drawn; --session draws one of them.</p>{{end}}
</body>
</html>
`))
