package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandOwesItsUsersNothing(t *testing.T) {
	for _, owed := range cli.CheckTree(newCommand()) {
		t.Error(owed)
	}
}

// local are flags with which a server touches nothing but loopback and dir.
func local(dir string, more ...string) []string {
	return append([]string{
		"--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--dir", dir,
	}, more...)
}

// execute runs the command to its end.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	code = cli.Run(ctx, cmd, args, explain)
	return code, out.String(), errs.String()
}

// start runs the command until the test stops it, and returns what it printed
// first.
func start(t *testing.T, args ...string) (line string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	cmd := newCommand()
	cmd.SetOut(w)
	cmd.SetErr(io.Discard)
	code := make(chan int, 1)
	go func() {
		code <- cli.Run(ctx, cmd, args, explain)
		w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		cancel()
		t.Fatalf("no line printed, exit code %d", <-code)
	}
	return strings.TrimSpace(line), func() int {
		cancel()
		return <-code
	}
}

func TestServerPrintsItsAddressAndKeepsItsKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	line, stop := start(t, local(dir)...)
	first, err := rendezvous.ParseAddress(line)
	if err != nil {
		t.Fatal(err)
	}
	if code := stop(); code != cli.ExitOK {
		t.Errorf("stopped server exits with %d, want 0", code)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %v, want 0600", info.Mode())
	}
	line, stop = start(t, local(dir, "--public-host", "grid.example.org")...)
	defer stop()
	second, err := rendezvous.ParseAddress(line)
	if err != nil {
		t.Fatal(err)
	}
	if second.Peer != first.Peer || second.Host != "grid.example.org" {
		t.Errorf("second start: %v, want the key of %v", second, first)
	}
}

func TestServerServesMetricsAndClients(t *testing.T) {
	line, stop := start(t, local(t.TempDir(), "--admit", "open", "--json")...)
	var doc struct {
		Schema  string
		Address rendezvous.Address
		Metrics string
		STUN    []string
	}
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Schema != "instantgrid/rendezvous/1" || len(doc.STUN) != 2 {
		t.Errorf("document %s", line)
	}
	id, err := ri2n.NewIdentity(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	defer endpoint.Close()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	link, err := endpoint.AddLink("lo", pc)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rendezvous.NewClient(rendezvous.Config{
		Server:   doc.Address,
		Endpoint: endpoint,
		Links:    func() []*ri2n.Link { return []*ri2n.Link{link} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := client.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := client.Status().Observed.String(), pc.LocalAddr().String(); got != want {
		t.Errorf("observed %s, want %s", got, want)
	}

	get := func(path string) string {
		t.Helper()
		web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := web.Get(doc.Metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, r.Status, err)
		}
		return string(b)
	}
	if got := get("/metrics"); !strings.Contains(got, "\nrendezvous_registrations 1\n") ||
		!strings.Contains(got, `rendezvous_datagrams_dropped_total{reason="no-consent"} 0`) {
		t.Errorf("metrics:\n%s", got)
	}
	if got := get("/healthz"); !strings.Contains(got, `"status":"ok"`) {
		t.Errorf("health: %s", got)
	}
	if got := get("/peers"); !strings.Contains(got, id.PeerID().String()) {
		t.Errorf("peers: %s", got)
	}
	if code := stop(); code != cli.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenTCP, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer takenTCP.Close()
	members := filepath.Join(dir, "members")
	if err := os.WriteFile(members, []byte("# staff\nalice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	damaged := filepath.Join(dir, "damaged")
	for d, mode := range map[string]os.FileMode{open: 0o644, damaged: 0o600} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, keyFile), []byte("nonsense"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"port taken", local(dir, "--listen", taken.LocalAddr().String()), cli.ExitFailed,
			[]string{taken.LocalAddr().String(), "already taken", "ss -lnup"}},
		{"second port taken", local(dir, "--stun-listen", taken.LocalAddr().String()), cli.ExitFailed,
			[]string{taken.LocalAddr().String(), "already taken", "--stun-listen"}},
		{"metrics port taken", local(dir, "--metrics-listen", takenTCP.Addr().String()), cli.ExitFailed,
			[]string{takenTCP.Addr().String(), "already taken", "ss -lntp"}},
		{"not our address", local(dir, "--listen", "192.0.2.1:0"), cli.ExitFailed, []string{"192.0.2.1:0", "does not have that address"}},
		{"alternate that is no address", local(dir, "--alternate", "elsewhere"), cli.ExitUsage, []string{"--alternate elsewhere", "not an address"}},
		{"alternate like the first", local(dir, "--alternate", "127.0.0.1"), cli.ExitUsage, []string{"--alternate 127.0.0.1", "another address"}},
		{"alternate of another family", local(dir, "--alternate", "::1"), cli.ExitUsage, []string{"another address of its family"}},
		{"alternate beside a wildcard", local(dir, "--listen", "0.0.0.0:0", "--alternate", "127.0.0.2"), cli.ExitUsage, []string{"another address"}},
		{"alternate without a second port", local(dir, "--stun-listen", "", "--alternate", "127.0.0.2"), cli.ExitUsage, []string{"--stun-listen must name"}},
		{"no port", local(dir, "--listen", "127.0.0.1"), cli.ExitUsage, []string{"--listen 127.0.0.1", "ADDRESS:PORT"}},
		{"key without a ledger", local(dir, "--admit", "key", "--ledger", "none"), cli.ExitUsage, []string{"without a ledger", "--ledger none"}},
		{"bad grid", local(dir, "--grid", "lab"), cli.ExitUsage, []string{"--grid lab", "not a grid ID"}},
		{"etcd not there", local(dir, "--etcd", "http://127.0.0.1:1"), cli.ExitFailed, []string{"etcd"}},
		{"unknown mode", local(dir, "--admit", "all"), cli.ExitUsage, []string{"--admit all", "--admit open"}},
		{"open with members", local(dir, "--admit", "open", "--members", members), cli.ExitUsage, []string{"no effect"}},
		{"bad members", local(dir, "--members", members), cli.ExitUsage, []string{members + ":2:1", "not a peer ID"}},
		{"no members file", local(dir, "--members", members+"x"), cli.ExitFailed, []string{members + "x", "no such file"}},
		{"key readable by others", local(open), cli.ExitFailed, []string{"key.pem", "chmod 600"}},
		{"key damaged", local(damaged), cli.ExitFailed, []string{"key.pem", "damaged"}},
		{"bad host", local(dir, "--public-host", "a b"), cli.ExitUsage, []string{"--public-host a b", "neither a name"}},
		{"bad rate", local(dir, "--guest-rate", "fast"), cli.ExitUsage, []string{`"fast"`, "100Mbit/s"}},
		{"bad quota", local(dir, "--guest-quota", "-1"), cli.ExitUsage, []string{"1GiB"}},
		{"argument", []string{"extra"}, cli.ExitUsage, []string{"extra"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := execute(t, tt.args...)
			if code != tt.code || stdout != "" {
				t.Errorf("exit code %d, stdout %q; want %d and nothing", code, stdout, tt.code)
			}
			for _, want := range append(tt.want, "next:") {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr %q has no %q", stderr, want)
				}
			}
			code, stdout, _ = execute(t, append(tt.args, "--json")...)
			var doc struct {
				Schema string
				Error  struct{ Object, Cause, Next string }
			}
			if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != tt.code || doc.Error.Object == "" || doc.Error.Cause == "" || doc.Error.Next == "" {
				t.Errorf("--json: exit code %d, %v: %s", code, err, stdout)
			}
		})
	}
}

func TestCheckChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	code, stdout, _ := execute(t, "--check", "--dir", dir)
	if code != cli.ExitOK || !strings.HasPrefix(stdout, "ok:") {
		t.Errorf("exit code %d, %q", code, stdout)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("--check made %s", dir)
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64
	}{
		{"0", 0}, {"1", 1}, {"1B", 1}, {"64KiB", 64 << 10}, {"1GiB", 1 << 30}, {"1.5GiB", 3 << 29}, {"500MB", 500e6}, {"2 TB", 2e12},
	} {
		var b byteSize
		if err := b.Set(tt.text); err != nil || int64(b) != tt.want {
			t.Errorf("size %q = %d, %v; want %d", tt.text, b, err, tt.want)
		}
		var again byteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("size %d is written %q, which is %d, %v", b, b.String(), again, err)
		}
	}
	for _, tt := range []struct {
		text string
		want int64
	}{
		{"0", 0}, {"100Mbit/s", 12_500_000}, {"1Gbit/s", 125_000_000}, {"8bit/s", 1}, {"10MB/s", 10_000_000}, {"7B/s", 7},
	} {
		var r byteRate
		if err := r.Set(tt.text); err != nil || int64(r) != tt.want {
			t.Errorf("rate %q = %d, %v; want %d", tt.text, r, err, tt.want)
		}
		var again byteRate
		if err := again.Set(r.String()); err != nil || again != r {
			t.Errorf("rate %d is written %q, which is %d, %v", r, r.String(), again, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1XB", "NaN", "1e300", "inf"} {
		if err := new(byteSize).Set(text); err == nil {
			t.Errorf("size %q is accepted", text)
		}
		if err := new(byteRate).Set(text + "Mbit/s"); err == nil {
			t.Errorf("rate %q is accepted", text+"Mbit/s")
		}
	}
}

// With a second address, agents learn how their NAT filters: here there is none.
func TestAlternateAddressTellsFiltering(t *testing.T) {
	probe, err := net.ListenPacket("udp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("this computer's loopback has one address: %v", err)
	}
	probe.Close()
	line, stop := start(t, local(t.TempDir(), "--alternate", "127.0.0.2")...)
	defer stop()
	at, err := rendezvous.ParseAddress(line)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := punch.NewMux(pc, punch.MuxConfig{Filter: punch.Filter{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port)
	b, seen := m.Discover(ctx, []netip.AddrPort{m.LocalAddr()}, []netip.AddrPort{server})
	if b.Mapping != punch.EndpointIndependent || b.Filtering != punch.EndpointIndependent || len(seen) != 3 {
		t.Errorf("%+v from %v, want nothing that maps or filters, from three addresses", b, seen)
	}
}
