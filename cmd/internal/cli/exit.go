package cli

import (
	"fmt"
	"io"
)

// Exit codes, one table for the four programs. Numbers are never reused.
const (
	ExitOK          = 0
	ExitFailed      = 1   // the work was not done; of ping: no answer
	ExitUsage       = 2   // unknown command or flag, wrong argument, bad configuration
	ExitRelayed     = 3   // ping --until-direct: the peer answers, through the relay
	ExitUnreachable = 4   // the rendezvous or the peer did not answer in time (not ping)
	ExitRefused     = 5   // the other side answered and said no
	ExitIntegrity   = 6   // what arrived is not what was sent
	ExitInterrupted = 130 // a signal ended the work before it was done
)

// exitTable explains the codes, in order, for help texts and man pages.
var exitTable = []struct {
	code    int
	meaning string
}{
	{ExitOK, "done"},
	{ExitFailed, "failed (ping: no answer)"},
	{ExitUsage, "wrong usage or configuration"},
	{ExitRelayed, "ping --until-direct: the path is still relayed"},
	{ExitUnreachable, "rendezvous or peer did not answer in time"},
	{ExitRefused, "refused by the rendezvous or the peer"},
	{ExitIntegrity, "data arrived damaged: the hashes differ"},
	{ExitInterrupted, "interrupted by a signal"},
}

func writeExitTable(w io.Writer) {
	for _, row := range exitTable {
		fmt.Fprintf(w, "  %3d  %s\n", row.code, row.meaning)
	}
}
