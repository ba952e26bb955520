package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/tun"
)

// tunFlags are the flags of grid up for the network interface.
type tunFlags struct {
	on       bool
	name     string
	mtu      int
	ipv6Only bool
}

func (f *tunFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&f.on, "tun", false, "make a network interface, so that every program reaches members by address (root)")
	flags.StringVar(&f.name, "tun-name", "grid0", "`name` of the interface")
	flags.IntVar(&f.mtu, "tun-mtu", tun.DefaultMTU, "its largest packet, in `bytes`")
	flags.BoolVar(&f.ipv6Only, "tun-ipv6-only", false, "leave the IPv4 network out, where it overlaps another one")
}

// journalKinds are the kinds of changes that an agent makes to this computer.
func journalKinds() map[string]journal.Kind {
	kinds := make(map[string]journal.Kind)
	for _, k := range tun.Kinds() {
		kinds[k.Name] = journal.Kind{Undo: k.Undo, UntilReboot: true}
	}
	return kinds
}

// openJournal opens the journal of the state directory, whose identity this
// process has taken, and undoes what a process that was killed has left.
func openJournal(dir string, log *slog.Logger) (*journal.Journal, error) {
	j, err := journal.Open(filepath.Join(dir, journal.FileName), journalKinds(), log)
	if err != nil {
		return nil, err
	}
	if left := j.Pending(); len(left) > 0 {
		log.Info("undoing what an agent that was killed has left", "changes", len(left))
		if err := j.Undo(); err != nil {
			j.Close()
			return nil, err
		}
	}
	return j, nil
}

// closeJournal undoes what is left to undo.
func closeJournal(j *journal.Journal, log *slog.Logger) {
	if err := j.Close(); err != nil {
		log.Error("changes to this computer are not undone; grid down tries again", "err", err)
	}
}

// agentStatus is "instantgrid/status/1": what the agent knows.
type agentStatus struct {
	overlay.Status
	Interface *tun.Status `json:"interface,omitempty"` // nil: grid up without --tun
}

func statusOf(node *overlay.Node, iface *tun.Interface) agentStatus {
	s := agentStatus{Status: node.Status()}
	if iface != nil {
		t := iface.Status()
		s.Interface = &t
	}
	return s
}

// journaled is a journal as package tun wants it.
type journaled struct{ *journal.Journal }

func (j journaled) Make(kind string, data any, make func() error) (func() error, error) {
	c, err := j.Journal.Make(kind, data, make)
	if err != nil {
		return nil, err
	}
	return func() error { return j.Revert(c) }, nil
}

// start makes the interface, nil if none is wanted.
func (f *tunFlags) start(node *overlay.Node, j *journal.Journal, log *slog.Logger) (*tun.Interface, error) {
	if !f.on {
		return nil, nil
	}
	if g := node.Status().Grid; g == nil {
		return nil, &cli.Error{
			Object: "--tun", Cause: "this computer belongs to no grid, so it has no address in one",
			Next: "join one: grid join TOKEN", Code: cli.ExitUsage,
		}
	}
	return tun.Start(tun.Config{
		Node: node, Name: f.name, MTU: f.mtu, IPv6Only: f.ipv6Only, Changes: journaled{j}, Logger: log,
	})
}

// writeTUN writes the state of the interface for people.
func writeTUN(w io.Writer, s *tun.Status) {
	fmt.Fprintf(w, "interface   %s  MTU %d  %s  %s\n", s.Device, s.MTU, addressesText(s), flowsText(s))
	c := s.Counters
	fmt.Fprintf(w, "            sent %d packets, %s  received %d packets, %s", c.PacketsSent, sizeText(int64(c.BytesSent)), c.PacketsReceived, sizeText(int64(c.BytesReceived)))
	d := c.Dropped
	dropped := []struct {
		why string
		n   uint64
	}{
		{"closed by the policy", d.Closed}, {"wrong source", d.WrongSource}, {"not to us", d.NotToUs},
		{"no such member", d.NoMember}, {"member not reached", d.Unreachable + d.WaitingFull}, {"not from us", d.NotFromUs},
		{"too big", d.TooBig}, {"halves and fragments", d.Parts + d.Fragments}, {"malformed", d.Malformed},
		{"unrelated ICMP", d.Unrelated}, {"refused by the system", d.DeviceErrors},
	}
	sep := "\n            dropped: "
	for _, x := range dropped {
		if x.n > 0 {
			fmt.Fprintf(w, "%s%d %s", sep, x.n, x.why)
			sep = ", "
		}
	}
	fmt.Fprintln(w)
}

func addressesText(s *tun.Status) string {
	if !s.Address.IsValid() {
		return s.Address6.String()
	}
	return s.Address.String() + "  " + s.Address6.String()
}

func flowsText(s *tun.Status) string {
	return fmt.Sprintf("%d flows with %d members", s.Flows, s.Peers)
}

// downDocument is "instantgrid/down/1".
type downDocument struct {
	Undone int `json:"undone"` // changes to this computer
}

func downCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Undo what an agent that was killed has left",
		Long: `Undo the changes to this computer's network (interface, addresses, routes,
resolver) that an agent has written down and, because it was killed, has not
undone. The next grid up does the same. It fails while an agent runs, which undoes
its changes itself when it is ended.`,
		Example: "grid down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := o.stateDir()
			if err != nil {
				return err
			}
			release, err := takeIdentity(dir)
			if errors.Is(err, filelock.ErrTaken) {
				return identityTaken(dir, "end the agent (an interrupt, or systemctl stop), which undoes its changes")
			} else if err != nil {
				return err
			}
			defer release()
			j, err := journal.Open(filepath.Join(dir, journal.FileName), journalKinds(), newLogger(cmd, false))
			if err != nil {
				return err
			}
			doc := downDocument{Undone: len(j.Pending())}
			if err := j.Close(); err != nil {
				return err
			}
			if cli.JSON(cmd) {
				return cli.PrintJSON(cmd, "down", doc)
			}
			if doc.Undone == 0 {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing to undo")
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "undone: %d changes\n", doc.Undone)
			return err
		},
	}
}
