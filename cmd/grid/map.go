package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/sweep"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// mapRow is a line of "instantgrid/map/1": one result.
type mapRow struct {
	Line     int        `json:"line"` // from 1
	Argument string     `json:"argument"`
	Worker   string     `json:"worker,omitempty"`
	Attempts int        `json:"attempts,omitempty"`
	Seconds  cli.Number `json:"seconds"`
	Kept     bool       `json:"kept,omitempty"` // an earlier run of the command had it
	Error    string     `json:"error,omitempty"`
	resultFields
}

// mapFlags are those of grid map.
type mapFlags struct {
	callerFlags
	howFlags
	in, out, outDir, journal string
	files, asTheyCome        bool
	noJournal                bool
	window                   int
}

const (
	// maxLine bounds a line of arguments, in bytes.
	maxLine = 16 << 20
	// journalKept is how long the journal of a sweep that nobody has ended is
	// kept.
	journalKept = 30 * 24 * time.Hour
	// mapWindow is how many calls are under way at once: workers that take their
	// time leave most of them waiting here.
	mapWindow = 1000
)

func mapCommand(o *options) *cobra.Command {
	var f mapFlags
	cmd := &cobra.Command{
		Use:   "map FUNCTION",
		Short: "Call a function once for each line, on all workers of the grid",
		Long: `Read lines and call the function with each of them: JSON for a function that works
on values, text for a program, or, with --files, the content of the file that the
line names. Results are printed in the order of the lines, each on a line of its
own, or with --as-they-come at once.

Each result is on disk before it is printed. When this command is killed, the same
command with the same lines goes on where it was: what is done is printed again
and not done again. The journal for that is in the state directory, or where
--journal says, and goes when all is done.

A call that a function fails is reported and does not stop the others; the exit
code is then 1, and the same command tries those again. On a terminal a bar shows
how far it is.`,
		Example: `seq 100 | grid map square > squares.txt
ls params/*.ctl | grid map codeml --files --out-dir results
grid map render --in frames.txt --as-they-come --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := f.options("grid map FUNCTION")
			if err != nil {
				return err
			}
			if f.out != "" && f.outDir != "" {
				return cli.Usagef("--out-dir", "grid map FUNCTION --out-dir DIRECTORY", "there is --out as well")
			}
			if f.window < 1 || f.window > 100_000 {
				return cli.Usagef("--window "+strconv.Itoa(f.window), "grid map FUNCTION --window 1000", "it is not within 1 and 100000")
			}
			lines, err := f.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			return o.withReach(cmd, func(r reach) error {
				return f.run(cmd, r, &master{function: args[0], lines: lines, flags: f, options: options, watch: newCallWatch()})
			})
		},
	}
	f.callerFlags.add(cmd)
	f.howFlags.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.in, "in", "", "`file` of lines (default the standard input)")
	flags.BoolVar(&f.files, "files", false, "each line names a file whose content is the argument")
	flags.StringVar(&f.out, "out", "", "`file` for the results, which appears when all are there (default the standard output)")
	flags.StringVar(&f.outDir, "out-dir", "", "`directory` for the results, one file for each line, by its number")
	flags.BoolVar(&f.asTheyCome, "as-they-come", false, "print each result when it comes, with the number of its line before it")
	flags.StringVar(&f.journal, "journal", "", "`file` that keeps what is done, and is kept itself (default one in the state directory)")
	flags.BoolVar(&f.noJournal, "no-journal", false, "keep nothing: a killed command begins anew")
	flags.IntVar(&f.window, "window", mapWindow, "how many calls are under way or wait for a worker at once")
	return cmd
}

// read returns the lines.
func (f *mapFlags) read(stdin io.Reader) ([]string, error) {
	from := "the standard input"
	if f.in != "" && f.in != "-" {
		file, err := os.Open(f.in)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		stdin, from = file, f.in
	}
	s := bufio.NewScanner(stdin)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	lines := []string{}
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return nil, cli.Usagef(fmt.Sprintf("line %d of %s", len(lines)+1, from), "put large arguments into files: grid map FUNCTION --files", "it has more than %s", sizeText(maxLine))
	}
	return lines, s.Err()
}

// A master makes the calls of grid map.
type master struct {
	function string
	lines    []string
	flags    mapFlags
	options  []rpc.Option
	watch    *callWatch
	client   *rpc.Client
	info     rpc.FunctionInfo
	rows     []mapRow // what is known of each line
}

// run makes all calls and prints what comes of them.
func (f *mapFlags) run(cmd *cobra.Command, r reach, m *master) error {
	finder, err := f.finder(r, "grid map FUNCTION --worker NAME:PORT")
	if err != nil {
		return err
	}
	j, err := m.openJournal(r.dir)
	if err != nil {
		return err
	}
	if j != nil {
		defer j.Close()
	}
	if m.client, err = finder.newCaller(cmd.Context(), rpc.ClientConfig{OnEvent: m.watch.event}); err != nil {
		return err
	}
	defer m.client.Close()
	if m.info, err = f.function(cmd.Context(), m.client, m.function); err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	m.rows = make([]mapRow, len(m.lines))

	kept := 0
	if j != nil {
		kept = j.Done()
	}
	if kept > 0 {
		cli.Note(cmd, "%d of %d lines were done before", kept, len(m.lines))
	}
	bar := cli.NewTally(cmd.ErrOrStderr(), m.function, int64(len(m.lines)), int64(kept))
	defer bar.Close()
	begun := time.Now()
	var sum sweep.Summary
	err = f.output(cmd, bar.Above(cmd.OutOrStdout()), func(emit func(*mapRow, sweep.Outcome) error) error {
		sum, err = sweep.Run(cmd.Context(), sweep.Config{
			Tasks: len(m.lines), Journal: j, Window: f.window, Unordered: f.asTheyCome,
			Do: m.do,
			Emit: func(o sweep.Outcome) error {
				row := m.row(o)
				if o.Err != nil {
					fmt.Fprintf(bar.Above(cmd.ErrOrStderr()), "line %d: %s\n", row.Line, row.Error)
				}
				return emit(row, o)
			},
			Progress: func(done int) {
				bar.Note(m.note())
				bar.Set(int64(done))
			},
		})
		return err
	})
	bar.Close()
	if err != nil {
		if j != nil && cmd.Context().Err() != nil {
			cli.Note(cmd, "%d of %d lines are done and kept; the same command goes on from there", j.Done(), len(m.lines))
		}
		return err
	}
	cli.Note(cmd, "%d lines: %d done, %d of them before; %d failed; %d repetitions; %s", len(m.lines), sum.Done, sum.Kept, sum.Failed, m.watch.again(), secondsText(time.Since(begun)))
	if sum.Failed > 0 {
		return &cli.Error{Object: "function " + m.function, Cause: fmt.Sprintf("%d of %d calls failed", sum.Failed, len(m.lines)), Next: "mend these lines, or run the same command again, which tries only them"}
	}
	if j != nil && f.journal == "" {
		return j.Remove()
	}
	return nil
}

// openJournal opens the journal of this sweep: of the function, the arguments
// and how they are read.
func (m *master) openJournal(dir string) (*sweep.Journal, error) {
	if m.flags.noJournal {
		return nil, nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %v %d\n", m.function, m.flags.files, len(m.lines))
	for _, line := range m.lines {
		fmt.Fprintf(h, "%q\n", line)
		if m.flags.files {
			f, err := os.Open(line)
			if err != nil {
				return nil, err
			}
			_, err = io.Copy(h, f)
			f.Close()
			if err != nil {
				return nil, err
			}
		}
	}
	key := [32]byte(h.Sum(nil))
	path := m.flags.journal
	if path == "" {
		maps := filepath.Join(dir, "maps")
		if err := os.MkdirAll(maps, 0o700); err != nil {
			return nil, err
		}
		forgetJournals(maps)
		path = filepath.Join(maps, hex.EncodeToString(key[:8])+".journal")
	}
	j, err := sweep.Open(path, key)
	switch {
	case errors.Is(err, sweep.ErrTaken):
		return nil, &cli.Error{Object: path, Cause: "another grid map with the same lines is running", Next: "wait for it, or run this one with --no-journal", Err: err}
	case errors.Is(err, sweep.ErrOther):
		return nil, &cli.Error{Object: path, Cause: "it is no journal of this function and these lines", Next: "name another file: --journal FILE", Err: err}
	}
	return j, err
}

// forgetJournals removes those of sweeps that nobody goes on with.
func forgetJournals(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > journalKept {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// check refuses what no call could be made of, before any is made.
func (m *master) check() error {
	for i, line := range m.lines {
		if m.flags.files {
			if info, err := os.Stat(line); err != nil {
				return err
			} else if !info.Mode().IsRegular() {
				return cli.Usagef(fmt.Sprintf("line %d", i+1), "grid map FUNCTION --files", "%q is no file", line)
			}
			continue
		}
		if m.info.Kind == rpc.KindValues && !json.Valid([]byte(line)) {
			next := "write each line as JSON; a text stands in quotation marks"
			if m.info.Signature != "" {
				next += "; the function is " + m.info.Signature
			}
			return cli.Usagef(fmt.Sprintf("line %d", i+1), next, "it is not JSON: %.60q", line)
		}
	}
	return nil
}

// do makes the call of a line.
func (m *master) do(ctx context.Context, line int) ([]byte, error) {
	ctx, cancel := m.flags.call(ctx)
	defer cancel()
	var argument rpc.Source
	if m.flags.files {
		argument = rpc.File(m.lines[line])
	} else if m.info.Kind == rpc.KindStream {
		argument = rpc.Bytes(m.lines[line] + "\n")
	} else {
		argument = rpc.Bytes(m.lines[line])
	}
	var number uint64
	options := append([]rpc.Option{rpc.OnStart(func(call uint64) { number = call; m.watch.begin(call) })}, m.options...)
	begun := time.Now()
	var result bytes.Buffer
	err := carryOut(ctx, m.client, m.info, argument, &result, options)
	seen := m.watch.end(number)
	m.rows[line].Worker, m.rows[line].Attempts = workerName(seen.worker), seen.starts
	m.rows[line].Seconds = cli.Number(time.Since(begun).Round(time.Millisecond).Seconds())
	return result.Bytes(), err
}

// row completes what is known of a line.
func (m *master) row(o sweep.Outcome) *mapRow {
	row := &m.rows[o.Task]
	row.Line, row.Argument, row.Kept = o.Task+1, m.lines[o.Task], o.Kept
	if o.Err != nil {
		row.Error = o.Err.Error()
		if e := explain(o.Err); e != nil {
			row.Error = e.Object + ": " + e.Cause
		}
		return row
	}
	row.resultFields = fieldsOf(m.info, o.Result)
	return row
}

// note is what the bar says besides.
func (m *master) note() string {
	workers, busy := 0, 0
	for _, w := range m.client.Workers() {
		if w.Connected && offers(w, m.function) {
			workers++
			busy += w.Running
		}
	}
	return fmt.Sprintf("%d running, workers: %d, repetitions: %d", busy, workers, m.watch.again())
}

func offers(w rpc.WorkerStatus, function string) bool {
	for _, f := range w.Functions {
		if f.Name == function {
			return true
		}
	}
	return false
}

// output runs f with what prints a result where the flags say.
func (f *mapFlags) output(cmd *cobra.Command, stdout io.Writer, run func(emit func(*mapRow, sweep.Outcome) error) error) error {
	switch {
	case f.outDir != "":
		if err := os.MkdirAll(f.outDir, 0o755); err != nil {
			return err
		}
		return run(func(row *mapRow, o sweep.Outcome) error {
			if o.Err == nil {
				row.File = filepath.Join(f.outDir, fmt.Sprintf("%06d", row.Line))
				err := replaceFile(row.File, func(w io.Writer) error { _, err := w.Write(o.Result); return err })
				if err != nil {
					return err
				}
				row.Value, row.Text, row.Bytes = nil, nil, nil
			}
			if cli.JSON(cmd) {
				return f.print(cmd, stdout, row, o)
			}
			return nil
		})
	case f.out != "":
		return replaceFile(f.out, func(w io.Writer) error {
			return run(func(row *mapRow, o sweep.Outcome) error { return f.print(cmd, w, row, o) })
		})
	}
	return run(func(row *mapRow, o sweep.Outcome) error { return f.print(cmd, stdout, row, o) })
}

// print writes one result on a line.
func (f *mapFlags) print(cmd *cobra.Command, w io.Writer, row *mapRow, o sweep.Outcome) error {
	if cli.JSON(cmd) {
		b, err := cli.AppendDocument(nil, "map", row)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	var line []byte
	if f.asTheyCome {
		line = fmt.Appendf(line, "%d\t", row.Line)
	}
	if o.Err == nil {
		line = append(line, bytes.TrimRight(o.Result, "\n")...)
	} else {
		line = append(line, "error: "+strings.ReplaceAll(row.Error, "\n", " ")...)
	}
	_, err := w.Write(append(line, '\n'))
	return err
}
