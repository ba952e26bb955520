package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
)

// matrixFlags are the flags of netsim matrix.
type matrixFlags struct {
	backend    string
	types      int
	allocation string
	pair       string
	html       string
	seed       uint64
	seeds      int
	bytes      int64
	jobs       int
}

func newMatrix() *cobra.Command {
	var f matrixFlags
	cmd := &cobra.Command{
		Use:   "matrix",
		Short: "Try every pair of NAT types, and tell which connect directly",
		Long: `For each of 378 unordered pairs of 27 NAT types (three kinds each of mapping and
filtering, RFC 4787, and of port allocation), a rendezvous on a public host and
two homes are set up, 40 ms of round trip apart, and one home's node dials the
other's and sends random bytes, whose hash is compared. --types 9 leaves the
allocation out: 45 pairs, all with random ports.

Times count from the dial, with both nodes registered. "first byte" is when the
first application byte was written, "direct" when the session first sent on a
proven direct path. Pairs are compared with the rule of which can be direct at
all; the exit code is 1 if one differs, or if bytes did not arrive.

The kernel back end uses network namespaces, runs in real time, and tries nine
types unless told.`,
		Example: `netsim matrix
netsim matrix --seeds 20 --json
netsim matrix --seeds 20 --html nat-matrix.html
netsim matrix --types 9
netsim matrix --pair EIM/APDF,APDM/APDF
netsim matrix --pair EIM/APDF/random,APDM/APDF/sequential
netsim matrix --backend kernel`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runMatrix(cmd, f) },
	}
	flags := cmd.Flags()
	flags.IntVar(&f.types, "types", 0, "NAT types: 27, or 9 without the kinds of allocation\n(default 27; 9 in the kernel and with --allocation)")
	flags.StringVar(&f.html, "html", "", "write a heat map to this file, too")
	flags.StringVar(&f.allocation, "allocation", "", "how NATs pick outside ports: preserving, sequential or random\n(default random; in the kernel EIM/APDF keeps ports, as Linux does)")
	flags.StringVar(&f.pair, "pair", "", "run one pair only, as in EIM/APDF,APDM/ADF or EIM/APDF/random,APDM/ADF/random")
	flags.Uint64Var(&f.seed, "seed", 1, "seed of the first run of each pair")
	flags.IntVar(&f.seeds, "seeds", 1, "runs of each pair, with a seed each")
	flags.Int64Var(&f.bytes, "bytes", 0, "bytes to send; 0: 1 MiB, and 256 KiB in the kernel")
	flags.IntVar(&f.jobs, "jobs", 0, "pairs that run at the same time (default: one for each processor; 4 in the kernel)")
	backend := backendFlag(cmd)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.backend = *backend
		return run(cmd, args)
	}
	return cmd
}

// A matrix is the plan of one run of netsim matrix.
type matrix struct {
	backend backend
	cells   []cell
	seed    uint64
	seeds   int
	bytes   int64
	jobs    int
}

func (f matrixFlags) plan(cmd *cobra.Command) (m matrix, err error) {
	help := cmd.CommandPath() + " --help"
	if m.backend, err = parseBackend(cmd, f.backend); err != nil {
		return m, err
	}
	var allocation *netsim.Allocation
	if f.allocation != "" {
		allocation = new(netsim.Allocation)
		if err := allocation.UnmarshalText([]byte(f.allocation)); err != nil {
			return m, cli.Usagef("--allocation "+f.allocation, help, "it is none of preserving, sequential, random")
		}
	}
	m.seed, m.seeds, m.bytes, m.jobs = f.seed, f.seeds, f.bytes, f.jobs
	switch {
	case f.seeds < 1 || f.seeds > 10000:
		return m, cli.Usagef(fmt.Sprintf("--seeds %d", f.seeds), help, "it is not between 1 and 10000")
	case f.bytes < 0 || f.bytes > 1<<30:
		return m, cli.Usagef(fmt.Sprintf("--bytes %d", f.bytes), help, "it is not between 0 and 1 GiB")
	case f.jobs < 0 || f.jobs > 1000:
		return m, cli.Usagef(fmt.Sprintf("--jobs %d", f.jobs), help, "it is not between 0 and 1000")
	}
	if m.bytes == 0 {
		m.bytes = 1 << 20
		if m.backend == namespaces {
			m.bytes = 256 << 10
		}
	}
	if m.jobs == 0 {
		m.jobs = runtime.GOMAXPROCS(0)
		if m.backend == namespaces {
			m.jobs = 4 // relayed pairs wait for seconds until they give up; more would slow each other down
		}
	}
	a, b, _ := strings.Cut(f.pair, ",")
	long := strings.Count(a, "/") == 2
	switch {
	case f.types == 0 && f.pair != "":
	case f.types == 0:
		long = allocation == nil && m.backend == sim
	case f.types == 9 || f.types == 27:
		long = f.types == 27
	default:
		return m, cli.Usagef(fmt.Sprintf("--types %d", f.types), help, "it is neither 9 nor 27")
	}
	switch {
	case long && allocation != nil:
		return m, cli.Usagef("--allocation "+f.allocation, help, "27 types have every allocation; choose --types 9")
	case long:
		m.cells = allCells(m.backend)
	default:
		m.cells = cells(m.backend, allocation)
	}
	if f.pair == "" {
		return m, nil
	}
	if !isType(a, long) || !isType(b, long) {
		return m, cli.Usagef("--pair "+f.pair, cmd.CommandPath()+" --pair EIM/APDF,APDM/ADF", "it is not two NAT types with a comma between them")
	}
	c, err := findCell(m.cells, a, b)
	if err != nil {
		return m, cli.Usagef("--pair "+f.pair, "netsim matrix --backend sim --pair "+f.pair, "%v", err)
	}
	m.cells = []cell{c}
	return m, nil
}

// isType reports whether s names one of nine NAT types or, if long, of 27.
func isType(s string, long bool) bool {
	if long {
		i := strings.LastIndexByte(s, '/')
		if i < 0 || new(netsim.Allocation).UnmarshalText([]byte(s[i+1:])) != nil {
			return false
		}
		s = s[:i]
	}
	_, err := netsim.ParseNATType(s)
	return err == nil
}

func runMatrix(cmd *cobra.Command, f matrixFlags) error {
	m, err := f.plan(cmd)
	if err != nil {
		return err
	}
	// A file that cannot be written is known before minutes of work.
	var page *os.File
	if f.html != "" {
		if page, err = os.Create(f.html); err != nil {
			return &cli.Error{Object: "--html " + f.html, Cause: err.Error(), Next: "name a file that can be written", Code: cli.ExitUsage, Err: err}
		}
		defer page.Close()
	}
	start := time.Now()
	progress := newProgressLine(cmd.ErrOrStderr())
	outcomes := m.run(cmd.Context(), func(done, all int) { progress.Set("%d of %d runs", done, all) })
	progress.Close()
	d := m.document(outcomes)
	d.WallSeconds = cli.Number(math.Round(time.Since(start).Seconds()*10) / 10)
	if cli.JSON(cmd) {
		err = cli.PrintJSON(cmd, "matrix", d)
	} else {
		err = d.write(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	if page != nil {
		if err := d.writePage(page); err != nil {
			return fmt.Errorf("write %s: %w", f.html, err)
		}
		if err := page.Close(); err != nil {
			return fmt.Errorf("write %s: %w", f.html, err)
		}
	}
	if err := interrupted(cmd); err != nil {
		return err
	}
	if bad := d.bad(); len(bad) > 0 {
		c := bad[0]
		return &cli.Error{
			Object: fmt.Sprintf("%d of %d pairs", len(bad), len(d.Rows)),
			Cause:  "not as they should be; the first is " + c.A + " - " + c.B + ": " + c.problem(),
			Next:   fmt.Sprintf("look at it alone: netsim matrix --pair %s,%s --seed %d", c.A, c.B, m.seed),
		}
	}
	return nil
}

// run returns the outcomes of each cell, one for each seed. progress is called
// after each run, by one goroutine at a time.
func (m matrix) run(ctx context.Context, progress func(done, all int)) [][]outcome {
	type place struct{ cell, seed int }
	outcomes := make([][]outcome, len(m.cells))
	all := len(m.cells) * m.seeds
	work := make(chan place, all)
	for s := range m.seeds {
		for c := range m.cells {
			work <- place{c, s}
		}
	}
	close(work)
	for c := range outcomes {
		outcomes[c] = make([]outcome, m.seeds)
	}
	var mu sync.Mutex
	done := 0
	var workers sync.WaitGroup
	for range min(m.jobs, all) {
		workers.Go(func() {
			var w worker
			defer w.stop()
			for p := range work {
				x := m.cells[p.cell].transfer(m.seed+uint64(p.seed), m.bytes)
				var o outcome
				switch {
				case ctx.Err() != nil:
					o.Failure = "interrupted"
				case m.backend == namespaces:
					o = runInKernel(ctx, x, nil)
				default:
					o = w.run(ctx, x, nil)
				}
				mu.Lock()
				outcomes[p.cell][p.seed] = o
				done++
				progress(done, all)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return outcomes
}

// matrixDocument is "instantgrid/matrix/1".
type matrixDocument struct {
	Backend     backend     `json:"backend"`
	Seed        uint64      `json:"seed"`
	Seeds       int         `json:"seeds"`
	Bytes       int64       `json:"bytes"`
	RTTMS       float64     `json:"rtt_ms"`
	WallSeconds cli.Number  `json:"wall_seconds"`
	Summary     totals      `json:"summary"`
	Rows        []matrixRow `json:"rows"`
}

// totals counts pairs.
type totals struct {
	Pairs    int `json:"pairs"`
	Complete int `json:"complete"` // all bytes arrived in every run
	Direct   int `json:"direct"`   // in every run
	Relayed  int `json:"relayed"`  // in every run
	Mixed    int `json:"mixed"`    // direct in some runs, relayed in others
	Failed   int `json:"failed"`   // a run ended without any path
	Expected int `json:"expected_direct"`
	Differ   int `json:"differ"` // from what the rule expects

	Runs       int `json:"runs"`
	RunsDirect int `json:"runs_direct"`
	// Of the pairs with at least one side that maps independently of the
	// endpoint.
	EIMPairs      int `json:"eim_pairs"`
	EIMRuns       int `json:"eim_runs"`
	EIMRunsDirect int `json:"eim_runs_direct"`
	// Of the pairs in which both sides map by address and port, with
	// contiguous ports.
	ContiguousRuns       int `json:"contiguous_runs"`
	ContiguousRunsDirect int `json:"contiguous_runs_direct"`

	ProbesMax int `json:"probes_max"` // of one run
}

// A matrixRow says what became of one pair.
type matrixRow struct {
	A               string         `json:"a"`
	B               string         `json:"b"`
	AllocationA     string         `json:"a_allocation"`
	AllocationB     string         `json:"b_allocation"`
	Runs            int            `json:"runs"`
	Completed       int            `json:"completed"` // runs whose bytes all arrived
	Direct          int            `json:"direct"`    // runs that ended direct
	Relayed         int            `json:"relayed"`
	FirstByteMS     cli.Number     `json:"first_byte_ms_median"` // null: never
	FirstByteAtPeer cli.Number     `json:"first_byte_at_peer_ms_median"`
	DirectMS        cli.Number     `json:"direct_ms_median"` // of the runs that ended direct; null: none
	DirectMSMax     cli.Number     `json:"direct_ms_max"`
	DoneMS          cli.Number     `json:"done_ms_median"`
	Reason          string         `json:"reason"`            // the most frequent one of the relayed runs
	Reasons         map[string]int `json:"reasons,omitempty"` // how often each
	Advice          string         `json:"advice,omitempty"`
	ExpectedDirect  bool           `json:"expected_direct"` // by the rule
	Differs         bool           `json:"differs"`         // runs ended otherwise
	ProbesMedian    int            `json:"probes_median"`   // packets of both nodes, besides ri2n's, to others than the rendezvous; simulator only
	ProbesMax       int            `json:"probes_max"`
	ProbeRateMax    int            `json:"probe_rate_max"`   // of one node, in a second
	Broken          string         `json:"broken,omitempty"` // the first rule for all nodes that was broken
	Disagreed       int            `json:"disagreed"`        // runs whose two ends showed different paths or reasons
	NoReason        int            `json:"no_reason"`        // runs relayed without a reason
	Failure         string         `json:"failure,omitempty"`
}

// document sums the outcomes up.
func (m matrix) document(outcomes [][]outcome) matrixDocument {
	d := matrixDocument{
		Backend: m.backend,
		Seed:    m.seed,
		Seeds:   m.seeds,
		Bytes:   m.bytes,
		RTTMS:   float64(4*uplinkDelay) / float64(time.Millisecond),
		Rows:    []matrixRow{},
	}
	for i, c := range m.cells {
		row := rowOf(c, outcomes[i])
		d.Rows = append(d.Rows, row)
		t := &d.Summary
		t.Pairs++
		count := func(n *int, yes bool) {
			if yes {
				*n++
			}
		}
		count(&t.Complete, row.Completed == row.Runs)
		count(&t.Direct, row.Direct == row.Runs)
		count(&t.Relayed, row.Relayed == row.Runs)
		count(&t.Mixed, row.path() == "mixed")
		count(&t.Failed, row.path() == "failed")
		count(&t.Expected, row.ExpectedDirect)
		count(&t.Differ, row.Differs)
		t.Runs += row.Runs
		t.RunsDirect += row.Direct
		if c.A.Mapping == netsim.EndpointIndependent || c.B.Mapping == netsim.EndpointIndependent {
			t.EIMPairs++
			t.EIMRuns += row.Runs
			t.EIMRunsDirect += row.Direct
		}
		if hard := contiguous(c.A) && contiguous(c.B); hard {
			t.ContiguousRuns += row.Runs
			t.ContiguousRunsDirect += row.Direct
		}
		t.ProbesMax = max(t.ProbesMax, row.ProbesMax)
	}
	return d
}

// contiguous reports whether n maps by address and port, each time to the next
// port.
func contiguous(n netsim.NAT) bool {
	return n.Mapping == netsim.AddressAndPortDependent && n.Allocation == netsim.Sequential
}

// rowOf sums up the runs of one cell.
func rowOf(c cell, runs []outcome) matrixRow {
	row := matrixRow{
		A:              c.nameOf(c.A),
		B:              c.nameOf(c.B),
		AllocationA:    c.A.Allocation.String(),
		AllocationB:    c.B.Allocation.String(),
		Runs:           len(runs),
		ExpectedDirect: c.expected(),
	}
	var first, atPeer, direct, done []time.Duration
	reasons := make(map[string]int)
	advice := make(map[string]string)
	var probes []int
	for _, o := range runs {
		probes = append(probes, o.Probes)
		if o.Failure != "" && row.Failure == "" {
			row.Failure = o.Failure
		}
		if o.Broken != "" && row.Broken == "" {
			row.Broken = o.Broken
		}
		row.ProbeRateMax = max(row.ProbeRateMax, o.ProbeRate)
		if o.Intact {
			row.Completed++
		}
		first = appendSet(first, o.FirstByte)
		atPeer = appendSet(atPeer, o.FirstAtPeer)
		done = appendSet(done, o.Done)
		switch {
		case o.Path == "direct":
			row.Direct++
			direct = appendSet(direct, o.Direct)
		case o.Path != "":
			row.Relayed++
			reasons[o.Reason]++
			advice[o.Reason] = o.Advice
			if o.Reason == "" {
				row.NoReason++
			}
		}
		if o.Path != "" && (o.Path != o.PeerPath || o.Reason != o.PeerReason) {
			row.Disagreed++
		}
	}
	slices.Sort(probes)
	if len(probes) > 0 {
		row.ProbesMedian, row.ProbesMax = probes[len(probes)/2], probes[len(probes)-1]
	}
	for reason, n := range reasons {
		if most := reasons[row.Reason]; n > most || n == most && reason < row.Reason {
			row.Reason = reason
		}
	}
	row.Advice, row.Reasons = advice[row.Reason], reasons
	row.FirstByteMS, row.FirstByteAtPeer = medianMS(first), medianMS(atPeer)
	row.DirectMS, row.DoneMS = medianMS(direct), medianMS(done)
	row.DirectMSMax = cli.Number(math.NaN())
	if len(direct) > 0 {
		row.DirectMSMax = inMS(slices.Max(direct))
	}
	// Where chance decides, a tenth may fail.
	least := row.Runs
	if !netsim.DirectPossible(c.A.Type(), c.B.Type()) {
		least = row.Runs - (row.Runs+9)/10
	}
	row.Differs = row.ExpectedDirect && row.Direct < least || !row.ExpectedDirect && row.Direct > 0
	return row
}

func appendSet(all []time.Duration, d time.Duration) []time.Duration {
	if d == 0 {
		return all
	}
	return append(all, d)
}

// medianMS returns the median in milliseconds, NaN of nothing.
func medianMS(all []time.Duration) cli.Number {
	if len(all) == 0 {
		return cli.Number(math.NaN())
	}
	slices.Sort(all)
	return inMS((all[(len(all)-1)/2] + all[len(all)/2]) / 2)
}

// inMS converts to milliseconds, to the microsecond.
func inMS(d time.Duration) cli.Number {
	return cli.Number(float64(d.Round(time.Microsecond)) / float64(time.Millisecond))
}

// path sums up how the runs ended: "direct", "relay", "mixed", or "failed" if
// one ended without any path.
func (r matrixRow) path() string {
	switch {
	case r.Direct+r.Relayed < r.Runs:
		return "failed"
	case r.Relayed == 0:
		return "direct"
	case r.Direct == 0:
		return "relay"
	}
	return "mixed"
}

// problem says what is wrong with a row, or nothing.
func (r matrixRow) problem() string {
	switch {
	case r.Failure != "":
		return firstLine(r.Failure)
	case r.Broken != "":
		return r.Broken
	case r.Completed < r.Runs:
		return fmt.Sprintf("%d of %d runs complete", r.Completed, r.Runs)
	case r.Differs && r.ExpectedDirect:
		return fmt.Sprintf("%d of %d runs direct, and the rule says more", r.Direct, r.Runs)
	case r.Differs:
		return fmt.Sprintf("%d of %d runs direct, and the rule says none", r.Direct, r.Runs)
	case r.NoReason > 0:
		return "relayed without a reason"
	case r.Disagreed > 0:
		return "the two ends show different paths or reasons"
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// bad returns the rows with a problem.
func (d matrixDocument) bad() (bad []matrixRow) {
	for _, r := range d.Rows {
		if r.problem() != "" {
			bad = append(bad, r)
		}
	}
	return bad
}

// write prints d as a table.
func (d matrixDocument) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "a\tb\tpath\truns\tcomplete\tfirst byte\tdirect after\tprobes\trule\treason")
	ms := func(n cli.Number) string {
		if math.IsNaN(float64(n)) {
			return "-"
		}
		return fmt.Sprintf("%.1f ms", float64(n))
	}
	for _, r := range d.Rows {
		rule := "relay"
		if r.ExpectedDirect {
			rule = "direct"
		}
		if r.Differs {
			rule += " (differs)"
		}
		reason := r.Reason
		if p := r.problem(); p != "" {
			reason = "PROBLEM: " + p
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\t%s\n", r.A, r.B, r.path(), r.Runs, r.Completed, ms(r.FirstByteMS), ms(r.DirectMS), r.ProbesMax, rule, reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	t := d.Summary
	_, err := fmt.Fprintf(out, "\n%d pairs: %d complete, %d direct, %d relayed, %d mixed, %d failed; %d differ from the rule (backend %s, seeds %d to %d, %d bytes, %.1f s)\n",
		t.Pairs, t.Complete, t.Direct, t.Relayed, t.Mixed, t.Failed, t.Differ, d.Backend, d.Seed, d.Seed+uint64(d.Seeds)-1, d.Bytes, float64(d.WallSeconds))
	if err == nil {
		_, err = fmt.Fprintf(out, "%s of all runs are direct, %s of those with an endpoint-independent mapping on a side; at most %d probes\n",
			share(t.RunsDirect, t.Runs), share(t.EIMRunsDirect, t.EIMRuns), t.ProbesMax)
	}
	return err
}

// share prints a part of a whole in per cent.
func share(part, whole int) string {
	if whole == 0 {
		return "none"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}
