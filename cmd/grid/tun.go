package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/hostdns"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay/tun"
)

// tunSettings say whether the agent makes a network interface.
type tunSettings struct {
	enabled  bool
	name     string
	mtu      int
	ipv6Only bool
}

func defaultTUN() *tunSettings { return &tunSettings{name: "grid0", mtu: tun.DefaultMTU} }

func (t *tunSettings) section() config.Section {
	return config.Section{
		Name: "tun",
		Doc:  "A network interface, through which programs that know nothing of grid reach members (docs/tun.md).",
		Keys: []config.Key{
			{
				Name: "enabled", Value: &t.enabled,
				Doc:  "Whether there is one. It takes root, or CAP_NET_ADMIN.",
				Flag: "tun", Usage: "make a network interface, so that every program reaches members by address (root)",
			},
			{
				Name: "name", Value: &t.name,
				Doc:  "Its name.",
				Flag: "tun-name", Usage: "`name` of the interface",
				Check: func() error {
					if t.name == "" || len(t.name) > 15 {
						return fmt.Errorf("a name has 1 to 15 characters")
					}
					return nil
				},
			},
			{
				Name: "mtu", Value: &t.mtu,
				Doc:  "Its largest packet in bytes, from 1280 to 9000. More than most paths carry goes in two halves.",
				Flag: "tun-mtu", Usage: "largest packet of the interface, in `bytes`",
				Check: func() error { return inRange(t.mtu, 1280, 9000) },
			},
			{
				Name: "ipv6_only", Value: &t.ipv6Only,
				Doc:  "Leave the IPv4 address and route out, where the grid's IPv4 network overlaps another one.",
				Flag: "tun-ipv6-only", Usage: "leave the grid's IPv4 network out, where it overlaps another one",
			},
		},
	}
}

func (t *tunSettings) apply(a *agent) error {
	if !t.enabled {
		return nil
	}
	if a.node.Status().Grid == nil {
		return &cli.Error{
			Object: "the network interface", Cause: "this computer belongs to no grid, so it has no address in one",
			Next: "join one: grid join TOKEN", Code: cli.ExitUsage,
		}
	}
	i, err := tun.Start(tun.Config{
		Node: a.node, Name: t.name, MTU: t.mtu, IPv6Only: t.ipv6Only, Changes: journaled{a.changes}, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.onClose(func() {
		if err := i.Close(); err != nil {
			a.log.Error("interface not taken down", "err", err)
		}
	})
	a.control.describe(func(s *agentStatus) {
		status := i.Status()
		s.Interface = &status
	})
	a.doc.Interface, a.services.link = i.Status().Device, i.Status().Device
	a.log.Info("interface up", "interface", t.name, "addresses", addressesText(i.Status()))
	return nil
}

// journalKinds are the kinds of changes that an agent makes to this computer.
func journalKinds() map[string]journal.Kind {
	kinds := make(map[string]journal.Kind)
	for _, k := range tun.Kinds() {
		kinds[k.Name] = journal.Kind{Undo: k.Undo, UntilReboot: true}
	}
	maps.Copy(kinds, hostdns.Kinds())
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

// journaled is a journal as packages tun and hostdns want it.
type journaled struct{ *journal.Journal }

func (j journaled) Make(kind string, data any, make func() error) (func() error, error) {
	c, err := j.Journal.Make(kind, data, make)
	if err != nil {
		return nil, err
	}
	return func() error { return j.Revert(c) }, nil
}

// writeTUN writes the state of the interface for people.
func writeTUN(w io.Writer, s *tun.Status) {
	fmt.Fprintf(w, "interface   %s  MTU %d  %s  %s\n", s.Device, s.MTU, addressesText(*s), flowsText(s))
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

func addressesText(s tun.Status) string {
	if !s.Address.IsValid() {
		return s.Address6.String()
	}
	return s.Address.String() + "  " + s.Address6.String()
}

func flowsText(s *tun.Status) string {
	return fmt.Sprintf("%d flows with %d members", s.Flows, s.Peers)
}
