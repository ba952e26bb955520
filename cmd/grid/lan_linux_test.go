package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// startLAN makes hosts on one Ethernet, or skips the test.
func startLAN(t *testing.T, hosts int, programs ...string) *kernel.LAN {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real programs")
	}
	t.Parallel()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err) // scripts/setup installs it
		}
	}
	lan, err := kernel.StartLAN(hosts)
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lan.Close() })
	return lan
}

// A program that runs inside a host.
type inside struct {
	*kernel.Cmd
	out, log lockedBuffer
	done     chan struct{}
}

// in starts a program inside a host. It is killed when the test ends.
func in(t *testing.T, h *kernel.Host, env []string, name string, args ...string) *inside {
	t.Helper()
	p := &inside{Cmd: h.Command(t.Context(), name, args...), done: make(chan struct{})}
	p.Env = append(os.Environ(), env...)
	p.Stdout, p.Stderr = &p.out, &p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.done
	})
	return p
}

// gridIn starts grid inside a host, with multicast DNS.
func gridIn(t *testing.T, h *kernel.Host, dir string, args ...string) *inside {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return in(t, h, []string{asWhat + "=grid", rendezvousVariable + "="}, exe, append([]string{"--dir", dir}, args...)...)
}

// result waits for the program's end.
func (p *inside) result(t *testing.T, code int) string {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%v does not end; stderr %s", p.Args, p.log.String())
	}
	if got := p.ProcessState.ExitCode(); got != code {
		t.Fatalf("%v: exit code %d, want %d; stdout %s stderr %s", p.Args, got, code, p.out.String(), p.log.String())
	}
	return p.out.String()
}

// until waits for a line in the output.
func (p *inside) until(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); !re.MatchString(p.out.String()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v does not print %s; stdout %s stderr %s", p.Args, pattern, p.out.String(), p.log.String())
		}
	}
}

// busConfig lets everybody on a message bus of our own do everything.
const busConfig = `<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startAvahi runs Avahi inside a host, on a bus of its own, and returns the
// environment for its clients.
func startAvahi(t *testing.T, h *kernel.Host) (env []string) {
	t.Helper()
	dir := t.TempDir()
	bus := filepath.Join(dir, "bus")
	for name, text := range map[string]string{
		"bus.conf":   fmt.Sprintf(busConfig, bus),
		"avahi.conf": "[server]\nhost-name=observer\nuse-ipv6=no\nallow-interfaces=in0\n[publish]\npublish-workstation=no\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in(t, h, nil, "dbus-daemon", "--nofork", "--nopidfile", "--config-file", filepath.Join(dir, "bus.conf"))
	waitFile(t, bus)
	env = []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + bus}
	// Its socket and process ID have fixed places, which others may use here.
	in(t, h, env, "unshare", "--mount", "sh", "-c",
		"mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "+filepath.Join(dir, "avahi.conf"))
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		c := h.Command(t.Context(), "avahi-browse", "--all", "--terminate")
		c.Env = append(os.Environ(), env...)
		if out, err := c.CombinedOutput(); err == nil {
			return env
		} else if time.Now().After(end) {
			t.Fatalf("avahi does not run: %v %s", err, out)
		}
	}
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// dig asks a node from a host and returns what it prints.
func dig(t *testing.T, h *kernel.Host, node string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := h.Command(ctx, "dig", append([]string{"@" + node, "-p", "5353", "+time=1", "+tries=5"}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("dig: %v", err)
	}
	return string(out)
}

// digGroup asks the group as a plain resolver does, from a port of its own, and
// returns the first answer. Since version 9.18 dig connects its socket to the
// address that it asks, and hears nobody who answers for a group.
func digGroup(t *testing.T, h *kernel.Host, name string, kind uint16) *dns.Msg {
	t.Helper()
	pc, err := h.ListenPacket(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	q, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9000)
	for range 20 {
		if _, err := pc.WriteTo(q, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}); err != nil {
			t.Fatal(err)
		}
		pc.SetReadDeadline(time.Now().Add(time.Second))
		n, _, err := pc.ReadFrom(b)
		if err != nil {
			continue
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(b[:n]); err != nil || answer.Id != m.Id {
			t.Fatalf("the answer makes no sense: %v %v", answer, err)
		}
		return answer
	}
	t.Fatalf("nobody answers for %s", name)
	return nil
}

// Two computers on one Ethernet with nothing else: a grid is made and joined,
// they ping each other by name, Avahi and dig see them, and a goodbye.
func TestGridOnALAN(t *testing.T) {
	lan := startLAN(t, 3, "avahi-daemon", "avahi-browse", "dbus-daemon", "dig")
	alice, bob, observer := lan.Host(0), lan.Host(1), lan.Host(2)
	aliceDir, bobDir := t.TempDir(), t.TempDir()
	out := gridIn(t, alice, aliceDir, "init", "lab", "--lan", "--name", "alice").result(t, cli.ExitOK)
	if !strings.Contains(out, "alice.lab.grid") {
		t.Errorf("init prints %q", out)
	}
	invite := gridIn(t, alice, aliceDir, "invite")
	token := strings.TrimSpace(invite.result(t, cli.ExitOK))
	if !strings.Contains(invite.log.String(), uncounted) {
		t.Errorf("invite says %q", invite.log.String())
	}
	gridIn(t, bob, bobDir, "join", "--name", "bob", token).result(t, cli.ExitOK)

	env := startAvahi(t, observer)
	browse := in(t, observer, env, "avahi-browse", "--resolve", "--parsable", "_grid-idle._udp")
	gridIn(t, alice, aliceDir, "up").until(t, "(?m)^name +alice.lab.grid$")
	up := gridIn(t, bob, bobDir, "up")
	up.until(t, "(?m)^name +bob.lab.grid$")
	browse.until(t, `(?m)^=;in0;IPv4;alice;_grid-idle._udp;local;grid-[a-z2-7]{16}\.local;10\.98\.0\.1;\d+;.*"peer=[a-z2-7]{52}"`)
	browse.until(t, `(?m)^=;in0;IPv4;bob;_grid-idle._udp;local;grid-[a-z2-7]{16}\.local;10\.98\.0\.2;\d+;.*"grid=[a-z2-7]{52}"`)

	ping := gridIn(t, alice, aliceDir, "ping", "--count", "2", "--json", "bob")
	var doc struct {
		Received int
		Path     string
	}
	document(t, ping.result(t, cli.ExitOK), &doc)
	if doc.Received != 2 || doc.Path != "direct" {
		t.Errorf("ping: %+v", doc)
	}
	var status struct {
		LAN struct {
			State string
			Heard []struct{ Name, Member, State, Address, Peer string }
		}
	}
	document(t, gridIn(t, alice, aliceDir, "status", "--json").result(t, cli.ExitOK), &status)
	if h := status.LAN.Heard; len(h) != 1 || h[0].Member != "bob" || h[0].State != "idle" || !strings.HasPrefix(h[0].Address, "10.98.0.2:") {
		t.Errorf("status: %+v", status)
	}
	if text := gridIn(t, alice, aliceDir, "status").result(t, cli.ExitOK); !strings.Contains(text, "lan         idle, as alice on in0\nheard       bob  idle  10.98.0.2:") {
		t.Errorf("status prints %s", text)
	}
	out = gridIn(t, alice, aliceDir, "members").result(t, cli.ExitOK)
	if !strings.Contains(out, "bob.lab.grid") {
		t.Errorf("members: %s", out)
	}

	if out := dig(t, observer, "10.98.0.1", "_grid-idle._udp.local", "PTR"); !regexp.MustCompile(`(?m)^_grid-idle\._udp\.local\.\s+10\s+IN\s+PTR\s+alice\._grid-idle\._udp\.local\.$`).MatchString(out) {
		t.Errorf("dig prints %s", out)
	}
	if a := digGroup(t, observer, "_grid-idle._udp.local.", dns.TypePTR); len(a.Answer) != 1 || len(a.Question) != 1 {
		t.Errorf("the group answers %v", a)
	}
	if out := dig(t, observer, "10.98.0.2", "+short", "bob._grid-idle._udp.local", "SRV"); !regexp.MustCompile(`^0 0 \d+ grid-[a-z2-7]{16}\.local\.\n`).MatchString(out) {
		t.Errorf("dig prints %s", out)
	}

	// The end of an agent is a goodbye, which Avahi tells at once.
	up.Process.Signal(os.Interrupt)
	up.result(t, cli.ExitOK)
	began := time.Now()
	browse.until(t, `(?m)^-;in0;IPv4;bob;_grid-idle._udp;local$`)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the goodbye took %v", took)
	}
	if bytes.Contains([]byte(browse.out.String()), []byte("-;in0;IPv4;alice")) {
		t.Error("alice is gone too")
	}
}

// A change of state is a goodbye and an announcement to Avahi, and so is a cable
// that is pulled and put back.
func TestStatesOnALAN(t *testing.T) {
	lan := startLAN(t, 2, "avahi-daemon", "avahi-browse", "dbus-daemon")
	dir := t.TempDir()
	gridIn(t, lan.Host(0), dir, "init", "lab", "--lan", "--name", "alice").result(t, cli.ExitOK)
	browse := in(t, lan.Host(1), startAvahi(t, lan.Host(1)), "avahi-browse", "--all", "--resolve", "--parsable")

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	node := lan.Host(0).Command(t.Context(), exe, dir)
	node.Env = append(os.Environ(), asWhat+"=states")
	node.Stderr = os.Stderr
	states, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		states.Close()
		if err := node.Wait(); err != nil {
			t.Error(err)
		}
		browse.until(t, `(?m)^-;in0;IPv4;alice;_grid-coordinator._udp;local$`)
	}()
	resolved := func(state string) string {
		return `(?m)^=;in0;IPv4;alice;_grid-` + state + `._udp;local;grid-[a-z2-7]{16}\.local;10\.98\.0\.1;\d+;`
	}
	browse.until(t, resolved("idle"))
	for _, state := range [][2]string{{"idle", "worker"}, {"worker", "coordinator"}} {
		fmt.Fprintln(states, state[1])
		browse.until(t, resolved(state[1]))
		browse.until(t, `(?m)^-;in0;IPv4;alice;_grid-`+state[0]+`._udp;local$`)
	}

	if err := lan.Unplug(0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := lan.Plug(0); err != nil {
		t.Fatal(err)
	}
	// The node speaks on the interface that has come back.
	if a := digGroup(t, lan.Host(1), "_grid-coordinator._udp.local.", dns.TypePTR); len(a.Answer) != 1 {
		t.Errorf("since the cable is back the answer is %v", a)
	}
}

// A grid with a ledger whose rendezvous is gone for good: after a restart its
// members on one Ethernet reach each other by name all the same.
func TestLANOutlivesTheRendezvous(t *testing.T) {
	lan := startLAN(t, 3)
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err) // no Go tool here
	}
	server := in(t, lan.Host(2), nil, program, "--json", "--admit", "key", "--dir", t.TempDir(),
		"--listen", "10.98.0.3:3478", "--stun-listen", "", "--metrics-listen", "", "--public-host", "10.98.0.3")
	server.until(t, `"claim"`)
	var doc struct{ Address, Claim string }
	document(t, server.out.String(), &doc)
	dirs := []string{t.TempDir(), t.TempDir()}
	gridIn(t, lan.Host(0), dirs[0], "init", "lab", "--rendezvous", doc.Address, "--claim", doc.Claim, "--name", "alice").result(t, cli.ExitOK)
	token := strings.TrimSpace(gridIn(t, lan.Host(0), dirs[0], "invite").result(t, cli.ExitOK))
	gridIn(t, lan.Host(1), dirs[1], "join", "--name", "bob", token).result(t, cli.ExitOK)
	server.Process.Kill()
	<-server.done

	// Neither has ever heard of the other but from its own founding or joining.
	var ups []*inside
	for i := range dirs {
		ups = append(ups, gridIn(t, lan.Host(i), dirs[i], "up"))
	}
	for _, dir := range dirs {
		waitFile(t, filepath.Join(dir, socketFile))
	}
	ping := gridIn(t, lan.Host(0), dirs[0], "ping", "--count", "1", "bob")
	if out := ping.result(t, cli.ExitOK); !strings.Contains(out, "direct 10.98.0.2:") {
		t.Errorf("ping prints %q", out)
	}
	gridIn(t, lan.Host(1), dirs[1], "ping", "--count", "1", "alice.lab.grid").result(t, cli.ExitOK)

	// A command that is its own node gives the rendezvous up and goes on.
	ups[0].Process.Signal(os.Interrupt)
	ups[0].result(t, cli.ExitOK)
	gridIn(t, lan.Host(0), dirs[0], "ping", "--count", "1", "bob").result(t, cli.ExitOK)
}
