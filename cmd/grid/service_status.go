package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// A serviceStatus is what grid status says of a service.
type serviceStatus struct {
	Kind     string            `json:"kind"`
	Listen   string            `json:"listen"`
	Network  string            `json:"network"`
	To       string            `json:"to,omitempty"`
	System   string            `json:"system,omitempty"` // how all programs of this computer are led to it; empty: they are not
	Does     string            `json:"does"`             // for people
	Counters map[string]uint64 `json:"counters"`         // of forward.Counters, socks.Counters or resolver.Counters
}

// status returns what runs, in the order opened.
func (h *serviceHost) status() []serviceStatus {
	h.mu.Lock()
	running := slices.Clone(h.running)
	h.mu.Unlock()
	list := make([]serviceStatus, len(running))
	for i, s := range running {
		list[i] = serviceStatus{
			Kind: s.spec.Kind, Listen: s.listen, Network: s.spec.network(), To: s.spec.To, System: s.system,
			Does: s.text(), Counters: countsOf(s.counts),
		}
	}
	return list
}

// countsOf reads the counters that a struct points to, by the names in their tags.
func countsOf(counters any) map[string]uint64 {
	counts := make(map[string]uint64)
	v := reflect.ValueOf(counters).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("counter")
		switch c := v.Field(i).Addr().Interface().(type) {
		case *atomic.Uint64:
			counts[name] = c.Load()
		case *atomic.Int64: // of what there is now
			counts[name] = uint64(max(0, c.Load()))
		}
	}
	return counts
}

// openCounter is the one counter of services that goes down as well.
const openCounter = "open"

// countsText says how much a service has done.
func (s *serviceStatus) countsText() string {
	c := s.Counters
	switch s.Kind {
	case kindDNS:
		return fmt.Sprintf("%d answers, %d passed on, %d unanswered", c["answered"]+c["missing"], c["forwarded"], c["unanswered"])
	case kindProxy:
		return fmt.Sprintf("%d connections, %d clients now, %d refused", c["connected"], c[openCounter], c["failed"]+c["outside"])
	}
	return fmt.Sprintf("%d connections, %d now, %d failed", c["taken"], c[openCounter], c["failed"])
}

// A serviceCollector tells Prometheus what the services of an agent, and its
// network interface, have done.
type serviceCollector struct{ status func() agentStatus }

// Describe implements [prometheus.Collector]. Services come and go, so that the
// set is open.
func (c serviceCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c serviceCollector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	told := make(map[string]bool) // a service that is ending, and the one after it
	for _, x := range s.Services {
		names, labels := []string{"listen", "network"}, []string{x.Listen, x.Network}
		if x.To != "" {
			names, labels = append(names, "to"), append(labels, x.To)
		}
		key := x.Kind + " " + strings.Join(labels, " ")
		if told[key] {
			continue
		}
		told[key] = true
		for name, n := range x.Counters {
			full, kind := "grid_"+x.Kind+"_"+name+"_total", prometheus.CounterValue
			if name == openCounter {
				full, kind = "grid_"+x.Kind+"_"+name, prometheus.GaugeValue
			}
			desc := prometheus.NewDesc(full, "The counter "+name+" of such a service in grid status --json.", names, nil)
			out <- prometheus.MustNewConstMetric(desc, kind, float64(n), labels...)
		}
	}
	if i := s.Interface; i != nil {
		for name, n := range map[string]int{"peers": i.Peers, "flows": i.Flows} {
			desc := prometheus.NewDesc("grid_tun_"+name, "The number "+name+" of the interface in grid status --json.", nil, nil)
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n))
		}
		eachCounter("", reflect.ValueOf(i.Counters), func(name string, n uint64) {
			desc := prometheus.NewDesc("grid_tun_"+name+"_total", "The counter "+name+" of the interface in grid status --json.", nil, nil)
			out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
		})
	}
}
