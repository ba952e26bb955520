package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
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
why, and what would change that.

With --watch on a terminal it is a view with the rates of links and peers, where q
quits, s sorts, d shows every path, and the arrows scroll. Without a terminal, or
with --json, it is one JSON document on each line.`,
		Example: `grid status
grid status --watch --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			look := func(ctx context.Context) (s agentStatus, err error) {
				agent, err := o.needAgent()
				if err == nil {
					s, err = agent.status(ctx)
				}
				return s, err
			}
			if watch {
				return watchOn(cmd, interval, look)
			}
			s, err := look(cmd.Context())
			if err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "status", s)
			}
			return writeStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again: a view on a terminal, else JSON lines")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "pause between two looks")
	return cmd
}

// watchOn shows the status again and again: as a view on a terminal, otherwise
// as JSON lines.
func watchOn(cmd *cobra.Command, interval time.Duration, look func(context.Context) (agentStatus, error)) error {
	ctx := cmd.Context()
	if interval <= 0 {
		return cli.Usagef("--interval "+interval.String(), "grid status --watch --interval 1s", "there must be a pause")
	}
	in, out := cmd.InOrStdin(), cmd.OutOrStdout()
	if _, file := in.(*os.File); file && !cli.JSON(cmd) && cli.IsTerminal(out) {
		// An agent that does not run is worth a message, not a view.
		if _, err := look(ctx); err != nil {
			return err
		}
		return watchStatus(ctx, in, out, interval, func(ctx context.Context) (overlay.Status, error) {
			s, err := look(ctx)
			return s.Status, err
		})
	}
	for {
		s, err := look(ctx)
		if err == nil {
			err = cli.PrintJSONLine(cmd, "status", s)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return nil // a watch has no other end
		}
	}
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
	if r := s.Relay; r != nil {
		writeRelay(w, r)
	}
	for _, l := range s.Links {
		fmt.Fprintf(w, "link        %s  %s, from outside %s", l.Name, l.Local, orUnknown(l.Outside))
		if l.Behavior != "" {
			fmt.Fprintf(w, "  %s", l.Behavior)
		}
		if l.Mapping != nil && l.Mapping.Outside.IsValid() {
			fmt.Fprintf(w, "  mapped at %v by %s", l.Mapping.Outside, l.Mapping.Protocol)
		}
		fmt.Fprintln(w)
	}
	if r := s.Routing; r != nil {
		fmt.Fprintf(w, "routing     %d of about %d members known, %d watched, %d of %d shortcuts, %d objects kept\n",
			r.Contacts, max(r.Nodes-1, r.Contacts), len(r.Sessions), r.Shortcuts, r.MaxShortcuts, r.Objects)
	}
	writeLAN(w, s.LAN)
	if s.Interface != nil {
		writeTUN(w, s.Interface)
	}
	for _, x := range s.Services {
		fmt.Fprintf(w, "service     %s  %s\n", x.Does, x.countsText())
	}
	if len(s.Peers) == 0 {
		_, err := fmt.Fprintln(w, "peers       none now")
		return err
	}
	for _, p := range s.Peers {
		fmt.Fprintf(w, "peer        %s  %s  %s  up %s  sent %s  received %s\n",
			strings.TrimSpace(p.ID.String()+"  "+p.Name), pathText(p.Path), rttText(p.Path.RTT),
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

// writeRelay writes who relays for the node, and what it relays.
func writeRelay(w io.Writer, r *overlay.RelayStatus) {
	with := make([]string, len(r.With))
	for i, by := range r.With {
		with[i] = relayText(by)
	}
	fmt.Fprintf(w, "relay       through %s", orText(strings.Join(with, ", "), "no member now"))
	if r.Serves {
		fmt.Fprintf(w, "; for %d members, %d channels, %s", r.Members, r.Channels, sizeText(int64(r.Bytes)))
	}
	fmt.Fprintln(w)
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
