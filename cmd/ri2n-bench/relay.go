package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"

	"github.com/spf13/cobra"
	"golang.org/x/net/proxy"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay/forward"
)

// newRelay leads a local port somewhere in a way that iperf3 does not know
// itself.
func newRelay() *cobra.Command {
	var r relay
	cmd := &cobra.Command{
		Use:     "relay [COMMAND [ARGUMENT]...]",
		Short:   "Lead a local port through SOCKS5 or a command",
		Long:    "relay is what tunnels runs inside its namespaces: each connection goes through a SOCKS5 proxy, or is the standard input and output of a command.",
		Example: "ri2n-bench relay --listen 127.0.0.1:5301 --socks 127.0.0.1:1080 --to bob:5201",
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (r.socks == "") == (len(args) == 0) {
				return cli.Usagef("relay", cmd.CommandPath()+" --help", "either --socks and --to, or a command")
			}
			r.command = args
			return r.run(cmd)
		},
	}
	cmd.Flags().StringVar(&r.listen, "listen", "127.0.0.1:0", "where to listen")
	cmd.Flags().StringVar(&r.socks, "socks", "", "SOCKS5 proxy")
	cmd.Flags().StringVar(&r.to, "to", "", "what to ask it for")
	return cmd
}

type relay struct {
	listen, socks, to string
	command           []string
}

func (r *relay) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	ln, err := net.Listen("tcp", r.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), ln.Addr())
	if r.socks != "" {
		d, err := proxy.SOCKS5("tcp", r.socks, nil, proxy.Direct)
		if err != nil {
			return err
		}
		return (&forward.Streams{Listener: ln, Dial: func(ctx context.Context, _ net.Conn) (net.Conn, error) {
			return d.(proxy.ContextDialer).DialContext(ctx, "tcp", r.to)
		}}).Serve(ctx)
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.give(ctx, c.(*net.TCPConn)); err != nil {
			return err
		}
	}
}

// give makes a connection the standard input and output of the command.
func (r *relay) give(ctx context.Context, c *net.TCPConn) error {
	defer c.Close()
	f, err := c.File()
	if err != nil {
		return err
	}
	defer f.Close()
	program := exec.CommandContext(ctx, r.command[0], r.command[1:]...)
	program.Stdin, program.Stdout = f, f
	if err := program.Start(); err != nil {
		return err
	}
	go program.Wait() // with the connection, or with ctx
	return nil
}
