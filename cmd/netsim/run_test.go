package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func TestRunCommand(t *testing.T) {
	code, stdout, stderr := command(t, "run", "two-homes-port-restricted", "--json", "--bytes", "100000")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	for i, line := range lines {
		var d struct {
			Schema    string
			Completed bool
			Path      string
			Bytes     int
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("line %d, %s: %v", i+1, line, err)
		}
		if i < len(lines)-1 {
			if d.Schema != "instantgrid/event/1" {
				t.Errorf("line %d has the schema %q", i+1, d.Schema)
			}
			continue
		}
		if d.Schema != "instantgrid/run/1" || !d.Completed || d.Path != "direct" || d.Bytes != 100000 {
			t.Errorf("result = %s", line)
		}
	}
	if len(lines) < 4 {
		t.Errorf("%d lines: events are missing", len(lines))
	}
}

// TestScenarios runs what comes with the program, in virtual time.
func TestScenarios(t *testing.T) {
	want := map[string]struct{ path, reason, failure string }{
		"cafe-wifi":                 {path: "direct"},
		"cgn-both":                  {path: "direct"},
		"corporate-udp-blocked":     {failure: "register the node on a: "}, // until there is a path over TCP
		"double-nat":                {path: "relay", reason: "no-valid-pair"},
		"home-and-public":           {path: "direct"},
		"hotel-mtu-1124":            {path: "direct"},
		"laptop-sleeps":             {path: "direct"},
		"lossy-wifi":                {path: "direct"},
		"symmetric-pair":            {path: "relay", reason: "mapping-both"},
		"two-homes-port-restricted": {path: "direct"},
		"two-uplinks":               {path: "direct"},
	}
	for _, name := range netsim.Scenarios() {
		t.Run(name, func(t *testing.T) {
			sc, err := netsim.NamedScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			from, to, err := sendersOf(sc, "", "")
			if err != nil {
				t.Fatal(err)
			}
			o := bubbles{t}.transfer(transfer{Scenario: sc, Rendezvous: rendezvousHost, From: from, To: to, Bytes: 1 << 20}, nil)
			w := want[name]
			if !strings.HasPrefix(o.Failure, w.failure) || w.failure == "" && o.Failure != "" {
				t.Fatalf("failure %q, want %q", o.Failure, w.failure)
			}
			if o.Path != w.path || o.Reason != w.reason || o.Intact != (w.failure == "") {
				t.Errorf("path %q with reason %q, all bytes %v; want %q, %q: %+v", o.Path, o.Reason, o.Intact, w.path, w.reason, o)
			}
		})
	}
}

// TestRunInKernel needs root and namespaces.
func TestRunInKernel(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct{ scenario, path, reason string }{
		{"two-homes-port-restricted", "direct", ""},
		{"symmetric-pair", "relay", "mapping-both"},
	} {
		t.Run(tt.scenario, func(t *testing.T) {
			code, stdout, stderr := command(t, "run", tt.scenario, "--backend", "kernel", "--json", "--bytes", "262144")
			lines := strings.Split(strings.TrimSpace(stdout), "\n")
			var d runDocument
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &d); err != nil {
				t.Fatal(err)
			}
			if code != 0 || !d.Completed || d.Path != tt.path || d.Reason != tt.reason || d.PeerPath != tt.path || d.PeerReason != tt.reason {
				t.Errorf("exit code %d, %+v\n%s", code, d, stderr)
			}
		})
	}
}
