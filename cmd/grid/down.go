package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// downTime is how long grid down waits for the agent to end. The agent itself
// gives written data up to 6 s to arrive.
const downTime = 15 * time.Second

func downCommand(o *options) *cobra.Command {
	var cleanup bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the agent",
		Long: `Stop the running agent, and wait until it has ended. What an agent that was
killed has left behind on this computer is undone too.

With --cleanup no running agent is stopped; it is what a service manager calls
after the agent has ended.`,
		Example: "grid down\ngrid down --cleanup",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			doc := downAnswer{Undone: []string{}}
			if !cleanup {
				if doc, err = stopAgent(cmd.Context(), dir); err != nil {
					return err
				}
			}
			release, err := takeIdentity(dir)
			if err != nil {
				return takenOr(err, dir, "stop it first: grid down")
			}
			defer release()
			if doc.Undone, err = undoLeftovers(dir); err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "down", doc)
			}
			w := cmd.OutOrStdout()
			if doc.Stopping {
				fmt.Fprintln(w, "stopped")
			} else if !cleanup {
				fmt.Fprintln(w, "no agent ran")
			}
			for _, what := range doc.Undone {
				fmt.Fprintf(w, "undone  %s\n", what)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&cleanup, "cleanup", false, "stop nothing, and only undo what an agent that was killed has left behind")
	return cmd
}

// stopAgent tells the agent in dir to stop and waits until its identity is
// free.
func stopAgent(ctx context.Context, dir string) (downAnswer, error) {
	none := downAnswer{Undone: []string{}}
	agent, err := findAgent(dir)
	if errors.Is(err, errNoAgent) {
		return none, nil
	} else if err != nil {
		return none, err
	}
	doc, err := agent.down(ctx)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, downTime)
	defer cancel()
	for {
		release, err := takeIdentity(dir)
		if err == nil {
			release()
			return doc, nil
		}
		if !errors.Is(err, filelock.ErrTaken) {
			return doc, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return doc, &cli.Error{
				Object: "the agent", Cause: fmt.Sprintf("it has not ended within %v", downTime),
				Next: "see what it waits for: grid status; or end the process that has " + filepath.Join(dir, lockFile) + " open",
			}
		}
	}
}

// undoLeftovers undoes what an agent that was killed has left behind, and says
// what. The caller has taken the identity in dir, so no agent runs.
func undoLeftovers(dir string) (undone []string, err error) {
	undone = []string{}
	j, err := journal.Open(filepath.Join(dir, journal.FileName), journalKinds(), nil)
	if err != nil {
		return undone, err
	}
	for _, c := range slices.Backward(j.Pending()) {
		undone = append(undone, c.String())
	}
	if err := j.Close(); err != nil {
		return []string{}, err
	}
	socket := filepath.Join(dir, socketFile)
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(socket); err != nil {
			return undone, err
		}
		undone = append(undone, "control socket "+socket)
	}
	return undone, nil
}
