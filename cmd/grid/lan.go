package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
)

// meetingPoint returns the configured rendezvous as overlay takes it. It is empty
// only where the node belongs to a grid without a ledger, whose members find each
// other on their local network.
func (o *options) meetingPoint(dir, command string) (string, error) {
	a, err := o.findRendezvous(dir)
	switch {
	case err != nil:
		return "", err
	case !a.IsZero():
		return a.String(), nil
	}
	ledgerless, err := overlay.IsLedgerless(dir)
	if err == nil && !ledgerless {
		err = noRendezvous(dir, command)
	}
	return "", err
}

// noRendezvous says how to configure one.
func noRendezvous(dir, command string) error {
	return &cli.Error{
		Object: "rendezvous",
		Cause:  "none is configured",
		Next:   command + " --rendezvous HOST:PORT#PEERID (the line that rendezvous prints at start), or put that line into " + filepath.Join(dir, rendezvousFile),
		Code:   cli.ExitUsage,
	}
}

// meetingText is empty for no rendezvous.
func meetingText(a rendezvous.Address) string {
	if a.IsZero() {
		return ""
	}
	return a.String()
}

// uncounted says what an invitation to a grid without a ledger lacks.
const uncounted = "nobody counts the uses of this invitation, or ends it in time: whoever has it can join until it is revoked (grid revoke INVITE), and all who came with it go with it"

// writeLAN writes what is said and heard on local networks.
func writeLAN(w io.Writer, s *overlay.LANStatus) {
	switch {
	case s == nil:
		return
	case s.Error != "":
		fmt.Fprintf(w, "lan         not announced: %s\n", s.Error)
	case len(s.Interfaces) == 0:
		fmt.Fprintf(w, "lan         %s, on no local network now\n", s.State)
	default:
		fmt.Fprintf(w, "lan         %s, as %s on %s\n", s.State, s.Name, strings.Join(s.Interfaces, ", "))
	}
	for _, h := range s.Heard {
		name := h.Member
		if name == "" {
			name = h.Name + " (as it says)"
		}
		fmt.Fprintf(w, "heard       %s  %s  %s  %s\n", name, h.State, h.Addr, h.Peer)
	}
}
