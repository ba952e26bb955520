package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A process is a worker inside a namespace.
type process struct {
	cmd    *kernel.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// startProcess starts program as a worker with job j. The worker ends with
// ctx, with its standard input, with the namespace and with this process.
func startProcess(ctx context.Context, program string, host *kernel.Host, cpu int, j job) (*process, error) {
	line, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: host.Command(ctx, program, workerArgs(cpu)...)}
	p.cmd.WaitDelay = time.Second
	p.cmd.Stderr = &p.stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		stdin.Close()
		return nil, err
	}
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		stdin.Close()
		stdout.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		p.kill()
		return nil, fmt.Errorf("give worker its job: %w", err)
	}
	return p, nil
}

// read decodes the next line that the worker printed.
func (p *process) read(v any) error {
	line, err := p.stdout.ReadBytes('\n')
	if err != nil {
		p.kill()
		said, _, _ := strings.Cut(p.stderr.String(), "\n")
		if said == "" {
			said = "it said nothing"
		}
		return fmt.Errorf("worker ended: %s", said)
	}
	return json.Unmarshal(line, v)
}

// kill ends the worker and waits. It may be called twice.
func (p *process) kill() {
	p.stdin.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// end asks the worker to end, which writes its profile, and waits; one that
// does not is killed.
func (p *process) end() {
	p.stdin.Close()
	timer := time.AfterFunc(lingerLimit+time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	p.cmd.Wait()
}

// startPeer starts a server for one contender and returns its target.
func startPeer(ctx context.Context, program string, host *kernel.Host, cpu int, j job) (*process, target, error) {
	p, err := startProcess(ctx, program, host, cpu, j)
	if err != nil {
		return nil, target{}, err
	}
	var line serverLine
	if err := p.read(&line); err != nil {
		return nil, target{}, fmt.Errorf("server: %w", err)
	}
	to, err := parseTarget(line.Target)
	if err != nil {
		p.kill()
		return nil, target{}, fmt.Errorf("server: %w", err)
	}
	return p, to, nil
}

// measureWith runs one client to its end.
func measureWith(ctx context.Context, program string, host *kernel.Host, cpu int, j job, limit time.Duration) (measured, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no result after %v", limit))
	defer cancel()
	p, err := startProcess(ctx, program, host, cpu, j)
	if err != nil {
		return measured{}, err
	}
	defer p.kill()
	var m measured
	if err := p.read(&m); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return measured{}, err
	}
	if m.Error != "" {
		return measured{}, errors.New(m.Error)
	}
	return m, nil
}
