package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// workersDocument is "instantgrid/workers/1".
type workersDocument struct {
	Rows []workerRow `json:"rows"`
}

// A workerRow is a member and the worker that it runs, or why there is none.
type workerRow struct {
	rpc.WorkerStatus
	Next string `json:"next,omitempty"` // where it is not connected
}

func workersCommand(o *options) *cobra.Command {
	var f callerFlags
	var wait, every time.Duration
	var watch, all bool
	cmd := &cobra.Command{
		Use:   "workers",
		Short: "List the workers of the grid and what they offer",
		Long: `Ask each member for its worker: what functions it offers, how many calls it does
at once and is doing now, how many it has done and failed, and how long they
take. Members without a worker that lets this computer call are left out, unless
--all says why.`,
		Example: `grid workers
grid workers --all
grid workers --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 100*time.Millisecond {
				return cli.Usagef("--interval "+every.String(), "grid workers --watch --interval 2s", "it is shorter than 100ms")
			}
			return o.withReach(cmd, func(r reach) error {
				finder, err := f.finder(r, "grid workers --worker NAME:PORT")
				if err != nil {
					return err
				}
				c, err := finder.newCaller(cmd.Context(), rpc.ClientConfig{})
				if err != nil {
					return err
				}
				defer c.Close()
				waiting, cancel := context.WithTimeout(cmd.Context(), wait)
				_ = c.WaitTried(waiting) // who has not answered by then is listed as such
				cancel()
				if !watch {
					return printWorkers(cmd, c, all || len(f.workers) > 0, cli.PrintJSON)
				}
				ticker := time.NewTicker(every)
				defer ticker.Stop()
				for {
					if err := printWorkers(cmd, c, all, cli.PrintJSONLine); err != nil {
						return err
					}
					select {
					case <-ticker.C:
						if !cli.JSON(cmd) {
							fmt.Fprintln(cmd.OutOrStdout())
						}
					case <-cmd.Context().Done():
						return nil
					}
				}
			})
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&wait, "wait", 5*time.Second, "how long to wait for members that do not answer")
	flags.BoolVar(&all, "all", false, "list members without a worker, too, with the reason")
	flags.BoolVar(&watch, "watch", false, "print the list again and again, until interrupted")
	flags.DurationVar(&every, "interval", 2*time.Second, "of --watch")
	return cmd
}

// workerRows returns what a client knows, those that are there first.
func workerRows(c *rpc.Client) []workerRow {
	rows := []workerRow{}
	for _, s := range c.Workers() {
		row := workerRow{WorkerStatus: s}
		if s.Err != nil {
			row.Error = s.Err.Error()
			if e := explain(s.Err); e != nil {
				row.Error, row.Next = e.Cause, e.Next
			}
		} else if !s.Connected {
			row.Error, row.Next = "no answer yet", "wait longer: grid workers --wait 30s"
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b workerRow) int {
		switch {
		case a.Connected == b.Connected:
			return 0
		case a.Connected:
			return -1
		}
		return 1
	})
	return rows
}

func printWorkers(cmd *cobra.Command, c *rpc.Client, all bool, print func(*cobra.Command, string, any) error) error {
	doc := workersDocument{Rows: workerRows(c)}
	without := 0
	if !all {
		n := len(doc.Rows)
		doc.Rows = slices.DeleteFunc(doc.Rows, func(r workerRow) bool { return !r.Connected })
		without = n - len(doc.Rows)
	}
	if cli.JSON(cmd) {
		return print(cmd, "workers", doc)
	}
	if len(doc.Rows) == 0 {
		cli.Note(cmd, "no member runs a worker that lets this computer call")
	} else if err := writeWorkers(cmd.OutOrStdout(), doc.Rows); err != nil {
		return err
	}
	if without > 0 {
		cli.Note(cmd, "members without: %d; why: grid workers --all", without)
	}
	return nil
}

func writeWorkers(w io.Writer, rows []workerRow) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WORKER\tBUSY\tCALLS\tFAILED\tFUNCTIONS")
	for _, r := range rows {
		if !r.Connected {
			fmt.Fprintf(t, "%s\t-\t-\t-\t%s\n", workerName(r.Address), r.Error)
			continue
		}
		var offers []string
		for _, f := range r.Functions {
			text := f.Name
			if f.Typical > 0 {
				text += " (" + secondsText(f.Typical) + ")"
			}
			offers = append(offers, text)
		}
		fmt.Fprintf(t, "%s\t%d/%d\t%d\t%d\t%s\n", workerName(r.Address), r.Busy, r.Slots, r.Calls, r.Failures, strings.Join(offers, ", "))
	}
	return t.Flush()
}
