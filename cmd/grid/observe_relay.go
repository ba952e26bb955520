package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/instantgrid/instantgrid/overlay"
)

// A relayCollector tells Prometheus what a node relays, and what relays for it.
type relayCollector struct{ node *overlay.Node }

// A relayMetric is one line.
type relayMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*overlay.RelayStatus, *overlay.Counters) uint64
}

var relayMetrics = []relayMetric{
	newRelayMetric("registered_with", "Members that relay for this node now.", prometheus.GaugeValue,
		func(r *overlay.RelayStatus, _ *overlay.Counters) uint64 { return uint64(len(r.With)) }),
	newRelayMetric("members", "Members that this node relays for now.", prometheus.GaugeValue,
		func(r *overlay.RelayStatus, _ *overlay.Counters) uint64 { return uint64(r.Members) }),
	newRelayMetric("channels", "Channels between these members.", prometheus.GaugeValue,
		func(r *overlay.RelayStatus, _ *overlay.Counters) uint64 { return uint64(r.Channels) }),
	newRelayMetric("relayed_bytes_total", "Bytes of packets relayed for members.", prometheus.CounterValue,
		func(r *overlay.RelayStatus, _ *overlay.Counters) uint64 { return r.Bytes }),
	newRelayMetric("dropped_datagrams_total", "Datagrams of members that went no further, for any reason.", prometheus.CounterValue,
		func(r *overlay.RelayStatus, _ *overlay.Counters) uint64 { return r.Dropped }),
	newRelayMetric("refused_total", "Registrations refused, for want of the role here or of a membership there.", prometheus.CounterValue,
		func(_ *overlay.RelayStatus, c *overlay.Counters) uint64 { return c.RelaysRefused }),
	newRelayMetric("nested_total", "Relays refused that would have been reached through a relay.", prometheus.CounterValue,
		func(_ *overlay.RelayStatus, c *overlay.Counters) uint64 { return c.RelaysNested }),
	newRelayMetric("left_total", "Paths through a member given up as it did not carry them.", prometheus.CounterValue,
		func(_ *overlay.RelayStatus, c *overlay.Counters) uint64 { return c.RelaysLeft }),
}

func newRelayMetric(name, help string, kind prometheus.ValueType, value func(*overlay.RelayStatus, *overlay.Counters) uint64) relayMetric {
	return relayMetric{prometheus.NewDesc("grid_relay_"+name, help, nil, nil), kind, value}
}

// Describe implements [prometheus.Collector].
func (c relayCollector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range relayMetrics {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector]. A node without a grid has none.
func (c relayCollector) Collect(out chan<- prometheus.Metric) {
	s := c.node.Status()
	if s.Relay == nil {
		return
	}
	for _, m := range relayMetrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(s.Relay, &s.Counters)))
	}
}
