package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// demoRPCDocument is "instantgrid/demo-rpc/1".
type demoRPCDocument struct {
	OK      bool       `json:"ok"`
	Calls   *callStory `json:"calls,omitempty"`
	Failure string     `json:"failure,omitempty"`
}

// stories are what demo-rpc shows, in order. Each prints what happens and fills
// its part of the document.
var stories = []func(ctx context.Context, p programs, f callFlags, dir string, say func(string, ...any), d *demoRPCDocument) error{
	func(ctx context.Context, p programs, f callFlags, dir string, say func(string, ...any), d *demoRPCDocument) (err error) {
		d.Calls, err = p.tellCalls(ctx, f, filepath.Join(dir, "calls"), say)
		return err
	},
}

func newDemoRPC() *cobra.Command {
	f := defaultCalls()
	cmd := &cobra.Command{
		Use:   "demo-rpc",
		Short: "Have eight computers in four homes do 200 calls, and lose two of them",
		Long: `A scientist in one home has 200 files of parameters. Eight computers in four other
homes, all behind NATs, offer a program; each call brings 100 KB and returns
30 KB. While they work one computer is killed and one put to sleep; another one is
ten times slower than the rest. All 200 results must be right.

It happens in network namespaces of Linux, with the programs rendezvous and grid
that lie beside this one, so it needs root. It prints who did what and how many
bytes each home sent and received; the last line begins with "demo: ok".`,
		Example: `netsim demo-rpc
netsim demo-rpc --calls 50 --work 500ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runDemoRPC(cmd, f) },
	}
	f.add(cmd)
	return cmd
}

func runDemoRPC(cmd *cobra.Command, f callFlags) error {
	if err := f.check(cmd.CommandPath()); err != nil {
		return err
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
	for _, tell := range stories {
		if err := tell(cmd.Context(), programs, f, dir, say, &d); err != nil {
			if stopped := interrupted(cmd); stopped != nil {
				err = stopped
			}
			d.Failure = err.Error()
			if cli.JSON(cmd) {
				cli.PrintJSON(cmd, "demo-rpc", d)
			}
			return err
		}
	}
	d.OK = true
	if cli.JSON(cmd) {
		return cli.PrintJSON(cmd, "demo-rpc", d)
	}
	say("\ndemo: ok (%d calls, all results right, %.1f s)", d.Calls.Count, time.Since(start).Seconds())
	return nil
}

// write prints the tables of a story.
func (s *callStory) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  worker\thome\tcalls\tfate")
	for _, r := range s.Workers {
		fmt.Fprintf(t, "  %s\t%s\t%d\t%s\n", r.Name, r.Home, r.Calls, r.Fate)
	}
	fmt.Fprintln(t, "\t\t\t")
	fmt.Fprintln(t, "  uplink of\t\tsent\treceived")
	for _, u := range s.Uplinks {
		fmt.Fprintf(t, "  %s\t\t%.2f MB\t%.2f MB\n", u.Home, float64(u.Sent)/1e6, float64(u.Received)/1e6)
	}
	return t.Flush()
}
