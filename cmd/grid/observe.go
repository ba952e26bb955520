package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/ri2n/metrics"
	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

// beginTrace opens the file of --qlog and returns what to configure a node
// with, and a function that ends the file once the node is closed.
func (o *options) beginTrace(cmd *cobra.Command) (trace func(*ri2n.Session) ri2n.Tracer, end func(), err error) {
	if o.trace == "" {
		return nil, func() {}, nil
	}
	w, err := qlog.Create(o.trace, qlog.Options{Title: cmd.CommandPath()})
	if err != nil {
		return nil, nil, &cli.Error{Object: "--qlog " + o.trace, Cause: err.Error(), Next: "name a file that this user may write", Code: cli.ExitUsage, Err: err}
	}
	return w.Trace, func() {
		if err := w.Close(); err != nil {
			cli.Note(cmd, "%s is not whole: %v", o.trace, err)
		} else if n := w.Dropped(); n > 0 {
			cli.Note(cmd, "%s lacks %d events, which came faster than the file took them", o.trace, n)
		}
	}, nil
}

// listenMetrics listens where --metrics says: on loopback unless it names a
// host. It returns nil for an empty address.
func listenMetrics(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, cli.Usagef("--metrics "+address, "grid up --metrics :9479", "%v", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, &cli.Error{Object: "--metrics " + address, Cause: err.Error(), Next: "choose another port: grid up --metrics :0", Code: cli.ExitUsage, Err: err}
	}
	return ln, nil
}

// serveMetrics serves /metrics and /healthz until ctx ends. Status is that of the
// agent; stored is that of its store, false without one.
func serveMetrics(ctx context.Context, ln net.Listener, node *overlay.Node, status func() agentStatus, stored func() (storeStatusAnswer, bool), log *slog.Logger) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		metrics.New(node.Transport), nodeCollector{node.Status}, relayCollector{node}, serviceCollector{status}, storeCollector{stored},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	begun := time.Now()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		doc := health(node.Status(), time.Since(begun))
		b, err := cli.AppendDocument(nil, "health", doc)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if !doc.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Write(b)
	})
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { web.Close() })
	defer stop()
	if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		log.Error("metrics", "err", fmt.Errorf("serve %v: %w", ln.Addr(), err))
	}
}
