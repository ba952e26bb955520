package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

// A manager is systemd as far as a service of Type=notify sees it.
type manager struct {
	path     string
	messages chan string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify"), messages: make(chan string, 1000)}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1000)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			m.messages <- string(b[:n])
		}
	}()
	return m
}

// want waits for a message, and skips signs of life before it.
func (m *manager) want(t *testing.T, message string) {
	t.Helper()
	timer := time.After(patience)
	for {
		select {
		case got := <-m.messages:
			if got == message {
				return
			}
			if got != "WATCHDOG=1" {
				t.Fatalf("the service manager is told %q, want %q", got, message)
			}
		case <-timer:
			t.Fatalf("the service manager is not told %s", message)
		}
	}
}

func writeConfig(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, configFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The life of an agent under a service manager: ready, watched, reloaded, asked,
// killed, started again, and stopped.
func TestAgentUnderAServiceManager(t *testing.T) {
	address := startRendezvous(t, "--admit", "open")
	dir, other := t.TempDir(), t.TempDir()
	friend := strings.TrimSpace(grid(t, other, "", "id").want(t, cli.ExitOK))
	good := "node:\n  rendezvous: " + address + "\n  allow: [" + friend + "]\n"
	writeConfig(t, dir, good)
	m := newManager(t)
	up := func() *process {
		cmd := gridCommand(t, dir, "", "up", "--json", "--metrics", ":0")
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=200000")
		return start(t, cmd)
	}
	agent := up()
	m.want(t, "READY=1")
	m.want(t, "WATCHDOG=1")
	var doc upDocument
	document(t, agent.line(t), &doc)
	if !doc.Registered || doc.Config != filepath.Join(dir, configFile) || !strings.HasPrefix(doc.Metrics, "http://127.0.0.1:") {
		t.Errorf("up prints %+v", doc)
	}

	// A second one is refused, and says why.
	second := grid(t, dir, "", "up")
	second.want(t, cli.ExitFailed)
	if s := second.stderr.String(); !strings.Contains(s, "another grid command uses the identity") || !strings.Contains(s, "next: see what runs: grid status") {
		t.Errorf("a second agent: %s", s)
	}

	// A bad reload changes nothing, and says so.
	writeConfig(t, dir, good+"log:\n  lvel: debug\n")
	bad := grid(t, dir, "", "reload")
	bad.want(t, cli.ExitUsage)
	if s := bad.stderr.String(); !strings.Contains(s, configFile+":5:3: log.lvel: there is no such key; did you mean log.level?") {
		t.Errorf("a bad reload: %s", s)
	}
	agent.cmd.Process.Signal(syscall.SIGHUP)
	m.want(t, "RELOADING=1")
	m.want(t, "READY=1")
	// The manager may hear of it before the log's pipe has been read.
	eventually(t, func() bool { return strings.Count(agent.stderr.String(), "settings not read; those before stay") == 2 })
	writeConfig(t, dir, good+"log:\n  level: debug\nreceive:\n  at_once: 2\n")
	var reloaded reloadDocument
	document(t, grid(t, dir, "", "reload", "--json").want(t, cli.ExitOK), &reloaded)
	if !slices.Equal(reloaded.Changed, []string{"log.level"}) || !slices.Equal(reloaded.Restart, []string{"receive.at_once"}) {
		t.Errorf("reload: %+v", reloaded)
	}

	// What it says of itself.
	grid(t, other, address, "ping", "--count", "1", doc.PeerID.String()).want(t, cli.ExitOK)
	events := grid(t, dir, "", "events", "--since", "1h", "--json").want(t, cli.ExitOK)
	var kinds []string
	for line := range strings.Lines(events) {
		var e struct {
			Schema string
			Kind   string
			Number uint64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Schema != "instantgrid/event/1" || e.Number == 0 {
			t.Errorf("event %q: %v", line, err)
		}
		kinds = append(kinds, e.Kind)
	}
	if !slices.Contains(kinds, overlay.EventPeerUp) {
		t.Errorf("events %v", kinds)
	}
	watch := grid(t, dir, "", "status", "--watch", "--json", "--interval", "10ms")
	for range 3 {
		var s struct{ Schema string }
		document(t, watch.line(t), &s)
		if s.Schema != "instantgrid/status/1" {
			t.Errorf("status --watch: %+v", s)
		}
	}
	watch.kill()
	var examined doctorDocument
	doctor := grid(t, dir, "", "doctor", "--json")
	out, _ := doctor.wait(t)
	document(t, out, &examined)
	wantChecks(t, examined)
	if !examined.Agent || resultOf(examined, "rendezvous") != checkOK || resultOf(examined, "clock") != checkOK {
		t.Errorf("doctor: %+v", examined)
	}

	// Killed, it leaves a socket that is in nobody's way.
	agent.kill()
	if _, err := os.Stat(filepath.Join(dir, socketFile)); err != nil {
		t.Error(err)
	}
	grid(t, dir, "", "status").want(t, cli.ExitFailed)
	agent = up()
	m.want(t, "READY=1")
	agent.cmd.Process.Signal(syscall.SIGTERM)
	m.want(t, "STOPPING=1")
	agent.want(t, cli.ExitOK)
	agent = up()
	m.want(t, "READY=1")
	if out := grid(t, dir, "", "down").want(t, cli.ExitOK); out != "stopped\n" {
		t.Errorf("down prints %q", out)
	}
	m.want(t, "STOPPING=1")
	agent.want(t, cli.ExitOK)
	if _, err := os.Stat(filepath.Join(dir, socketFile)); !os.IsNotExist(err) {
		t.Errorf("the socket after down: %v", err)
	}
	if out := grid(t, dir, "", "down").want(t, cli.ExitOK); out != "no agent ran\n" {
		t.Errorf("a second down prints %q", out)
	}
}

// wantChecks checks the form of a doctor's answer.
func wantChecks(t *testing.T, doc doctorDocument) {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range doc.Rows {
		seen[r.Check] = true
		bad := r.Result == checkWarning || r.Result == checkFailed
		if r.Detail == "" || bad != (r.Next != "") || !bad && r.Result != checkOK && r.Result != checkSkipped {
			t.Errorf("doctor: %+v", r)
		}
	}
	for _, check := range []string{"state", "settings", "agent", "rendezvous", "udp", "certificate", "clock", "permissions", "port", "mtu", "offloads"} {
		if !seen[check] {
			t.Errorf("doctor does not check %s", check)
		}
	}
}

func resultOf(doc doctorDocument, check string) string {
	for _, r := range doc.Rows {
		if r.Check == check {
			return r.Result
		}
	}
	return ""
}

// Friendliness, section 1, line 19: an answer within bounds also where nothing
// answers, and a next command for each fault.
func TestDoctorWithoutAnything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	code, stdout, _ := run(t, "doctor", "--json", "--dir", dir)
	var doc doctorDocument
	document(t, stdout, &doc)
	wantChecks(t, doc)
	if doc.OK || doc.Agent || code != cli.ExitFailed || resultOf(doc, "rendezvous") != checkFailed {
		t.Errorf("exit code %d, %+v", code, doc)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("doctor has made the state directory")
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	run(t, "id", "--dir", dir)
	writeConfig(t, dir, "node:\n  rendezvous: "+silent.LocalAddr().String()+"#"+peerID(1).String()+"\nlog:\n  level: loud\n")
	code, stdout, _ = run(t, "doctor", "--dir", dir, "--rendezvous", silent.LocalAddr().String()+"#"+peerID(1).String())
	for _, want := range []string{"failed    settings ", "failed    rendezvous ", "failed    udp ", "ok        state "} {
		if code != cli.ExitFailed || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, doctor prints %q, want %q in it", code, stdout, want)
		}
	}
}

// Friendliness, section 1, line 20: a report with a README, and without any
// secret of the state directory in any form.
func TestBugReport(t *testing.T) {
	address, admin := startGrid(t)
	token := invited(t, admin)
	file, _ := randomFile(t, "data.bin", 100)
	send := grid(t, admin, address, "send", file)
	sendToken := send.line(t)
	send.kill()
	writeConfig(t, admin, "log:\n  level: debug\n")
	agent := grid(t, admin, address, "up")
	agent.line(t)
	output := filepath.Join(t.TempDir(), "report.zip")
	grid(t, admin, address, "bugreport", "--output", output).want(t, cli.ExitOK)
	z, err := zip.OpenReader(output)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	entries := make(map[string][]byte)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if entries[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	for _, name := range []string{"README.txt", "version.json", "doctor.json", "status.json", "agent.json", "log.txt", "events.jsonl", "config.txt", "interfaces.json", "files.txt"} {
		if _, here := entries[name]; !here {
			t.Errorf("the report lacks %s", name)
		}
		if name != "README.txt" && !bytes.Contains(entries["README.txt"], []byte("\n"+name)) {
			t.Errorf("the README does not explain %s", name)
		}
	}
	if !strings.Contains(string(entries["log.txt"]), "registered") || !strings.Contains(string(entries["status.json"]), "desk") {
		t.Errorf("log %s, status %s", entries["log.txt"], entries["status.json"])
	}
	// The search has its own idea of what is secret.
	secrets := [][]byte{[]byte(token), []byte(sendToken)}
	err = filepath.WalkDir(admin, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() != "key" && e.Name() != "grid.key" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		words := strings.Fields(string(b))
		seed, err := base64.StdEncoding.DecodeString(words[len(words)-1])
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		b32 := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(seed)
		secrets = append(secrets, seed, []byte(hex.EncodeToString(seed)), []byte(b32), []byte(strings.ToLower(b32)),
			[]byte(base64.RawStdEncoding.EncodeToString(seed)), []byte(base64.RawURLEncoding.EncodeToString(seed)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) < 2+2*6 {
		t.Fatalf("%d secrets found to search for", len(secrets))
	}
	for name, content := range entries {
		for _, s := range secrets {
			if bytes.Contains(bytes.ToLower(content), bytes.ToLower(s)) {
				t.Errorf("%s holds a secret", name)
			}
		}
	}
}

func TestSecretsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	seed := bytes.Repeat([]byte{0xa5, 0x5a, 0x11, 0xfe}, 8)
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("instantgrid-key-1 "+base64.StdEncoding.EncodeToString(seed)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := secretsIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(seed), hex.EncodeToString(seed), base64.RawURLEncoding.EncodeToString(seed), base64.StdEncoding.EncodeToString(seed), lower32.EncodeToString(seed)} {
		if got := s.remove([]byte("before " + form + " after")); !strings.HasPrefix(string(got), "before [removed]") || !strings.HasSuffix(string(got), " after") || len(got) > 24 {
			t.Errorf("%q becomes %q", form, got)
		}
	}
}

// Every file of a state directory, damaged in every way: a start either says
// which file is wrong and what to do, or does without.
func TestDamagedState(t *testing.T) {
	address, admin := startGrid(t)
	invited(t, admin)
	agent := grid(t, admin, address, "up")
	for range 2 {
		agent.line(t)
	}
	agent.cmd.Process.Signal(syscall.SIGTERM)
	agent.want(t, cli.ExitOK)
	for name, content := range map[string]string{
		"allow": peerID(1).String() + "\n", "addresses": peerID(1).String() + " 192.0.2.1:4000 1800000000\n", "rendezvous": address + "\n",
		"policy.yaml": "rules:\n  - names: [\"*\"]\n    ports: [7]\n", configFile: "log:\n  level: warn\n", socketFile: "", lockFile: "",
	} {
		if err := os.WriteFile(filepath.Join(admin, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var files []string
	err := filepath.WalkDir(admin, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			name, _ := filepath.Rel(admin, path)
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) < 10 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		for _, damage := range []string{"empty", "half", "flipped", "directory", "open to others"} {
			t.Run(file+" "+damage, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "s")
				if err := os.CopyFS(dir, os.DirFS(admin)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, file)
				for _, name := range append(files, ".") {
					mode := fs.FileMode(0o600)
					if name == "." {
						mode = 0o700
					}
					if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
						t.Fatal(err)
					}
				}
				hurt(t, path, damage)
				wantExplained(t, dir, path)
			})
		}
	}
}

// The agent is killed at moments drawn from a seed, while it starts, registers,
// connects and learns who is revoked: the next one starts as the same member.
func TestUpSurvivesKill(t *testing.T) {
	_, admin := startGrid(t)
	const seed = 24
	random := rand.New(rand.NewPCG(seed, seed))
	dir := t.TempDir()
	grid(t, dir, "", "join", "--name", "alice", invited(t, admin)).want(t, cli.ExitOK)
	id := grid(t, dir, "", "id").want(t, cli.ExitOK)
	for i := range 24 {
		agent := grid(t, dir, "", "up")
		if i%6 == 5 {
			// An invitation that nobody has used is taken back: a newer list.
			var doc inviteDocument
			document(t, grid(t, admin, "", "invite", "--json").want(t, cli.ExitOK), &doc)
			grid(t, admin, "", "revoke", doc.Invite.String()).want(t, cli.ExitOK)
		}
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		agent.kill()
		if problems := overlay.CheckState(overlay.Config{Dir: dir}); len(problems) > 0 {
			t.Fatalf("seed %d, killed %d times: %v", seed, i+1, problems)
		}
	}
	agent := grid(t, dir, "", "up")
	if agent.line(t) != "peer ID     "+strings.TrimSpace(id) || agent.line(t) != "name        alice.lab.grid" {
		t.Errorf("it is another one after %d kills: %s", 24, agent.stderr)
	}
}

// hurt damages a file.
func hurt(t *testing.T, path, damage string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch damage {
	case "empty":
		err = os.WriteFile(path, nil, 0o600)
	case "half":
		err = os.WriteFile(path, b[:len(b)/2], 0o600)
	case "flipped":
		if len(b) > 0 {
			b[len(b)/2] ^= 0x10
		}
		err = os.WriteFile(path, b, 0o600)
	case "directory":
		if err = os.Remove(path); err == nil {
			err = os.Mkdir(path, 0o700)
		}
	case "open to others":
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wantExplained starts an agent's parts in dir, which must work, or fail with an
// error that names path and says what to do.
func wantExplained(t *testing.T, dir, path string) {
	t.Helper()
	var outWriter, errWriter bytes.Buffer
	root := newRoot()
	root.SetOut(&outWriter)
	root.SetErr(&errWriter)
	code := cli.Run(t.Context(), root, []string{"up", "--check", "--json", "--dir", dir, "--rendezvous", "127.0.0.1:9#" + peerID(1).String()}, explain)
	stdout, stderr := outWriter.String(), errWriter.String()
	if code == cli.ExitOK {
		release, err := takeIdentity(dir)
		var node *overlay.Node
		if err == nil {
			defer release()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if node, err = overlay.Start(ctx, overlay.Config{Dir: dir}); err == nil {
				defer node.Close()
				c := newControl(node)
				err = c.serve(ctx, dir)
				defer c.Close()
			}
		}
		if err == nil {
			return
		}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if e := explain(err); e != nil {
			err = e
		}
		if e, ok := err.(*cli.Error); ok {
			w.WriteString(e.Object + ": " + e.Cause + "\n  next: " + e.Next)
		} else {
			w.WriteString(err.Error() + "\n  next: ") // main explains errors of files
		}
		w.Flush()
		stderr = out.String()
	} else {
		var doc struct{ Error errorFields }
		document(t, stdout, &doc)
		if doc.Error.Next == "" || doc.Error.Cause == "" {
			t.Errorf("%s", stdout)
		}
	}
	if !strings.Contains(stderr, path) || !strings.Contains(stderr, "\n  next: ") {
		t.Errorf("the error does not name %s: %s", path, stderr)
	}
}
