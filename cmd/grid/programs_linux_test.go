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

// A home is a computer behind a NAT, with its state directory.
type home struct {
	t    *testing.T
	host *kernel.Host
	dir  string
}

// command returns a program that runs in the home. Programs of ours find their
// state directory by its environment, also those that others start.
func (h home) command(name string, args ...string) *kernel.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience) // some last for the whole test
	h.t.Cleanup(cancel)
	cmd := h.host.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), asWhat+"=grid", "XDG_STATE_HOME="+h.dir, rendezvousVariable+"=")
	return cmd
}

func (h home) grid(args ...string) *kernel.Cmd {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.command(exe, args...)
}

// output runs a program that must succeed.
func (h home) output(cmd *kernel.Cmd) string {
	h.t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("%v: %v; stdout %q; stderr %s", cmd.Args, err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// begin starts a program and returns the first line that it prints, and what
// ends it.
func (h home) begin(cmd *kernel.Cmd) (line string, stop func()) {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stderr := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = w, stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	w.Close()
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
		r.Close()
	}
	h.t.Cleanup(stop)
	b := make([]byte, 64<<10)
	n := 0
	for !bytes.ContainsRune(b[:n], '\n') {
		k, err := r.Read(b[n:])
		if n += k; err != nil {
			h.t.Fatalf("%v: %q, %v; stderr %s", cmd.Args, b[:n], err, stderr)
		}
	}
	go func() { // so that it never waits for us
		rest := make([]byte, 4096)
		for {
			if _, err := r.Read(rest); err != nil {
				return
			}
		}
	}()
	line, _, _ = strings.Cut(string(b[:n]), "\n")
	return line, stop
}

// needPrograms skips the test where one is not installed; scripts/setup
// installs them.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%v; as root: scripts/setup", err)
		}
	}
}

// A lab is a rendezvous on the Internet of the kernel, and the computers alice and
// bob in two homes behind NATs. There is no grid yet.
type lab struct {
	network *kernel.Network
	public  home   // of the rendezvous
	address string // of the rendezvous
	claim   string // for grid init
}

// newLab makes one, where each home is delay away from the Internet.
func newLab(t *testing.T, delay time.Duration) lab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real programs")
	}
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err) // no Go tool here
	}
	access := netsim.Link{Delay: delay, Rate: 200e6}
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
	l := lab{network: network}
	l.public = l.home(t, "public")
	l.address, l.claim = l.public.serveRendezvous(program, 3478)
	return l
}

// serveRendezvous runs one at a port and the next, and returns its address and
// the code for grid init.
func (h home) serveRendezvous(program string, port int) (address, claim string) {
	h.t.Helper()
	at := h.host.Addr().String()
	line, _ := h.begin(h.command(program, "--json", "--admit", "key", "--dir", h.t.TempDir(), "--public-host", at, "--metrics-listen", "",
		"--listen", fmt.Sprint(at, ":", port), "--stun-listen", fmt.Sprint(at, ":", port+1)))
	var doc struct{ Address, Claim string }
	document(h.t, line, &doc)
	return doc.Address, doc.Claim
}

// home returns a computer of the lab with a fresh state directory.
func (l lab) home(t *testing.T, name string) home {
	return home{t, l.network.Host(name).(*kernel.Host), t.TempDir()}
}

// twoHomes makes the grid lab of two computers behind NATs, alice and bob, with
// 10 ms to the Internet each.
func twoHomes(t *testing.T) (alice, bob home) {
	t.Helper()
	l := newLab(t, 10*time.Millisecond)
	alice, bob = l.home(t, "alice"), l.home(t, "bob")
	alice.output(alice.grid("init", "lab", "--name", "alice", "--rendezvous", l.address, "--claim", l.claim))
	token := alice.output(alice.grid("invite"))
	bob.output(bob.grid("join", "--name", "bob", token))
	return alice, bob
}

// serveHTTP serves a page, and a long one, from an address of the home.
func (h home) serveHTTP() string {
	h.t.Helper()
	ln, err := h.host.Listen(h.t.Context(), 0)
	if err != nil {
		h.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello over %s\n", r.Proto) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 16<<20)) })
	server := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(ln)
	h.t.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}

// makeKeys makes a key pair of OpenSSH.
func (h home) makeKeys(file string) string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), file)
	h.output(h.command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path))
	return path
}

// serveSSH runs sshd, for the holder of a key, and returns its port.
func (h home) serveSSH(public string) string {
	h.t.Helper()
	const port = "2222"
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // Debian's package makes it at boot
		h.t.Skip(err)
	}
	dir := h.t.TempDir()
	config := filepath.Join(dir, "sshd_config")
	text := strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "HostKey " + h.makeKeys("host"), "PidFile none", "UsePAM no",
		"PermitRootLogin yes", "StrictModes no", "AuthorizedKeysFile " + public, "PasswordAuthentication no", "",
	}, "\n")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.command(sshd, "-D", "-e", "-f", config)
	cmd.Stderr = new(lockedBuffer)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return port
}

// The programs that people have reach a computer in another home by name:
// through SOCKS, through a forwarded port, through a pipe, and by DNS.
func TestRealPrograms(t *testing.T) {
	needPrograms(t, "curl", "ssh", "sshd", "ssh-keygen", "dig", "iperf3")
	alice, bob := twoHomes(t)
	web := bob.serveHTTP()
	key := alice.makeKeys("id")
	policyFor(t, filepath.Join(bob.dir, "instantgrid"), "rules:\n  - names: [alice]\n    ports: [22, 80, 5201, 7000]\n")
	bob.begin(bob.grid("up", "--json", "--expose", "80="+web, "--expose", "22="+bob.serveSSH(key+".pub"), "--expose", "81="+web,
		"--expose", "5201", "--expose", "5201/udp", "--expose", "chess@7000="+web, "--expose", "closed@7001="+web))
	// The agent of the other home runs the proxy and the resolver for good, and
	// what the commands ask for while they last.
	alice.begin(alice.grid("up", "--json", "--proxy", "1080", "--dns", "5300"))

	t.Run("curl by SOCKS", func(t *testing.T) {
		if got := alice.output(alice.command("curl", "-sS", "--socks5-hostname", "127.0.0.1:1080", "http://bob.lab.grid/")); got != "hello over HTTP/1.1" {
			t.Errorf("curl prints %q", got)
		}
		got := alice.output(alice.command("curl", "-sS", "--proxy", "socks5h://127.0.0.1:1080", "--http2-prior-knowledge", "http://bob/"))
		if got != "hello over HTTP/2.0" {
			t.Errorf("curl over HTTP/2 prints %q", got)
		}
		// The name resolved by our resolver, and its address taken by the proxy.
		address := alice.output(alice.command("dig", "@127.0.0.1", "-p", "5300", "+short", "bob.lab.grid"))
		if got := alice.output(alice.command("curl", "-sS", "--socks5", "127.0.0.1:1080", "http://"+address+"/")); got != "hello over HTTP/1.1" {
			t.Errorf("curl of %s prints %q", address, got)
		}
		got = alice.output(alice.command("curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", "--socks5-hostname", "127.0.0.1:1080", "http://bob.lab.grid/long"))
		if got != "16777216" {
			t.Errorf("curl gets %s bytes", got)
		}
		// 97: the proxy says no.
		for _, to := range []string{
			"http://carol.lab.grid/",  // nobody has the name
			"http://bob.lab.grid:81/", // closed by the policy
			"http://bob.lab.grid:82/", // nobody listens
			"http://192.0.2.1/",       // outside
			"http://bob.other.grid/",  // of another grid
		} {
			out, err := alice.command("curl", "-sS", "--socks5-hostname", "127.0.0.1:1080", to).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 97 {
				t.Errorf("curl %s: %v, %s", to, err, out)
			}
		}
	})
	t.Run("curl by forward", func(t *testing.T) {
		line, stop := alice.begin(alice.grid("forward", "8080", "bob:80"))
		if line != "127.0.0.1:8080/tcp leads to bob:80" {
			t.Errorf("forward prints %q", line)
		}
		if got := alice.output(alice.command("curl", "-sS", "http://127.0.0.1:8080/")); got != "hello over HTTP/1.1" {
			t.Errorf("curl prints %q", got)
		}
		// It ends with its command, in the agent as well.
		stop()
		for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			if err := alice.command("curl", "-sS", "http://127.0.0.1:8080/").Run(); err != nil {
				break
			} else if time.Now().After(end) {
				t.Fatal("the port is led on after its command has ended")
			}
		}
	})
	t.Run("ssh", func(t *testing.T) {
		known := filepath.Join(t.TempDir(), "known")
		ssh := func(args ...string) string {
			return alice.output(alice.command("ssh", append([]string{
				"-F", "/dev/null", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + known,
			}, args...)...))
		}
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if got := ssh("-o", "ProxyCommand="+exe+" connect %h:%p", "root@bob.lab.grid", "echo over a pipe"); got != "over a pipe" {
			t.Errorf("ssh prints %q", got)
		}
		_, stop := alice.begin(alice.grid("forward", "2200", "bob:22"))
		defer stop()
		if got := ssh("-p", "2200", "root@127.0.0.1", "head -c 3000000 /dev/zero | wc -c"); got != "3000000" {
			t.Errorf("ssh prints %q", got)
		}
	})
	t.Run("dig", func(t *testing.T) {
		dig := func(args ...string) string {
			return alice.output(alice.command("dig", append([]string{"@127.0.0.1", "-p", "5300", "+tries=2"}, args...)...))
		}
		address := dig("+short", "bob.lab.grid", "A")
		if !strings.HasPrefix(address, "100.90.") {
			t.Errorf("A is %q", address)
		}
		if got := dig("+short", "+tcp", "-x", address); got != "bob.lab.grid." {
			t.Errorf("PTR is %q", got)
		}
		if got := dig("+short", "_ssh._tcp.bob.lab.grid", "SRV"); got != "0 0 22 bob.lab.grid." {
			t.Errorf("SRV is %q", got)
		}
		// What members offer, to whom they open the port.
		for name, want := range map[string]string{
			"_http._tcp.lab.grid": "0 0 80 bob.lab.grid.", "_chess._tcp.lab.grid": "0 0 7000 bob.lab.grid.", "_closed._tcp.lab.grid": "",
		} {
			if got := dig("+short", name, "SRV"); got != want {
				t.Errorf("SRV of %s is %q, want %q", name, got, want)
			}
		}
		if got := dig("+short", "bob.lab.grid", "AAAA"); !strings.HasPrefix(got, "fd") {
			t.Errorf("AAAA is %q", got)
		}
		if got := dig("bob.lab.grid", "TXT"); !strings.Contains(got, "status: NOERROR") || !strings.Contains(got, `"roles=worker"`) {
			t.Errorf("TXT is %q", got)
		}
		for name, want := range map[string]string{"nobody.lab.grid": "NXDOMAIN", "bob.other.grid": "NXDOMAIN"} {
			if got := dig(name); !strings.Contains(got, "status: "+want) {
				t.Errorf("%s: %s", name, got)
			}
		}
		if got := dig("+notcp", "+ignore", "bob.lab.grid", "ANY"); !strings.Contains(got, "status: REFUSED") {
			t.Errorf("ANY: %s", got)
		}
	})
	t.Run("iperf3", func(t *testing.T) {
		_, stop := alice.begin(alice.grid("forward", "5201", "bob:5201"))
		defer stop()
		_, stopUDP := alice.begin(alice.grid("forward", "5201", "bob:5201", "--udp"))
		defer stopUDP()
		for _, args := range [][]string{{}, {"-R"}, {"-P", "4"}, {"-u", "-b", "4M", "-l", "1200"}} {
			server := bob.command("iperf3", "-s", "-1", "-B", "127.0.0.1", "--forceflush")
			_, stop := bob.begin(server)
			out := alice.output(alice.command("iperf3", append([]string{"--json", "-t", "1", "-c", "127.0.0.1"}, args...)...))
			stop()
			var doc struct {
				End struct {
					Sum_received, Sum struct{ Bytes float64 }
				}
				Error string
			}
			if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Error != "" || doc.End.Sum_received.Bytes+doc.End.Sum.Bytes < 100_000 {
				t.Errorf("iperf3 %v: %+v, %v", args, doc, err)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, tt := range []struct {
			args []string
			code int
			text string
		}{
			{[]string{"connect", "bob:82"}, cli.ExitRefused, "policy"},
			{[]string{"connect", "carol:80"}, cli.ExitFailed, "name carol"},
			{[]string{"forward", "8081", "carol:80"}, cli.ExitFailed, "name carol"},
			{[]string{"proxy", "--listen", "1080"}, cli.ExitFailed, "127.0.0.1:1080: another program has it"},
			{[]string{"dns"}, cli.ExitFailed, "127.0.0.1:5300: another program has it"},
		} {
			cmd := alice.grid(tt.args...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tt.code || !strings.Contains(string(out), tt.text) || !strings.Contains(string(out), "next: ") {
				t.Errorf("grid %v: %v, %s", tt.args, err, out)
			}
		}
	})
}

// Without an agent a command uses the identity itself.
func TestServicesWithoutAgent(t *testing.T) {
	needPrograms(t, "curl")
	alice, bob := twoHomes(t)
	policyFor(t, filepath.Join(bob.dir, "instantgrid"), "rules:\n  - names: [alice]\n    ports: [80]\n")
	_, port, err := net.SplitHostPort(bob.serveHTTP())
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bob.begin(bob.grid("expose", "80", "--to", bob.host.Addr().String()+":"+port, "--json"))
	var doc struct {
		Schema string
		serviceDocument
	}
	document(t, line, &doc)
	if doc.Schema != "instantgrid/expose/1" || doc.Agent || doc.Listen != ":80" {
		t.Errorf("expose prints %q", line)
	}
	cmd := alice.grid("connect", "bob:80")
	cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
	if got := alice.output(cmd); !strings.HasSuffix(got, "hello over HTTP/1.0") {
		t.Errorf("connect prints %q", got)
	}
	line, _ = alice.begin(alice.grid("proxy", "--json"))
	document(t, line, &doc)
	if got := alice.output(alice.command("curl", "-sS", "--socks5-hostname", doc.Listen, "http://bob.lab.grid/")); got != "hello over HTTP/1.1" {
		t.Errorf("curl prints %q", got)
	}
	second := alice.grid("connect", "bob:80")
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "grid up") {
		t.Errorf("a second command with the same identity: %v, %s", err, out)
	}
}
