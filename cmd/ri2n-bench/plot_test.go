package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/ri2n/qlog"
)

// writeTrace writes the records of a session with two paths, one of which dies.
func writeTrace(t *testing.T, name string) {
	t.Helper()
	var b bytes.Buffer
	put := func(v any) {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteByte(0x1e)
		b.Write(append(text, '\n'))
	}
	event := func(ms float64, group, name string, data any) {
		put(map[string]any{"time": ms, "name": name, "group_id": group, "data": data})
	}
	put(map[string]any{"file_schema": "urn:ietf:params:qlog:file:sequential", "title": "two <links>"})
	event(1, "1", qlog.NameStarted, qlog.Started{Vantage: "client"})
	event(1, "1", qlog.NamePath, qlog.Path{Path: 0, Link: "eth0", Old: "probing", New: "active", Sending: true})
	event(1, "1", qlog.NamePath, qlog.Path{Path: 2, Link: "wlan0", Old: "probing", New: "standby"})
	for i := range 200 {
		event(float64(10*i), "1", qlog.NameMetrics, qlog.Metrics{Path: 0, BytesDelivered: uint64(i) * 125_000, CongestionWindow: 50_000, SmoothedRTT: 20})
	}
	event(2000, "1", qlog.NamePath, qlog.Path{Path: 0, Link: "eth0", Old: "active", New: "suspect", Reinjected: 12})
	event(2000, "2", qlog.NameStarted, qlog.Started{Vantage: "server"})
	event(2001, "", qlog.NameEventsDropped, qlog.EventsDropped{Count: 7})
	event(2002, "1", "ri2n:of_the_future", "?")
	event(2003, "1", qlog.NameClosed, qlog.Closed{Initiator: "remote", Reason: "<b>done</b>"})
	b.WriteString("\x1e{\"time\":2004,\"na") // cut off
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPlot(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.sqlog")
	writeTrace(t, name)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := readPlot(f, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.sessions) != 2 || p.missing != 7 || p.skipped != 1 {
		t.Errorf("%d sessions, %d missing, %d skipped, want 2, 7 and 1", len(p.sessions), p.missing, p.skipped)
	}
	// 125 kB each 10 ms are 100 Mbit/s.
	path := p.sessions[0].path(0)
	for _, y := range rate("", path.at, path.delivered, 0.02).Y {
		if y < 99.9 || y > 100.1 {
			t.Errorf("throughput %v Mbit/s, want 100", y)
		}
	}
	var page bytes.Buffer
	if err := p.page(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"two &lt;links&gt;", "path 0, eth0", "active to suspect", "&lt;b&gt;done", "7 events are missing", "1 records could not be read", "<svg"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, bad := range []string{"<b>done", "<script", "http://", "https://"} {
		if strings.Contains(strings.ReplaceAll(page.String(), `xmlns="http://www.w3.org/2000/svg"`, ""), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
}

// TestPlotOfATransfer draws what a real transfer over loopback wrote.
func TestPlotOfATransfer(t *testing.T) {
	dir := t.TempDir()
	trace, page := filepath.Join(dir, "x.sqlog"), filepath.Join(dir, "x.html")
	t.Setenv(childVariable, "1")
	args := []string{"local", "--contenders", "ri2n", "--rounds", "1", "--bytes", "4194304", "--pings", "10", "--setups", "1", "--qlog", trace}
	if code, _, stderr := run(t, args...); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	code, out, stderr := run(t, "plot", trace)
	if got := strings.TrimSpace(out); code != 0 || got != page {
		t.Errorf("plot printed %q and %q, exit code %d, want %q", out, stderr, code, page)
	}
	html, err := os.ReadFile(page)
	if err != nil || !bytes.Contains(html, []byte("acknowledged by the peer")) {
		t.Errorf("no chart in the page (%v)", err)
	}
}
