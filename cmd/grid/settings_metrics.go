package main

import (
	"net"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// metricsSettings say where the agent can be watched over HTTP.
type metricsSettings struct {
	listen string

	web net.Listener // nil: none
}

func defaultMetrics() *metricsSettings { return new(metricsSettings) }

func (m *metricsSettings) section() config.Section {
	return config.Section{
		Name: "metrics",
		Doc:  "/metrics for Prometheus and /healthz, without a login (docs/metrics.md).",
		Keys: []config.Key{{
			Name: "listen", Value: &m.listen,
			Doc:  "HOST:PORT to serve them at; without a host, such as :9479, on loopback only. Empty: they are not served.",
			Flag: "metrics", Usage: "serve /metrics and /healthz at this HTTP `address`; :9479 is port 9479 on loopback (default off)",
			Check: func() error {
				if m.listen == "" {
					return nil
				}
				_, _, err := net.SplitHostPort(m.listen)
				return err
			},
		}},
	}
}

// configure opens the socket, so that a port that is taken is known early.
func (m *metricsSettings) configure(a *agent, _ *overlay.Config) (err error) {
	if m.web, err = listenMetrics(m.listen); m.web != nil {
		a.onClose(func() { m.web.Close() })
	}
	return err
}

func (m *metricsSettings) apply(a *agent) error {
	if m.web == nil {
		return nil
	}
	a.doc.Metrics = "http://" + m.web.Addr().String() + "/metrics"
	cli.Note(a.cmd, "metrics: %s", a.doc.Metrics)
	a.running.Go(func() {
		serveMetrics(a.ctx, m.web, a.node, func() agentStatus { return a.control.status(a.node) }, a.stored, a.log)
	})
	return nil
}
