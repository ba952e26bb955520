package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	gridsim "github.com/instantgrid/instantgrid/routing/sim"
)

func newOverlay() *cobra.Command {
	var o gridsim.Options
	cmd := &cobra.Command{
		Use:   "overlay",
		Short: "Run thousands of routing nodes in virtual time",
		Long: `Nodes join one after another, in batches; location objects are stored; a part of
the nodes leave at the same moment; 30 s later random nodes look up random keys.
A lookup is right when it names the living node that is nearest to the key.
The exit code is 1 when fewer than 99.9 % are right, or an object is lost.

Delays between nodes are 5 to 75 ms each way. The same seed gives the same run.
Everything is simulated but the memory of a node and the time that it took.`,
		Example: `netsim overlay
netsim overlay --nodes 10000 --churn 0.2 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runOverlay(cmd, o) },
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Nodes, "nodes", 1000, "nodes of the grid")
	flags.Float64Var(&o.Churn, "churn", 0, "part of the nodes that leave at once, from 0 to 0.9")
	flags.IntVar(&o.Lookups, "lookups", 1000, "keys to look up")
	flags.IntVar(&o.Objects, "objects", 100, "location objects to store")
	flags.Uint64Var(&o.Seed, "seed", 1, "seed of all that is random")
	return cmd
}

func runOverlay(cmd *cobra.Command, o gridsim.Options) error {
	help := cmd.CommandPath() + " --help"
	switch {
	case o.Nodes < 2 || o.Nodes > 100_000:
		return cli.Usagef(fmt.Sprintf("--nodes %d", o.Nodes), help, "it is not between 2 and 100000")
	case !(o.Churn >= 0 && o.Churn <= 0.9):
		return cli.Usagef(fmt.Sprintf("--churn %v", o.Churn), help, "it is not between 0 and 0.9")
	case o.Lookups < 1 || o.Lookups > 1_000_000:
		return cli.Usagef(fmt.Sprintf("--lookups %d", o.Lookups), help, "it is not between 1 and 1000000")
	case o.Objects < 0 || o.Objects > 200:
		return cli.Usagef(fmt.Sprintf("--objects %d", o.Objects), help, "it is not between 0 and 200, which one member may store")
	}
	progress := newProgressLine(cmd.ErrOrStderr())
	o.Progress = func(phase string) { progress.Set("%s", phase) }
	o.Stopped = func() bool { return cmd.Context().Err() != nil }
	r, err := gridsim.Run(o)
	progress.Close()
	switch {
	case cmd.Context().Err() != nil:
		return interrupted(cmd)
	case err != nil:
		return err
	}
	if cli.JSON(cmd) {
		err = cli.PrintJSON(cmd, "overlay", r)
	} else {
		err = writeOverlay(cmd.OutOrStdout(), r)
	}
	if err != nil {
		return err
	}
	if float64(r.Correct) < 0.999*float64(r.Lookups) || r.ObjectsLost > 0 || r.JoinFailed > 0 {
		return &cli.Error{
			Object: "overlay",
			Cause:  fmt.Sprintf("%d of %d lookups are right, %d objects are lost, %d nodes could not join", r.Correct, r.Lookups, r.ObjectsLost, r.JoinFailed),
			Next:   fmt.Sprintf("try other seeds: netsim overlay --nodes %d --churn %v --seed 2", r.Nodes, r.Churn),
		}
	}
	return nil
}

// writeOverlay prints r for people.
func writeOverlay(w io.Writer, r gridsim.Report) error {
	_, err := fmt.Fprintf(w, `nodes            %d, of which %d left at once
lookups          %d of %d right, %.1f requests each, the slowest %.1f s
hops             median %d, at most %d (bound %d)
memory per node  %.1f KiB, and %.1f KiB of %d contacts' records
objects lost     %d of %d
simulated        %.0f s with %d messages, in %.1f s
`, r.Nodes, r.Left, r.Correct, r.Lookups, r.RequestsMean, float64(r.SlowestMs)/1000,
		r.HopsMedian, r.HopsMax, r.HopsBound,
		float64(r.BytesPerNode)/1024, float64(r.ContactBytesPerNode)/1024, r.ContactsMean,
		r.ObjectsLost, r.Objects, r.VirtualSeconds, r.Messages, r.RealSeconds)
	return err
}
