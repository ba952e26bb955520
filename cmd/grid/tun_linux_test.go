package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	l := newLab(t, 2*time.Millisecond)
	r := &tunRig{t: t, network: l.network, dirs: make(map[string]string), agents: make(map[string]*process), address: make(map[string]string)}
	for _, name := range []string{"public", "alice", "bob"} {
		r.dirs[name] = t.TempDir()
	}
	r.grid("public", "--rendezvous", l.address, "init", "lab", "--claim", l.claim, "--name", "desk").want(t, cli.ExitOK)
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

// Programs that know nothing of grid, over IPv4 and IPv6, through two NATs, while
// the path below them changes from the relay to a direct one.
func TestProgramsThroughTUN(t *testing.T) {
	t.Parallel()
	needPrograms(t, "ping", "curl", "ssh", "sshd", "ssh-keygen", "iperf3", "mpirun", "mpicc")
	r := newTUNRig(t)
	if err := r.network.Block("nat-a", "nat-b"); err != nil {
		t.Fatal(err)
	}
	const dynamic = "\"1024-65535\"" // where MPI listens
	r.up("alice", "rules:\n  - names: [bob]\n    ports: ["+dynamic+"]\n")
	r.up("bob", "rules:\n  - names: [alice]\n    ports: [ping, 22, 80, 5201, "+dynamic+"]\n")
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

// ssh runs a command on bob through a real sshd, and then two ranks of MPI, one
// of which another sshd starts on bob.
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
	agent := filepath.Join(dir, "ssh")
	script := "#!/bin/sh\nexec ssh -F /dev/null -i " + filepath.Join(dir, "user") + " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null" +
		" -o ConnectTimeout=10 -o BatchMode=yes -o LogLevel=ERROR \"$@\"\n"
	if err := os.WriteFile(agent, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// One that serves one connection, in its own process, and ends.
	serve := func() *process {
		p := r.start("bob", "/usr/sbin/sshd", "-d", "-f", "/dev/null", "-h", filepath.Join(dir, "host"), "-o", "ListenAddress="+r.address["bob"],
			"-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"), "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes", "-o", "PidFile=none")
		for range 100 {
			if out, err := r.run("bob", "ss", "-Hltn", "sport", "=", ":22"); err == nil && strings.Contains(out, ":22") {
				return p
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("sshd does not listen: %s", p.stderr)
		return nil
	}
	sshd := serve()
	out, err := r.run("alice", agent, r.address["bob"], "ip -4 -o addr show grid0")
	if err != nil || !strings.Contains(out, r.address["bob"]) {
		t.Fatalf("ssh: %v\n%s\n%s", err, out, sshd.stderr)
	}
	sshd.kill()

	source, program := filepath.Join(dir, "sum.c"), filepath.Join(dir, "sum")
	if err := os.WriteFile(source, []byte(allreduce), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mpicc", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("mpicc: %v, %s", err, out)
	}
	sshd = serve()
	out, err = r.run("alice", "mpirun", "--allow-run-as-root", "-np", "2", "--host", r.address["alice"]+":1,"+r.address["bob"]+":1",
		"--mca", "plm_rsh_agent", agent, "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "grid0", "--mca", "oob_tcp_if_include", "grid0", program)
	if err != nil || !strings.Contains(out, "rank 0 of 2: sum 3") || !strings.Contains(out, "rank 1 of 2: sum 3") {
		t.Errorf("mpirun: %v\n%s\n%s", err, out, sshd.stderr)
	}
}

const allreduce = `#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
	int rank, size, own, sum;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	own = rank + 1;
	MPI_Allreduce(&own, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	printf("rank %d of %d: sum %d\n", rank, size, sum);
	MPI_Finalize();
}
`

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
