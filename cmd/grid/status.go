package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

func statusCommand(o *options) *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the agent, its rendezvous and its peers",
		Long: `Show what the running agent (grid up) knows: its rendezvous, its sockets as the
outside sees them, and a line for each peer: direct and where to, or relayed,
why, and what would change that.`,
		Example: `grid status
grid status --watch --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			for first := true; ; first = false {
				agent, err := o.needAgent()
				if err != nil {
					return err
				}
				s, err := agent.status(ctx)
				if err == nil {
					err = printStatus(cmd, s, watch, first)
				}
				if err != nil || !watch {
					return err
				}
				select {
				case <-time.After(interval):
				case <-ctx.Done():
					return nil // a watch has no other end
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again; with --json a line for each time")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "pause between two looks")
	return cmd
}

func printStatus(cmd *cobra.Command, s agentStatus, watch, first bool) error {
	switch {
	case cli.JSON(cmd) && watch:
		return cli.PrintJSONLine(cmd, "status", s)
	case cli.JSON(cmd):
		return cli.PrintJSON(cmd, "status", s)
	}
	w := cmd.OutOrStdout()
	if !first {
		fmt.Fprintln(w)
	}
	return writeStatus(w, s, time.Now())
}

// writeStatus writes s for people. Nothing in it is told by colour.
func writeStatus(w io.Writer, s agentStatus, now time.Time) error {
	fmt.Fprintf(w, "peer ID     %s\n", s.PeerID)
	if g := s.Grid; g != nil && g.Self != nil {
		fmt.Fprintf(w, "name        %s  %s  %s, %d members\n", fullName(g.Self.Name, g.Name), g.Self.Roles, ipText(g.Self.Address), g.Members)
	} else if g != nil {
		fmt.Fprintf(w, "grid        %s  not a member now: %s\n", g.Name, g.Error)
	}
	if g := s.Grid; g != nil && g.NameTaken != "" {
		fmt.Fprintf(w, "            another member has this name; choose another: grid join --name NAME TOKEN\n")
	}
	if g := s.Grid; g != nil && (g.Stale || g.Hidden) {
		fmt.Fprintf(w, "            the revocation list was last confirmed %s ago\n", now.Sub(g.Confirmed).Round(time.Second))
	}
	switch r := s.Rendezvous; {
	case r.Address == "":
		fmt.Fprintf(w, "rendezvous  none\n")
	case r.Registered:
		fmt.Fprintf(w, "rendezvous  %s  registered  %s\n", r.Address, rttText(r.RTT))
	default:
		fmt.Fprintf(w, "rendezvous  %s  not registered: %s\n", r.Address, orText(r.Error, "connecting"))
	}
	for _, l := range s.Links {
		fmt.Fprintf(w, "link        %s  %s, from outside %s", l.Name, l.Local, orUnknown(l.Outside))
		if l.Behavior != "" {
			fmt.Fprintf(w, "  %s", l.Behavior)
		}
		fmt.Fprintln(w)
	}
	writeLAN(w, s.LAN)
	if s.Interface != nil {
		writeTUN(w, s.Interface)
	}
	if len(s.Peers) == 0 {
		_, err := fmt.Fprintln(w, "peers       none now")
		return err
	}
	for _, p := range s.Peers {
		fmt.Fprintf(w, "peer        %s  %s  %s  up %s  sent %s  received %s\n",
			p.ID, pathText(p.Path), rttText(p.Path.RTT),
			now.Sub(p.Since).Round(time.Second), sizeText(int64(p.BytesSent)), sizeText(int64(p.BytesReceived)))
		if p.Path.Kind != overlay.KindDirect && p.Path.Advice != "" {
			if _, err := fmt.Fprintf(w, "            to make it direct: %s\n", p.Path.Advice); err != nil {
				return err
			}
		}
	}
	return nil
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
