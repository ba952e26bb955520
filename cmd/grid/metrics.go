package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// A nodeCollector shows a node's status to Prometheus. Names begin with
// overlay_ and are in docs/metrics.md. No label names a peer.
type nodeCollector struct{ status func() overlay.Status }

var (
	metricPeers      = prometheus.NewDesc("overlay_peers", "Peers with a session now, by the kind of path that carries it.", []string{"path"}, nil)
	metricReasons    = prometheus.NewDesc("overlay_peers_not_direct", "Peers without a direct path now, by the reason.", []string{"reason"}, nil)
	metricLinks      = prometheus.NewDesc("overlay_links", "Sockets now.", nil, nil)
	metricRegistered = prometheus.NewDesc("overlay_registered", "1 while the rendezvous knows the node.", nil, nil)
	metricRTT        = prometheus.NewDesc("overlay_rendezvous_rtt_seconds", "Round trip to the rendezvous; absent while not registered.", nil, nil)
	metricMembers    = prometheus.NewDesc("overlay_members", "Members of the grid that are known; absent without a grid.", nil, nil)
	metricValid      = prometheus.NewDesc("overlay_membership_valid", "1 while the membership holds; absent without a grid.", nil, nil)
	metricExpiry     = prometheus.NewDesc("overlay_membership_expires_seconds", "When the membership ends, since 1970; absent while it does not hold.", nil, nil)
	metricConfirmed  = prometheus.NewDesc("overlay_revocations_confirmed_seconds", "When a ledger last confirmed the revocation list, since 1970; absent without a grid.", nil, nil)
	metricBuild      = prometheus.NewDesc("grid_build_info", "1; the label is the version.", []string{"version"}, nil)
)

// Describe implements [prometheus.Collector]. The counters are those of
// [overlay.Counters], so that the set is open.
func (c nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	kinds := map[string]float64{overlay.KindDirect: 0, overlay.KindRelay: 0, overlay.KindPeerRelay: 0}
	reasons := make(map[string]float64)
	for _, p := range s.Peers {
		kinds[p.Path.Kind]++
		if p.Path.Reason != "" {
			reasons[p.Path.Reason]++
		}
	}
	for kind, n := range kinds {
		gauge(metricPeers, n, kind)
	}
	for reason, n := range reasons {
		gauge(metricReasons, n, reason)
	}
	gauge(metricLinks, float64(len(s.Links)))
	gauge(metricRegistered, oneIf(s.Rendezvous.Registered))
	if s.Rendezvous.Registered {
		gauge(metricRTT, s.Rendezvous.RTT.Seconds())
	}
	if g := s.Grid; g != nil {
		gauge(metricMembers, float64(g.Members))
		gauge(metricValid, oneIf(g.Self != nil))
		gauge(metricConfirmed, float64(g.Confirmed.Unix()))
		if g.Self != nil {
			gauge(metricExpiry, float64(g.Self.ValidUntil.Unix()))
		}
	}
	if r := s.Routing; r != nil {
		c.collectRouting(out, r)
	}
	gauge(metricBuild, 1, cli.Version("grid").Version)
	eachCounter("", reflect.ValueOf(s.Counters), func(name string, n uint64) {
		desc := prometheus.NewDesc("overlay_"+name+"_total", "The counter "+name+" of grid status --json.", nil, nil)
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	})
}

// collectRouting shows the node's part in key-based routing.
func (c nodeCollector) collectRouting(out chan<- prometheus.Metric, r *overlay.RoutingStatus) {
	suspected := 0
	for _, s := range r.Sessions {
		if s.State == overlay.MemberSuspected {
			suspected++
		}
	}
	for _, g := range []struct {
		name, help string
		value      int
	}{
		{"contacts", "Members in the routing table.", r.Contacts},
		{"nodes", "Members of the grid, estimated.", r.Nodes},
		{"sessions", "Sessions that routing may use.", len(r.Sessions)},
		{"sessions_suspected", "Of these, with members that are suspected.", suspected},
		{"shortcuts", "Sessions that traffic has earned.", r.Shortcuts},
		{"objects", "Location objects kept for the grid.", r.Objects},
		{"names", "Announcements kept for the grid.", r.Names},
		{"mailboxes", "Mailboxes open.", r.Mailboxes},
		{"health", "Local health: 0 is well, 8 the worst.", r.Health},
	} {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("overlay_routing_"+g.name, g.help, nil, nil), prometheus.GaugeValue, float64(g.value))
	}
	eachCounter("", reflect.ValueOf(r.Counters), func(name string, n uint64) {
		desc := prometheus.NewDesc("overlay_routing_"+name+"_total", "The counter routing.counters."+name+" of grid status --json.", nil, nil)
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	})
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// eachCounter calls f with the JSON name and value of each counter in v.
func eachCounter(prefix string, v reflect.Value, f func(name string, n uint64)) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		switch field := v.Field(i); field.Kind() {
		case reflect.Uint64:
			f(prefix+name, field.Uint())
		case reflect.Struct:
			eachCounter(prefix+name+"_", field, f)
		}
	}
}

// healthDocument is "instantgrid/health/1".
type healthDocument struct {
	OK         bool          `json:"ok"`
	Problems   []string      `json:"problems"`
	Registered bool          `json:"registered"`
	Peers      int           `json:"peers"`
	Direct     int           `json:"direct"` // of these
	Uptime     time.Duration `json:"uptime_ns"`
}

// health says whether the node does what it is there for.
func health(s overlay.Status, uptime time.Duration) healthDocument {
	doc := healthDocument{Problems: []string{}, Registered: s.Rendezvous.Registered, Peers: len(s.Peers), Uptime: uptime}
	for _, p := range s.Peers {
		if p.Path.Kind == overlay.KindDirect {
			doc.Direct++
		}
	}
	if r := s.Rendezvous; r.Address != "" && !r.Registered {
		doc.Problems = append(doc.Problems, "not registered at the rendezvous: "+orText(r.Error, "connecting"))
	}
	if g := s.Grid; g != nil && g.Self == nil {
		doc.Problems = append(doc.Problems, "not a member of "+g.Name+" now: "+g.Error)
	} else if g != nil && g.Stale {
		doc.Problems = append(doc.Problems, "nobody has confirmed the revocation list since "+g.Confirmed.UTC().Format(time.RFC3339))
	}
	doc.OK = len(doc.Problems) == 0
	return doc
}
