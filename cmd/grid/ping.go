package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// pingDocument is "instantgrid/ping/1". It is printed also when the ping
// fails.
type pingDocument struct {
	Peer     ri2n.PeerID  `json:"peer"`
	Pongs    []pong       `json:"pongs"`
	Sent     int          `json:"sent"`
	Received int          `json:"received"`
	Path     string       `json:"path"`             // of the last pong
	Reason   string       `json:"reason,omitempty"` // why that is not direct
	Advice   string       `json:"advice,omitempty"` // what would change it
	Error    *errorFields `json:"error,omitempty"`
}

// errorFields are those of the document "instantgrid/error/1".
type errorFields struct {
	Object   string `json:"object"`
	Cause    string `json:"cause"`
	Next     string `json:"next"`
	ExitCode int    `json:"exit_code"`
}

// A pong is one answer.
type pong struct {
	Sequence int            `json:"sequence"`
	RTTMS    cli.Number     `json:"rtt_ms"`
	Path     string         `json:"path"`
	Relay    string         `json:"relay,omitempty"` // the member that the path leads through
	Remote   netip.AddrPort `json:"remote,omitzero"`
	Reason   string         `json:"reason,omitempty"`
}

func newPong(sequence int, rtt time.Duration, path overlay.PathStatus) pong {
	p := pong{Sequence: sequence, RTTMS: milliseconds(rtt), Path: path.Kind, Remote: path.Remote, Reason: path.Reason}
	if path.Relay != nil {
		p.Relay = relayText(*path.Relay)
	}
	return p
}

type pingFlags struct {
	count       int
	untilDirect bool
	interval    time.Duration
	timeout     time.Duration
}

func pingCommand(o *options) *cobra.Command {
	var f pingFlags
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Measure the way to a peer, and say whether it is direct",
		Long: `Measure round trips to a peer, and say on every line which path they took and, if
that is not direct, why.

With --until-direct it ends as soon as the path is direct (exit code 0), or when
the time is over: 3 if the peer answers through a relay, 1 if it does not
answer. The agent is asked if it runs; otherwise a node is started for this.`,
		Example: `grid ping PEERID
grid ping NAME
grid ping --until-direct --timeout 10s PEERID`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return o.livePeers(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.count < 1 {
				return cli.Usagef(fmt.Sprintf("--count %d", f.count), "grid ping --count 4 PEER", "at least one ping is needed")
			}
			return o.ping(cmd, f, args[0])
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&f.count, "count", "c", 4, "how many pings to send (without --until-direct)")
	flags.BoolVar(&f.untilDirect, "until-direct", false, "ping until the path is direct, or the time is over")
	flags.DurationVar(&f.interval, "interval", time.Second, "pause between two pings")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second, "longest wait for an answer; with --until-direct: for the direct path")
	return cmd
}

// A pingFunc measures one round trip.
type pingFunc func(ctx context.Context, peer ri2n.PeerID) (time.Duration, overlay.PathStatus, error)

func (o *options) ping(cmd *cobra.Command, f pingFlags, to string) error {
	ctx := cmd.Context()
	dir, err := o.stateDir()
	if err != nil {
		return err
	}
	if err := o.checkPeer(dir, to); err != nil {
		return err
	}
	agent, err := findAgent(dir)
	if err == nil {
		peer, err := agent.resolve(ctx, to)
		if err != nil {
			return err
		}
		return ping(cmd, f, peer, agent.ping)
	}
	if !errors.Is(err, errNoAgent) {
		return err
	}
	return o.withNode(cmd, dir, nodeUse{line: "grid ping PEER"}, func(node *overlay.Node) error {
		peer, err := node.Resolve(ctx, to)
		if err != nil {
			return err
		}
		return ping(cmd, f, peer, func(ctx context.Context, peer ri2n.PeerID) (time.Duration, overlay.PathStatus, error) {
			return pingOnce(ctx, node, peer)
		})
	})
}

func pingOnce(ctx context.Context, node *overlay.Node, peer ri2n.PeerID) (time.Duration, overlay.PathStatus, error) {
	p, err := node.Connect(ctx, peer)
	if err != nil {
		return 0, overlay.PathStatus{}, err
	}
	return p.Ping(ctx)
}

// ping prints a line for each answer, and the verdict.
func ping(cmd *cobra.Command, f pingFlags, peer ri2n.PeerID, once pingFunc) error {
	doc := pingDocument{Peer: peer, Pongs: []pong{}}
	failure := pingAll(cmd, f, peer, once, &doc)
	if err := cmd.Context().Err(); err != nil {
		failure = err
	}
	if !cli.JSON(cmd) {
		return failure
	}
	if failure != nil {
		e := verdictFields(cmd, failure)
		doc.Error = &e
	}
	if err := cli.PrintJSON(cmd, "ping", doc); err != nil {
		return err
	}
	return failure
}

func pingAll(cmd *cobra.Command, f pingFlags, peer ri2n.PeerID, once pingFunc, doc *pingDocument) error {
	ctx := cmd.Context()
	over := time.Now().Add(f.timeout)
	interval := f.interval
	if f.untilDirect {
		// A path becomes direct within a fraction of a second.
		interval = min(interval, 100*time.Millisecond)
	}
	var last error
	var shown string
	for {
		doc.Sent++
		deadline := time.Now().Add(f.timeout)
		if f.untilDirect {
			deadline = over
		}
		attempt, cancel := context.WithDeadline(ctx, deadline)
		rtt, path, err := once(attempt, peer)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			last = err
			if !cli.JSON(cmd) && !f.untilDirect {
				cli.Note(cmd, "no pong from %s: %v", peer.Short(), shortCause(err))
			}
		} else {
			doc.Received++
			doc.Path, doc.Reason, doc.Advice = path.Kind, path.Reason, path.Advice
			doc.Pongs = append(doc.Pongs, newPong(doc.Sent, rtt, path))
			direct := path.Kind == overlay.KindDirect
			// Many pings on one path make one line while we wait.
			if text := pathText(path); !cli.JSON(cmd) && (!f.untilDirect || text != shown) {
				shown = text
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "pong from %s: %s  %s\n", peer.Short(), text, rttText(rtt)); err != nil {
					return err
				}
			}
			if f.untilDirect && direct {
				return nil
			}
		}
		if f.untilDirect && !time.Now().Add(interval).Before(over) || !f.untilDirect && doc.Sent >= f.count {
			if !f.untilDirect && doc.Advice != "" && !cli.JSON(cmd) {
				cli.Note(cmd, "to make it direct: %s", doc.Advice)
			}
			return verdict(f, peer, doc, last)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// verdict is the outcome once the last ping is done and none was direct
// enough.
func verdict(f pingFlags, peer ri2n.PeerID, doc *pingDocument, last error) error {
	switch {
	case doc.Received == 0:
		// Friendliness, section 1, line 6: no answer is 1, whatever its cause.
		e := explain(last)
		if e == nil {
			e = &cli.Error{Object: "peer " + peer.String(), Cause: "no answer: " + last.Error(), Next: "check that grid up runs there with the same rendezvous"}
		}
		e.Code = cli.ExitFailed
		return e
	case f.untilDirect:
		return &cli.Error{
			Object: "peer " + peer.String(),
			Cause:  "it answers, and the path is not direct: " + doc.Path + " (" + doc.Reason + ")",
			Next:   doc.Advice,
			Code:   cli.ExitRelayed,
		}
	}
	return nil
}

func verdictFields(cmd *cobra.Command, err error) errorFields {
	var e *cli.Error
	if !errors.As(err, &e) {
		if e = explain(err); e == nil {
			e = &cli.Error{Object: cmd.CommandPath(), Cause: err.Error()}
			if errors.Is(err, context.Canceled) {
				e.Cause, e.Code = "interrupted", cli.ExitInterrupted
			}
		}
	}
	return errorFields{e.Object, e.Cause, e.Next, e.ExitCode()}
}

// shortCause is what a line about one lost ping says.
func shortCause(err error) string {
	if e := explain(err); e != nil {
		return e.Cause
	}
	var e *cli.Error
	if errors.As(err, &e) {
		return e.Cause
	}
	return err.Error()
}
