package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// startWorkers makes the grid lab of desk, who calls, and of computers that
// work, with agents.
func startWorkers(t *testing.T, names ...string) (desk string, dirs map[string]string) {
	t.Helper()
	_, desk = startGrid(t)
	token := invited(t, desk, "--uses", fmt.Sprint(len(names)))
	dirs = make(map[string]string)
	for _, name := range names {
		dirs[name] = t.TempDir()
		grid(t, dirs[name], "", "join", "--name", name, token).want(t, cli.ExitOK)
		policyFor(t, dirs[name], "rules:\n  - names: [desk]\n    ports: [7010]\n")
		grid(t, dirs[name], "", "up").line(t)
	}
	return desk, dirs
}

// work runs a shell script as a function until the test ends.
func work(t *testing.T, dir, name, script string) *process {
	t.Helper()
	p := grid(t, dir, "", "worker", "--exec", "sh", "--name", name, "--slots", "1", "--", "-c", script)
	if s := p.line(t); s != "function  "+name {
		t.Fatalf("worker prints %q; stderr %s", s, p.stderr)
	}
	return p
}

// with returns a command with an input.
func with(t *testing.T, input, dir string, args ...string) *process {
	t.Helper()
	cmd := gridCommand(t, dir, "", args...)
	cmd.Stdin = strings.NewReader(input)
	return start(t, cmd)
}

// The guide's first page, as real programs: a worker, a call, a sweep, and the
// same over HTTP with curl and Python.
func TestFunctionsOfPrograms(t *testing.T) {
	desk, dirs := startWorkers(t, "alice", "bob")
	up := grid(t, desk, "", "up", "--json", "--http", "0")
	var agent struct{ HTTP string }
	document(t, up.line(t), &agent)
	if !strings.HasPrefix(agent.HTTP, "http://127.0.0.1:") {
		t.Fatalf("up prints %+v; stderr %s", agent, up.stderr)
	}
	script := `read line; case "$line" in bad*) echo cannot do it >&2; exit 3;; esac; echo "$line" | tr a-z A-Z`
	first := work(t, dirs["alice"], "upper", script)
	work(t, dirs["bob"], "upper", script)

	if out := grid(t, desk, "", "call", "upper", "hello").want(t, cli.ExitOK); out != "HELLO\n" {
		t.Errorf("call prints %q", out)
	}
	var called struct {
		Function, Worker, Text string
		Attempts               int
	}
	document(t, grid(t, desk, "", "call", "upper", "hello", "--worker", "bob", "--json").want(t, cli.ExitOK), &called)
	if called.Worker != "bob" || called.Text != "HELLO\n" || called.Attempts != 1 {
		t.Errorf("call --json = %+v", called)
	}
	failed := grid(t, desk, "", "call", "upper", "bad")
	failed.want(t, cli.ExitFailed)
	if s := failed.stderr.String(); !strings.Contains(s, "of upper on ") || !strings.Contains(s, "cannot do it") || !strings.Contains(s, "next: ") {
		t.Errorf("a call that fails: %s", s)
	}
	unknown := grid(t, desk, "", "call", "lower", "x", "--wait", "500ms")
	unknown.want(t, cli.ExitFailed)
	if s := unknown.stderr.String(); !strings.Contains(s, "function lower") || !strings.Contains(s, "next: ") {
		t.Errorf("a function that nobody offers: %s", s)
	}
	out := filepath.Join(t.TempDir(), "result")
	if err := os.WriteFile(out+".in", []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	grid(t, desk, "", "call", "upper", "--in", out+".in", "--out", out).want(t, cli.ExitOK)
	if b, err := os.ReadFile(out); err != nil || string(b) != "FROM A FILE\n" {
		t.Errorf("--out holds %q, %v", b, err)
	}

	var workers workersDocument
	document(t, grid(t, desk, "", "workers", "--json").want(t, cli.ExitOK), &workers)
	if len(workers.Rows) != 2 || workers.Rows[0].Address != "alice:7010" || workers.Rows[0].Functions[0].Name != "upper" || workers.Rows[0].Slots != 1 {
		t.Errorf("workers = %+v", workers)
	}
	// A computer that works also calls, itself among others; the policy of the
	// others is closed to it, and the reason is told.
	if out := grid(t, dirs["alice"], "", "call", "upper", "own").want(t, cli.ExitOK); out != "OWN\n" {
		t.Errorf("call of a worker of this computer prints %q", out)
	}
	if out := grid(t, dirs["alice"], "", "workers", "--all").want(t, cli.ExitOK); !strings.Contains(out, "policy") {
		t.Errorf("workers --all prints %s", out)
	}
	second := grid(t, dirs["alice"], "", "worker", "--exec", "sh")
	second.want(t, cli.ExitFailed)
	if s := second.stderr.String(); !strings.Contains(s, "port 7010") || !strings.Contains(s, "--port 7011") {
		t.Errorf("a second worker: %s", s)
	}

	var lines, want strings.Builder
	for i := range 30 {
		fmt.Fprintf(&lines, "line %d\n", i)
		fmt.Fprintf(&want, "LINE %d\n", i)
	}
	if out, code := with(t, lines.String(), desk, "map", "upper").wait(t); code != cli.ExitOK || out != want.String() {
		t.Errorf("map: exit code %d, %q", code, out)
	}
	if left, err := os.ReadDir(filepath.Join(desk, "maps")); err != nil || len(left) > 0 {
		t.Errorf("a sweep that is done has left %v, %v", left, err)
	}
	mixed := with(t, "one\nbad two\nthree\n", desk, "map", "upper", "--json")
	printed, code := mixed.wait(t)
	if rows := strings.Split(strings.TrimSpace(printed), "\n"); code != cli.ExitFailed || len(rows) != 4 || !strings.Contains(rows[1], "cannot do it") || !strings.Contains(rows[2], `"text":"THREE\n"`) || !strings.Contains(rows[3], "instantgrid/error/1") {
		t.Errorf("map with a call that fails: exit code %d, %s; %s", code, printed, mixed.stderr)
	}

	t.Run("HTTP", func(t *testing.T) { callOverHTTP(t, desk, agent.HTTP) })

	// An interrupt ends a worker, and its calls go elsewhere.
	first.cmd.Process.Signal(syscall.SIGINT)
	first.want(t, cli.ExitOK)
	if s := first.stderr.String(); !strings.Contains(s, "worked: ") {
		t.Errorf("a worker that is interrupted: %s", s)
	}
	if out := grid(t, desk, "", "call", "upper", "again").want(t, cli.ExitOK); out != "AGAIN\n" {
		t.Errorf("call prints %q", out)
	}
	// A worker outlives its agent.
	grid(t, dirs["bob"], "", "down").want(t, cli.ExitOK)
	grid(t, dirs["bob"], "", "up").line(t)
	if out := grid(t, desk, "", "call", "upper", "after all").want(t, cli.ExitOK); out != "AFTER ALL\n" {
		t.Errorf("call prints %q", out)
	}
}

// callOverHTTP calls with Go, curl and Python.
func callOverHTTP(t *testing.T, dir, url string) {
	b, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, tokenFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token has mode %v, %v", info.Mode(), err)
	}
	token := strings.TrimSpace(string(b))
	res, err := http.Post(url+"v1/functions/upper", "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized || !json.Valid(body) {
		t.Errorf("without the token: %s %s", res.Status, body)
	}
	socket := filepath.Join(dir, socketFile)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log(err)
	} else {
		for _, args := range [][]string{
			{"-sS", "--data-binary", "by curl", "-H", "Authorization: Bearer " + token, url + "v1/functions/upper"},
			{"-sS", "--data-binary", "by curl", "--unix-socket", socket, "http://agent/v1/functions/upper"},
		} {
			if out, err := exec.Command("curl", append([]string{"--noproxy", "*"}, args...)...).CombinedOutput(); err != nil || string(out) != "BY CURL\n" {
				t.Errorf("curl %s: %v, %q", args[len(args)-1], err, out)
			}
		}
		out, err := exec.Command("curl", "-sS", "--data-binary", "bad", "--unix-socket", socket, "http://agent/v1/functions/upper").Output()
		var p struct {
			Type, Function, Worker, Detail string
			Call                           int
		}
		if json.Unmarshal(out, &p) != nil || err != nil || p.Function != "upper" || p.Call == 0 || p.Worker == "" || !strings.Contains(p.Detail, "cannot do it") {
			t.Errorf("a problem is %s, %v", out, err)
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	client := filepath.Join("..", "..", "examples", "python", "grid.py")
	for _, tt := range []struct{ args, want string }{
		{"--list", "upper stream alice:7010, bob:7010\n"},
		{"upper snake", "SNAKE\n"},
	} {
		cmd := exec.Command(python, append([]string{client}, strings.Fields(tt.args)...)...)
		cmd.Env = append(os.Environ(), "GRID_STATE="+dir)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != tt.want {
			t.Errorf("grid.py %s: %v, %q", tt.args, err, out)
		}
	}
}

// A master that is killed goes on where it was: what it had acknowledged is not
// done again. An agent with a worker in its settings does the calls.
func TestMapSurvivesItsMaster(t *testing.T) {
	_, desk := startGrid(t)
	done := filepath.Join(t.TempDir(), "done")
	writeConfig(t, desk, fmt.Sprintf("worker:\n  exec: sh\n  name: note\n  slots: 2\n  args: [-c, 'read line; sleep 0.05; echo $line >> %s; echo did $line']\n", done))
	grid(t, desk, "", "up").line(t)
	var lines, want strings.Builder
	for i := range 60 {
		fmt.Fprintf(&lines, "%d\n", i)
		fmt.Fprintf(&want, "did %d\n", i)
	}
	defer func() {
		var status struct {
			Functions struct{ Worker struct{ Calls int } }
		}
		if document(t, grid(t, desk, "", "status", "--json").want(t, cli.ExitOK), &status); status.Functions.Worker.Calls < 60 {
			t.Errorf("the agent says that its worker had %d calls", status.Functions.Worker.Calls)
		}
	}()
	acknowledged := make(map[string]bool)
	kills := 0
	for {
		p := with(t, lines.String(), desk, "map", "note", "--as-they-come")
		if kills == 3 {
			if out, code := p.wait(t); code != cli.ExitOK || strings.Count(out, "\n") != 60 {
				t.Errorf("exit code %d, %q; %s", code, out, p.stderr)
			}
			break
		}
		for range len(acknowledged) + 10 {
			_, result, _ := strings.Cut(p.line(t), "\t")
			acknowledged[strings.TrimPrefix(result, "did ")] = true
		}
		p.kill()
		kills++
		time.Sleep(200 * time.Millisecond) // the worker learns that the call is not wanted
	}
	b, err := os.ReadFile(done)
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		count[strings.TrimSpace(line)]++
	}
	again := 0
	for i := range 60 {
		n := count[fmt.Sprint(i)]
		if n == 0 {
			t.Errorf("line %d was not done", i)
		}
		again += max(n-1, 0)
	}
	// Only what was under way, on two slots, when a master was killed.
	if most := kills * 2 * 2; again > most {
		t.Errorf("%d lines were done again after %d kills, at most %d may be", again, kills, most)
	}
}
