package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/overlay"
)

func connectCommand(o *options) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "connect NAME:PORT",
		Short: "Connect the standard input and output to a port of a member",
		Long: `Connect to the port of a peer, a member's name or a peer ID, send the standard
input there, and write what comes back to the standard output. It ends when the
peer has ended its side; the end of the input is passed on.

The agent makes the connection if it runs, otherwise this command itself.`,
		Example: `grid connect alice:7000
# A computer behind a NAT, by name: ssh -o ProxyCommand='grid connect %h:%p' alice
grid connect --timeout 5s alice:22`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completePeers(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseRemote(args[0], "grid connect NAME:PORT"); err != nil {
				return err
			}
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			dial := func(connect func(ctx context.Context, to string) (net.Conn, error)) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				c, err := connect(ctx, args[0])
				cancel()
				if err != nil {
					return err
				}
				return pipe(cmd.Context(), c, cmd.InOrStdin(), cmd.OutOrStdout())
			}
			agent, err := findAgent(dir)
			if err == nil {
				return dial(agent.connect)
			}
			if !errors.Is(err, errNoAgent) {
				return err
			}
			return o.withNode(cmd, dir, nodeUse{}, func(node *overlay.Node) error {
				return dial(func(ctx context.Context, to string) (net.Conn, error) {
					return node.DialAccepted(ctx, "tcp", to)
				})
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", connectTime, "longest wait for the connection")
	return cmd
}

// pipe joins a connection with an input and an output until the peer has ended
// its side. An input that never ends is left to the end of the process.
func pipe(ctx context.Context, c net.Conn, in io.Reader, out io.Writer) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	go func() {
		if _, err := io.Copy(c, in); err == nil {
			if w, ok := c.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite() // the peer may be gone
			}
		}
	}()
	_, err := io.Copy(out, c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
