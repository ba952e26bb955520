// The grid command is what a user types: it sends files between computers
// behind home NATs, shows how they are connected, and runs the agent.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(newRoot(), explain)) }

// options are the flags that every command shares.
type options struct {
	dir        string
	rendezvous string
	trace      string // file for a trace; empty: none

	noDiscovery   bool // be silent on local networks
	noPortMapping bool // ask no router for a port
}

// newRoot returns the whole command tree.
func newRoot() *cobra.Command {
	o := new(options)
	root := &cobra.Command{
		Use:   "grid",
		Short: "Connect computers behind NATs",
		Long: `grid connects computers behind NATs: a rendezvous on a public host introduces
them, and they then talk directly wherever their networks allow it.`,
		Example: `# Prints a token:
grid send photos.tar
# On any other computer, with that token:
grid recv TOKEN`,
	}
	f := root.PersistentFlags()
	f.StringVar(&o.dir, "dir", "", "state `directory` (default $XDG_STATE_HOME/instantgrid, else ~/.local/state/instantgrid)")
	f.StringVar(&o.rendezvous, "rendezvous", "", "`HOST:PORT#PEERID` of the rendezvous (default $GRID_RENDEZVOUS, else the file rendezvous in the state directory)")
	f.BoolVar(&o.noPortMapping, "no-port-mapping", false, "ask no router for a port; otherwise a node behind a NAT does, by PCP, NAT-PMP or UPnP-IGD")
	f.BoolVar(&o.noDiscovery, "no-discovery", false, "say and hear nothing on the local network; otherwise members of a grid find each other there")
	f.StringVar(&o.trace, "qlog", "", "write a trace of the transport to this `file`, for ri2n-bench plot")
	root.AddCommand(
		idCommand(o),
		initCommand(o),
		inviteCommand(o),
		joinCommand(o),
		membersCommand(o),
		revokeCommand(o),
		upCommand(o),
		connectCommand(o),
		forwardCommand(o),
		exposeCommand(o),
		proxyCommand(o),
		dnsCommand(o),
		workerCommand(o),
		workersCommand(o),
		callCommand(o),
		mapCommand(o),
		downCommand(o),
		reloadCommand(o),
		configCommand(),
		serviceCommand(o),
		statusCommand(o),
		eventsCommand(o),
		pingCommand(o),
		lookupCommand(o),
		sendCommand(o),
		recvCommand(o),
		putCommand(o),
		getCommand(o),
		lsCommand(o),
		pinCommand(o),
		unpinCommand(o),
		rmCommand(o),
		storeCommand(o),
		netcheckCommand(o),
		doctorCommand(o),
		bugreportCommand(o),
	)
	return root
}
