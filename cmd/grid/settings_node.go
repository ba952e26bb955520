package main

import (
	"fmt"
	"path/filepath"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// nodeSettings say how the node reaches others and whom it lets in.
type nodeSettings struct {
	rendezvous string
	listenPort uint16
	allow      []string
	allowFile  string
	policy     string
	path       string
}

func defaultNode() nodeSettings { return nodeSettings{path: overlay.PathAny.String()} }

func (n *nodeSettings) section() config.Section {
	return config.Section{
		Name: "node",
		Doc:  "How this computer reaches others, and whom it lets in.",
		Keys: []config.Key{
			{
				Name: "rendezvous", Value: &n.rendezvous,
				Doc:   "HOST:PORT#PEERID of the rendezvous, as it prints it at its start. The flag --rendezvous and the variable GRID_RENDEZVOUS come first. Empty: the file rendezvous in the state directory.",
				Check: func() error { return checkAddress(n.rendezvous) },
			},
			{
				Name: "listen_port", Value: &n.listenPort,
				Doc:  "UDP port of the sockets that the agent opens. 0: any.",
				Flag: "listen-port", Usage: "UDP `port` (default any)",
			},
			{
				Name: "allow", Value: &n.allow,
				Doc:  "Peer IDs that may connect, besides those in the file allow in the state directory and the members of the grid. Empty: nobody else.",
				Flag: "allow", Usage: "`PEERID` that may connect; may be repeated",
				Check: func() error { return checkPeerIDs(n.allow) },
			},
			{
				Name: "allow_file", Value: &n.allowFile,
				Doc:  "A file of such peer IDs, one to a line. Empty: none.",
				Flag: "allow-file", Usage: "`file` of peer IDs that may connect, one to a line",
				Check: func() error { _, err := readAllowFile(n.allowFile); return err },
			},
			{
				Name: "policy", Value: &n.policy,
				Doc: "The file that says which members may connect to which ports (docs/membership.md). It is read again when it changes. Empty: policy.yaml in the state directory.",
			},
			{
				Name: "path", Value: &n.path,
				Doc:   "Which paths to peers are used. relay-only hides this computer's address from them; direct-only carries no data over a relay.",
				OneOf: []string{overlay.PathAny.String(), overlay.PathRelayOnly.String(), overlay.PathDirectOnly.String()},
			},
		},
	}
}

func checkAddress(text string) error {
	if text == "" {
		return nil
	}
	_, err := rendezvous.ParseAddress(text)
	if e, ok := err.(rendezvous.Explained); ok {
		return fmt.Errorf("%q: %s", text, e.Cause())
	}
	return err
}

func checkPeerIDs(list []string) error {
	for _, text := range list {
		if _, err := ri2n.ParsePeerID(text); err != nil {
			return fmt.Errorf("%q is not a peer ID of 52 letters and digits", text)
		}
	}
	return nil
}

// configure implements configurer.
func (n *nodeSettings) configure(a *agent, c *overlay.Config) error {
	allowed, err := parsePeers(n.allow, "--allow")
	if err != nil {
		return err
	}
	more, err := readAllowFile(n.allowFile)
	if err != nil {
		return err
	}
	c.Allow = append(allowed, more...)
	c.ListenPort = n.listenPort
	if n.policy != "" {
		if c.Policy, err = filepath.Abs(n.policy); err != nil {
			return err
		}
	}
	for _, p := range []overlay.PathPolicy{overlay.PathAny, overlay.PathRelayOnly, overlay.PathDirectOnly} {
		if p.String() == n.path {
			c.Path = p
		}
	}
	return nil
}

func (n *nodeSettings) apply(*agent) error { return nil }
