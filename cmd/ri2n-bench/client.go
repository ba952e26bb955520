package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A plan says how much to measure.
type plan struct {
	rounds  int
	seconds float64
	bytes   int64
	pings   int
	setups  int
	trace   tracing
}

func (p *plan) addFlags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&p.rounds, "rounds", 3, "how often each contender is measured, in turns")
	cmd.Flags().Float64Var(&p.seconds, "seconds", 3, "length of each bulk transfer")
	cmd.Flags().Int64Var(&p.bytes, "bytes", 0, "size of each bulk transfer, in place of --seconds")
	cmd.Flags().IntVar(&p.pings, "pings", 1000, "64-byte messages in each round")
	cmd.Flags().IntVar(&p.setups, "setups", 10, "connections set up in each round")
	cmd.MarkFlagsMutuallyExclusive("seconds", "bytes")
	p.trace.addFlags(cmd)
}

func (p *plan) check(cmd *cobra.Command) error {
	next := cmd.CommandPath() + " --help"
	switch {
	case p.rounds < 1:
		return cli.Usagef("--rounds", next, "must be at least 1, not %d", p.rounds)
	case p.bytes < 0:
		return cli.Usagef("--bytes", next, "must not be negative")
	case p.bytes > 0 && p.bytes < 1<<20:
		return cli.Usagef("--bytes", next, "must be at least 1048576: less measures nothing")
	case p.bytes == 0 && !(p.seconds >= 0.05 && p.seconds <= 3600):
		return cli.Usagef("--seconds", next, "must be between 0.05 and 3600, not %g", p.seconds)
	case p.pings < 0 || p.setups < 0:
		return cli.Usagef("--pings, --setups", next, "must not be negative")
	}
	return nil
}

// round measures one contender once and adds what it got to s. After an error
// the contender is not measured again.
func (p *plan) round(ctx context.Context, d dialer, s *samples) error {
	setup, err := measureSetup(ctx, d, p.setups)
	if err != nil {
		return err
	}
	s.setup = append(s.setup, setup...)
	ping, err := measurePing(ctx, d, p.pings)
	if err != nil {
		return err
	}
	s.ping = append(s.ping, ping...)
	q := bulkRequest{Size: p.bytes}
	if q.Size == 0 {
		q.For = inSeconds(p.seconds)
	}
	b, err := measureBulk(ctx, d, q)
	if err != nil {
		return err
	}
	s.goodput = append(s.goodput, b.BitsPerSecond)
	s.cpuPerGB = append(s.cpuPerGB, b.CPUPerGB)
	s.ended++
	return nil
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func newClient() *cobra.Command {
	var p plan
	var name string
	cmd := &cobra.Command{
		Use:   "client HOST:PORT#PEERID",
		Short: "Measure one contender against ri2n-bench server",
		Long: `client takes a line that "ri2n-bench server" printed and measures that
contender. CPU-seconds are those of both processes during the transfers, so the
server should serve nobody else meanwhile.`,
		Example: "ri2n-bench client --contender tls 192.0.2.7:4433#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(cmd); err != nil {
				return err
			}
			to, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			c, ok := contenderNamed(name)
			if !ok {
				return cli.Usagef("--contender "+name, cmd.CommandPath()+" --help", "there are %s", contenderNames())
			}
			return measureAll(cmd, p, to.address, []contender{c}, func(contender) (target, func(), error) {
				return to, func() {}, nil
			})
		},
	}
	p.addFlags(cmd)
	cmd.Flags().StringVar(&name, "contender", contenders[0].name, "which to measure: "+contenderNames())
	return cmd
}

// measureAll measures the chosen contenders in turns and prints the result,
// also when some or all of them failed. reach says where a contender's server
// is.
func measureAll(cmd *cobra.Command, p plan, scenario string, chosen []contender, reach func(contender) (to target, release func(), err error)) error {
	ctx := cmd.Context()
	key, err := newIdentity()
	if err != nil {
		return err
	}
	endTrace, err := p.trace.begin(cmd, &key, "ri2n-bench "+cmd.Name())
	if err != nil {
		return err
	}
	defer endTrace()
	all := make([]samples, len(chosen))
	dialers := make([]dialer, len(chosen))
	for i, c := range chosen {
		to, release, err := reach(c)
		if err != nil {
			all[i].err = err
			continue
		}
		defer release()
		if dialers[i], err = c.dialer(ctx, to, key); err != nil {
			all[i].err = err
			continue
		}
		defer dialers[i].Close()
	}
	for r := range p.rounds {
		for i, c := range chosen {
			if all[i].err != nil || ctx.Err() != nil {
				continue
			}
			if cli.IsTerminal(cmd.ErrOrStderr()) {
				cli.Note(cmd, "round %d of %d: %s", r+1, p.rounds, c.name)
			}
			all[i].err = p.round(ctx, dialers[i], &all[i])
		}
	}
	rows := make([]row, len(chosen))
	var failures []error
	for i, c := range chosen {
		rows[i] = all[i].row(scenario, "", c.name)
		if all[i].err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", c.name, all[i].err))
		}
	}
	d := newDocument(rows)
	if cli.JSON(cmd) {
		err = cli.PrintJSON(cmd, "bench", d)
	} else {
		err = d.writeTable(cmd.OutOrStdout())
	}
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case len(failures) == 1:
		return failures[0]
	}
	return errors.Join(failures...)
}

// explain says what ri2n's errors mean here.
func explain(err error) *cli.Error {
	var wrong *wrongPeerError
	var mismatch *ri2n.PeerMismatchError
	switch {
	case errors.As(err, &wrong):
		return &cli.Error{Object: "server", Cause: wrong.Error(), Next: "use the line that ri2n-bench server printed at its last start", Code: cli.ExitRefused, Err: err}
	case errors.As(err, &mismatch):
		return &cli.Error{Object: "server", Cause: mismatch.Error(), Next: "use the line that ri2n-bench server printed at its last start", Code: cli.ExitRefused, Err: err}
	case errors.Is(err, ri2n.ErrHandshakeTimeout), errors.Is(err, syscall.ECONNREFUSED):
		return &cli.Error{Object: "server", Cause: "no answer: " + err.Error(), Next: "start it with ri2n-bench server, and let its port through the firewall", Code: cli.ExitUnreachable, Err: err}
	}
	return nil
}
