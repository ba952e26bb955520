package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/hostdns"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/journal"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// withResolver returns the command line that runs a program in a mount namespace
// of its own, with file at /etc/resolv.conf.
func withResolver(file string, line ...string) []string {
	return append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, file}, line...)
}

// writeText writes a file that anybody may read.
func writeText(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// resolverPlan is the environment variable that makes this test's binary the
// agent of TestKilledWithResolver: a state directory, at which step it is killed,
// and the interface for systemd-resolved.
const resolverPlan = "INSTANTGRID_TEST_KILL_RESOLVER"

func TestKillResolverChild(t *testing.T) {
	plan := strings.Fields(os.Getenv(resolverPlan))
	if len(plan) != 3 {
		t.Skip("runs as a child of TestKilledWithResolver")
	}
	j, err := openJournal(plan[0], discardLog())
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(plan[1])
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{journaled{j}, at}
	installed, err := hostdns.Install(hostdns.Config{Resolver: netip.MustParseAddrPort(systemDNS), Domain: "grid", Link: plan[2], Changes: k})
	if err != nil {
		t.Fatal(err)
	}
	k.step()
	if err := installed.Undo(); err != nil {
		t.Fatal(err)
	}
	k.step()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// Contract, line 17, for the resolver of all programs: an agent that is killed at
// any step of installing it or taking it back leaves /etc/resolv.conf, or the
// settings of systemd-resolved, as they were, after grid down or the next start.
func TestKilledWithResolver(t *testing.T) {
	t.Parallel()
	h := aHost(t)
	err := h.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "grid0"}, PeerName: "grid1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, before string
		steps        int // at least, besides those of resolvectl
	}{
		{"file", "# home\nnameserver 192.0.2.53\noptions ndots:2\n", 6},
		{"systemd-resolved", "nameserver 127.0.0.53\noptions edns0\n", 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file, calls := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "calls")
			writeText(t, file, tt.before, 0o644)
			// Stands for systemd-resolved: it notes what it is told, and may kill who
			// tells it.
			writeText(t, filepath.Join(dir, "resolvectl"), "#!/bin/sh\necho \"$@\" >> "+calls+"\nif [ $(wc -l < "+calls+") = \"$KILL_AT\" ]; then kill -9 $PPID; fi\n", 0o755)
			path := "PATH=" + dir + ":" + os.Getenv("PATH")
			killed := func(step, call int) bool {
				t.Helper()
				os.Remove(calls)
				line := withResolver(file, exe, "-test.run", "^TestKillResolverChild$")
				child := h.Command(t.Context(), line[0], line[1:]...)
				child.Env = append(os.Environ(), path, "KILL_AT="+strconv.Itoa(call), resolverPlan+"="+dir+" "+strconv.Itoa(step)+" grid0")
				return isKilled(t, child)
			}
			restored := func(what string) {
				t.Helper()
				if b, err := os.ReadFile(file); err != nil || string(b) != tt.before {
					t.Errorf("killed at %s, the file is %q, %v", what, b, err)
				}
				b, err := os.ReadFile(calls)
				if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); err == nil && lines[len(lines)-1] != "revert grid0" {
					t.Errorf("killed at %s, systemd-resolved was told %q", what, lines)
				}
			}
			undo := func(args ...string) {
				t.Helper()
				inside := gridCommand(t, dir, "", args...)
				line := withResolver(file, inside.Args...)
				cmd := h.Command(t.Context(), line[0], line[1:]...)
				cmd.Env = append(inside.Env, path)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("grid %v: %v, %s", args, err, out)
				}
			}
			step := 1
			for ; killed(step, 0); step++ {
				undo("down")
				restored("step " + strconv.Itoa(step))
			}
			restored("no step")
			if step-1 < tt.steps {
				t.Errorf("killed at %d steps only", step-1)
			}
			if tt.name == "file" {
				return
			}
			for call := 1; killed(0, call); call++ {
				undo("down", "--cleanup")
				restored("call " + strconv.Itoa(call))
			}
		})
	}
}

// All programs find members by name while the agent runs, and other names where
// they did before; a kill -9 is undone by the next start or by grid down.
func TestSystemResolver(t *testing.T) {
	needPrograms(t, "getent")
	alice, _ := twoHomes(t)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	const before = "nameserver 127.0.0.9\n"
	writeText(t, file, before, 0o644)
	// The resolver that this computer had before.
	var pc net.PacketConn
	err := alice.host.Do(func() (err error) { pc, err = net.ListenPacket("udp", "127.0.0.9:53"); return err })
	if err != nil {
		t.Fatal(err)
	}
	upstream := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "web.example." && q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("web.example. 60 IN A 192.0.2.80")
			m.Answer = append(m.Answer, rr)
		}
		w.WriteMsg(m)
	})}
	go upstream.ActivateAndServe()
	defer upstream.Shutdown()

	in := func(cmd *kernel.Cmd) *kernel.Cmd {
		line := withResolver(file, cmd.Args...)
		inside := alice.command(line[0], line[1:]...)
		return inside
	}
	up := func() (document string, stop func(), cmd *kernel.Cmd) {
		t.Helper()
		cmd = in(alice.grid("up", "--json", "--dns-system"))
		document, stop = alice.begin(cmd)
		return document, stop, cmd
	}
	find := func(name string) string {
		out, _ := in(alice.command("getent", "ahostsv4", name)).Output()
		address, _, _ := strings.Cut(string(out), " ")
		return address
	}
	is := func(what, want string) {
		t.Helper()
		b, err := os.ReadFile(file)
		if ours := strings.Contains(string(b), "nameserver 127.90.0.53\n"); err != nil || (want == "ours") != ours || want != "ours" && string(b) != want {
			t.Errorf("%s, the file is %q, %v", what, b, err)
		}
	}

	_, stop, _ := up()
	is("while the agent runs", "ours")
	if got := find("bob.lab.grid"); !strings.HasPrefix(got, "100.90.") {
		t.Errorf("bob.lab.grid is %q", got)
	}
	if got := find("web.example"); got != "192.0.2.80" {
		t.Errorf("web.example is %q", got)
	}
	var status struct{ Services []serviceStatus }
	document(t, alice.output(alice.grid("status", "--json")), &status)
	if len(status.Services) != 1 || status.Services[0].System != hostdns.File || status.Services[0].Counters["answered"] == 0 || status.Services[0].Counters["forwarded"] == 0 {
		t.Errorf("status: %+v", status)
	}
	if out, err := in(alice.grid("dns", "--system", "--listen", "127.90.0.54:53")).CombinedOutput(); err == nil || !strings.Contains(string(out), "already") {
		t.Errorf("a second one: %v, %s", err, out)
	}
	stop() // kill -9
	is("after a kill", "ours")
	if out := alice.output(in(alice.grid("down", "--json"))); !strings.Contains(out, "file "+hostdns.File) {
		t.Errorf("grid down: %s", out)
	}
	is("after grid down", before)

	_, stop, _ = up()
	stop()
	_, _, cmd := up() // the next start
	is("after the next start", "ours")
	if got := find("web.example"); got != "192.0.2.80" {
		t.Errorf("after the next start web.example is %q", got)
	}
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	is("after an interrupt", before)

	// Of a command, with its own node.
	cmd = in(alice.grid("dns", "--system", "--json"))
	alice.begin(cmd)
	is("while grid dns runs", "ours")
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("grid dns ends with %v", err)
	}
	is("after grid dns", before)

	// What nobody can answer is not begun.
	writeText(t, file, "# none\n", 0o644)
	cmd = in(alice.grid("up", "--dns-system"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != cli.ExitUsage || !strings.Contains(string(out), "names no resolver") {
		t.Errorf("without a resolver: %v, %s", err, out)
	}
	writeText(t, file, "nameserver 127.0.0.53\n", 0o644)
	cmd = in(alice.grid("up", "--dns-system"))
	if out, err = cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "grid up --tun") {
		t.Errorf("systemd-resolved without an interface: %v, %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(alice.dir, "instantgrid", journal.FileName)); err != nil || len(b) > 0 {
		t.Errorf("the journal holds %q, %v", b, err)
	}
}
