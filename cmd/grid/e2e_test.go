package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// The tests in this file run real programs over loopback: the rendezvous, and
// this test binary, which is grid when asWhat says so. On loopback there is no
// direct path, since nobody's address may be probed there; make demo shows the
// rest.

const asWhat = "GRID_TEST_AS"

// patience bounds every wait of these tests; none of them is about speed.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	switch os.Getenv(asWhat) {
	case "grid":
		main()
	case "watch":
		watchMain()
	case "states":
		os.Exit(runStates())
	}
	// Under the race detector each of our programs would wait a second at its end.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	dir, err := os.MkdirTemp("", "grid-test-")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildDir holds what the tests build, until all have ended.
var buildDir string

// buildRendezvous returns the rendezvous program.
var buildRendezvous = sync.OnceValues(func() (string, error) {
	file := filepath.Join(buildDir, "rendezvous")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", file, "../rendezvous").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %v: %s", err, out)
	}
	return file, nil
})

// startRendezvous runs a rendezvous until the test ends and returns its
// address.
func startRendezvous(t *testing.T, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real programs")
	}
	if runtime.GOOS == "windows" {
		t.Skip("uses signals")
	}
	t.Parallel() // these tests wait more than they work
	program, err := buildRendezvous()
	if err != nil {
		t.Skip(err) // no Go tool here
	}
	args = append([]string{
		"--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0", "--metrics-listen", "", "--public-host", "127.0.0.1",
	}, args...)
	p := start(t, exec.Command(program, args...))
	return p.line(t)
}

// A process is a running program of a test.
type process struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *lockedBuffer
	done   chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs cmd until it ends, or the test does.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	return startWith(t, cmd, cmd.Start)
}

// startWith is start for a command that begins in a way of its own.
func startWith(t *testing.T, cmd *exec.Cmd, begin func() error) *process {
	t.Helper()
	p := &process{cmd: cmd, stderr: new(lockedBuffer), done: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(r)
	cmd.Stdout = w
	cmd.Stderr = p.stderr
	cmd.WaitDelay = time.Second // a child of its own may have the pipe
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		r.Close()
	})
	return p
}

// grid runs grid with a state directory and a rendezvous in its environment.
func grid(t *testing.T, dir, address string, args ...string) *process {
	t.Helper()
	return start(t, gridCommand(t, dir, address, args...))
}

func gridCommand(t *testing.T, dir, address string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Test programs are not to be heard on the network of the computer.
	cmd := exec.Command(exe, append([]string{"--dir", dir, "--no-discovery"}, args...)...)
	cmd.Env = append(os.Environ(), asWhat+"=grid", rendezvousVariable+"="+address)
	return cmd
}

func (p *process) kill() {
	p.cmd.Process.Kill() // SIGKILL; fails if it has ended
	<-p.done
}

// line reads the next line of the standard output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	type read struct {
		s   string
		err error
	}
	c := make(chan read, 1)
	go func() {
		s, err := p.stdout.ReadString('\n')
		c <- read{strings.TrimSpace(s), err}
	}()
	select {
	case r := <-c:
		if r.err != nil {
			t.Fatalf("no line from %s: %v; stderr: %s", p.cmd.Path, r.err, p.stderr)
		}
		return r.s
	case <-time.After(patience):
		t.Fatalf("no line from %s in time; stderr: %s", p.cmd.Path, p.stderr)
	}
	return ""
}

// wait returns the rest of the standard output and the exit code.
func (p *process) wait(t *testing.T) (stdout string, code int) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	b, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	return string(b), p.cmd.ProcessState.ExitCode()
}

// want fails the test unless p ends with code, and returns its output.
func (p *process) want(t *testing.T, code int) string {
	t.Helper()
	stdout, got := p.wait(t)
	if got != code {
		t.Fatalf("%v: exit code %d, want %d; stdout %s; stderr %s", p.cmd.Args[1:], got, code, stdout, p.stderr)
	}
	return stdout
}

// document decodes the last line of stdout.
func document(t *testing.T, stdout string, v any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), v); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
}

// randomFile makes a file and returns its path and hash.
func randomFile(t *testing.T, name string, size int) (path, sum string) {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(b)
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	return path, fmt.Sprintf("%x", sha256.Sum256(b))
}

func hashOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// TestSendRecv: friendliness, section 1, line 2, on one computer and with the
// state directory shared, as somebody does who tries it out.
func TestSendRecv(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	file, sum := randomFile(t, "photos.tar", 5<<20+7)
	dir, inbox := t.TempDir(), t.TempDir()

	send := grid(t, dir, address, "send", file)
	token := send.line(t)
	if !strings.HasPrefix(token, "igt") {
		t.Fatalf("first line %q; stderr %s", token, send.stderr)
	}
	// The token is all that the other side needs.
	recv := grid(t, dir, "", "recv", "--output", inbox, token)
	got := recv.want(t, cli.ExitOK)
	sent := send.want(t, cli.ExitOK)
	for who, out := range map[string]string{"sender": sent, "receiver": got} {
		if !strings.Contains(out, "sha256: "+sum+"\n") || !strings.Contains(out, "path: relay (") {
			t.Errorf("the %s prints %q", who, out)
		}
	}
	if hashOf(t, filepath.Join(inbox, "photos.tar")) != sum {
		t.Error("the files differ")
	}
	for _, p := range []*process{send, recv} {
		if strings.ContainsAny(p.stderr.String(), "\r\x1b") {
			t.Errorf("escape off a terminal: %q", p.stderr)
		}
		if strings.Contains(p.stderr.String(), token) {
			t.Errorf("the token is repeated: %q", p.stderr)
		}
	}
	// The token let one in, once; the receiver knows that it has the file.
	again := grid(t, dir, "", "recv", "--output", inbox, token).want(t, cli.ExitOK)
	if want := "received photos.tar before: 5.0 MiB\nsha256: " + sum + "\n"; again != want {
		t.Errorf("receiving it again prints %q", again)
	}
	other := grid(t, t.TempDir(), "", "recv", "--json", "--output", inbox, token)
	var failed struct{ Error errorFields }
	stdout, code := other.wait(t)
	document(t, stdout, &failed)
	if code != cli.ExitRefused && code != cli.ExitUnreachable || failed.Error.ExitCode != code {
		t.Errorf("a stranger with the same token: exit code %d, %+v", code, failed)
	}
}

func TestSendRecvJSON(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	file, sum := randomFile(t, "data", 1<<20)
	inbox := t.TempDir()
	send := grid(t, t.TempDir(), address, "send", "--json", file)
	var first struct {
		Schema string
		tokenDocument
	}
	document(t, send.line(t), &first)
	if first.Schema != "instantgrid/send/1" || first.Event != "token" || first.Token == "" || !first.Expires.After(time.Now()) {
		t.Fatalf("first line %+v", first)
	}
	// On the standard input a token is hidden from whoever lists processes.
	cmd := gridCommand(t, t.TempDir(), "", "recv", "--json", "--output", inbox, "-")
	cmd.Stdin = strings.NewReader(first.Token + "\n")
	out := start(t, cmd).want(t, cli.ExitOK)
	var got, sent struct {
		Schema string
		transferDocument
	}
	if strings.Count(out, "\n") != 1 {
		t.Errorf("recv --json prints %q, want one document", out)
	}
	document(t, out, &got)
	document(t, send.want(t, cli.ExitOK), &sent)
	if got.Schema != "instantgrid/recv/1" || sent.Schema != "instantgrid/send/1" {
		t.Errorf("schemas %q and %q", got.Schema, sent.Schema)
	}
	for _, d := range []transferDocument{got.transferDocument, sent.transferDocument} {
		if d.Event != "done" || d.SHA256 != sum || d.Bytes != 1<<20 || d.FirstByteMS == nil || d.DirectMS != nil || d.PathKind != "relay" || d.Reason == "" || d.Advice == "" {
			t.Errorf("result %+v", d)
		}
	}
}

// TestKill: friendliness, section 1, line 22: whoever is killed in
// mid-transfer goes on where it stopped.
func TestKill(t *testing.T) {
	const size = 6 << 20
	for _, victim := range []string{"receiver", "both"} {
		t.Run(victim, func(t *testing.T) {
			// Slow enough to be killed half way.
			address := startRendezvous(t, "--admit", "open", "--relay-rate", "20Mbit/s")
			file, sum := randomFile(t, "big", size)
			sender, receiver, inbox := t.TempDir(), t.TempDir(), t.TempDir()
			send := grid(t, sender, address, "send", file)
			token := send.line(t)
			recv := grid(t, receiver, "", "recv", "--json", "--watch", "--output", inbox, token)
			var at progressDocument
			for at.Bytes < size/4 {
				document(t, recv.line(t), &at)
			}
			recv.kill()
			if victim == "both" {
				send.kill()
				send = grid(t, sender, address, "send", file)
				if again := send.line(t); again != token {
					t.Errorf("the token was %s and is %s", token, again)
				}
			}
			if _, err := os.Stat(filepath.Join(inbox, "big")); err == nil {
				t.Error("half a file has the name of the whole")
			}
			recv = grid(t, receiver, "", "recv", "--json", "--output", inbox, token)
			var got transferDocument
			document(t, recv.want(t, cli.ExitOK), &got)
			send.want(t, cli.ExitOK)
			if got.SHA256 != sum || hashOf(t, filepath.Join(inbox, "big")) != sum {
				t.Error("the files differ")
			}
			if got.ResumedFrom < at.Bytes-1<<20 {
				t.Errorf("resumed from %d though %d were acknowledged", got.ResumedFrom, at.Bytes)
			}
			if list, err := os.ReadDir(inbox); err != nil || len(list) != 1 {
				t.Errorf("left behind: %v, %v", list, err)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	file, _ := randomFile(t, "data", 100)
	send := grid(t, t.TempDir(), address, "send", "--json", file)
	send.line(t)
	send.cmd.Process.Signal(syscall.SIGINT)
	var failed struct{ Error errorFields }
	document(t, send.want(t, cli.ExitInterrupted), &failed)
	if failed.Error.ExitCode != cli.ExitInterrupted || failed.Error.Next == "" {
		t.Errorf("interrupted: %+v", failed)
	}
}

// TestUnusedToken: a sender does not wait for ever.
func TestUnusedToken(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	file, _ := randomFile(t, "data", 100)
	send := grid(t, t.TempDir(), address, "send", "--valid", "1s", file)
	token := send.line(t)
	send.want(t, cli.ExitFailed)
	if !strings.Contains(send.stderr.String(), "token: nobody has used it") {
		t.Errorf("stderr %s", send.stderr)
	}
	late := grid(t, t.TempDir(), "", "recv", token)
	late.want(t, cli.ExitRefused)
	if !strings.Contains(late.stderr.String(), "it has expired") {
		t.Errorf("stderr %s", late.stderr)
	}
}

// TestMembersOnly: a rendezvous that serves members serves the guest of one,
// and tells others what to do.
func TestMembersOnly(t *testing.T) {
	here, inbox := t.TempDir(), t.TempDir()
	id := strings.TrimSpace(grid(t, here, "", "id").want(t, cli.ExitOK))
	members := filepath.Join(t.TempDir(), "members")
	if err := os.WriteFile(members, []byte(id+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	address := startRendezvous(t, "--admit", "members", "--members", members)
	file, sum := randomFile(t, "data", 1000)
	send := grid(t, here, address, "send", file)
	grid(t, t.TempDir(), "", "recv", "--output", inbox, send.line(t)).want(t, cli.ExitOK)
	send.want(t, cli.ExitOK)
	if hashOf(t, filepath.Join(inbox, "data")) != sum {
		t.Error("the files differ")
	}
	stranger := t.TempDir()
	other := strings.TrimSpace(grid(t, stranger, "", "id").want(t, cli.ExitOK))
	refused := grid(t, stranger, address, "send", file)
	refused.want(t, cli.ExitRefused)
	if !strings.Contains(refused.stderr.String(), other) {
		t.Errorf("the refusal does not print the line to add: %s", refused.stderr)
	}
}

func TestUp(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	here, there, inbox := t.TempDir(), t.TempDir(), t.TempDir()
	id := strings.TrimSpace(grid(t, here, address, "id").want(t, cli.ExitOK))
	up := grid(t, there, address, "up", "--json", "--allow", id, "--receive", inbox)
	var agent struct {
		Schema string
		upDocument
	}
	document(t, up.line(t), &agent)
	if agent.Schema != "instantgrid/up/1" || !agent.Registered || agent.Rendezvous != address {
		t.Fatalf("up: %+v", agent)
	}
	peer := agent.PeerID.String()

	out := grid(t, here, address, "ping", "--count", "2", "--interval", "10ms", peer).want(t, cli.ExitOK)
	if strings.Count(out, "pong from ") != 2 || !strings.Contains(out, ": relay (") {
		t.Errorf("ping: %q", out)
	}
	var pinged struct {
		Schema string
		pingDocument
	}
	document(t, grid(t, here, address, "ping", "--until-direct", "--timeout", "1s", "--json", peer).want(t, cli.ExitRelayed), &pinged)
	if pinged.Schema != "instantgrid/ping/1" || pinged.Path != "relay" || pinged.Reason == "" || pinged.Error == nil {
		t.Errorf("ping --until-direct: %+v", pinged)
	}
	// Somebody who is not allowed gets no answer.
	stranger := grid(t, t.TempDir(), address, "ping", "--count", "1", "--timeout", "5s", peer)
	stranger.want(t, cli.ExitFailed)
	if !strings.Contains(stranger.stderr.String(), "next: ") {
		t.Errorf("a stranger's ping: %s", stranger.stderr)
	}
	// The agent's own computer asks the agent.
	out = grid(t, there, "", "status").want(t, cli.ExitOK)
	if !strings.Contains(out, peer) || !strings.Contains(out, "registered") {
		t.Errorf("status: %q", out)
	}
	watch := grid(t, there, "", "status", "--watch", "--json", "--interval", "10ms")
	for range 2 {
		var doc struct {
			Schema  string
			Peer_id string
		}
		document(t, watch.line(t), &doc)
		if doc.Schema != "instantgrid/status/1" || doc.Peer_id != peer {
			t.Errorf("status --watch: %+v", doc)
		}
	}
	watch.cmd.Process.Signal(syscall.SIGINT)
	watch.want(t, cli.ExitOK)

	// It also answers in the agent's name.
	through := grid(t, there, "", "ping", "--count", "1", "--timeout", "2s", id)
	through.want(t, cli.ExitFailed)
	if !strings.Contains(through.stderr.String(), "peer "+id) {
		t.Errorf("ping through the agent: %s", through.stderr)
	}

	file, sum := randomFile(t, "report.pdf", 300_000)
	grid(t, here, address, "send", file, peer).want(t, cli.ExitOK)
	if hashOf(t, filepath.Join(inbox, "report.pdf")) != sum {
		t.Error("the files differ")
	}
	second := grid(t, here, address, "send", file, peer)
	second.want(t, cli.ExitRefused)
	if !strings.Contains(second.stderr.String(), "another file of that name") {
		t.Errorf("sending it again: %s", second.stderr)
	}
	// Beside the agent, a token is made with an identity of its own: twice, for
	// two receivers.
	var offers []*process
	var tokens []string
	for range 2 {
		p := grid(t, there, address, "send", file)
		offers, tokens = append(offers, p), append(tokens, p.line(t))
	}
	for i, token := range tokens {
		other := t.TempDir()
		grid(t, t.TempDir(), "", "recv", "--output", other, token).want(t, cli.ExitOK)
		offers[i].want(t, cli.ExitOK)
		if hashOf(t, filepath.Join(other, "report.pdf")) != sum {
			t.Error("the files differ")
		}
	}
	if list, err := os.ReadDir(filepath.Join(there, transfersDir)); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	// Two programs must not share an identity.
	grid(t, there, address, "up").want(t, cli.ExitFailed)

	up.cmd.Process.Signal(syscall.SIGINT)
	up.want(t, cli.ExitOK)
	grid(t, there, "", "status").want(t, cli.ExitFailed)
}

// TestKnownPeers: recv without a token, for a peer that is allowed.
func TestKnownPeers(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	here, there, inbox := t.TempDir(), t.TempDir(), t.TempDir()
	from := strings.TrimSpace(grid(t, here, address, "id").want(t, cli.ExitOK))
	to := strings.TrimSpace(grid(t, there, address, "id").want(t, cli.ExitOK))
	file, sum := randomFile(t, "data", 1<<20)
	recv := grid(t, there, address, "recv", "--allow", from, "--output", inbox, "--name", ".hidden")
	deadline := time.Now().Add(patience)
	for !strings.Contains(recv.stderr.String(), "grid send FILE") && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	send := grid(t, here, address, "send", file, to)
	send.want(t, cli.ExitOK)
	recv.want(t, cli.ExitOK)
	if hashOf(t, filepath.Join(inbox, ".hidden")) != sum {
		t.Error("the files differ")
	}
}

func TestNetcheck(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	stun, _, _ := strings.Cut(address, "#")
	check := grid(t, t.TempDir(), "", "netcheck", "--json", "--stun", stun)
	var doc struct {
		Schema   string
		Sentence string
		Networks []struct {
			Family   string
			Behavior map[string]any
		}
	}
	document(t, check.want(t, cli.ExitOK), &doc)
	if doc.Schema != "instantgrid/netcheck/1" || doc.Sentence == "" || len(doc.Networks) != 1 || doc.Networks[0].Behavior["udp_blocked"] != "no" {
		t.Errorf("netcheck: %+v", doc)
	}
	// What one address cannot tell is unknown.
	if doc.Networks[0].Behavior["filtering"] != "unknown" {
		t.Errorf("netcheck: filtering %v", doc.Networks[0].Behavior["filtering"])
	}
	out := grid(t, t.TempDir(), "", "netcheck", "--stun", stun).want(t, cli.ExitOK)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); lines[len(lines)-1] != doc.Sentence {
		t.Errorf("netcheck ends in %q, want %q", lines[len(lines)-1], doc.Sentence)
	}
	silent := grid(t, t.TempDir(), "", "netcheck", "--json", "--timeout", "300ms", "--stun", "127.0.0.1:1")
	document(t, silent.want(t, cli.ExitUnreachable), &doc)
	if doc.Networks[0].Behavior["udp_blocked"] != "yes" {
		t.Errorf("netcheck of a silent server: %+v", doc)
	}
}

func TestNoRendezvousThere(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for an answer")
	}
	t.Parallel() // it does nothing but wait
	file, _ := randomFile(t, "data", 1)
	send := grid(t, t.TempDir(), "127.0.0.1:1#"+peerID(1).String(), "send", file)
	send.want(t, cli.ExitUnreachable)
	if !strings.Contains(send.stderr.String(), "rendezvous 127.0.0.1:1") || !strings.Contains(send.stderr.String(), "next: ") {
		t.Errorf("stderr %s", send.stderr)
	}
}

// TestFullDisk receives onto a disk that is too small, and then large enough.
func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	address := startRendezvous(t, "--admit", "open")
	inbox := t.TempDir()
	mount := func(option string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", option, "grid-test", inbox).CombinedOutput(); err != nil {
			t.Skipf("no disk to fill: %v: %s", err, out)
		}
	}
	mount("size=1m")
	t.Cleanup(func() { exec.Command("umount", inbox).Run() })
	file, sum := randomFile(t, "data", 3<<20)
	send := grid(t, t.TempDir(), address, "send", file)
	token := send.line(t)
	receiver := t.TempDir()
	recv := grid(t, receiver, "", "recv", "--output", inbox, token)
	recv.want(t, cli.ExitFailed)
	if text := recv.stderr.String(); !strings.Contains(text, filepath.Join(inbox, "data.part")+": the disk is full; the file needs another 3.0 MiB") {
		t.Errorf("stderr %s", text)
	}
	mount("remount,size=8m")
	grid(t, receiver, "", "recv", "--output", inbox, token).want(t, cli.ExitOK)
	send.want(t, cli.ExitOK)
	if hashOf(t, filepath.Join(inbox, "data")) != sum {
		t.Error("the files differ")
	}
}
