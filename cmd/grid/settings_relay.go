package main

import (
	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/overlay"
)

// relaySettings say what the node relays for other members.
type relaySettings struct {
	mode                      string
	rate, peerRate            int // Mbit/s
	dailyQuota                int // MiB
	channels, channelsPerPeer int
}

func defaultRelay() *relaySettings {
	return &relaySettings{mode: overlay.RelayMembers.String(), channels: 4096, channelsPerPeer: 64}
}

func (r *relaySettings) section() config.Section {
	within := func(n *int, least, most int) func() error {
		return func() error { return inRange(*n, least, most) }
	}
	return config.Section{
		Name: "relay",
		Doc:  "What this computer relays for other members of its grid, if its membership has the role relay (docs/relays.md).",
		Keys: []config.Key{
			{
				Name: "mode", Value: &r.mode,
				Doc:   "For whom: members of the grid, or nobody.",
				OneOf: []string{overlay.RelayMembers.String(), overlay.RelayOff.String()},
			},
			{
				Name: "rate", Value: &r.rate,
				Doc:   "Mbit/s that are relayed in all; those who send share them equally. 0: no limit.",
				Check: within(&r.rate, 0, 1_000_000),
			},
			{
				Name: "peer_rate", Value: &r.peerRate,
				Doc:   "Mbit/s that are relayed for one sender. 0: no limit.",
				Check: within(&r.peerRate, 0, 1_000_000),
			},
			{
				Name: "daily_quota", Value: &r.dailyQuota,
				Doc:   "MiB that are relayed for one sender within 24 h. 0: no limit.",
				Check: within(&r.dailyQuota, 0, 1<<30),
			},
			{
				Name: "channels", Value: &r.channels,
				Doc:   "How many pairs of members are served at a time, about.",
				Check: within(&r.channels, 1, 65_536),
			},
			{
				Name: "channels_per_peer", Value: &r.channelsPerPeer,
				Doc:   "How many of these one member opens.",
				Check: within(&r.channelsPerPeer, 1, 65_536),
			},
		},
	}
}

// configure implements configurer.
func (r *relaySettings) configure(_ *agent, c *overlay.Config) error {
	c.Relay = overlay.RelayConfig{
		Rate: int64(r.rate) * 1_000_000 / 8, PeerRate: int64(r.peerRate) * 1_000_000 / 8,
		DailyQuota: int64(r.dailyQuota) << 20, Channels: r.channels, ChannelsPerPeer: r.channelsPerPeer,
	}
	if r.mode == overlay.RelayOff.String() {
		c.Relay.Mode = overlay.RelayOff
	}
	return nil
}

func (r *relaySettings) apply(*agent) error { return nil }
