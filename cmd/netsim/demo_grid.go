package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// The story of a grid, as somebody lives it who types its commands: a
// rendezvous on a public host, an admin and alice in one home, bob in another.

const (
	storyTime   = 90 * time.Second // for all of it
	commandTime = 30 * time.Second // for one command
	upTime      = 15 * time.Second // for an agent to be registered

	// webPort is where bob's web server listens.
	webPort  = "8000"
	greeting = "hello from bob"
)

// A storyStep is one command of the story and what it printed.
type storyStep struct {
	Host    string     `json:"host"`
	Command string     `json:"command"`
	Output  string     `json:"output"`
	Seconds cli.Number `json:"seconds"`
}

// A story runs programs in a network and keeps what happened.
type story struct {
	programs programs
	network  *kernel.Network
	dir      string // of state directories, one for each host
	say      func(string, ...any)
	steps    []storyStep
}

// tellStory lives the story and returns its steps.
func (p programs) tellStory(ctx context.Context, dir string, say func(string, ...any)) ([]storyStep, error) {
	scenario, err := netsim.NamedScenario("two-homes-port-restricted")
	if err != nil {
		return nil, err
	}
	scenario.Hosts = append(scenario.Hosts, netsim.HostNode{Name: "desk", Parent: "home-a"})
	network, err := kernel.Start(scenario)
	if err != nil {
		return nil, err
	}
	defer network.Close()
	ctx, cancel := context.WithTimeout(ctx, storyTime)
	defer cancel()
	s := &story{programs: p, network: network, dir: dir, say: say}
	say("\na grid of three computers in two homes; 20 ms links")
	err = s.live(ctx)
	return s.steps, err
}

// live is the story. The hosts a and b of the scenario are alice and bob.
func (s *story) live(ctx context.Context) error {
	public := s.network.Host(rendezvousHost).Addr().String()
	server, err := s.start(ctx, rendezvousHost, s.programs.rendezvous, "--json", "--admit", "key",
		"--dir", filepath.Join(s.dir, "rendezvous"), "--public-host", public,
		"--listen", public+":3478", "--stun-listen", public+":3479", "--metrics-listen", "")
	if err != nil {
		return err
	}
	defer server.stop()
	started, err := first[rendezvousDocument](server)
	if err != nil {
		return err
	}
	s.told(rendezvousHost, "rendezvous --public-host "+public+" --admit key", started.Address+"\n", 0)

	if _, err := s.grid(ctx, "desk", "init", "lab", "--rendezvous", started.Address, "--claim", started.Claim, "--name", "desk"); err != nil {
		return err
	}
	token, err := s.grid(ctx, "desk", "invite", "--uses", "2", "--ttl", "1h")
	if err != nil {
		return err
	}
	token = strings.TrimSpace(token)
	for _, who := range []string{"alice", "bob"} {
		if _, err := s.grid(ctx, who, "join", "--name", who, token); err != nil {
			return err
		}
	}
	return s.connect(ctx)
}

// connect is the second half: the agents run, and alice reaches bob's web
// server in every way that programs can.
func (s *story) connect(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	web, err := s.start(ctx, "bob", self, "web", "0.0.0.0:"+webPort, greeting)
	if err != nil {
		return err
	}
	defer web.stop()
	if _, err := first[webDocument](web); err != nil {
		return err
	}
	s.told("bob", "a web server on port "+webPort+", which says: "+greeting, "", 0)
	if err := s.policyOf("bob", webPort); err != nil {
		return err
	}
	for who, args := range map[string][]string{
		"bob":   {"--tun", "--expose", webPort},
		"alice": {"--tun", "--proxy", "1080", "--forward", "8080=bob:" + webPort, "--dns", "53"},
	} {
		agent, err := s.up(ctx, who, args...)
		if err != nil {
			return err
		}
		defer agent.end()
	}
	for _, args := range [][]string{{"ping", "--until-direct", "bob"}, {"members"}, {"status"}} {
		if _, err := s.grid(ctx, "alice", args...); err != nil {
			return err
		}
	}
	name := "http://bob.lab.grid:" + webPort + "/"
	if err := s.get(ctx, self, "by name through the SOCKS proxy", "--socks5-hostname", "127.0.0.1:1080", name); err != nil {
		return err
	}
	if err := s.get(ctx, self, "through the forwarded port", "http://127.0.0.1:8080/"); err != nil {
		return err
	}
	return s.get(ctx, self, "by name through the network interface, with grid dns as resolver", name)
}

// get has alice print bob's page. Her resolver is the agent's.
func (s *story) get(ctx context.Context, self, how string, args ...string) error {
	resolver := filepath.Join(s.dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	file, shown := self, "netsim get "
	command := append([]string{"get"}, args...)
	if curl, err := exec.LookPath("curl"); err == nil {
		file, shown = curl, "curl "
		command = append([]string{"--silent", "--show-error", "--fail", "--noproxy", "*"}, args...)
	}
	// The mount is seen by this program alone.
	script := `mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`
	out, err := s.run(ctx, "alice", "unshare", shown+strings.Join(args, " ")+"   # "+how,
		append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "sh", resolver, file}, command...)...)
	if err == nil && strings.TrimSpace(out) != greeting {
		err = &cli.Error{Object: "demo, bob's page " + how, Cause: fmt.Sprintf("it is %q, not %q", out, greeting), Next: "run it again: netsim demo"}
	}
	return err
}

// webDocument is what "netsim web" prints.
type webDocument struct {
	Listen string `json:"listen"`
}

// hostOf returns the scenario's name of a computer.
func hostOf(who string) string {
	switch who {
	case "alice":
		return "a"
	case "bob":
		return "b"
	}
	return who
}

// start runs a program that goes on, on the computer of who.
func (s *story) start(ctx context.Context, who, file string, args ...string) (*program, error) {
	return startProgram(ctx, s.network, hostOf(who), file, args...)
}

// up starts the agent of who and waits until it is registered.
func (s *story) up(ctx context.Context, who string, args ...string) (*program, error) {
	begun := time.Now()
	args = append([]string{"up"}, args...)
	waiting, cancel := context.WithTimeout(ctx, upTime)
	defer cancel()
	agent, err := s.start(ctx, who, s.programs.grid, append(args, "--json", "--dir", s.stateOf(who))...)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(waiting, func() {
		if waiting.Err() == context.DeadlineExceeded {
			agent.cmd.Process.Kill()
		}
	})()
	d, err := first[upDocument](agent)
	if err != nil {
		return nil, err
	}
	s.told(who, "grid "+strings.Join(args, " ")+" &", "name        "+d.Name+"\n", time.Since(begun))
	return agent, nil
}

// upDocument is what the demo reads of "instantgrid/up/1".
type upDocument struct {
	Name       string `json:"name"`
	Registered bool   `json:"registered"`
}

func (s *story) stateOf(who string) string { return filepath.Join(s.dir, who) }

// grid runs grid on the computer of who to its end, and returns what it printed.
func (s *story) grid(ctx context.Context, who string, args ...string) (string, error) {
	return s.run(ctx, who, s.programs.grid, "grid "+strings.Join(args, " "), append(args, "--dir", s.stateOf(who))...)
}

// run runs a program to its end. Shown is the command as a user types it.
func (s *story) run(ctx context.Context, who, file, shown string, args ...string) (string, error) {
	h, ok := s.network.Host(hostOf(who)).(*kernel.Host)
	if !ok {
		return "", fmt.Errorf("netsim: no host %q", hostOf(who))
	}
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := h.Command(limited, file, args...)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &cli.Error{
			Object: "demo, " + who + "$ " + shown,
			Cause:  strings.TrimSpace(fmt.Sprintf("%v; it said: %s%s", err, out, stderr.Bytes())),
			Next:   "run it again: netsim demo",
			Err:    err,
		}
	}
	s.told(who, shown, string(out), time.Since(begun))
	return string(out), nil
}

// maxShown is how many lines of a command's output the demo prints.
const maxShown = 12

// told keeps a step and prints it. Tokens are long; people see their beginning.
func (s *story) told(who, command, output string, took time.Duration) {
	s.steps = append(s.steps, storyStep{who, command, output, cli.Number(took.Round(time.Millisecond).Seconds())})
	s.say("  %s$ %s", who, shorten(command))
	if output == "" {
		return
	}
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	for i, line := range lines {
		if i == maxShown {
			s.say("    ... %d more lines", len(lines)-i)
			break
		}
		s.say("    %s", shorten(line))
	}
}

// shorten cuts words that nobody reads.
func shorten(line string) string {
	const most = 60
	words := strings.Split(line, " ")
	for i, w := range words {
		if len(w) > most {
			words[i] = w[:most-3] + "..."
		}
	}
	return strings.Join(words, " ")
}

// policyOf opens ports of who to the members of the grid.
func (s *story) policyOf(who, ports string) error {
	text := "rules:\n  - names: [\"*\"]\n    ports: [" + ports + "]\n"
	err := os.WriteFile(filepath.Join(s.stateOf(who), "policy.yaml"), []byte(text), 0o600)
	if err == nil {
		s.told(who, "cat policy.yaml", text, 0)
	}
	return err
}
