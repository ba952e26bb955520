package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/netsim"
)

// Transfers in the simulator run in worker processes, which are this program
// again: virtual time is to be had inside a test only (bubble.go), a panic in
// one transfer must not take the others with it, and cells of the matrix are
// independent.

// A workerLine is what a worker writes, as one line of JSON.
type workerLine struct {
	Event   *event   `json:",omitempty"`
	Outcome *outcome `json:",omitempty"`
}

// newWorker is the command that workers run: transfers come as JSON lines on
// the standard input.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use:     "worker",
		Short:   "Run transfers in virtual time for another netsim",
		Example: "netsim worker",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			withBubbles(func(b bubbles, stdout *os.File) int {
				if err := serve(b, os.Stdin, stdout); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
				return 0
			})
			return nil
		},
	}
}

// serve runs each transfer that it reads.
func serve(b bubbles, in io.Reader, out io.Writer) error {
	requests := json.NewDecoder(in)
	answers := json.NewEncoder(out)
	for {
		var x transfer
		switch err := requests.Decode(&x); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		o := b.transfer(x, func(e event) { answers.Encode(workerLine{Event: &e}) })
		if err := answers.Encode(workerLine{Outcome: &o}); err != nil {
			return err
		}
	}
}

// transfer runs x in the simulator, in virtual time.
func (b bubbles) transfer(x transfer, report func(event)) (o outcome) {
	capture, err := newCapture(x.Capture)
	if err != nil {
		return outcome{Failure: err.Error()}
	}
	b.run(func() {
		w := newWatch(x)
		network, err := startSim(x.Scenario, netsim.WithTrace(func(e netsim.TraceEvent) {
			w.see(e)
			capture.see(e)
		}))
		if err != nil {
			o.Failure = err.Error()
			return
		}
		defer network.Close()
		o = x.run(context.Background(), network, report)
		network.Close() // the last step was traced
		w.report(&o)
	})
	if err := capture.close(); err != nil && o.Failure == "" {
		o.Failure = err.Error()
	}
	return o
}

// stuckAfter is the wall-clock time without a word after which a worker is
// killed: a deadlock on a mutex stops the virtual clock for ever. A transfer
// of 64 MiB takes some seconds.
const stuckAfter = 2 * time.Minute

// A worker is a process that runs one transfer at a time. The zero value
// starts its process when it is needed. One goroutine uses it.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *lastWords
}

func (w *worker) start() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	w.cmd = exec.Command(program, "worker")
	w.stderr = new(lastWords)
	w.cmd.Stderr = w.stderr
	w.cmd.SysProcAttr = dieWithParent()
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		w.cmd = nil
		return fmt.Errorf("start a worker: %w", err)
	}
	return nil
}

// stop ends the process and returns what it last said on its standard error.
func (w *worker) stop() string {
	if w.cmd == nil {
		return ""
	}
	w.in.Close()
	w.cmd.Process.Kill()
	w.cmd.Wait()
	w.cmd = nil
	return w.stderr.String()
}

// run has the process carry out x. A process that panics or hangs is replaced,
// and the outcome says so. When ctx ends, the process is killed.
func (w *worker) run(ctx context.Context, x transfer, report func(event)) (o outcome) {
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return outcome{Failure: err.Error()}
		}
	}
	process := w.cmd.Process
	defer context.AfterFunc(ctx, func() { process.Kill() })()
	stuck := time.AfterFunc(stuckAfter, func() { process.Kill() })
	defer func() {
		stuck.Stop()
		if o.Failure != "" && ctx.Err() != nil {
			o.Failure = ctx.Err().Error()
		}
	}()
	if err := json.NewEncoder(w.in).Encode(x); err != nil {
		return outcome{Failure: fmt.Sprintf("the worker does not listen: %v\n%s", err, w.stop())}
	}
	for {
		b, err := w.out.ReadBytes('\n')
		if err != nil {
			alive := stuck.Stop()
			said := w.stop()
			if !alive {
				return outcome{Failure: fmt.Sprintf("no progress for %v of real time: the simulation is stuck", stuckAfter)}
			}
			return outcome{Failure: "the worker ended: " + said}
		}
		var line workerLine
		if err := json.Unmarshal(b, &line); err != nil {
			return outcome{Failure: fmt.Sprintf("the worker said %q: %v\n%s", b, err, w.stop())}
		}
		switch {
		case line.Outcome != nil:
			return *line.Outcome
		case line.Event != nil && report != nil:
			stuck.Reset(stuckAfter)
			report(*line.Event)
		}
	}
}

// lastWords keeps the beginning of what is written to it: the message of a panic
// comes first, and stacks follow. It is safe for concurrent use.
type lastWords struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// lastWordsSize bounds what is kept of a worker's last words, in bytes.
const lastWordsSize = 4 << 10

func (t *lastWords) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b[:min(len(b), max(0, lastWordsSize-t.buf.Len()))])
	return len(b), nil
}

func (t *lastWords) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}

// runInSim runs one transfer in the simulator.
func runInSim(ctx context.Context, x transfer, report func(event)) outcome {
	var w worker
	defer w.stop()
	return w.run(ctx, x, report)
}

// runInKernel runs one transfer in network namespaces, in real time.
func runInKernel(ctx context.Context, x transfer, report func(event)) outcome {
	network, err := startKernel(x.Scenario)
	if err != nil {
		return outcome{Failure: err.Error()}
	}
	defer network.Close()
	return x.run(ctx, network, report)
}
