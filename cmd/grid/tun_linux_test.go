package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A tunRig is a grid of two members, alice and bob, in two homes behind NATs of
// the kernel.
type tunRig struct {
	t       *testing.T
	network *kernel.Network
	dirs    map[string]string
	agents  map[string]*process
	address map[string]string // IPv4 and, with "6" behind the name, IPv6
}

func newTUNRig(t *testing.T) *tunRig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real programs")
	}
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err)
	}
	access := netsim.Link{Delay: 2 * time.Millisecond, Rate: 200e6}
	nat := netsim.NAT{Mapping: netsim.EndpointIndependent, Filtering: netsim.AddressAndPortDependent}
	network, err := kernel.Start(netsim.Scenario{
		Seed:  1,
		Hosts: []netsim.HostNode{{Name: "public"}, {Name: "alice", Parent: "nat-a"}, {Name: "bob", Parent: "nat-b"}},
		NATs:  []netsim.NATNode{{Name: "nat-a", Uplink: access, NAT: nat}, {Name: "nat-b", Uplink: access, NAT: nat}},
	})
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	r := &tunRig{t: t, network: network, dirs: make(map[string]string), agents: make(map[string]*process), address: make(map[string]string)}
	public := r.host("public").Addr().String()
	var doc struct{ Address, Claim string }
	document(t, r.start("public", program, "--json", "--admit", "key", "--dir", t.TempDir(), "--listen", public+":3478", "--stun-listen", public+":3479",
		"--metrics-listen", "", "--public-host", public).line(t), &doc)
	for _, name := range []string{"public", "alice", "bob"} {
		r.dirs[name] = t.TempDir()
	}
	r.grid("public", "--rendezvous", doc.Address, "init", "lab", "--claim", doc.Claim, "--name", "desk").want(t, cli.ExitOK)
	token := strings.TrimSpace(r.grid("public", "invite", "--uses", "2").want(t, cli.ExitOK))
	for _, name := range []string{"alice", "bob"} {
		r.grid(name, "join", "--name", name, token).want(t, cli.ExitOK)
	}
	return r
}

func (r *tunRig) host(name string) *kernel.Host { return r.network.Host(name).(*kernel.Host) }

// start runs a program on a host.
func (r *tunRig) start(host, program string, args ...string) *process {
	r.t.Helper()
	cmd := r.host(host).Command(r.t.Context(), program, args...)
	return startWith(r.t, cmd.Cmd, cmd.Start)
}

// grid runs grid on a host, in its own state directory.
func (r *tunRig) grid(host string, args ...string) *process {
	r.t.Helper()
	inside := gridCommand(r.t, r.dirs[host], "", args...)
	cmd := r.host(host).Command(r.t.Context(), inside.Path, inside.Args[1:]...)
	cmd.Env = inside.Env
	return startWith(r.t, cmd.Cmd, cmd.Start)
}

// run runs a program on a host to its end and returns what it writes.
func (r *tunRig) run(host, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	out, err := r.host(host).Command(ctx, program, args...).CombinedOutput()
	return string(out), err
}

func (r *tunRig) must(host, program string, args ...string) string {
	r.t.Helper()
	out, err := r.run(host, program, args...)
	if err != nil {
		r.t.Fatalf("%s on %s: %v\n%s", program, host, err, out)
	}
	return out
}

// up starts an agent with an interface.
func (r *tunRig) up(name, policy string) {
	r.t.Helper()
	policyFor(r.t, r.dirs[name], policy)
	p := r.grid(name, "up", "--tun", "--json")
	var doc struct{ Interface string }
	document(r.t, p.line(r.t), &doc)
	if doc.Interface != "grid0" {
		r.t.Fatalf("up of %s: %+v, %s", name, doc, p.stderr)
	}
	r.agents[name] = p
	s := r.status(name)
	r.address[name], r.address[name+"6"] = s.Interface.Address, s.Interface.Address6
}

type tunStatus struct {
	Interface struct {
		Device, Address, Address6 string
		Counters                  struct {
			Sent    uint64 `json:"packets_sent"`
			Dropped struct{ Closed uint64 }
		}
	}
	Peers []struct{ Path struct{ Kind string } }
}

func (r *tunRig) status(name string) (s tunStatus) {
	r.t.Helper()
	document(r.t, r.grid(name, "status", "--json").want(r.t, cli.ExitOK), &s)
	return s
}

// needs skips the test where a program of Debian's is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%v; scripts/setup installs it", err)
		}
	}
}

// Programs that know nothing of grid, over IPv4 and IPv6, through two NATs, while
// the path below them changes from the relay to a direct one.
func TestProgramsThroughTUN(t *testing.T) {
	t.Parallel()
	needs(t, "ping", "curl", "ssh", "/usr/sbin/sshd", "ssh-keygen", "iperf3")
	r := newTUNRig(t)
	if err := r.network.Block("nat-a", "nat-b"); err != nil {
		t.Fatal(err)
	}
	r.up("alice", "rules: []\n")
	r.up("bob", "rules:\n  - names: [alice]\n    ports: [ping, 22, 80, 5201]\n")
	bob, bob6 := r.address["bob"], r.address["bob6"]

	r.must("alice", "ping", "-c", "3", "-i", "0.2", "-W", "5", bob)
	if s := r.status("alice"); len(s.Peers) != 1 || s.Peers[0].Path.Kind != "relay" {
		t.Errorf("with no direct path: %+v", s.Peers)
	}
	r.start("bob", "iperf3", "-s")
	time.Sleep(300 * time.Millisecond)
	long := r.start("alice", "iperf3", "-J", "-c", bob, "-t", "5")
	time.Sleep(time.Second)
	if err := r.network.Unblock("nat-a", "nat-b"); err != nil {
		t.Fatal(err)
	}

	// A web server and a closed port.
	var ln net.Listener
	if err := r.host("bob").Do(func() (err error) { ln, err = net.Listen("tcp", "[::]:80"); return err }); err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })}
	go web.Serve(ln)
	defer web.Close()
	for _, url := range []string{"http://" + bob + "/", "http://[" + bob6 + "]/"} {
		if got := r.must("alice", "curl", "-sS", "--max-time", "20", url); got != string(page) {
			t.Errorf("curl %s: %d bytes, want %d", url, len(got), len(page))
		}
	}
	begun := time.Now()
	out, err := r.run("alice", "curl", "-sS", "--max-time", "20", "http://"+bob+":81/")
	if err == nil || strings.Contains(out, "timed out") || time.Since(begun) > 10*time.Second {
		t.Errorf("curl to a closed port: %v after %v: %s", err, time.Since(begun), out)
	}
	if s := r.status("bob"); s.Interface.Counters.Dropped.Closed == 0 {
		t.Errorf("bob has dropped nothing: %+v", s)
	}
	// What alice has opened to nobody.
	if out, err := r.run("bob", "ping", "-c", "1", "-W", "2", r.address["alice"]); err == nil {
		t.Errorf("alice answers a ping that she has not opened: %s", out)
	}
	r.must("alice", "ping", "-c", "2", "-i", "0.2", "-W", "5", bob6)

	var result struct {
		End struct {
			Received struct {
				Bytes float64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	outcome := long.want(t, 0)
	if err := json.Unmarshal([]byte(outcome), &result); err != nil || result.End.Received.Bytes < 1<<20 {
		t.Errorf("iperf3 while the path changed: %v\n%s", err, outcome)
	}
	for end := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		if s := r.status("alice"); len(s.Peers) == 1 && s.Peers[0].Path.Kind == "direct" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the path is not direct: %+v", s.Peers)
		}
	}
	r.must("alice", "iperf3", "-c", bob6, "-t", "1")
	r.must("alice", "iperf3", "-c", bob, "-t", "1", "-R")
	r.must("alice", "iperf3", "-c", bob, "-u", "-b", "20M", "-t", "1")
	r.must("alice", "iperf3", "-c", bob6, "-u", "-b", "20M", "-l", "4000", "-t", "1") // in fragments
	r.ssh()
}

// ssh runs a command on bob through a real sshd.
func (r *tunRig) ssh() {
	t := r.t
	t.Helper()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v, %s", err, out)
		}
	}
	sshd := r.start("bob", "/usr/sbin/sshd", "-d", "-f", "/dev/null", "-h", filepath.Join(dir, "host"), "-o", "ListenAddress="+r.address["bob"],
		"-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"), "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes", "-o", "PidFile=none")
	var out string
	var err error
	for range 20 {
		out, err = r.run("alice", "ssh", "-F", "/dev/null", "-i", filepath.Join(dir, "user"), "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10", "-o", "BatchMode=yes", r.address["bob"], "ip -4 -o addr show grid0")
		if err == nil || !strings.Contains(out, "refused") {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil || !strings.Contains(out, r.address["bob"]) {
		t.Errorf("ssh: %v\n%s\n%s", err, out, sshd.stderr)
	}
}

// networkOf returns all that an agent could change in a host's network.
func networkOf(t *testing.T, h *kernel.Host) string {
	t.Helper()
	var all strings.Builder
	for _, args := range []string{"addr", "-4 route show table all", "-6 route show table all", "rule", "-6 rule"} {
		out, err := h.Command(t.Context(), "ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v, %s", args, err, out)
		}
		fmt.Fprintf(&all, "ip %s\n%s", args, out)
	}
	return all.String()
}
