package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/ri2n"
)

// childVariable makes the test binary act as the program itself, so that
// "local" can start its servers.
const childVariable = "RI2N_BENCH_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(cli.Main(newRoot(), explain))
	}
	os.Exit(m.Run())
}

// run runs the program in this process and returns what it printed.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errOut)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = cli.Run(ctx, root, args, explain)
	return code, out.String(), errOut.String()
}

// benchDocument is the document as another program would read it.
type benchDocument struct {
	Schema string
	Rows   []map[string]any
}

func parseBench(t *testing.T, stdout string) benchDocument {
	t.Helper()
	var d benchDocument
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	if d.Schema != "instantgrid/bench/1" {
		t.Errorf("schema = %q", d.Schema)
	}
	for _, r := range d.Rows {
		checkRow(t, r)
	}
	return d
}

// checkRow: what every row has is there, and what does not apply is absent,
// not null and not empty.
func checkRow(t *testing.T, r map[string]any) {
	t.Helper()
	for _, f := range []string{"scenario", "contender"} {
		if s, ok := r[f].(string); !ok || s == "" {
			t.Errorf("row %v lacks %q", r, f)
		}
	}
	known := []string{"goodput_bps", "goodput_bps_min", "goodput_bps_max", "cpu_seconds_per_gb",
		"ping_p50_us", "ping_p99_us", "setup_p50_ms", "longest_gap_ms", "rss_bytes_per_session",
		"goodput_after_fault_bps", "share", "sessions", "goroutines_per_session", "idle_cpu_share", "rounds"}
	for f, v := range r {
		switch v.(type) {
		case float64:
			if !slices.Contains(known, f) {
				t.Errorf("row %v has an unknown figure %q", r, f)
			}
		case string:
			if v == "" || !slices.Contains([]string{"scenario", "variant", "contender", "note", "error"}, f) {
				t.Errorf("row %v: %q is %q", r, f, v)
			}
		default:
			t.Errorf("row %v: %q is %v", r, f, v)
		}
	}
}

func TestLocal(t *testing.T) {
	t.Setenv(childVariable, "1")
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := run(t, "local", "--json", "--contenders", c.name, "--rounds", "2", "--bytes", "4194304", "--pings", "20", "--setups", "2")
			d := parseBench(t, stdout)
			// Only root may choose what the system does not offer to everybody.
			if code != cli.ExitOK && slices.Contains([]string{"mptcp", "tcp-bbr", "tcp-cubic"}, c.name) {
				t.Skipf("not on this kernel for this user: %s", stderr)
			}
			if code != cli.ExitOK || len(d.Rows) != 1 {
				t.Fatalf("exit code %d, %s", code, stderr)
			}
			r := d.Rows[0]
			for _, f := range []string{"goodput_bps", "goodput_bps_min", "goodput_bps_max", "ping_p50_us", "ping_p99_us", "setup_p50_ms"} {
				if n, ok := r[f].(float64); !ok || n <= 0 {
					t.Errorf("%s = %v, want a positive number", f, r[f])
				}
			}
			if n, ok := r["cpu_seconds_per_gb"].(float64); !ok || n < 0 {
				t.Errorf("cpu_seconds_per_gb = %v, want a number", r["cpu_seconds_per_gb"])
			}
			if r["error"] != nil || r["rounds"] != 2.0 {
				t.Errorf("error = %q, rounds = %v", r["error"], r["rounds"])
			}
		})
	}
}

// TestFailureIsADocument: a server that is not there still gives rows.
func TestFailureIsADocument(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	code, stdout, stderr := run(t, "client", "--json", "--contender", "tls", address+"#"+ri2n.PeerID{1}.String())
	d := parseBench(t, stdout)
	if code != cli.ExitUnreachable || len(d.Rows) != 1 {
		t.Fatalf("exit code = %d, rows = %v, want %d and one", code, d.Rows, cli.ExitUnreachable)
	}
	if d.Rows[0]["error"] == nil || d.Rows[0]["goodput_bps"] != nil {
		t.Errorf("row = %v, want an error and no goodput", d.Rows[0])
	}
	if !strings.Contains(stderr, "next: ") {
		t.Errorf("stderr = %q, want the next command in it", stderr)
	}
}

// startInProcess serves c from this process until the test ends.
func startInProcess(t *testing.T, c contender) target {
	t.Helper()
	key, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := c.listen(ctx, "127.0.0.1:0", key)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- acceptLoop(ctx, ln, maxConns) }()
	t.Cleanup(func() {
		cancel()
		ln.Close()
		if err := <-done; err != nil {
			t.Errorf("accept loop: %v", err)
		}
	})
	return target{ln.Addr().String(), key.ri2n.PeerID()}
}

func TestWrongPeer(t *testing.T) {
	for _, c := range contenders {
		if !c.proves {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			to := startInProcess(t, c)
			to.peer[0] ^= 1
			key, err := newIdentity()
			if err != nil {
				t.Fatal(err)
			}
			limit := 10 * time.Second
			if strings.HasPrefix(c.name, "ri2n") {
				limit = 500 * time.Millisecond // it does not answer who asks for another key
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			d, err := c.dialer(ctx, to, key)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if conn, err := d.Dial(ctx); err == nil {
				conn.Close()
				t.Error("dialed a server with another key")
			} else if c.name == "tls" {
				var wrong *wrongPeerError
				if !errors.As(err, &wrong) {
					t.Errorf("error = %v, want a wrongPeerError", err)
				}
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct{ name, args, want string }{
		{"no peer ID", "client 127.0.0.1:1", "there is no #PEERID"},
		{"short peer ID", "client 127.0.0.1:1#abc", "has 3 characters"},
		{"no port", "client 127.0.0.1#abc", "missing port"},
		{"unknown contender", "local --contenders ri2n,sctp", "there is no contender"},
		{"no rounds", "local --rounds 0", "at least 1"},
		{"endless", "local --seconds NaN", "between"},
		{"too little", "local --bytes 10", "at least 1048576"},
		{"time and size", "local --bytes 1048576 --seconds 1", "none of the others can be"},
		{"unknown scenario", "compare --scenario bulk,sea", "there is no scenario \"sea\""},
		{"compare nobody", "compare --contenders sctp", "there is no contender"},
		{"compare never", "compare --rounds 0", "from 1 to 1000"},
		{"compare too briefly", "compare --seconds 0.01", "from 0.1 to 600"},
		{"compare too many", "compare --sessions 20000", "from 1 to 16000"},
		{"one bad link", "client 127.0.0.1:1,127.0.0.1#abc", "missing port"},
		{"bad port", "server --listen 127.0.0.1:http", "not a number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := run(t, strings.Fields(tt.args)...)
			if code != cli.ExitUsage || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code = %d, stderr = %q, want %d and %q", code, stderr, cli.ExitUsage, tt.want)
			}
		})
	}
}

func TestExamples(t *testing.T) {
	for _, owed := range cli.CheckTree(newRoot()) {
		t.Error(owed)
	}
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{"none", nil, 0.5, math.NaN()},
		{"one", []float64{3}, 0.99, 3},
		{"middle of odd", []float64{9, 1, 5}, 0.5, 5},
		{"middle of even", []float64{4, 2}, 0.5, 3},
		{"highest", []float64{4, 2, 8}, 1, 8},
		{"unknown among them", []float64{4, math.NaN()}, 0.5, math.NaN()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := quantile(tt.values, tt.q)
			if got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
				t.Errorf("quantile(%v, %v) = %v, want %v", tt.values, tt.q, got, tt.want)
			}
		})
	}
}

func TestProcessCPU(t *testing.T) {
	before := processCPU()
	for start := before; processCPU() < start+0.005; {
	}
	if after := processCPU(); after < before+0.005 {
		t.Errorf("CPU time went from %g to %g", before, after)
	}
}
