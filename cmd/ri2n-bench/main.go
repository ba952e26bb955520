// Command ri2n-bench measures ri2n beside what a user would otherwise pick:
// goodput at the receiver, CPU-seconds per GB, round-trip time of small
// messages, and the time to set a connection up.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(newRoot(), explain)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ri2n-bench",
		Short: "Measure the ri2n transport beside its contenders",
		Long: `ri2n-bench moves bytes over ri2n and over other transports, in turns, and
prints goodput at the receiver, CPU-seconds per GB of both ends, round-trip
times of 64-byte messages, and the time from dial to the first echoed byte.

"local" needs nothing else; "server" and "client" measure between machines.`,
		Example: "ri2n-bench local --rounds 3 --seconds 3",
	}
	root.AddCommand(newLocal(), newServer(), newClient(), newCompare(), newTwoLinks(), newFlood(), newPlot(), newTunnels(), newWorker(), newWireguard(), newRelay())
	return root
}
