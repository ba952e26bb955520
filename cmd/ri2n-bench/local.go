package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newLocal() *cobra.Command {
	var p plan
	var names string
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Measure the contenders over loopback on this machine",
		Long: `local starts one server process for each contender, sends to them from this
process over loopback, in turns, and prints a table. Goodput is what the
receiver counted. CPU-seconds per GB (10^9 bytes) are those of both processes,
user and system, during the bulk transfers (getrusage). The ratios compare the
first contender with each other one.`,
		Example: "ri2n-bench local --rounds 3 --seconds 3\nri2n-bench local --json --rounds 1 --bytes 1073741824",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(cmd); err != nil {
				return err
			}
			chosen, err := contendersNamed(names)
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			return measureAll(cmd, p, "loopback", chosen, func(c contender) (target, func(), error) {
				return startServer(cmd.Context(), program, c.name)
			})
		},
	}
	p.addFlags(cmd)
	cmd.Flags().StringVar(&names, "contenders", defaultContenders, "which to measure, of "+contenderNames()+"; ratios are those of the first")
	return cmd
}

// startServer starts a server process for one contender and returns its
// target, and a function that ends it and waits. The child also ends when this
// process does, however that happens: its standard input then ends.
func startServer(ctx context.Context, program, name string) (target, func(), error) {
	child := exec.CommandContext(ctx, program, "server", "--until-input-ends", "--listen", "127.0.0.1:0", "--contenders", name)
	child.WaitDelay = time.Second
	var stderr bytes.Buffer
	child.Stderr = &stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		return target{}, nil, err
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		return target{}, nil, err
	}
	if err := child.Start(); err != nil {
		return target{}, nil, fmt.Errorf("start server: %w", err)
	}
	stop := func() {
		stdin.Close()
		child.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		said, _, _ := strings.Cut(stderr.String(), "\n")
		return target{}, nil, fmt.Errorf("its server did not start: %s", said)
	}
	_, at, _ := strings.Cut(strings.TrimSpace(line), " ")
	to, err := parseTarget(at)
	if err != nil {
		stop()
		return target{}, nil, fmt.Errorf("its server printed %q: %w", line, err)
	}
	return to, stop, nil
}
