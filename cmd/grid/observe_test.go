package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/tun"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/ri2n/metrics"
)

func TestListenMetrics(t *testing.T) {
	if ln, err := listenMetrics(""); ln != nil || err != nil {
		t.Errorf("no address: %v, %v", ln, err)
	}
	if _, err := listenMetrics("9479"); err == nil {
		t.Error("an address without a colon is taken")
	}
	ln, err := listenMetrics(":0")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(ln.Addr().String(), "127.0.0.1:") {
		t.Errorf("without a host it listens on %v, want loopback", ln.Addr())
	}
	node, err := overlay.Start(t.Context(), overlay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		serveMetrics(ctx, ln, node, func() agentStatus { return agentStatus{Status: node.Status()} }, func() (doc storeStatusAnswer, ok bool) { return doc, false }, slog.New(slog.DiscardHandler))
		close(done)
	}()
	get := func(path string) (int, string) {
		answer, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	_, text := get("/metrics")
	for _, want := range []string{"\nri2n_links 1\n", "\noverlay_links 1\n", "\noverlay_dials_total 0\n", "\noverlay_peers{path=\"direct\"} 0\n", "\noverlay_registered 0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the answer lacks %q: %.500s", want, text)
		}
	}
	var doc struct {
		Schema string
		OK     bool
	}
	code, text := get("/healthz")
	if err := json.Unmarshal([]byte(text), &doc); err != nil || doc.Schema != "instantgrid/health/1" || !doc.OK || code != http.StatusOK {
		t.Errorf("/healthz: %d, %q, %v", code, text, err)
	}
	cancel()
	<-done
}

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		name     string
		s        overlay.Status
		problems int
	}{
		{"alone", overlay.Status{}, 0},
		{"registered", overlay.Status{Rendezvous: overlay.RendezvousStatus{Address: "a", Registered: true}}, 0},
		{"not registered", overlay.Status{Rendezvous: overlay.RendezvousStatus{Address: "a"}}, 1},
		{"no member, not registered", overlay.Status{Rendezvous: overlay.RendezvousStatus{Address: "a"}, Grid: &overlay.GridStatus{Error: "revoked"}}, 2},
		{"stale list", overlay.Status{Grid: &overlay.GridStatus{Self: new(overlay.MemberStatus), Stale: true}}, 1},
	} {
		if doc := health(tt.s, time.Minute); doc.OK != (tt.problems == 0) || len(doc.Problems) != tt.problems {
			t.Errorf("%s: %+v", tt.name, doc)
		}
	}
}

// gathered returns the names of all metrics of an agent.
func gathered(t *testing.T) map[string]bool {
	t.Helper()
	node, err := overlay.Start(t.Context(), overlay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	registry := prometheus.NewPedanticRegistry()
	full := func() overlay.Status {
		s := node.Status()
		s.Rendezvous.Registered = true
		s.Grid = &overlay.GridStatus{Self: new(overlay.MemberStatus)}
		s.Routing = new(overlay.RoutingStatus)
		s.Peers = []overlay.PeerStatus{{Path: relayPath(punch.Policy)}}
		return s
	}
	host := &serviceHost{node: node}
	for _, spec := range []serviceSpec{
		{Kind: kindForward, Listen: "127.0.0.1:0", To: "bob:80"},
		{Kind: kindForward, Listen: "127.0.0.1:0", To: "bob:80", UDP: true},
		{Kind: kindExpose, Listen: ":80", To: "127.0.0.1:80"},
		{Kind: kindExpose, Listen: ":80", To: "127.0.0.1:80", UDP: true},
		{Kind: kindProxy, Listen: "127.0.0.1:0"},
		{Kind: kindDNS, Listen: "127.0.0.1:0", GridOnly: true},
	} {
		s, err := host.open(t.Context(), spec, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
	}
	parts := func() agentStatus { return agentStatus{Services: host.status(), Interface: new(tun.Status)} }
	stored := func() (doc storeStatusAnswer, ok bool) { return doc, true }
	registry.MustRegister(metrics.New(node.Transport), nodeCollector{full}, serviceCollector{parts}, storeCollector{stored}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, f := range families {
		names[f.GetName()] = true
	}
	return names
}

// docs/metrics.md lists the gauges of the node, and no metric that is none. What
// relays count is for a test of their own.
func TestMetricsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := gathered(t)
	for _, m := range regexp.MustCompile("(?m)^\\| `(overlay_[a-z_]+|grid_build_info|grid_(?:forward|expose|proxy|dns|tun|store)_[a-z_]+)`").FindAllStringSubmatch(string(b), -1) {
		if !names[m[1]] {
			t.Errorf("docs/metrics.md lists %s, which is no metric", m[1])
		}
	}
	for name := range names {
		open := strings.HasPrefix(name, "overlay_") && strings.HasSuffix(name, "_total") // a counter of grid status
		if (strings.HasPrefix(name, "overlay_") || strings.HasPrefix(name, "grid_")) && !open && !strings.Contains(string(b), "| `"+name+"`") {
			t.Errorf("docs/metrics.md lacks %s", name)
		}
	}
}

// Friendliness, section 1, line 23: every metric in the Grafana board exists.
func TestGrafanaBoard(t *testing.T) {
	b, err := os.ReadFile("../../docs/grafana/agent.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	names := gathered(t)
	used := 0
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			found := regexp.MustCompile(`\b(?:ri2n|overlay|grid|go|process)_[a-z0-9_]+`).FindAllString(target.Expr, -1)
			if len(found) == 0 {
				t.Errorf("panel %q: no metric in %q", p.Title, target.Expr)
			}
			for _, name := range found {
				used++
				base := name
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					base = strings.TrimSuffix(base, suffix)
				}
				if !names[name] && !names[base] {
					t.Errorf("panel %q: there is no metric %s", p.Title, name)
				}
			}
		}
	}
	if used < 15 {
		t.Errorf("%d metrics on the board", used)
	}
}
