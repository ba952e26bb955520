package main

import (
	"reflect"

	"github.com/prometheus/client_golang/prometheus"
)

// A storeCollector shows the store of an agent to Prometheus, once it is open.
// Names begin with grid_store_ and are in docs/metrics.md. No label names a
// member or an object.
type storeCollector struct {
	status func() (storeStatusAnswer, bool)
}

// Describe implements [prometheus.Collector]. An agent may have no store, so that
// the set is open.
func (c storeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c storeCollector) Collect(out chan<- prometheus.Metric) {
	s, is := c.status()
	if !is {
		return
	}
	for _, g := range []struct {
		name, help string
		value      float64
	}{
		{"objects", "Objects listed.", float64(s.Objects)},
		{"pinned_objects", "Of these, pinned ones.", float64(s.Pinned)},
		{"chunks", "Chunks held.", float64(s.Chunks)},
		{"live_bytes", "Bytes of the chunks held.", float64(s.Live)},
		{"disk_bytes", "Bytes of the segments on the disk.", float64(s.Disk)},
		{"quota_bytes", "Bytes that the store may take.", float64(s.Quota)},
		{"members", "Members connected.", float64(len(s.Members))},
		{"durable_objects", "Durable objects of which parts are kept here.", float64(s.Durable.Objects)},
		{"durable_degraded", "Of these, those that lack parts now.", float64(s.Durable.Degraded)},
		{"durable_unreadable", "Of these, those that lack too many to be read now.", float64(s.Durable.Unreadable)},
		{"durable_kept_chunks", "Chunks kept for durable objects.", float64(s.Durable.Kept)},
		{"durable_records", "Records of durable objects remembered here.", float64(s.Durable.Records)},
		{"durable_stores", "Other members whose stores answer.", float64(s.Durable.Stores)},
		{"durable_sites", "Sites of these.", float64(s.Durable.Sites)},
	} {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("grid_store_"+g.name, g.help, nil, nil), prometheus.GaugeValue, g.value)
	}
	count := func(name string, n uint64) {
		desc := prometheus.NewDesc("grid_store_"+name+"_total", "The counter "+name+" of grid store status --json.", nil, nil)
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
	for name, n := range map[string]uint64{
		"puts": s.Puts, "gets": s.Gets, "misses": s.Misses, "damaged": s.Damaged, "evicted": s.Evicted, "full": s.Full,
		"sync_failures": s.SyncFailures, "refused_records": s.RefusedRecords, "durable_kept_denied": s.Durable.Denied,
	} {
		count(name, n)
	}
	eachCounter("", reflect.ValueOf(s.Swarm), func(name string, n uint64) { count("swarm_"+name, n) })
	eachCounter("", reflect.ValueOf(s.Durable.Counters), func(name string, n uint64) { count("durable_"+name, n) })
	eachCounter("", reflect.ValueOf(s.Durable.registerCounters), func(name string, n uint64) { count("durable_"+name, n) })
}
