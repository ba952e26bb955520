package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func newCompare() *cobra.Command {
	var k comparison
	var names, among, html, out string
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure ri2n beside its peers, in namespaces of its own (root)",
		Long: `compare builds networks of namespaces, runs each contender's server and client
in processes of their own inside, in turns, and prints what they reached beside
the figures that ri2n is to reach. Goodput is what the receiver counted, the
median of the rounds; CPU-seconds per GB (10^9 bytes) are those of both
processes, user and system (getrusage).

Scenarios: ` + strings.ReplaceAll(scenarioNames(), ",", ", ") + `.
Contenders: ` + strings.ReplaceAll(contenderNames(), ",", ", ") + `.

It needs root, and leaves nothing behind, however it ends.`,
		Example: "ri2n-bench compare --scenario bulk,cut --rounds 5\nri2n-bench compare --html bench.html\nri2n-bench compare --scenario ping --contenders ri2n,udp --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := scenariosNamed(names)
			if err != nil {
				return err
			}
			if err := k.check(cmd, among); err != nil {
				return err
			}
			progress := newRoundProgress(cmd.ErrOrStderr())
			defer progress.close()
			k.progress = progress.set
			return k.runAll(cmd, chosen, html, out)
		},
	}
	cmd.Flags().StringVar(&names, "scenario", "all", "which to run, separated by commas, or all")
	cmd.Flags().StringVar(&among, "contenders", "", "which to measure where a scenario has them; empty: all that it has")
	cmd.Flags().IntVar(&k.rounds, "rounds", 3, "how often each contender is measured, in turns")
	cmd.Flags().Float64Var(&k.seconds, "seconds", 3, "length of a transfer; slow links take twice to five times, flap 20 times as long")
	cmd.Flags().IntVar(&k.pings, "pings", 2000, "64-byte messages in each round of ping")
	cmd.Flags().IntVar(&k.setups, "setups", 50, "connections in each round of setup")
	cmd.Flags().IntVar(&k.sessions, "sessions", 10000, "idle sessions of ri2n; the others open a tenth")
	cmd.Flags().StringVar(&k.profiles, "profile", "", "folder to write CPU profiles of all processes to, for go tool pprof")
	cmd.Flags().StringVar(&html, "html", "", "file to write a report with plots to")
	cmd.Flags().StringVar(&out, "out", "", "`folder` to write report.txt, report.json and report.html to")
	k.traces.addFlags(cmd)
	cmd.Flags().Lookup("qlog").Usage = "`folder` to write traces of ri2n's first sender and of its receiver to, for ri2n-bench plot"
	return cmd
}

func (k *comparison) check(cmd *cobra.Command, among string) error {
	next := cmd.CommandPath() + " --help"
	switch {
	case k.rounds < 1 || k.rounds > 1000:
		return cli.Usagef("--rounds", next, "must be from 1 to 1000, not %d", k.rounds)
	case !(k.seconds >= 0.1 && k.seconds <= 600):
		return cli.Usagef("--seconds", next, "must be from 0.1 to 600, not %g", k.seconds)
	case k.pings < 1 || k.pings > 1_000_000 || k.setups < 1 || k.setups > 100_000:
		return cli.Usagef("--pings, --setups", next, "must be at least 1, and at most 1000000 and 100000")
	case k.sessions < 1 || k.sessions > 16000:
		return cli.Usagef("--sessions", next, "must be from 1 to 16000, not %d", k.sessions)
	}
	if among == "" {
		return nil
	}
	chosen, err := contendersNamed(among)
	if err != nil {
		return err
	}
	k.wanted = make(map[string]bool)
	for _, c := range chosen {
		k.wanted[c.name] = true
	}
	return nil
}

// errNothingWorked reports that no contender could be measured.
var errNothingWorked = errors.New("nothing could be measured; the rows say why")

// runAll runs the scenarios and prints the result, also when it could not.
func (k *comparison) runAll(cmd *cobra.Command, chosen []scenario, html, out string) error {
	ctx := cmd.Context()
	started := time.Now()
	refused := kernel.Check()
	if refused == nil {
		k.program, refused = os.Executable()
	}
	if refused == nil && k.traces.File != "" {
		refused = os.MkdirAll(k.traces.File, 0o700)
	}
	for _, s := range chosen {
		for _, v := range s.variants {
			switch {
			case refused != nil:
				k.refuse(s, v, refused)
			case ctx.Err() != nil:
				k.refuse(s, v, context.Cause(ctx))
			default:
				k.run(ctx, s, v)
			}
		}
	}
	d := document{Rows: k.rows()}
	if refused == nil {
		d.Goals = goalsOf(d.Rows)
	}
	var err error
	switch {
	case cli.JSON(cmd):
		err = cli.PrintJSON(cmd, "bench", d)
	case refused == nil:
		err = writeComparison(cmd.OutOrStdout(), d)
	}
	if html != "" && refused == nil {
		err = errors.Join(err, k.writeReport(html, chosen, d, started))
	}
	if out != "" {
		err = errors.Join(err, k.writeReports(out, chosen, d, started))
	}
	switch {
	case refused != nil:
		return &cli.Error{
			Object: "compare", Cause: refused.Error(),
			Next: "run it as root, or compare over loopback: ri2n-bench local", Code: cli.ExitFailed, Err: refused,
		}
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return failure(d.Rows)
}

func (k *comparison) rows() []row {
	rows := make([]row, len(k.results))
	for i, r := range k.results {
		rows[i] = r.row
	}
	return rows
}

// failure says which of ri2n's measurements failed. Where another contender
// did, its row says so, and the comparison stands.
func failure(rows []row) error {
	var errs []error
	for _, r := range rows {
		if r.Contender == "ri2n" && r.Error != "" {
			errs = append(errs, fmt.Errorf("%s: ri2n: %s", strings.TrimSpace(r.Scenario+" "+r.Variant), r.Error))
		}
	}
	if len(errs) == 0 && !slices.ContainsFunc(rows, func(r row) bool { return r.Error == "" }) {
		return errNothingWorked
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// A column of a comparison's table is one figure of a row.
type column struct {
	name     string
	value    func(row) cli.Number
	unit     float64 // what one of the column is in the row's unit
	decimals int
}

// columns are shown where some row of a variant has the figure.
var columns = []column{
	{"Mbit/s", goodputOf, 1e6, 1},
	{"min", func(r row) cli.Number { return r.GoodputMin }, 1e6, 1},
	{"max", func(r row) cli.Number { return r.GoodputMax }, 1e6, 1},
	{"CPU s/GB", cpuPerGBOf, 1, 2},
	{"ping p50 us", pingOf, 1, 0},
	{"p99 us", func(r row) cli.Number { return r.PingP99 }, 1, 0},
	{"set-up ms", setupOf, 1, 2},
	{"longest gap ms", gapOf, 1, 0},
	{"Mbit/s after fault", func(r row) cli.Number { return r.Recovered }, 1e6, 1},
	{"share", func(r row) cli.Number { return r.Share }, 1, 2},
	{"KiB/session", func(r row) cli.Number { return r.RSS }, 1 << 10, 1},
	{"goroutines", func(r row) cli.Number { return r.Goroutines }, 1, 2},
	{"core share", func(r row) cli.Number { return r.CPUShare }, 1, 3},
}

// A table is the rows of one variant, with the columns that some of them have.
type table struct {
	scenario, variant string
	columns           []column
	rows              []row
}

// tablesOf splits rows by variant. A column without a figure is left out.
func tablesOf(rows []row) []table {
	var tables []table
	for _, r := range rows {
		last := len(tables) - 1
		if last < 0 || tables[last].scenario != r.Scenario || tables[last].variant != r.Variant {
			tables = append(tables, table{scenario: r.Scenario, variant: r.Variant})
			last++
		}
		tables[last].rows = append(tables[last].rows, r)
	}
	for i := range tables {
		for _, c := range columns {
			if slices.ContainsFunc(tables[i].rows, func(r row) bool { return !c.value(r).IsZero() }) {
				tables[i].columns = append(tables[i].columns, c)
			}
		}
	}
	return tables
}

// cells returns a row's figures as text.
func (t table) cells(r row) []string {
	cells := make([]string, len(t.columns))
	for i, c := range t.columns {
		cells[i] = show(c.value(r)/cli.Number(c.unit), c.decimals)
	}
	return cells
}

// title names the variant that a table is of.
func (t table) title() string {
	if t.variant == "" {
		return t.scenario
	}
	return t.scenario + ": " + t.variant
}

// writeComparison prints tables and goals for people.
func writeComparison(w io.Writer, d document) error {
	for _, t := range tablesOf(d.Rows) {
		fmt.Fprintf(w, "%s\n", t.title())
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(tw, "  contender\t")
		for _, c := range t.columns {
			fmt.Fprintf(tw, "%s\t", c.name)
		}
		fmt.Fprintln(tw)
		for _, r := range t.rows {
			fmt.Fprintf(tw, "  %s\t%s\t\n", r.Contender, strings.Join(t.cells(r), "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for _, r := range t.rows {
			if r.Note != "" {
				fmt.Fprintf(w, "  %s: %s\n", r.Contender, r.Note)
			}
			if r.Error != "" {
				fmt.Fprintf(w, "  %s: %s\n", r.Contender, r.Error)
			}
		}
		fmt.Fprintln(w)
	}
	if len(d.Goals) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "scenario\tfigure\tto reach\treached\t")
	for _, g := range d.Goals {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", g.Scenario, g.Figure, g.limit(), show(g.Value, 2), g.verdict())
	}
	return tw.Flush()
}

// newTwoLinks makes the short form of compare --scenario two-links.
func newTwoLinks() *cobra.Command {
	cmd := newCompare()
	cmd.Use = "two-links"
	cmd.Short = "Measure two links beside one, and two NATed homes (root)"
	cmd.Long = `two-links is compare --scenario two-links: one stream over one and over two
links of 100 Mbit/s; then between two homes that each have two uplinks, with a
NAT behind each, over one and over both, and with either of them cut under way.

It needs root, and leaves nothing behind, however it ends.`
	cmd.Example = "ri2n-bench two-links --rounds 3"
	cmd.Flags().Set("scenario", "two-links")
	cmd.Flags().MarkHidden("scenario")
	return cmd
}
