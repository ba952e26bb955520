// Package program makes a function of any program: files in, files out, each
// call in a directory of its own, with limits on time, memory and disk.
//
//	f, err := program.New(program.Config{Path: "./codeml", In: []string{"ctl"}, Out: []string{"mlc"}})
//	err = rpc.RegisterStream(worker, "codeml", f)
//
// A call's argument is the one file of Config.In, or a tar archive of several,
// or the program's standard input where there is none; its result is likewise
// the one file of Config.Out, an archive, or the standard output.
//
// What is isolated: the working directory, the environment, the time, and on
// Unix the size of memory and files and the processes that the program leaves
// behind. What is not: a program runs as the user of the worker, may read and
// write whatever that user may, and may use the network. Run programs of people
// whom you would give an account. A WebAssembly module is the way to run others'.
//
// The functions may be called from several goroutines.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says what to run. Path is needed.
type Config struct {
	// Path is the program, as exec.LookPath finds it.
	Path string

	// Args are its arguments.
	Args []string

	// In are the files that a call brings, by their names in the working
	// directory; Out the ones that are its result.
	In, Out []string

	// Env are variables besides PATH, HOME, TMPDIR (both the working directory) and
	// LANG, as NAME=VALUE. Others are not handed on.
	Env []string

	// Dir is where the working directories are made. Empty: the system's
	// directory for temporary files.
	Dir string

	// Time bounds a run. Zero: an hour; negative: none.
	Time time.Duration

	// Memory bounds the address space of each of its processes, in bytes, where
	// the system can do that (Unix). Zero: no bound.
	Memory int64

	// Disk bounds what the working directory may hold, in bytes. It is looked
	// at twice a second, so a fast writer may exceed it for a moment; a single
	// file cannot (on Unix). Zero: 1 GiB; negative: no bound.
	Disk int64
}

const (
	defaultTime = time.Hour
	defaultDisk = 1 << 30
	diskLook    = 500 * time.Millisecond
	// graceTime is how long a program that is told to end may take.
	graceTime = 2 * time.Second
	// stderrTail is how much of the standard error an [Error] shows, in bytes.
	stderrTail = 2048
)

// An Error is a run without a result.
type Error struct {
	Program string
	Problem string // "exit status 3", "it needed more than 10s"
	Stderr  string // the end of what it wrote there
}

func (e *Error) Error() string { return e.Program + ": " + e.Cause() }

// Object names the program.
func (e *Error) Object() string { return "program " + e.Program }

// Cause says what went wrong, with the end of what it wrote.
func (e *Error) Cause() string {
	if e.Stderr != "" {
		return e.Problem + "; it said: " + e.Stderr
	}
	return e.Problem
}

// Next says what to do.
func (e *Error) Next() string {
	return "run it there by hand with the same input, or raise its bounds (program.Config)"
}

// New returns a function for rpc.RegisterStream. It fails if the program is not
// there, and if a name of In or Out leads out of the working directory.
func New(cfg Config) (func(ctx context.Context, argument io.Reader, result io.Writer) error, error) {
	path, err := exec.LookPath(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	if cfg.Path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	for _, name := range append(append([]string(nil), cfg.In...), cfg.Out...) {
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("program: the file %q is not within the working directory", name)
		}
	}
	if cfg.Time == 0 {
		cfg.Time = defaultTime
	}
	if cfg.Disk == 0 {
		cfg.Disk = defaultDisk
	}
	p := &program{cfg}
	return p.run, nil
}

type program struct{ cfg Config }

// run carries out one call.
func (p *program) run(ctx context.Context, argument io.Reader, result io.Writer) (err error) {
	dir, err := os.MkdirTemp(p.cfg.Dir, "grid-call-")
	if err != nil {
		return busy(err)
	}
	defer func() {
		// A program may have taken its own permissions away.
		if os.RemoveAll(dir) != nil {
			filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
				if d != nil && d.IsDir() {
					os.Chmod(name, 0o700)
				}
				return nil
			})
			os.RemoveAll(dir)
		}
	}()
	if err := p.unpack(dir, argument); err != nil {
		return err
	}
	if err := p.execute(ctx, dir, argument, result); err != nil {
		return err
	}
	return p.pack(dir, result)
}

// execute runs the program in dir and waits for it and all it has started.
func (p *program) execute(ctx context.Context, dir string, argument io.Reader, result io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if p.cfg.Time > 0 {
		timer := time.AfterFunc(p.cfg.Time, func() { cancel(fmt.Errorf("it needed more than %v", p.cfg.Time)) })
		defer timer.Stop()
	}
	cmd := command(ctx, p.cfg)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=" + os.Getenv("LANG")}, p.cfg.Env...)
	cmd.WaitDelay = graceTime
	var stderr tail
	cmd.Stderr = &stderr
	if len(p.cfg.In) == 0 {
		cmd.Stdin = argument
	}
	if len(p.cfg.Out) == 0 {
		cmd.Stdout = &counted{w: result, most: p.cfg.Disk, over: func() { cancel(errDisk(p.cfg.Disk)) }}
	}
	if err := cmd.Start(); err != nil {
		return busy(err)
	}
	watched := make(chan struct{})
	if p.cfg.Disk > 0 {
		go func() {
			defer close(watched)
			watchDisk(ctx, dir, p.cfg.Disk, cancel)
		}()
	} else {
		close(watched)
	}
	err := cmd.Wait()
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	reap(cmd)
	if err == nil && cause == nil {
		return nil
	}
	problem := err
	if cause != nil {
		problem = cause
	}
	return &Error{Program: filepath.Base(p.cfg.Path), Problem: problem.Error(), Stderr: stderr.String()}
}

func errDisk(most int64) error { return fmt.Errorf("it wrote more than %d bytes", most) }

// watchDisk ends a run whose directory outgrows its bound.
func watchDisk(ctx context.Context, dir string, most int64, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(diskLook)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if sizeOf(dir) > most {
			cancel(errDisk(most))
			return
		}
	}
}

func sizeOf(dir string) (size int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // what is gone meanwhile does not count
	})
	return size
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[max(0, len(b)-stderrTail):]...)
	if len(t.b) > stderrTail {
		t.b = append(t.b[:0], t.b[len(t.b)-stderrTail:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(bytes.TrimSpace(t.b)), "?")
}

// A counted writer ends the run when too much is written.
type counted struct {
	w    io.Writer
	n    int64
	most int64 // negative: any
	over func()
}

func (c *counted) Write(b []byte) (int, error) {
	if c.n += int64(len(b)); c.most > 0 && c.n > c.most {
		c.over()
		return 0, errors.New("too much output")
	}
	return c.w.Write(b)
}
