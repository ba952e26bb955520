// Package metrics shows the counters of an ri2n endpoint to Prometheus.
//
//	registry.MustRegister(metrics.New(endpoint.Stats))
//
// Names begin with ri2n_ and are listed in docs/metrics.md. The only label is a
// reason from a closed list: a scrape has the same number of lines whoever
// comes and goes.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/instantgrid/instantgrid/ri2n"
)

// New returns a collector of what stats returns, which is called once for each
// scrape: the Stats method of an endpoint.
func New(stats func() ri2n.Stats) prometheus.Collector { return collector{stats} }

type collector struct{ stats func() ri2n.Stats }

// A metric is one name with its value, or with one for each reason.
type metric struct {
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	value   func(*ri2n.Stats) uint64
	reasons []reason // in place of value
}

type reason struct {
	name  string
	value func(*ri2n.Stats) uint64
}

func counter(name, help string, value func(*ri2n.Stats) uint64) metric {
	return metric{desc: prometheus.NewDesc("ri2n_"+name, help, nil, nil), kind: prometheus.CounterValue, value: value}
}

func gauge(name, help string, value func(*ri2n.Stats) uint64) metric {
	return metric{desc: prometheus.NewDesc("ri2n_"+name, help, nil, nil), kind: prometheus.GaugeValue, value: value}
}

func byReason(name, help string, reasons ...reason) metric {
	return metric{desc: prometheus.NewDesc("ri2n_"+name, help, []string{"reason"}, nil), kind: prometheus.CounterValue, reasons: reasons}
}

var list = []metric{
	gauge("sessions", "Sessions now.", func(s *ri2n.Stats) uint64 { return uint64(s.Sessions) }),
	gauge("links", "Sockets and relay channels now.", func(s *ri2n.Stats) uint64 { return uint64(s.Links) }),
	counter("received_bytes_total", "Bytes of UDP payload that arrived.", func(s *ri2n.Stats) uint64 { return s.BytesReceived }),
	counter("received_datagrams_total", "Datagrams that arrived.", func(s *ri2n.Stats) uint64 { return s.DatagramsReceived }),
	counter("reads_total", "System calls that brought datagrams.", func(s *ri2n.Stats) uint64 { return s.Reads }),
	counter("sent_bytes_total", "Bytes of UDP payload that left.", func(s *ri2n.Stats) uint64 { return s.BytesSent }),
	counter("sent_datagrams_total", "Datagrams that left.", func(s *ri2n.Stats) uint64 { return s.DatagramsSent }),
	counter("bursts_total", "Runs of datagrams for one system call.", func(s *ri2n.Stats) uint64 { return s.Bursts }),
	counter("send_errors_total", "System calls that sent nothing.", func(s *ri2n.Stats) uint64 { return s.SendErrors }),
	counter("lost_packets_total", "Packets declared lost.", func(s *ri2n.Stats) uint64 { return s.PacketsLost }),
	counter("spurious_losses_total", "Packets lost or reinjected that were acknowledged after all.", func(s *ri2n.Stats) uint64 { return s.PacketsSpurious }),
	counter("reinjected_packets_total", "Packets given up on a path that others could replace.", func(s *ri2n.Stats) uint64 { return s.PacketsReinjected }),
	counter("copied_bytes_total", "Stream data sent on one more path.", func(s *ri2n.Stats) uint64 { return s.BytesCopied }),
	counter("probe_timeouts_total", "Probe time-outs of all paths.", func(s *ri2n.Stats) uint64 { return s.ProbeTimeouts }),
	counter("failovers_total", "Paths that became suspect.", func(s *ri2n.Stats) uint64 { return s.PathFailovers }),
	counter("key_updates_total", "Updates of the keys of what is sent.", func(s *ri2n.Stats) uint64 { return s.KeyUpdates }),
	counter("handshakes_started_total", "Handshakes begun, by either side.", func(s *ri2n.Stats) uint64 { return s.HandshakesStarted }),
	counter("handshakes_completed_total", "Handshakes that made a session.", func(s *ri2n.Stats) uint64 { return s.HandshakesCompleted }),
	counter("sessions_started_total", "Sessions begun.", func(s *ri2n.Stats) uint64 { return s.SessionsStarted }),
	counter("retries_sent_total", "Peers that had to prove their address first.", func(s *ri2n.Stats) uint64 { return s.RetriesSent }),
	counter("retries_received_total", "Dials that had to prove their address first.", func(s *ri2n.Stats) uint64 { return s.RetriesReceived }),
	counter("violations_total", "Sessions closed for a breach of the protocol.", func(s *ri2n.Stats) uint64 { return s.Violations }),
	counter("stateless_resets_sent_total", "Answers to packets of forgotten sessions.", func(s *ri2n.Stats) uint64 { return s.StatelessResetsSent }),
	counter("starved_packets_total", "Packets given up, as a peer that sends acknowledged none for long.", func(s *ri2n.Stats) uint64 { return s.AcksStarved }),
	counter("held_windows_total", "Receive windows that did not grow, as the buffer budget was spent.", func(s *ri2n.Stats) uint64 { return s.WindowsHeld }),
	counter("distrusted_bursts_total", "Paths where bursts got lost and lone packets did not, so that packets leave one by one.", func(s *ri2n.Stats) uint64 { return s.BurstsDistrusted }),
	byReason("handshakes_refused_total", "Handshakes that made no session.",
		reason{"failed", func(s *ri2n.Stats) uint64 { return s.HandshakesFailed }},
		reason{"not-authorized", func(s *ri2n.Stats) uint64 { return s.HandshakesRefused }},
		reason{"queue", func(s *ri2n.Stats) uint64 { return s.HandshakeJobsDropped }},
		reason{"half-open", func(s *ri2n.Stats) uint64 { return s.HalfOpenRefused }},
		reason{"evicted", func(s *ri2n.Stats) uint64 { return s.HalfOpenEvicted }},
		reason{"processor-time", func(s *ri2n.Stats) uint64 { return s.HandshakesHeld }},
		reason{"sessions", func(s *ri2n.Stats) uint64 { return s.SessionsRefused }},
		reason{"accept-queue", func(s *ri2n.Stats) uint64 { return s.AcceptQueueOverflows }},
	),
	byReason("dropped_datagrams_total", "Datagrams that arrived and went no further.",
		reason{"malformed", func(s *ri2n.Stats) uint64 { return s.Malformed }},
		reason{"unknown-connection", func(s *ri2n.Stats) uint64 { return s.UnknownConnection }},
		reason{"authentication", func(s *ri2n.Stats) uint64 { return s.AuthenticationFailed }},
		reason{"mac1", func(s *ri2n.Stats) uint64 { return s.Mac1Failed }},
		reason{"undersized", func(s *ri2n.Stats) uint64 { return s.UndersizedInitials }},
		reason{"duplicate", func(s *ri2n.Stats) uint64 { return s.Duplicates }},
		reason{"token", func(s *ri2n.Stats) uint64 { return s.TokensRefused }},
		reason{"handshake-full", func(s *ri2n.Stats) uint64 { return s.HandshakeDatagramsDropped }},
		reason{"early", func(s *ri2n.Stats) uint64 { return s.EarlyPacketsDropped }},
		reason{"path-limit", func(s *ri2n.Stats) uint64 { return s.PathsRefused }},
		reason{"path-closed", func(s *ri2n.Stats) uint64 { return s.ClosedPathPackets }},
		reason{"stream-gaps", func(s *ri2n.Stats) uint64 { return s.StreamGapsRefused }},
		reason{"other-protocol", func(s *ri2n.Stats) uint64 { return s.OtherDatagramsDropped }},
	),
	byReason("held_replies_total", "Answers that limits withheld.",
		reason{"amplification", func(s *ri2n.Stats) uint64 { return s.AmplificationLimited }},
		reason{"prefix", func(s *ri2n.Stats) uint64 { return s.RepliesHeld }},
		reason{"path-challenge", func(s *ri2n.Stats) uint64 { return s.ChallengesDropped }},
		reason{"stateless-reset", func(s *ri2n.Stats) uint64 { return s.StatelessResetsHeld }},
	),
	byReason("dropped_messages_total", "Unreliable datagrams of users, and copies of stream data, that limits dropped.",
		reason{"inbox", func(s *ri2n.Stats) uint64 { return s.DatagramInboxDropped }},
		reason{"queue", func(s *ri2n.Stats) uint64 { return s.DatagramQueueDropped }},
		reason{"known", func(s *ri2n.Stats) uint64 { return s.DatagramCopiesReceived }},
		reason{"copies", func(s *ri2n.Stats) uint64 { return s.CopiesDropped }},
	),
}

var stalls = prometheus.NewDesc("ri2n_stall_seconds",
	"How long data in flight on a path went unanswered beyond a probe time-out, until it moved or was answered.", nil, nil)

// Describe implements [prometheus.Collector].
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range list {
		out <- m.desc
	}
	out <- stalls
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.stats()
	for _, m := range list {
		if m.value != nil {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(&s)))
			continue
		}
		for _, r := range m.reasons {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(r.value(&s)), r.name)
		}
	}
	buckets := make(map[float64]uint64, len(ri2n.StallBounds))
	var n uint64
	for i, bound := range ri2n.StallBounds {
		n += s.Stalls.Counts[i]
		buckets[bound.Seconds()] = n
	}
	out <- prometheus.MustNewConstHistogram(stalls, s.Stalls.Count(), s.Stalls.Sum.Seconds(), buckets)
}
