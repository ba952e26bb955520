package main

import (
	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// agentServesSeveral is what to do while another command has the identity.
const agentServesSeveral = "wait for it, or run the agent, which serves several commands at once: grid up"

// A nodeUse is what a command wants with a node of its own.
type nodeUse struct {
	line  string        // the command line, for an error that wants --rendezvous added; empty: the command
	taken string        // what to do while another command has the identity; empty: agentServesSeveral
	allow []ri2n.PeerID // who may connect besides members and the allow list
}

// withNode runs f with a node under the identity in dir, where no agent runs.
func (o *options) withNode(cmd *cobra.Command, dir string, use nodeUse, f func(node *overlay.Node) error) error {
	if use.line == "" {
		use.line = cmd.CommandPath()
	}
	if use.taken == "" {
		use.taken = agentServesSeveral
	}
	address, err := o.meetingPoint(dir, use.line)
	if err != nil {
		return err
	}
	release, err := takeIdentity(dir)
	if err != nil {
		return takenOr(err, dir, use.taken)
	}
	defer release()
	trace, endTrace, err := o.beginTrace(cmd)
	if err != nil {
		return err
	}
	defer endTrace()
	node, err := startNode(cmd.Context(), overlay.Config{
		Trace: trace, Dir: dir, Rendezvous: address, NoDiscovery: o.noDiscovery, NoPortMapping: o.noPortMapping, Allow: use.allow,
	})
	if err != nil {
		return err
	}
	defer node.Close()
	return f(node)
}
