package server

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/relay"
	"github.com/instantgrid/instantgrid/ri2n/metrics"
)

// A snapshot is what metrics and health show of one moment.
type snapshot struct {
	relay.Snapshot
	strangersRefused, stunReceived, stunSent uint64
	stun                                     [stunVerdicts]uint64
	asks, asksRefused                        uint64
	grids, gridMembers                       int
	ledger                                   ledger.Counters
}

func (s *Server) snapshot() snapshot {
	v := snapshot{Snapshot: s.relay.Snapshot()}
	v.strangersRefused = s.strangersRefused.Load()
	v.stunReceived = s.stunReceived.Load()
	v.stunSent = s.stunSent.Load()
	v.asks, v.asksRefused = s.asks.done.Load(), s.asks.refused.Load()
	if s.ledger != nil {
		v.grids, v.gridMembers, v.ledger = s.ledger.Counts()
	}
	for i := range s.stun {
		v.stun[i] = s.stun[i].Load()
	}
	return v
}

// A metric is one line of what the server tells Prometheus.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*snapshot) float64 // nil: labelled
	each  func(*snapshot, func(label string, v uint64))
}

func newMetric(name, help string, kind prometheus.ValueType, labels ...string) metric {
	return metric{desc: prometheus.NewDesc("rendezvous_"+name, help, labels, nil), kind: kind}
}

func gauge(name, help string, value func(*snapshot) int) metric {
	m := newMetric(name, help, prometheus.GaugeValue)
	m.value = func(v *snapshot) float64 { return float64(value(v)) }
	return m
}

func counter(name, help string, value func(*snapshot) uint64) metric {
	m := newMetric(name, help, prometheus.CounterValue)
	m.value = func(v *snapshot) float64 { return float64(value(v)) }
	return m
}

func labelled(name, help, label string, each func(*snapshot, func(string, uint64))) metric {
	m := newMetric(name, help, prometheus.CounterValue, label)
	m.each = each
	return m
}

// byReason gives the counters of all reasons that have a name.
func byReason(of func(*snapshot) *[256]uint64) func(*snapshot, func(string, uint64)) {
	return func(v *snapshot, emit func(string, uint64)) {
		for r := protocol.ReasonNone; r <= protocol.ReasonNotRegistered; r++ {
			emit(r.String(), of(v)[r])
		}
	}
}

var serverMetrics = []metric{
	gauge("sessions", "Sessions of agents, guests and strangers.", func(v *snapshot) int { return v.Sessions }),
	gauge("registrations", "Peers that can be found now.", func(v *snapshot) int { return v.Registered }),
	gauge("channels", "Open relay channels.", func(v *snapshot) int { return v.Channels }),
	gauge("held_datagrams", "Datagrams that wait for their channel to open.", func(v *snapshot) int { return v.Held }),
	gauge("members", "Peer IDs on the list of members.", func(v *snapshot) int { return v.Members }),
	gauge("deposits", "Deposits of tokens that are remembered.", func(v *snapshot) int { return v.OpenDeposits }),
	gauge("strangers", "Places taken by peers that may show a token.", func(v *snapshot) int { return v.Strangers }),
	counter("registrations_total", "New registrations.", func(v *snapshot) uint64 { return v.Registrations }),
	counter("refreshes_total", "Refreshed registrations.", func(v *snapshot) uint64 { return v.Refreshes }),
	counter("expired_total", "Sessions ended for silence.", func(v *snapshot) uint64 { return v.Expired }),
	counter("strangers_refused_total", "Peers refused before any state was made for them.", func(v *snapshot) uint64 { return v.strangersRefused }),
	counter("strangers_above_prefix_limit_total", "Strangers ended for the number of others in their prefix.", func(v *snapshot) uint64 { return v.PrefixRefused }),
	counter("addresses_shown_total", "Addresses of agents shown to a peer, as they asked for.", func(v *snapshot) uint64 { return v.Shown }),
	counter("shows_dropped_total", "Addresses not shown: asked too often, or on no channel in use.", func(v *snapshot) uint64 { return v.ShowsDropped }),
	counter("registrations_refused_total", "Registrations above a limit.", func(v *snapshot) uint64 { return v.HandshakesRefused }),
	counter("channels_opened_total", "Relay channels opened.", func(v *snapshot) uint64 { return v.ChannelsOpened }),
	labelled("channels_refused_total", "Relay channels refused.", "reason", byReason(func(v *snapshot) *[256]uint64 { return &v.ChannelsRefused })),
	labelled("channels_closed_total", "Relay channels closed.", "reason", byReason(func(v *snapshot) *[256]uint64 { return &v.ChannelsClosed })),
	labelled("sessions_closed_total", "Sessions closed by the server.", "reason", byReason(func(v *snapshot) *[256]uint64 { return &v.SessionsClosed })),
	counter("relayed_datagrams_total", "Datagrams relayed.", func(v *snapshot) uint64 { return v.RelayedDatagrams }),
	counter("relayed_bytes_total", "Bytes of relayed packets.", func(v *snapshot) uint64 { return v.RelayedBytes }),
	counter("guest_bytes_total", "Bytes relayed on the allowance of guests.", func(v *snapshot) uint64 { return v.GuestBytes }),
	labelled("datagrams_dropped_total", "Datagrams that went no further.", "reason", func(v *snapshot, emit func(string, uint64)) {
		for i, n := range v.DatagramsDropped {
			emit(relay.DropReason(i).String(), n)
		}
	}),
	labelled("deposits_total", "Deposits asked for.", "result", func(v *snapshot, emit func(string, uint64)) {
		emit("ok", v.Deposits)
		emit("refused", v.DepositsRefused)
	}),
	labelled("admissions_total", "Keys of tokens shown.", "result", func(v *snapshot, emit func(string, uint64)) {
		emit("ok", v.Admits)
		emit("refused", v.AdmitsRefused)
	}),
	gauge("grids", "Grids that the ledger keeps.", func(v *snapshot) int { return v.grids }),
	gauge("grid_members", "Peers that are members of any grid.", func(v *snapshot) int { return v.gridMembers }),
	counter("ledger_questions_total", "Questions put to the ledger.", func(v *snapshot) uint64 { return v.asks }),
	counter("ledger_questions_refused_total", "Questions above a limit.", func(v *snapshot) uint64 { return v.asksRefused }),
	labelled("ledger_joins_total", "Nodes that asked to join a grid.", "result", func(v *snapshot, emit func(string, uint64)) {
		emit("ok", v.ledger.Joins)
		emit("refused", v.ledger.JoinsRefused)
	}),
	counter("ledger_renewals_total", "Records renewed.", func(v *snapshot) uint64 { return v.ledger.Renewals }),
	counter("ledger_lists_total", "Revocation lists taken in.", func(v *snapshot) uint64 { return v.ledger.Published }),
	labelled("stun_requests_total", "Datagrams that are not RI2N.", "result", func(v *snapshot, emit func(string, uint64)) {
		for i, n := range v.stun {
			emit(stunVerdictNames[i], n)
		}
	}),
	labelled("stun_bytes_total", "Bytes of these datagrams and of the answers.", "direction", func(v *snapshot, emit func(string, uint64)) {
		emit("received", v.stunReceived)
		emit("sent", v.stunSent)
	}),
}

// Describe implements [prometheus.Collector].
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, m := range serverMetrics {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (s *Server) Collect(out chan<- prometheus.Metric) {
	v := s.snapshot()
	for _, m := range serverMetrics {
		if m.value != nil {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&v))
			continue
		}
		m.each(&v, func(label string, n uint64) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(n), label)
		})
	}
}

// PeerUse is what one peer has used of the relay while it was here.
type PeerUse = relay.PeerUse

// Peers returns what registered peers use, sorted by peer ID.
func (s *Server) Peers() []PeerUse { return s.relay.Peers() }

// Handler serves /metrics, /healthz and /peers. It asks for no login: listen
// where only operators reach it.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s, metrics.New(s.endpoint.Stats), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		v := s.snapshot()
		status := "ok"
		if v.Closing {
			status = "stopping"
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		writeJSON(w, map[string]any{
			"schema":        "instantgrid/health/1",
			"status":        status,
			"registrations": v.Registered,
			"channels":      v.Channels,
		})
	})
	mux.HandleFunc("GET /peers", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"schema": "instantgrid/rendezvous-peers/1", "rows": s.Peers()})
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // a reader that has gone is no concern of ours
}
