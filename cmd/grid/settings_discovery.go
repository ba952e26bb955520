package main

import (
	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/overlay"
)

// discoverySettings say whether members find each other on the local network.
type discoverySettings struct{ lan bool }

func defaultDiscovery() *discoverySettings { return &discoverySettings{lan: true} }

func (d *discoverySettings) section() config.Section {
	return config.Section{
		Name: "discovery",
		Doc:  "How members of the grid find each other without a rendezvous (docs/discovery.md).",
		Keys: []config.Key{
			{
				Name: "lan", Value: &d.lan,
				Doc: "Whether a member announces itself on the local network, by multicast DNS, and hears others. The flag --no-discovery comes first. A computer that belongs to no grid is silent.",
			},
		},
	}
}

// configure implements configurer.
func (d *discoverySettings) configure(_ *agent, c *overlay.Config) error {
	c.NoDiscovery = c.NoDiscovery || !d.lan
	return nil
}

func (d *discoverySettings) apply(*agent) error { return nil }
