package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
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
		fmt.Fprintf(w, "name        %s  %s  %s, %d members\n", fullName(g.Self.Name, g.Name), g.Self.Roles, g.Self.Address, g.Members)
	} else if g != nil {
		fmt.Fprintf(w, "grid        %s  not a member now: %s\n", g.Name, g.Error)
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
	if r := s.Routing; r != nil {
		fmt.Fprintf(w, "routing     %d of about %d members known, %d watched, %d of %d shortcuts, %d objects kept\n",
			r.Contacts, max(r.Nodes-1, r.Contacts), len(r.Sessions), r.Shortcuts, r.MaxShortcuts, r.Objects)
	}
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
		if r := routedSession(s.Routing, p.ID); r != nil && (r.Shortcut || r.State != overlay.MemberAlive) {
			fmt.Fprintf(w, "            %s\n", routedText(r))
		}
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

// routedSession returns what routing says of the session with peer, nil if
// nothing.
func routedSession(r *overlay.RoutingStatus, peer ri2n.PeerID) *overlay.RoutedSession {
	if r == nil {
		return nil
	}
	for i := range r.Sessions {
		if r.Sessions[i].Peer == peer {
			return &r.Sessions[i]
		}
	}
	return nil
}

func routedText(r *overlay.RoutedSession) string {
	if r.State != overlay.MemberAlive {
		return string(r.State) + ": nobody can reach it"
	}
	return "shortcut: traffic between processes has earned this session"
}
