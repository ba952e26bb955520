package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// demoRPCDocument is "instantgrid/demo-rpc/1".
type demoRPCDocument struct {
	OK      bool        `json:"ok"`
	Calls   *callStory  `json:"calls,omitempty"`
	Share   *shareStory `json:"share,omitempty"`
	Failure string      `json:"failure,omitempty"`
}

// demoRPC says how large the stories are.
type demoRPC struct {
	calls   callFlags
	shareMB int
}

func newDemoRPC() *cobra.Command {
	f := demoRPC{calls: defaultCalls()}
	cmd := &cobra.Command{
		Use:   "demo-rpc",
		Short: "Have eight computers in four homes do 200 calls and share data, and lose two of them",
		Long: `A scientist in one home has 200 files of parameters. Eight computers in four other
homes, all behind NATs, offer a program; each call brings 100 KB and returns
30 KB. While they work one computer is killed and one put to sleep; another one is
ten times slower than the rest. All 200 results must be right.

Then those two are back, and all eight need the same data, which the scientist puts
into the grid's store. All get them at once, and each home takes about one copy.

It happens in network namespaces of Linux, with the programs rendezvous and grid
that lie beside this one, so it needs root. It prints who did what and how many
bytes each home sent and received; the last line begins with "demo: ok".`,
		Example: `netsim demo-rpc
netsim demo-rpc --calls 50 --work 500ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runDemoRPC(cmd, f) },
	}
	f.calls.add(cmd)
	cmd.Flags().IntVar(&f.shareMB, "share-mb", 16, "`MB` of common data, 1000000 bytes each")
	return cmd
}

func runDemoRPC(cmd *cobra.Command, f demoRPC) error {
	if err := f.calls.check(cmd.CommandPath()); err != nil {
		return err
	}
	if f.shareMB < 1 || f.shareMB > 256 {
		return cli.Usagef(fmt.Sprintf("--share-mb %d", f.shareMB), "netsim demo-rpc --share-mb 16", "it is not within 1 and 256")
	}
	if err := kernel.Check(); err != nil {
		return err
	}
	programs, err := findPrograms()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "instantgrid-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say := func(format string, args ...any) {
		if !cli.JSON(cmd) {
			fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
		}
	}
	say("demo: in network namespaces of this machine, with real sockets and programs")
	start := time.Now()
	var d demoRPCDocument
	if err := d.tell(cmd.Context(), programs, f, dir, say); err != nil {
		if stopped := interrupted(cmd); stopped != nil {
			err = stopped
		}
		d.Failure = err.Error()
		if cli.JSON(cmd) {
			cli.PrintJSON(cmd, "demo-rpc", d)
		}
		return err
	}
	d.OK = true
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "demo-rpc", d)
	}
	say("\ndemo: ok (%d calls, all results right; data at %d workers, all hashes equal; %.1f s)", d.Calls.Count, len(d.Share.Getters), time.Since(start).Seconds())
	return nil
}

// tell tells both stories.
func (d *demoRPCDocument) tell(ctx context.Context, p programs, f demoRPC, dir string, say func(string, ...any)) error {
	h, err := p.newHomes(dir, homeAccess, workersInHome)
	if err != nil {
		return err
	}
	defer h.end()
	if err := h.startForCalls(ctx, f.calls); err != nil {
		return err
	}
	if d.Calls, err = h.tellCalls(ctx, f.calls, say); err != nil {
		return err
	}
	if !f.calls.noFaults {
		say("\n%s is switched on again, and %s wakes up", killedWorker, sleepingWorker)
		for _, p := range h.programs[sleepingWorker] {
			p.cmd.Process.Signal(wakeSignal)
		}
		if err := h.up(ctx, killedWorker); err != nil {
			return err
		}
	}
	d.Share, err = h.tellShare(ctx, int64(f.shareMB)*1_000_000, say)
	return err
}

// write prints the tables of a story.
func (s *callStory) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  worker\thome\tcalls\tfate")
	for _, r := range s.Workers {
		fmt.Fprintf(t, "  %s\t%s\t%d\t%s\n", r.Name, r.Home, r.Calls, r.Fate)
	}
	fmt.Fprintln(t, "\t\t\t")
	writeUplinks(t, "\t", s.Uplinks)
	return t.Flush()
}
