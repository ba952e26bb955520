package metrics_test

import (
	"crypto/rand"
	"log"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/ri2n/metrics"
)

// The counters of an endpoint, for Prometheus.
func ExampleNew() {
	id, err := ri2n.NewIdentity(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{Identity: id})
	if err != nil {
		log.Fatal(err)
	}
	defer endpoint.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(endpoint.Stats))
	http.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	log.Fatal(http.ListenAndServe("127.0.0.1:9479", nil))
}
