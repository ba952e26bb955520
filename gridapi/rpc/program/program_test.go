//go:build unix

package program

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell returns a function that runs a script.
func shell(t *testing.T, script string, cfg Config) (run func(ctx context.Context, argument string) (string, error), dir string) {
	t.Helper()
	dir = t.TempDir()
	cfg.Path, cfg.Args, cfg.Dir = "sh", []string{"-c", script}, dir
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, argument string) (string, error) {
		var out bytes.Buffer
		err := f(ctx, strings.NewReader(argument), &out)
		return out.String(), err
	}, dir
}

func archive(t *testing.T, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, files[i+1])
	}
	w.Close()
	return b.String()
}

func TestFiles(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cfg          Config
		argument     string
		want         string
		fails        string // part of the error
	}{
		{"standard input and output", "tr a-z A-Z", Config{}, "hello", "HELLO", ""},
		{"file in, file out", "tr a-z A-Z < ctl > mlc; echo noise", Config{In: []string{"ctl"}, Out: []string{"mlc"}}, "hello", "HELLO", ""},
		{"below a directory", "mkdir -p out; cat in/a > out/b", Config{In: []string{"in/a"}, Out: []string{"out/b"}}, "x", "x", ""},
		{"archives", "cat b a > c; echo 1 > d", Config{In: []string{"a", "b"}, Out: []string{"c", "d"}}, archive(t, "a", "1", "b", "2"), archive(t, "c", "21", "d", "1\n"), ""},
		{"a file too few", "true", Config{In: []string{"a", "b"}}, archive(t, "a", "1"), "", "lacks the files [b]"},
		{"a file too many", "true", Config{In: []string{"a", "b"}}, archive(t, "a", "1", "../c", "2"), "", `"../c"`},
		{"a file twice", "true", Config{In: []string{"a", "b"}}, archive(t, "a", "1", "a", "2"), "", `"a"`},
		{"no archive", "true", Config{In: []string{"a", "b"}}, "what", "", "no archive"},
		{"it fails", "echo cannot read ctl >&2; exit 3", Config{}, "", "", "exit status 3; it said: cannot read ctl"},
		{"no result", "true", Config{Out: []string{"mlc"}}, "", "", "left no file mlc"},
		{"a directory as result", "mkdir mlc", Config{Out: []string{"mlc"}}, "", "", "is no file"},
		{"a link out of the directory", "ln -s /etc/passwd mlc", Config{Out: []string{"mlc"}}, "", "", "left no file mlc"},
		{"environment", "echo $HOME | grep -c grid-call; echo $SECRET", Config{}, "", "1\n\n", ""},
		{"variables", "echo $LEVEL", Config{Env: []string{"LEVEL=7"}}, "", "7\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("SECRET", "not for programs")
			run, dir := shell(t, tt.script, tt.cfg)
			got, err := run(t.Context(), tt.argument)
			switch {
			case tt.fails == "" && (err != nil || got != tt.want):
				t.Errorf("%.200q, %v; want %.200q", got, err, tt.want)
			case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
				t.Errorf("%.200q, %v; want an error with %q", got, err, tt.fails)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cfg          Config
		fails        string
	}{
		{"time", "sleep 60", Config{Time: 300 * time.Millisecond}, "more than 300ms"},
		{"it ignores the signal", "trap '' TERM; while :; do sleep 1; done", Config{Time: 300 * time.Millisecond}, "more than 300ms"},
		{"one large file", "dd if=/dev/zero of=x bs=1048576 count=64; ls", Config{Disk: 1 << 20, Out: []string{"x"}}, ""},
		{"many files", "i=0; while [ $i -lt 2000 ]; do head -c 100000 /dev/zero > f$i; i=$((i+1)); done; sleep 60", Config{Disk: 10 << 20, Out: []string{"x"}}, "more than 10485760 bytes"},
		{"output", "cat /dev/zero", Config{Disk: 1 << 20}, "more than 1048576 bytes"},
		{"unwritable directories", "mkdir -p a/b; chmod 0 a/b a; exit 1", Config{}, "exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run, dir := shell(t, tt.script, tt.cfg)
			got, err := run(t.Context(), "")
			if tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("%d bytes, %v; want an error with %q", len(got), err, tt.fails)
			}
			if tt.fails == "" && int64(len(got)) > tt.cfg.Disk {
				t.Errorf("a file of %d bytes", len(got))
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if runtime.GOOS == "linux" { // elsewhere the address space may have no bound
		hog := `awk 'BEGIN { s = "x"; while (length(s) < 2e8) s = s s; print length(s) }'`
		run, _ := shell(t, hog, Config{Memory: 64 << 20})
		if got, err := run(t.Context(), ""); err == nil {
			t.Errorf("a program of 64 MiB held 200 MB: %q", got)
		}
		run, _ = shell(t, hog, Config{})
		if _, err := run(t.Context(), ""); err != nil {
			t.Errorf("the same without a bound: %v", err)
		}
	}
}

// What a program leaves running ends with it.
func TestNothingIsLeftRunning(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	leave := "sleep 1000 & echo $! >> " + pids + "; "
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		// In a namespace its numbers mean nothing to us: found by its argument.
		leave += "(setsid sleep 86399.25 &) ; "
	}
	run, _ := shell(t, leave+"echo done", Config{})
	if got, err := run(t.Context(), ""); got != "done\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if os.Geteuid() != 0 {
		b, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if syscall.Kill(pid, 0) == syscall.ESRCH {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("process %d goes on", pid)
	} else if runtime.GOOS == "linux" {
		for range 100 {
			if !runs("86399.25") {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("what left the process group goes on")
	}
}

// runs reports whether a process has this argument.
func runs(argument string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), "\x00"+argument+"\x00") {
			return true
		}
	}
	return false
}

func TestCancel(t *testing.T) {
	run, _ := shell(t, "sleep 60", Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(200*time.Millisecond, func() { cancel(errors.New("nobody wants it")) })
	if _, err := run(ctx, ""); err == nil || !strings.Contains(err.Error(), "nobody wants it") {
		t.Errorf("a run that was cancelled: %v", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{Path: "no-such-program-here"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a program that is not there: %v", err)
	}
	for _, name := range []string{"../x", "/etc/passwd", "", "a/../../b"} {
		if _, err := New(Config{Path: "sh", In: []string{name}}); err == nil {
			t.Errorf("New takes the file %q", name)
		}
	}
}
