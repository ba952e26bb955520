package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A job is what compare asks of a process inside a namespace: one line of JSON
// on its standard input, whose end also ends the process.
type job struct {
	Contender string `json:"contender"`
	// Address is where to listen, or whom to reach: one for each link.
	Address string `json:"address"`
	// Measure says what a client measures. A server has none.
	Measure measure     `json:"measure,omitempty"`
	Peer    ri2n.PeerID `json:"peer"`
	Seconds float64     `json:"seconds,omitempty"`
	Count   int         `json:"count,omitempty"` // pings, set-ups, idle sessions
	Verify  bool        `json:"verify,omitempty"`
	// Sessions bounds what a server serves at a time.
	Sessions int `json:"sessions,omitempty"`
	// Profile is a file for the CPU profile of this process; empty: none.
	Profile string `json:"profile,omitempty"`
	// Trace is a file for what ri2n does in this process; empty: none.
	Trace tracing `json:"trace,omitzero"`
}

// A measure is one kind of measurement.
type measure string

const (
	measuresBulk  measure = "bulk"
	measuresPing  measure = "ping"
	measuresSetup measure = "setup"
	measuresIdle  measure = "idle"
)

// A measured is what a client found: one line of JSON on its standard output.
type measured struct {
	Bulk  *bulk           `json:"bulk,omitempty"`
	Ping  []time.Duration `json:"ping,omitempty"`
	Setup []time.Duration `json:"setup,omitempty"`
	Idle  *idle           `json:"idle,omitempty"`
	Note  string          `json:"note,omitempty"`
	Error string          `json:"error,omitempty"`
}

// newWorker makes the command that compare runs inside its namespaces.
func newWorker() *cobra.Command {
	cpu := -1
	cmd := &cobra.Command{
		Use:     "worker",
		Short:   "Serve or measure one contender for compare",
		Long:    "worker is what compare runs inside its namespaces. It reads a job from its standard input.",
		Example: "ri2n-bench worker --cpu 0",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cpu >= 0 {
				return stayOn(cpu) // starts this program again
			}
			return runWorker(cmd, cmd.InOrStdin())
		},
	}
	cmd.Flags().IntVar(&cpu, "cpu", -1, "the only processor to run on; below zero: all")
	return cmd
}

func runWorker(cmd *cobra.Command, in io.Reader) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	var j job
	if err := json.Unmarshal(line, &j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	c, ok := contenderNamed(j.Contender)
	if !ok {
		return fmt.Errorf("no contender %q on this system", j.Contender)
	}
	if j.Profile != "" {
		f, err := os.Create(j.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	go func() {
		io.Copy(io.Discard, input)
		cancel()
	}()
	if j.Measure == "" {
		return serveJob(ctx, cmd, c, j)
	}
	m, err := measureJob(ctx, cmd, c, j)
	if err != nil {
		m.Error = err.Error()
	}
	pprof.StopCPUProfile() // whole before the result: compare then ends this process
	return cli.PrintJSONLine(cmd, "bench-measured", m)
}

func serveJob(ctx context.Context, cmd *cobra.Command, c contender, j job) error {
	key, err := newIdentity()
	if err != nil {
		return err
	}
	endTrace, err := j.Trace.begin(cmd, &key, j.Contender+" receiver")
	if err != nil {
		return err
	}
	defer endTrace()
	ln, err := c.listen(ctx, j.Address, key)
	if err != nil {
		return err
	}
	defer ln.Close()
	line := serverLine{c.name, target{j.Address, key.ri2n.PeerID()}.String()}
	if err := cli.PrintJSONLine(cmd, "bench-server", line); err != nil {
		return err
	}
	return acceptLoop(ctx, ln, max(j.Sessions, maxConns))
}

func measureJob(ctx context.Context, cmd *cobra.Command, c contender, j job) (m measured, err error) {
	key, err := newIdentity()
	if err != nil {
		return m, err
	}
	endTrace, err := j.Trace.begin(cmd, &key, j.Contender+" sender")
	if err != nil {
		return m, err
	}
	defer endTrace()
	d, err := c.dialer(ctx, target{j.Address, j.Peer}, key)
	if err != nil {
		return m, err
	}
	// The dialer is not closed: the process ends at once, and what a
	// transport would still deliver is no part of the measurement.
	switch j.Measure {
	case measuresBulk:
		var b bulk
		b, err = measureBulk(ctx, d, bulkRequest{For: inSeconds(j.Seconds), Verify: j.Verify})
		m.Bulk, m.Note = &b, b.note
	case measuresPing:
		m.Ping, err = measurePing(ctx, d, j.Count)
	case measuresSetup:
		m.Setup, err = measureSetup(ctx, d, j.Count)
	case measuresIdle:
		var i idle
		i, err = measureIdle(ctx, d, j.Count, inSeconds(j.Seconds))
		m.Idle = &i
	default:
		err = fmt.Errorf("nothing to measure is called %q", j.Measure)
	}
	if err != nil {
		m = measured{}
	}
	return m, err
}

// workerArgs are the arguments that start a worker; cpu below zero is any.
func workerArgs(cpu int) []string {
	if cpu < 0 {
		return []string{"worker"}
	}
	return []string{"worker", "--cpu", fmt.Sprint(cpu)}
}

// withoutCPU removes the flag that stayOn has obeyed.
func withoutCPU(args []string) []string {
	var kept []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--cpu":
			i++
		case strings.HasPrefix(args[i], "--cpu="):
		default:
			kept = append(kept, args[i])
		}
	}
	return kept
}
