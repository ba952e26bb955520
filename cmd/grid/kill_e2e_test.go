package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// killLength is how long TestKilledAtRandom goes on; GRID_KILL_FOR, as 5m, makes
// it another time (make kill-test).
const killLength = 7 * time.Second

// A killed program is killed -9 and started again at random times.
type killed struct {
	start func() *process

	mu sync.Mutex // guards what follows
	p  *process
}

// Masters, workers and their agents are killed at random times, for as long as
// the test lasts. The function's results differ each time that it is carried
// out, so that a result which is printed and then lost would be seen: the next
// master prints another one. In the end every line has its one result.
func TestKilledAtRandom(t *testing.T) {
	length := killLength
	if text := os.Getenv("GRID_KILL_FOR"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	desk, dirs := startWorkers(t, "alice", "bob")
	grid(t, desk, "", "up").line(t)
	const script = `read n; sleep 0.05; echo "$n squared is $((n * n)), says $$ at $(date +%s%N)"`
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	stop := make(chan struct{})
	var killing sync.WaitGroup
	for name, dir := range dirs {
		k := &killed{start: func() *process {
			p := grid(t, dir, "", "worker", "--exec", "sh", "--name", "square", "--slots", "2", "--", "-c", script)
			return p
		}}
		k.p = k.start()
		if s := k.p.line(t); s != "function  square" {
			t.Fatalf("the worker of %s prints %q; %s", name, s, k.p.stderr)
		}
		pauses := rand.New(rand.NewPCG(rng.Uint64(), 0))
		killing.Go(func() { k.again(pauses, stop) })
	}
	var ended sync.Once
	end := func() {
		ended.Do(func() { close(stop) })
		killing.Wait()
	}
	defer end()

	deadline := time.Now().Add(length)
	sweeps, kills := 0, 0
	for time.Now().Before(deadline) {
		m := &killedMaster{t: t, dir: desk, first: sweeps * 1000, lines: 150, acknowledged: make(map[int]string)}
		for {
			after := time.Duration(200+rng.IntN(1800)) * time.Millisecond
			if time.Now().After(deadline) {
				after = patience // let it end
			}
			if m.run(after) {
				break
			}
			kills++
		}
		sweeps++
	}
	end()
	t.Logf("%d sweeps, their masters killed %d times", sweeps, kills)
	if kills == 0 {
		t.Error("no master was killed")
	}
}

// again kills the program now and then, until stop is closed, and leaves it
// running.
func (k *killed) again(rng *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(300+rng.IntN(1500)) * time.Millisecond):
		}
		k.mu.Lock()
		k.p.kill()
		k.p = k.start()
		k.mu.Unlock()
	}
}

// A killedMaster is one sweep and what it has acknowledged: printed.
type killedMaster struct {
	t            *testing.T
	dir          string
	first, lines int // numbers from first on
	acknowledged map[int]string
}

// run lets the master work for a time, and reports whether it has ended well
// before.
func (m *killedMaster) run(length time.Duration) (ended bool) {
	t := m.t
	t.Helper()
	var input strings.Builder
	for i := range m.lines {
		fmt.Fprintln(&input, m.first+i)
	}
	p := with(t, input.String(), m.dir, "map", "square", "--as-they-come", "--json")
	timer := time.AfterFunc(length, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	seen := make(map[int]bool)
	for line := range strings.Lines(string(out)) {
		if !strings.HasSuffix(line, "\n") {
			break // it was killed while it printed: not acknowledged
		}
		var row struct {
			Schema, Text, Error string
			Line                int
			Kept                bool
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("a line is %q: %v", line, err)
		}
		if row.Schema != "instantgrid/map/1" || row.Error != "" {
			continue // such a line is not done, and is tried again
		}
		n := m.first + row.Line - 1
		if !strings.HasPrefix(row.Text, fmt.Sprintf("%d squared is %d, says ", n, n*n)) {
			t.Errorf("the result of %d is %q", n, row.Text)
		}
		before, known := m.acknowledged[n]
		if known && (before != row.Text || !row.Kept) {
			t.Errorf("the result of %d was acknowledged and lost: %q, then %q", n, before, row.Text)
		}
		if seen[n] {
			t.Errorf("the result of %d is printed twice", n)
		}
		seen[n], m.acknowledged[n] = true, row.Text
	}
	for n := range m.acknowledged {
		if !seen[n] && p.cmd.ProcessState.ExitCode() == cli.ExitOK {
			t.Errorf("the result of %d was acknowledged, and the master that ended does not have it", n)
		}
	}
	switch code := p.cmd.ProcessState.ExitCode(); code {
	case -1: // killed, perhaps when all was done
		return len(seen) == m.lines
	case cli.ExitOK:
		if len(seen) != m.lines {
			t.Errorf("a master ended well with %d of %d results; %s", len(seen), m.lines, p.stderr)
		}
		return true
	case cli.ExitFailed: // a call failed, which it says
	default:
		t.Errorf("a master ended with %d: %s", code, p.stderr)
		return true
	}
	return false
}
