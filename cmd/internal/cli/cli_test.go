package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// program is a small tree with one command for each way to end.
func program() *cobra.Command {
	root := &cobra.Command{Use: "prog", Short: "A program for tests", Example: "prog ok"}
	add := func(parent *cobra.Command, name string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
		cmd := &cobra.Command{Use: name, Short: "Do " + name, Example: parent.CommandPath() + " " + name, Args: cobra.NoArgs, RunE: run}
		parent.AddCommand(cmd)
		return cmd
	}
	add(root, "ok", func(cmd *cobra.Command, args []string) error {
		return PrintJSON(cmd, "ok", map[string]any{"rate": Number(1.5), "loss": Number(math.NaN())})
	}).Flags().Int("count", 1, "how many")
	add(root, "plain", func(cmd *cobra.Command, args []string) error { return errors.New("broken") })
	add(root, "refused", func(cmd *cobra.Command, args []string) error {
		return fmt.Errorf("wrapped: %w", &Error{Object: "peer abc", Cause: "not admitted", Next: "prog admit abc", Code: ExitRefused})
	})
	add(root, "missing", func(cmd *cobra.Command, args []string) error {
		_, err := os.Open(filepath.Join("testdata", "nothing"))
		return err
	})
	add(root, "partial", func(cmd *cobra.Command, args []string) error {
		if err := PrintJSON(cmd, "partial", struct{}{}); err != nil {
			return err
		}
		return errors.New("one row failed")
	})
	add(root, "late", func(cmd *cobra.Command, args []string) error { return context.DeadlineExceeded })
	add(root, "wait", func(cmd *cobra.Command, args []string) error { <-cmd.Context().Done(); return cmd.Context().Err() })
	add(root, "teapot", func(cmd *cobra.Command, args []string) error { return errTeapot })
	group := &cobra.Command{Use: "group", Short: "Hold others", Example: "prog group leaf"}
	root.AddCommand(group)
	add(group, "leaf", func(cmd *cobra.Command, args []string) error { return nil })
	return root
}

var errTeapot = errors.New("teapot")

func explainTeapot(err error) *Error {
	if errors.Is(err, errTeapot) {
		return &Error{Object: "pot", Cause: "holds tea", Next: "pour", Code: ExitIntegrity}
	}
	return nil
}

func run(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := program()
	root.SetOut(&out)
	root.SetErr(&errOut)
	code = Run(ctx, root, args, explainTeapot)
	return code, out.String(), errOut.String()
}

func TestRun(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		args   string
		code   int
		stdout string // contained
		stderr string // contained; empty: nothing at all
	}{
		{"done", t.Context(), "ok", ExitOK, `{"schema":"instantgrid/ok/1","loss":null,"rate":1.5}` + "\n", ""},
		{"any error", t.Context(), "plain", ExitFailed, "", "prog: prog plain: broken\n  next: prog plain --help\n"},
		{"wrapped Error", t.Context(), "refused", ExitRefused, "", "prog: peer abc: not admitted\n  next: prog admit abc\n"},
		{"file", t.Context(), "missing", ExitFailed, "", "prog: testdata/nothing: open: no such file or directory\n  next: check the name: ls -l testdata/nothing\n"},
		{"deadline", t.Context(), "late", ExitUnreachable, "", "next: grid netcheck"},
		{"signal", canceled, "wait", ExitInterrupted, "", "prog: prog wait: interrupted"},
		{"explainer", t.Context(), "teapot", ExitIntegrity, "", "prog: pot: holds tea\n  next: pour\n"},
		{"unknown command", t.Context(), "plainn", ExitUsage, "", "prog: prog: there is no command \"plainn\"\n  next: did you mean: prog plain\n"},
		{"unknown command below", t.Context(), "group loaf", ExitUsage, "", "prog: prog group: there is no command \"loaf\""},
		{"unknown flag", t.Context(), "ok --colour", ExitUsage, "", "prog: prog ok: unknown flag: --colour\n  next: prog ok --help\n"},
		{"bad flag", t.Context(), "ok --count=many", ExitUsage, "", "prog: prog ok: invalid argument \"many\""},
		{"argument too many", t.Context(), "ok there", ExitUsage, "", "prog: prog ok: unknown command"},
		{"group alone", t.Context(), "group", ExitOK, "Do leaf", ""},
		{"nothing", t.Context(), "", ExitOK, "Exit codes:", ""},
		{"help", t.Context(), "ok --help", ExitOK, "Example:\n  prog ok\n", ""},
		{"help command", t.Context(), "help ok", ExitOK, "Example:\n  prog ok\n", ""},
		{"help below", t.Context(), "help group leaf", ExitOK, "Do leaf", ""},
		{"help of nothing", t.Context(), "help nonsense", ExitUsage, "", "there is no command \"nonsense\""},
		{"help of nothing below", t.Context(), "help group nonsense", ExitUsage, "", "prog group: there is no command \"nonsense\""},
		{"completion document", t.Context(), "completion bash --json", ExitOK, `{"schema":"instantgrid/completion/1","shell":"bash"`, ""},
		{"version", t.Context(), "version", ExitOK, "prog ", ""},
		{"error as JSON", t.Context(), "refused --json", ExitRefused,
			`{"schema":"instantgrid/error/1","error":{"object":"peer abc","cause":"not admitted","next":"prog admit abc","exit_code":5}}` + "\n", "prog: peer abc"},
		{"usage as JSON", t.Context(), "--json ok --colour", ExitUsage, `"exit_code":2}}`, "unknown flag"},
		{"document already out", t.Context(), "partial --json", ExitFailed, `{"schema":"instantgrid/partial/1"}` + "\n", "one row failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := run(t, tt.ctx, strings.Fields(tt.args)...)
			if code != tt.code {
				t.Errorf("exit code = %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout, tt.stdout) {
				t.Errorf("stdout = %q, want %q in it", stdout, tt.stdout)
			}
			if !strings.Contains(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
				t.Errorf("stderr = %q, want %q in it", stderr, tt.stderr)
			}
			if strings.ContainsAny(stdout+stderr, "\r\x1b") {
				t.Errorf("escape or carriage return off a terminal: %q %q", stdout, stderr)
			}
			if strings.Contains(tt.args, "--json") {
				dec := json.NewDecoder(strings.NewReader(stdout))
				var doc struct{ Schema string }
				if err := dec.Decode(&doc); err != nil || !strings.HasPrefix(doc.Schema, "instantgrid/") {
					t.Errorf("stdout %q: schema %q, %v", stdout, doc.Schema, err)
				}
				if err := dec.Decode(&doc); err != io.EOF {
					t.Errorf("stdout %q holds more than one document", stdout)
				}
			}
		})
	}
}

func TestVersionDocument(t *testing.T) {
	_, stdout, _ := run(t, t.Context(), "version", "--json")
	var v struct {
		Schema string
		VersionInfo
	}
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatal(err)
	}
	if v.Schema != "instantgrid/version/1" || v.Program != "prog" || v.Go == "" {
		t.Errorf("version document = %+v", v)
	}
}

func TestHelpHasExitCodes(t *testing.T) {
	root := program()
	Prepare(root)
	walk(root, func(cmd *cobra.Command) {
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		for _, row := range exitTable {
			if !strings.Contains(out.String(), fmt.Sprintf("%3d  %s", row.code, row.meaning)) {
				t.Errorf("%s --help lacks exit code %d", cmd.CommandPath(), row.code)
			}
		}
	})
}

func TestAppendDocument(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    any
		want string // empty: an error
	}{
		{"empty", struct{}{}, `{"schema":"instantgrid/x/1"}` + "\n"},
		{"fields", map[string]string{"a": "<&>"}, `{"schema":"instantgrid/x/1","a":"<&>"}` + "\n"},
		{"no object", []int{1}, ""},
		{"nil", nil, ""},
		{"raw NaN", map[string]float64{"a": math.NaN()}, ""},
		{"infinite Number", map[string]Number{"a": Number(math.Inf(1))}, `{"schema":"instantgrid/x/1","a":null}` + "\n"},
		{"large Number", map[string]Number{"a": 1e21}, `{"schema":"instantgrid/x/1","a":1000000000000000000000}` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendDocument(nil, "x", tt.v)
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("AppendDocument(%v) = %q, %v, want %q", tt.v, got, err, tt.want)
			}
			if tt.want != "" && !json.Valid(got) {
				t.Errorf("%q is not JSON", got)
			}
		})
	}
}

func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if code, _, stderr := run(t, t.Context(), "man", dir); code != ExitOK {
		t.Fatalf("man: exit code %d: %s", code, stderr)
	}
	for _, name := range []string{"prog.1", "prog-ok.1", "prog-group-leaf.1"} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range []string{"EXAMPLE", "Exit codes", "interrupted by a signal"} {
			if !strings.Contains(string(page), want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		code, stdout, stderr := run(t, t.Context(), "completion", shell)
		if code != ExitOK || !strings.Contains(stdout, "prog") {
			t.Errorf("completion %s: exit code %d, %d bytes, %s", shell, code, len(stdout), stderr)
		}
	}
	if code, _, _ := run(t, t.Context(), "completion", "tcl"); code != ExitUsage {
		t.Errorf("completion tcl: exit code %d, want %d", code, ExitUsage)
	}
}

func TestCheckTree(t *testing.T) {
	if owed := CheckTree(program()); len(owed) != 0 {
		t.Errorf("a whole tree owes %q", owed)
	}
	for _, tt := range []struct {
		name    string
		example string
		want    string
	}{
		{"none", "", "has no example"},
		{"unknown flag", "prog ok --colour", "unknown flag"},
		{"argument too many", "prog ok there", "unknown command"},
		{"flag without value", "prog ok --count", "has no value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := program()
			ok, _, err := root.Find([]string{"ok"})
			if err != nil {
				t.Fatal(err)
			}
			ok.Example = tt.example
			if owed := strings.Join(CheckTree(root), "; "); !strings.Contains(owed, tt.want) {
				t.Errorf("owed = %q, want %q in it", owed, tt.want)
			}
		})
	}
}

func TestProgressOffTerminal(t *testing.T) {
	t.Run("buffer", func(t *testing.T) {
		var out bytes.Buffer
		useProgress(&out)
		if out.Len() != 0 {
			t.Errorf("wrote %q", out.String())
		}
	})
	t.Run("pipe", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		useProgress(w)
		w.Close()
		if got, err := io.ReadAll(r); err != nil || len(got) != 0 {
			t.Errorf("wrote %q, %v", got, err)
		}
	})
}

func useProgress(w io.Writer) {
	p := NewProgress(w, "file", 100, 10)
	p.Note("relay")
	p.Set(50)
	p.Close()
	p.Close()
}

func TestTallyText(t *testing.T) {
	for _, tt := range []struct {
		name       string
		done, left int64
		elapsed    time.Duration
		want       string
	}{
		{"nothing yet", 0, 100, time.Second, ""},
		{"fast", 50, 100, 5 * time.Second, "10.0/s  10s left"},
		{"slow", 2, 3, time.Minute, "30.0 s each  1m30s left"},
		{"done", 10, 0, 5 * time.Second, "2.0/s"},
	} {
		if got := tallyText(tt.done, tt.left, tt.elapsed); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPaceText(t *testing.T) {
	for _, tt := range []struct {
		name        string
		moved, left int64
		elapsed     time.Duration
		want        string
	}{
		{"nothing yet", 0, 100, time.Second, ""},
		{"half way", 10 << 20, 20 << 20, 2 * time.Second, "5.0 MiB/s  4s"},
		{"done", 10 << 20, 0, 2 * time.Second, "5.0 MiB/s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := paceText(tt.moved, tt.left, tt.elapsed); got != tt.want {
				t.Errorf("paceText(%d, %d, %v) = %q, want %q", tt.moved, tt.left, tt.elapsed, got, tt.want)
			}
		})
	}
}
