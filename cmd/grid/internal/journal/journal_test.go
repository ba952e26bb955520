package journal

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// world is a computer whose state is a list of words.
type world struct{ words []string }

func (w *world) kinds() map[string]Kind {
	return map[string]Kind{"word": {UntilReboot: true, Undo: func(data json.RawMessage) error {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		w.words = slices.DeleteFunc(w.words, func(x string) bool { return x == s })
		return nil
	}}}
}

func (w *world) add(s string) func() error {
	return func() error { w.words = append(w.words, s); return nil }
}

func open(t *testing.T, path string, w *world) *Journal {
	t.Helper()
	j, err := Open(path, w.kinds(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestChangesAreUndoneByTheNextProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var w world
	j := open(t, path, &w)
	for _, s := range []string{"a", "b", "c"} {
		if _, err := j.Make("word", s, w.add(s)); err != nil {
			t.Fatal(err)
		}
	}
	// What comes after a crash reads the same file.
	next := open(t, path, &w)
	if got := len(next.Pending()); got != 3 {
		t.Fatalf("%d changes pending, want 3", got)
	}
	if err := next.Undo(); err != nil || len(w.words) != 0 {
		t.Errorf("after Undo: %v, left %q", err, w.words)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if got := open(t, path, &w).Pending(); len(got) != 0 {
		t.Errorf("pending at the end: %+v", got)
	}
}

// A process may die after any byte that it has written to the journal; the
// change of a line is made only when the line is whole.
func TestEveryPrefixOfAJournal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	var w world
	j := open(t, path, &w)
	a, err := j.Make("word", "a", w.add("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Revert(a); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Make("word", "b", w.add("b")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		cut := filepath.Join(dir, "cut")
		if err := os.WriteFile(cut, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		var w world
		j, err := Open(cut, w.kinds(), nil)
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		lines := strings.Count(string(whole[:n]), "\n")
		if got, want := len(j.Pending()), []int{0, 1, 0, 1}[lines]; got != want {
			t.Errorf("after %d bytes: %d pending, want %d", n, got, want)
		}
		// What comes next is not appended to half a line.
		if _, err := j.Make("word", "c", w.add("c")); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cut, w.kinds(), nil); err != nil {
			t.Errorf("after %d bytes and a change: %v", n, err)
		}
	}
}

func TestAFailedChangeIsUndone(t *testing.T) {
	var w world
	j := open(t, filepath.Join(t.TempDir(), FileName), &w)
	broken := errors.New("broken")
	_, err := j.Make("word", "half", func() error { w.words = append(w.words, "half"); return broken })
	if !errors.Is(err, broken) || len(w.words) != 0 || len(j.Pending()) != 0 {
		t.Errorf("err %v, words %q, pending %+v", err, w.words, j.Pending())
	}
}

// What cannot be undone does not keep the rest from it, and stays.
func TestWhatCannotBeUndoneStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var w world
	kinds := w.kinds()
	stuck := true
	kinds["stuck"] = Kind{Undo: func(json.RawMessage) error {
		if stuck {
			return errors.New("not now")
		}
		return nil
	}}
	j, err := Open(path, kinds, nil)
	if err != nil {
		t.Fatal(err)
	}
	j.Make("word", "a", w.add("a"))
	j.Make("stuck", 1, func() error { return nil })
	j.Make("word", "b", w.add("b"))
	err = j.Close()
	var e *Error
	if !errors.As(err, &e) || e.Object() == "" || e.Cause() == "" || e.Next() == "" {
		t.Errorf("Close: %v", err)
	}
	if len(w.words) != 0 {
		t.Errorf("left: %q", w.words)
	}
	stuck = false
	j, err = Open(path, kinds, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := j.Pending(); len(got) != 1 || got[0].Kind != "stuck" {
		t.Errorf("pending = %+v", got)
	}
	if err := j.Undo(); err != nil || len(j.Pending()) != 0 {
		t.Errorf("Undo: %v, pending %+v", err, j.Pending())
	}
}

// The kernel forgets its own changes in a reboot, and somebody else may have
// made the same since.
func TestARebootUndoesTheKernelsChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var w world
	j := open(t, path, &w)
	j.boot = "an earlier one"
	if _, err := j.Make("word", "a", w.add("a")); err != nil {
		t.Fatal(err)
	}
	j = open(t, path, &w)
	if err := j.Undo(); err != nil {
		t.Fatal(err)
	}
	if len(w.words) != 1 || len(j.Pending()) != 0 {
		t.Errorf("words %q, pending %+v", w.words, j.Pending())
	}
}

func TestADamagedJournalIsReported(t *testing.T) {
	for _, text := range []string{"rubbish\n", "{}\n", `{"schema":"instantgrid/changes/2","id":1,"kind":"x"}` + "\n", `{"schema":"instantgrid/changes/1","id":0,"kind":"x"}` + "\n"} {
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var e *Error
		if _, err := Open(path, nil, nil); !errors.As(err, &e) || e.Object() != path {
			t.Errorf("%q: %v", text, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%q became %q", text, b)
		}
	}
}

func TestALongJournalIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	var w world
	j := open(t, path, &w)
	if _, err := j.Make("word", "stays", w.add("stays")); err != nil {
		t.Fatal(err)
	}
	for range 4 * maxLines {
		c, err := j.Make("word", "x", w.add("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Revert(c); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 2*maxLines {
		t.Errorf("%d lines", n)
	}
	if got := open(t, path, &w).Pending(); len(got) != 1 {
		t.Errorf("pending = %+v", got)
	}
}

func TestReplaceFile(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setUp func(path string) error
		// meddle is what somebody else does before the undoing; nil: nothing.
		meddle func(path string) error
		want   string // "absent", "-> target", or the content
	}{
		{"a file", func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) }, nil, "before"},
		{"no file", func(string) error { return nil }, nil, "absent"},
		{"a link", func(p string) error { return os.Symlink("elsewhere", p) }, nil, "-> elsewhere"},
		{"an empty file", func(p string) error { return os.WriteFile(p, nil, 0o640) }, nil, ""},
		{"changed by another", func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) },
			func(p string) error { return os.WriteFile(p, []byte("theirs"), 0o640) }, "theirs"},
		{"removed by another", func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) }, os.Remove, "absent"},
		{"cut short in place", func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) },
			func(p string) error { return os.WriteFile(p, []byte("aft"), 0o640) }, "before"},
		{"never made", func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) },
			func(p string) error { return os.WriteFile(p, []byte("before"), 0o640) }, "before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "resolv.conf")
			if err := tt.setUp(path); err != nil {
				t.Fatal(err)
			}
			var w world
			j := open(t, filepath.Join(dir, FileName), &w)
			if _, err := j.ReplaceFile(path, []byte("after")); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "after" {
				t.Fatalf("replaced: %q, %v", b, err)
			}
			if tt.meddle != nil {
				if err := tt.meddle(path); err != nil {
					t.Fatal(err)
				}
			}
			// Left over, if killed before the rename.
			if err := os.WriteFile(path+freshSuffix, []byte("aft"), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // undoing may happen twice
				undo := open(t, filepath.Join(dir, FileName), &w)
				for _, c := range undo.Pending() {
					if err := undo.kinds[c.Kind].Undo(c.Data); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := "absent"
			if link, err := os.Readlink(path); err == nil {
				got = "-> " + link
			} else if b, err := os.ReadFile(path); err == nil {
				got = string(b)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if info, err := os.Stat(path); err == nil && got == "before" && info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, want 0640", info.Mode())
			}
			if _, err := os.Lstat(path + freshSuffix); err == nil {
				t.Error("a file that was to become it is left")
			}
		})
	}
}
