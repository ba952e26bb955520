package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// serverLine announces one listening contender, "instantgrid/bench-server/1":
// one line each, so that a program that started the server can go on.
type serverLine struct {
	Contender string `json:"contender"`
	Target    string `json:"target"` // HOST:PORT#PEERID
}

func newServer() *cobra.Command {
	var listen, host, names string
	var untilInputEnds bool
	var trace tracing
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Answer the measurements of ri2n-bench client",
		Long: `server listens for all contenders and prints where, as HOST:PORT#PEERID, one
line each; that is what "ri2n-bench client" takes. The key is made anew at each
start. It serves whoever can reach it until it is interrupted, and keeps
nothing of what it receives: run it while you measure, and no longer.`,
		Example: "ri2n-bench server --listen 0.0.0.0:4433",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, err := contendersNamed(names)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if untilInputEnds {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				defer cancel()
				go func() {
					io.Copy(io.Discard, os.Stdin)
					cancel()
				}()
			}
			return runServer(ctx, cmd, chosen, listen, host, trace)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "0.0.0.0:4433", "address and port to listen on; port 0 picks one for each contender")
	cmd.Flags().StringVar(&host, "host", "", "host to print in place of the listening address")
	cmd.Flags().StringVar(&names, "contenders", defaultContenders, "which to serve, of "+contenderNames())
	cmd.Flags().BoolVar(&untilInputEnds, "until-input-ends", false, "end when the standard input does")
	cmd.Flags().MarkHidden("until-input-ends")
	trace.addFlags(cmd)
	return cmd
}

func runServer(ctx context.Context, cmd *cobra.Command, chosen []contender, listen, host string, trace tracing) error {
	bindHost, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return cli.Usagef("--listen "+listen, "ri2n-bench server --listen 0.0.0.0:4433", "%v", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return cli.Usagef("--listen "+listen, "ri2n-bench server --listen 0.0.0.0:4433", "port %q is not a number up to 65535", portText)
	}
	key, err := newIdentity()
	if err != nil {
		return err
	}
	endTrace, err := trace.begin(cmd, &key, "ri2n-bench server")
	if err != nil {
		return err
	}
	defer endTrace()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	taken := make(map[string]uint64) // ports by network: contenders of one network follow each other
	failed := make(chan error, len(chosen))
	for _, c := range chosen {
		at := uint64(0)
		if port != 0 {
			at = port + taken[c.network]
			taken[c.network]++
		}
		ln, err := c.listen(ctx, net.JoinHostPort(bindHost, strconv.FormatUint(at, 10)), key)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := announce(cmd, c.name, target{announcedAddress(ln.Addr(), host), key.ri2n.PeerID()}); err != nil {
			ln.Close()
			return err
		}
		serving.Go(func() {
			defer ln.Close()
			if err := acceptLoop(ctx, ln, maxConns); err != nil {
				failed <- fmt.Errorf("%s: %w", c.name, err)
			}
		})
	}
	select {
	case <-ctx.Done():
		return nil // being stopped is how a server ends
	case err := <-failed:
		return err
	}
}

func announce(cmd *cobra.Command, name string, at target) error {
	if cli.JSON(cmd) {
		return cli.PrintJSONLine(cmd, "bench-server", serverLine{name, at.String()})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %v\n", name, at)
	return err
}

// announcedAddress replaces the wildcard address, at which nobody can be
// reached, by host or by an address of this machine.
func announcedAddress(addr net.Addr, host string) string {
	bound, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if host == "" {
		host = bound
		if ip := net.ParseIP(bound); ip != nil && ip.IsUnspecified() {
			host = someAddress()
		}
	}
	return net.JoinHostPort(host, port)
}

// someAddress returns an address that other machines may reach, or loopback.
func someAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// acceptLoop serves at most limit connections at a time until ctx ends; those
// above are closed at once. Idle ones are kept, and count while they are.
func acceptLoop(ctx context.Context, ln listener, limit int) error {
	slots := make(chan struct{}, limit)
	var keep keptConns
	defer keep.close()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := ln.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			conns.Go(func() { c.Close() })
			continue
		}
		conns.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			// Its error reaches the client as a connection that ends early,
			// and the client is who reports.
			if serve(c) == errKept {
				keep.add(c)
				return
			}
			<-slots
		})
	}
}

// keptConns are connections that nobody serves.
type keptConns struct {
	mu    sync.Mutex
	conns []conn
}

func (k *keptConns) add(c conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns = append(k.conns, c)
}

func (k *keptConns) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range k.conns {
		closing.Go(func() { c.Close() })
	}
	closing.Wait()
}
