package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// A row is what one contender reached in one scenario. What does not apply or
// was not measured is absent.
type row struct {
	Scenario   string     `json:"scenario"`
	Variant    string     `json:"variant,omitzero"`
	Contender  string     `json:"contender"`
	Rounds     int        `json:"rounds"` // that ended well
	Goodput    cli.Number `json:"goodput_bps,omitzero"`
	GoodputMin cli.Number `json:"goodput_bps_min,omitzero"`
	GoodputMax cli.Number `json:"goodput_bps_max,omitzero"`
	CPUPerGB   cli.Number `json:"cpu_seconds_per_gb,omitzero"`
	PingP50    cli.Number `json:"ping_p50_us,omitzero"`
	PingP99    cli.Number `json:"ping_p99_us,omitzero"`
	SetupP50   cli.Number `json:"setup_p50_ms,omitzero"`
	LongestGap cli.Number `json:"longest_gap_ms,omitzero"` // of all rounds

	// After a fault: goodput from half a second later on.
	Recovered cli.Number `json:"goodput_after_fault_bps,omitzero"`
	// Beside a rival: the part of both goodputs that is this contender's.
	Share cli.Number `json:"share,omitzero"`
	// Idle sessions.
	Sessions   int        `json:"sessions,omitzero"`
	RSS        cli.Number `json:"rss_bytes_per_session,omitzero"`
	Goroutines cli.Number `json:"goroutines_per_session,omitzero"`
	CPUShare   cli.Number `json:"idle_cpu_share,omitzero"` // of one core, both ends

	Note  string `json:"note,omitzero"`  // what a reader should know of the figures
	Error string `json:"error,omitzero"` // why there are fewer or none
}

// A ratio compares the first contender with another: above 1 the first has
// more of it.
type ratio struct {
	Contender string     `json:"contender"`
	To        string     `json:"to"`
	Goodput   cli.Number `json:"goodput"`
	CPUPerGB  cli.Number `json:"cpu_seconds_per_gb"`
	PingP50   cli.Number `json:"ping_p50"`
	SetupP50  cli.Number `json:"setup_p50"`
}

// A document is the result "instantgrid/bench/1".
type document struct {
	Rows   []row   `json:"rows"`
	Ratios []ratio `json:"ratios,omitzero"` // of local and client
	Goals  []goal  `json:"goals,omitzero"`  // of compare
}

// samples are all measurements of one contender.
type samples struct {
	goodput, cpuPerGB []float64
	gap               []float64 // ms
	recovered, share  []float64
	ping, setup       []time.Duration
	idle              *idle
	note              string
	ended             int   // rounds that ended well
	err               error // the first one; what was measured before it counts
}

func (s *samples) row(scenario, variant, name string) row {
	r := row{
		Scenario: scenario, Variant: variant, Contender: name, Rounds: s.ended,
		Goodput:    middle(s.goodput),
		GoodputMin: cli.Number(quantile(s.goodput, 0)),
		GoodputMax: cli.Number(quantile(s.goodput, 1)),
		CPUPerGB:   middle(s.cpuPerGB),
		PingP50:    cli.Number(quantile(in(s.ping, time.Microsecond), 0.5)),
		PingP99:    cli.Number(quantile(in(s.ping, time.Microsecond), 0.99)),
		SetupP50:   cli.Number(quantile(in(s.setup, time.Millisecond), 0.5)),
		LongestGap: cli.Number(quantile(s.gap, 1)),
		Recovered:  middle(s.recovered),
		Share:      middle(s.share),
		RSS:        cli.Number(math.NaN()),
		Goroutines: cli.Number(math.NaN()),
		CPUShare:   cli.Number(math.NaN()),
	}
	if s.idle != nil {
		r.Sessions = s.idle.Sessions
		r.RSS, r.Goroutines, r.CPUShare = cli.Number(s.idle.RSS), cli.Number(s.idle.Goroutines), cli.Number(s.idle.CPUShare)
	}
	r.Note = s.note
	if s.err != nil {
		r.Error = s.err.Error()
	}
	return r
}

// middle returns the median, or no number for none.
func middle(values []float64) cli.Number { return cli.Number(quantile(values, 0.5)) }

// in converts durations to numbers of the given unit.
func in(ds []time.Duration, unit time.Duration) []float64 {
	fs := make([]float64, len(ds))
	for i, d := range ds {
		fs[i] = float64(d) / float64(unit)
	}
	return fs
}

// quantile returns the q-quantile of values by linear interpolation, NaN for
// none. Values that are NaN make it NaN.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 || slices.ContainsFunc(values, math.IsNaN) {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// newDocument adds the ratios of the first row to each of the others.
func newDocument(rows []row) document {
	d := document{Rows: rows, Ratios: []ratio{}}
	for i := 1; i < len(rows); i++ {
		a, b := rows[0], rows[i]
		d.Ratios = append(d.Ratios, ratio{
			Contender: a.Contender, To: b.Contender,
			Goodput:  a.Goodput / b.Goodput,
			CPUPerGB: a.CPUPerGB / b.CPUPerGB,
			PingP50:  a.PingP50 / b.PingP50,
			SetupP50: a.SetupP50 / b.SetupP50,
		})
	}
	return d
}

// writeTable prints rows and ratios for people.
func (d document) writeTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "contender\tgoodput Gbit/s\tmin\tmax\tCPU s/GB\tping p50 us\tp99\tset-up ms\t")
	for _, r := range d.Rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Contender,
			show(r.Goodput/1e9, 2), show(r.GoodputMin/1e9, 2), show(r.GoodputMax/1e9, 2),
			show(r.CPUPerGB, 2), show(r.PingP50, 0), show(r.PingP99, 0), show(r.SetupP50, 2))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range d.Ratios {
		_, err := fmt.Fprintf(w, "ratio %s/%s: goodput %s, CPU per GB %s, ping p50 %s, set-up %s\n", r.Contender, r.To,
			show(r.Goodput, 2), show(r.CPUPerGB, 2), show(r.PingP50, 2), show(r.SetupP50, 2))
		if err != nil {
			return err
		}
	}
	return nil
}

// show prints a number with the given decimals, and a dash for none.
func show(n cli.Number, decimals int) string {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, f)
}
