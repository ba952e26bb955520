package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A program is a process of the demo inside a host, which prints JSON lines.
type program struct {
	name   string // as in "grid send on host a"
	cmd    *kernel.Cmd
	lines  *bufio.Reader
	stderr *lastWords
	ctx    context.Context
}

// startProgram starts file inside a host. It is killed when ctx ends.
func startProgram(ctx context.Context, network *kernel.Network, host, file string, args ...string) (*program, error) {
	h, ok := network.Host(host).(*kernel.Host)
	if !ok {
		return nil, fmt.Errorf("netsim: no host %q", host)
	}
	p := &program{
		name:   fmt.Sprintf("%s on host %s", strings.TrimSpace(filepath.Base(file)+" "+verb(args)), host),
		cmd:    h.Command(ctx, file, args...),
		stderr: new(lastWords),
		ctx:    ctx,
	}
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = time.Second
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.lines = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// verb returns the subcommand in args, if there is one.
func verb(args []string) string {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return ""
	}
	return args[0]
}

// end interrupts the process and waits for its end, which undoes what it has
// changed on the computer.
func (p *program) end() {
	p.cmd.Process.Signal(os.Interrupt)
	done := time.AfterFunc(endTime, func() { p.cmd.Process.Kill() })
	defer done.Stop()
	p.cmd.Wait()
}

// endTime is how long a program that is interrupted may take.
const endTime = 8 * time.Second

// stop kills the process. It may have ended already.
func (p *program) stop() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// A document is one line that a program printed.
type document interface {
	rendezvousDocument | gridDocument | upDocument | webDocument | workerDocument | getDocument | mapLine
}

// next returns the next document that p prints. The error is io.EOF when the
// process has printed its last one.
func next[D document](p *program) (d D, err error) {
	line, err := p.lines.ReadBytes('\n')
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(line, &d); err != nil {
		return d, fmt.Errorf("%s printed %q: %w", p.name, line, err)
	}
	return d, nil
}

// first returns the first document that p prints.
func first[D document](p *program) (D, error) {
	d, err := next[D](p)
	if err != nil {
		return d, p.ended(err)
	}
	return d, nil
}

// last returns the last document that p prints, after the end of the process.
// each is called for those before.
func last[D document](p *program, each func(D)) (d D, err error) {
	for {
		more, err := next[D](p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d, p.ended(err)
		}
		d = more
		each(d)
	}
	if err := p.cmd.Wait(); err != nil {
		return d, p.ended(err)
	}
	return d, nil
}

// ended explains why the process is gone, with what it said last.
func (p *program) ended(err error) error {
	if errors.Is(p.ctx.Err(), context.Canceled) {
		return p.ctx.Err()
	}
	cause := "it ended before its work was done"
	if p.ctx.Err() != nil {
		cause = "it was not done in time"
	}
	p.stop()
	if said := p.stderr.String(); said != "" {
		cause += "; it said: " + said
	}
	return &cli.Error{Object: "demo, " + p.name, Cause: cause, Next: "try the simulator: netsim demo --backend sim", Err: err}
}
