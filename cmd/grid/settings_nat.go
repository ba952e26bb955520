package main

import (
	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/overlay"
)

// natSettings say what is asked of the routers before this computer.
type natSettings struct{ portMapping bool }

func defaultNAT() *natSettings { return &natSettings{portMapping: true} }

func (n *natSettings) section() config.Section {
	return config.Section{
		Name: "nat",
		Doc:  "How peers get through the NAT before this computer (docs/nat.md).",
		Keys: []config.Key{
			{
				Name: "port_mapping", Value: &n.portMapping,
				Doc: "Whether the default router is asked, by PCP, NAT-PMP or UPnP-IGD, to send one of its ports on to this computer. The port leads to the agent alone, which answers nobody who cannot prove a peer ID. The flag --no-port-mapping comes first.",
			},
		},
	}
}

// configure implements configurer.
func (n *natSettings) configure(_ *agent, c *overlay.Config) error {
	c.NoPortMapping = c.NoPortMapping || !n.portMapping
	return nil
}

func (n *natSettings) apply(*agent) error { return nil }
