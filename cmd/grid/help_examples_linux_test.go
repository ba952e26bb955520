package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// goesOn reports whether a command lasts until it is interrupted.
func goesOn(line []string) bool {
	text := strings.Join(line, " ")
	switch line[1] {
	case "up":
		return !slices.Contains(line, "--check")
	case "dns", "expose", "forward", "proxy":
		return true
	}
	return slices.Contains(line, "--watch") || text == "grid send photos.tar" || strings.HasPrefix(text, "grid recv --allow")
}

// untried are examples that would change the computer that the test runs on, and
// those of functions, which need somebody who offers them: functions_e2e_test.go
// has both sides.
var untried = []string{"grid service install", "grid service uninstall", "grid call", "grid map", "grid worker"}

// An exampleStage is where the examples of all commands run: bob's computer, with
// alice's in another home. It changes as examples need it.
type exampleStage struct {
	*testing.T
	lab
	alice, bob home
	sender     home              // another member, in bob's home
	words      map[string]string // what stands for placeholders
	port       int               // of the last rendezvous
}

// Friendliness, section 1, line 13: every example of a help text does what it
// says, on a member's computer, with names and files put in its place.
func TestExamplesOfHelp(t *testing.T) {
	t.Parallel()
	l := newLab(t, time.Millisecond)
	s := &exampleStage{T: t, lab: l, alice: l.home(t, "alice"), bob: l.home(t, "bob"), sender: l.home(t, "bob"), port: 3478}
	s.alice.output(s.alice.grid("init", "lab", "--name", "alice", "--rendezvous", l.address, "--claim", l.claim))
	token := s.alice.output(s.alice.grid("invite", "--uses", "3"))
	s.bob.output(s.bob.grid("join", "--name", "bob", token))
	s.sender.output(s.sender.grid("join", "--name", "sender", token))
	laptop := l.home(t, "bob") // to be revoked
	laptop.output(laptop.grid("join", "--name", "laptop", token))
	for _, h := range []home{s.alice, s.bob} {
		policyFor(t, filepath.Join(h.dir, "instantgrid"), "rules:\n  - names: [\"*\"]\n    ports: [all]\n")
	}
	web := s.alice.serveHTTP()
	inbox := t.TempDir()
	peer := s.alice.output(s.alice.grid("id"))
	s.alice.begin(s.alice.grid("up", "--json", "--receive", inbox, "--allow", s.bob.output(s.bob.grid("id")), "--expose", "7000="+web, "--expose", "22="+web, "--expose", "80="+web))
	at, _, _ := strings.Cut(l.address, "#")
	s.words = map[string]string{
		"PEERID": peer, "NAME": "alice", "/srv/inbox": inbox, "stun.example.org:3478": at,
		"HOST:PORT#PEERID": l.address, "'build-*'": "build-*", "/usr/local/share/man/man1": t.TempDir(),
	}

	// With the agent first, then what takes its identity, then what ends it.
	var lines [3][][]string
	root := newRoot()
	cli.Prepare(root)
	seen := make(map[string]bool)
	leaves(root, nil, func(words []string) {
		cmd, _, err := root.Find(words)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range cli.Examples(cmd) {
			text := strings.Join(line, " ")
			if line[0] != "grid" || seen[text] || slices.ContainsFunc(untried, func(u string) bool { return strings.HasPrefix(text, u) }) {
				continue
			}
			seen[text] = true
			phase := 0
			switch line[1] {
			case "up", "send", "recv":
				phase = 1
			case "down":
				phase = 2
			}
			lines[phase] = append(lines[phase], line)
		}
	})
	if len(seen) < 40 {
		t.Errorf("only %d examples found", len(seen))
	}
	s.bob.output(s.bob.grid("store", "key", "--new"))
	_, stop := s.bob.begin(s.bob.grid("up", "--json", "--store", "64"))
	for _, line := range lines[0] {
		s.try(line)
	}
	stop()
	for _, line := range lines[1] {
		s.try(line)
	}
	s.bob.begin(s.bob.grid("up", "--json"))
	for _, line := range lines[2] {
		s.try(line)
	}
}

// try runs one example.
func (s *exampleStage) try(line []string) {
	text := strings.Join(line, " ")
	s.Run(text, func(t *testing.T) {
		h, words := s.bob, slices.Clone(line[1:])
		h.t = t
		var input string
		dir := t.TempDir()
		for _, file := range []string{"photos.tar", "peers.txt", "grid.yaml", "config.yaml", "matrix.bin"} {
			writeText(t, filepath.Join(dir, file), "", 0o644)
		}
		writeText(t, filepath.Join(dir, "photos.tar"), "a photo", 0o644)
		fresh := func() { h = s.home(t, "bob") }
		codes := []int{cli.ExitOK}
		switch words[0] {
		case "init":
			fresh()
			if slices.Contains(words, "--claim") {
				program, err := buildRendezvous()
				if err != nil {
					t.Skip(err)
				}
				s.port += 2 // a rendezvous keeps one grid
				address, claim := s.public.serveRendezvous(program, s.port)
				words = replaced(replaced(words, "HOST:PORT#PEERID", address), "CODE", claim)
			}
		case "store":
			if slices.Contains(words, "--new") { // a grid has one key
				fresh()
			}
			if slices.Contains(words, "protect") {
				h.output(h.grid("put", filepath.Join(dir, "matrix.bin"), "--name", "matrix"))
				codes = []int{cli.ExitUnreachable} // there are too few members
			}
		case "put":
			if slices.Contains(words, "--durable") {
				codes = []int{cli.ExitUnreachable}
			}
		case "get", "pin", "unpin", "rm":
			for _, name := range []string{"matrix", "results"} {
				h.output(h.grid("put", filepath.Join(dir, "matrix.bin"), "--name", name))
			}
		case "invite":
			h = s.alice
		case "join":
			fresh()
			input = s.alice.output(s.alice.grid("invite"))
			words = replaced(words, "TOKEN", input)
		case "revoke":
			h = s.alice
			var doc struct{ Invite string }
			document(t, s.alice.output(s.alice.grid("invite", "--json")), &doc)
			words = replaced(words, "INVITE", doc.Invite)
		case "recv":
			if slices.Contains(words, "TOKEN") {
				photo := filepath.Join(t.TempDir(), "photo")
				writeText(t, photo, "a photo", 0o644)
				token, _ := s.sender.begin(s.sender.grid("send", photo))
				words = replaced(words, "TOKEN", token)
			}
		case "ping":
			codes = append(codes, cli.ExitRelayed)
		case "doctor", "service":
			codes = append(codes, cli.ExitFailed) // it says what is not as it should be here
		}
		for i, w := range words {
			if with, found := s.words[w]; found {
				words[i] = with
			}
		}
		cmd := h.grid(words...)
		cmd.Dir = dir
		if input != "" {
			cmd.Stdin = strings.NewReader(input)
		}
		if goesOn(line) {
			if words[0] == "recv" { // which says where it waits on the standard error alone
				said := new(lockedBuffer)
				cmd.Stderr = said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer cmd.Process.Kill()
				for end := time.Now().Add(patience); said.String() == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				}
			} else {
				_, stop := h.begin(cmd)
				defer stop()
			}
			cmd.Process.Signal(os.Interrupt)
			if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != cli.ExitInterrupted {
				t.Errorf("interrupted, it ends with %v", err)
			}
			return
		}
		if words[0] == "connect" {
			cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		for end := time.Now().Add(patience); words[0] == "lookup" && err != nil && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			again := h.grid(words...) // agents that have just started have not told each other everything
			if err = again.Run(); err == nil {
				return
			}
		}
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || !slices.Contains(codes, cmd.ProcessState.ExitCode()) {
			t.Errorf("%v\n%s%s", err, &stdout, &stderr)
		}
	})
}

func replaced(words []string, old, with string) []string {
	words = slices.Clone(words)
	for i, w := range words {
		if w == old {
			words[i] = with
		}
	}
	return words
}
