package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// The story of 200 calls, as demo-rpc tells it and bench-grid measures it: the
// run of codeml with which OmniRPC was shown, with a stand-in for the program.

// callFlags say how large the story is.
type callFlags struct {
	calls         int
	work          time.Duration // of one call
	argumentBytes int
	resultBytes   int
	noFaults      bool
}

func defaultCalls() callFlags {
	return callFlags{calls: 200, work: time.Second, argumentBytes: 100_000, resultBytes: 30_000}
}

func (f *callFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&f.calls, "calls", f.calls, "how many")
	flags.DurationVar(&f.work, "work", f.work, "how long a call works")
	flags.BoolVar(&f.noFaults, "no-faults", false, "kill nobody and put nobody to sleep")
}

func (f *callFlags) check(command string) error {
	if f.calls < 1 || f.calls > 100_000 {
		return cli.Usagef(fmt.Sprintf("--calls %d", f.calls), command+" --calls 200", "it is not within 1 and 100000")
	}
	if f.work < 10*time.Millisecond {
		return cli.Usagef("--work "+f.work.String(), command+" --work 1s", "it is shorter than 10ms")
	}
	return nil
}

const (
	workersInHome  = 2
	slowWorker     = "w8"
	killedWorker   = "w3"
	sleepingWorker = "w6"
	slowness       = 10
)

// A callStory is how the calls went.
type callStory struct {
	Count        int           `json:"count"`
	WorkSeconds  cli.Number    `json:"work_seconds"` // of one call on an ordinary worker
	Seconds      cli.Number    `json:"seconds"`      // of all calls
	IdealSeconds cli.Number    `json:"ideal_seconds"`
	Ratio        cli.Number    `json:"ratio"`
	Repetitions  int           `json:"repetitions"`
	Workers      []storyWorker `json:"workers"`
	Uplinks      []storyUplink `json:"uplinks"`
	doneAt       []float64     // seconds, of each result
}

type storyWorker struct {
	Name  string `json:"name"`
	Home  string `json:"home"`
	Calls int    `json:"calls"`
	Fate  string `json:"fate"`
}

// idealSeconds is the least time in which the survivors do n calls: those at
// full speed, and one that is slower.
func idealSeconds(n, fast, slow int, work float64) float64 {
	for k := 1; ; k++ {
		// All change only at multiples of the time of one call.
		if t := float64(k) * work; fast*k+slow*(k/slowness) >= n {
			return t
		}
	}
}

// mapLine is what the story reads of "instantgrid/map/1".
type mapLine struct {
	Line     int    `json:"line"`
	Worker   string `json:"worker"`
	Attempts int    `json:"attempts"`
	Error    string `json:"error"`
	File     string `json:"file"`
}

// tellCalls has the calls made in the homes, whose workers offer the program, and
// checks every result.
func (h *homes) tellCalls(ctx context.Context, f callFlags, say func(string, ...any)) (*callStory, error) {
	s := &callStory{Count: f.calls, WorkSeconds: cli.Number(f.work.Seconds())}
	for _, w := range h.workers {
		s.Workers = append(s.Workers, storyWorker{Name: w.name, Home: w.home, Fate: "worked to the end"})
	}
	say("\n%d calls of %v, %d KB in and %d KB out; %d workers in %d homes behind NATs, 20 Mbit/s each", f.calls, f.work, f.argumentBytes/1000, f.resultBytes/1000, len(s.Workers), workHomes)
	r := &callRun{homes: h, story: s, flags: f, say: say}
	if err := r.makeInputs(filepath.Join(h.grid.dir, "ctl")); err != nil {
		return nil, err
	}
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	var text strings.Builder
	if err := s.write(&text); err != nil {
		return nil, err
	}
	say("\n%s", strings.TrimRight(text.String(), "\n"))
	say("\n  %d of %d results right; %d repetitions; %.1f s, %.2f of the ideal schedule of the survivors (%.1f s)",
		f.calls, f.calls, s.Repetitions, float64(s.Seconds), float64(s.Ratio), float64(s.IdealSeconds))
	return s, nil
}

// startForCalls makes the grid that tellCalls needs. Programs live as long as ctx.
func (h *homes) startForCalls(ctx context.Context, f callFlags) error {
	return h.start(ctx, ctx, func(w homeMember) error {
		work := f.work
		if w.name == slowWorker && !f.noFaults {
			work *= slowness
		}
		return h.callWorker(ctx, w.name, work, f.resultBytes)
	})
}

// A callRun is a story under way.
type callRun struct {
	*homes
	story  *callStory
	flags  callFlags
	say    func(string, ...any)
	inputs []string
}

// workerDocument is what the story reads of "instantgrid/worker/1".
type workerDocument struct {
	Function string `json:"function"`
}

// makeInputs writes a file of parameters for each call.
func (r *callRun) makeInputs(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	rng := rand.NewChaCha8(sha256.Sum256([]byte("parameters")))
	content := make([]byte, r.flags.argumentBytes)
	for i := range r.flags.calls {
		rng.Read(content)
		name := filepath.Join(dir, fmt.Sprintf("%04d", i+1))
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
		r.inputs = append(r.inputs, name)
	}
	return nil
}

// call has the master make the calls, lets what happens happen, and checks the
// results.
func (r *callRun) call(ctx context.Context) error {
	s := r.grid
	limited, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(r.flags.calls)*r.flags.work)
	defer cancel()
	lines := filepath.Join(s.dir, "lines")
	if err := os.WriteFile(lines, []byte(strings.Join(r.inputs, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	// The paths are direct, and the bytes counted, from here on.
	if _, err := s.grid(limited, masterHost, "workers", "--wait", "20s"); err != nil {
		return err
	}
	before := r.uplinks()
	begun := time.Now()
	p, err := s.start(limited, masterHost, s.programs.grid, "map", callFunction, "--dir", s.stateOf(masterHost), "--json", "--as-they-come",
		"--in", lines, "--files", "--out-dir", filepath.Join(s.dir, "mlc"))
	if err != nil {
		return err
	}
	defer p.stop()
	r.say("  master$ grid map %s --files --out-dir mlc < lines", callFunction)
	rows := 0
	calls := make(map[string]int)
	for {
		b, err := p.lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return p.ended(err)
		}
		var line mapLine
		if err := json.Unmarshal(b, &line); err != nil {
			return fmt.Errorf("%s printed %q: %w", p.name, b, err)
		}
		if line.Error != "" {
			return &cli.Error{Object: fmt.Sprintf("demo, call %d", line.Line), Cause: line.Error, Next: "run it again: netsim demo-rpc"}
		}
		rows++
		calls[line.Worker]++
		r.story.Repetitions += max(line.Attempts-1, 0)
		r.story.doneAt = append(r.story.doneAt, time.Since(begun).Seconds())
		if !r.flags.noFaults {
			r.happen(rows)
		}
	}
	if err := p.cmd.Wait(); err != nil {
		return p.ended(err)
	}
	r.finish(time.Since(begun), calls, before)
	return r.checkResults(filepath.Join(s.dir, "mlc"))
}

// happen kills one worker after a tenth of the calls, and puts one to sleep
// after a fifth.
func (r *callRun) happen(rows int) {
	n := len(r.inputs)
	switch rows {
	case max(n/10, 1):
		for _, p := range r.programs[killedWorker] {
			p.cmd.Process.Kill()
		}
		r.fate(killedWorker, fmt.Sprintf("killed after %d results", rows))
		r.say("  %d results: %s is killed", rows, killedWorker)
	case max(n/5, 2):
		for _, p := range r.programs[sleepingWorker] {
			p.cmd.Process.Signal(sleepSignal)
		}
		r.fate(sleepingWorker, fmt.Sprintf("put to sleep after %d results", rows))
		r.say("  %d results: %s falls asleep", rows, sleepingWorker)
	}
}

func (r *callRun) fate(who, what string) {
	for i := range r.story.Workers {
		if r.story.Workers[i].Name == who {
			r.story.Workers[i].Fate = what
		}
	}
}

// finish computes what the tables show.
func (r *callRun) finish(took time.Duration, calls map[string]int, before []storyUplink) {
	s := r.story
	for i := range s.Workers {
		s.Workers[i].Calls = calls[s.Workers[i].Name]
	}
	fast, slow := len(s.Workers), 0
	if !r.flags.noFaults {
		r.fate(slowWorker, fmt.Sprintf("worked to the end, %d times slower", slowness))
		fast, slow = len(s.Workers)-3, 1
	}
	s.Seconds = cli.Number(took.Round(time.Millisecond).Seconds())
	s.IdealSeconds = cli.Number(r.ideal(fast, slow))
	s.Ratio = cli.Number(float64(int64(float64(s.Seconds)/float64(s.IdealSeconds)*1000)) / 1000)
	s.Uplinks = r.uplinksSince(before)
}

// ideal is the schedule of those who survive: they do all that the two others
// have not done before their end.
func (r *callRun) ideal(fast, slow int) float64 {
	n := len(r.inputs)
	for _, w := range r.story.Workers {
		if w.Name == killedWorker || w.Name == sleepingWorker {
			if !r.flags.noFaults {
				n -= w.Calls
			}
		}
	}
	return idealSeconds(n, fast, slow, r.flags.work.Seconds())
}

// checkResults compares each result with what the program must return.
func (r *callRun) checkResults(dir string) error {
	for i, input := range r.inputs {
		argument, err := os.ReadFile(input)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%06d", i+1)))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, likelihood(argument, r.flags.resultBytes)) {
			return &cli.Error{Object: fmt.Sprintf("demo, call %d", i+1), Cause: "its result is wrong", Next: "run it again: netsim demo-rpc", Code: cli.ExitIntegrity}
		}
	}
	return nil
}

// likelihood stands for what codeml computes: bytes that depend on all of the
// parameters.
func likelihood(parameters []byte, size int) []byte {
	rng := rand.NewChaCha8(sha256.Sum256(parameters))
	b := make([]byte, size)
	rng.Read(b)
	return b
}

// newLikelihood is the program of the workers.
func newLikelihood() *cobra.Command {
	return &cobra.Command{
		Use:     "likelihood DURATION BYTES",
		Short:   "Read the file ctl, work for a while, and write the file mlc",
		Example: "netsim likelihood 1s 30000",
		Hidden:  true,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			work, err := time.ParseDuration(args[0])
			if err != nil {
				return err
			}
			size, err := strconv.Atoi(args[1])
			if err != nil || size < 0 {
				return cli.Usagef(args[1], "netsim likelihood 1s 30000", "it is no number of bytes")
			}
			parameters, err := os.ReadFile("ctl")
			if err != nil {
				return err
			}
			select {
			case <-time.After(work):
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
			return os.WriteFile("mlc", likelihood(parameters, size), 0o600)
		},
	}
}
