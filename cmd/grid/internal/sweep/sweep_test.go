package sweep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

var key = sha256.Sum256([]byte("a sweep"))

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func resultOf(task int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "result %d,", task), task%4*3)
}

// A journal cut off at any byte, as kill -9 and a power cut leave it, holds what
// lies before and takes more.
func TestJournalCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "whole")
	j := open(t, path)
	const tasks = 12
	ends := []int64{}
	for task := range tasks {
		if err := j.Append(task, resultOf(task)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, j.end)
	}
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(whole); cut += 1 + cut%5 {
		path := filepath.Join(dir, fmt.Sprint("cut", cut))
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, end := range ends {
			if end <= int64(cut) {
				want++
			}
		}
		j := open(t, path)
		if j.Done() != want {
			t.Fatalf("cut at %d: %d results, want %d", cut, j.Done(), want)
		}
		if err := j.Append(100, []byte("more")); err != nil {
			t.Fatal(err)
		}
		j.Close()
		j = open(t, path)
		for task := range want {
			if b, err := j.Result(task); err != nil || !bytes.Equal(b, resultOf(task)) {
				t.Fatalf("cut at %d: result %d is %.40q, %v", cut, task, b, err)
			}
		}
		if b, err := j.Result(100); err != nil || string(b) != "more" {
			t.Fatalf("cut at %d: what was added is %q, %v", cut, b, err)
		}
		j.Close()
	}
}

// A changed byte ends what is believed.
func TestJournalDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	for task := range 5 {
		if err := j.Append(task, []byte("result")); err != nil {
			t.Fatal(err)
		}
	}
	at := j.at[2].offset
	j.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if j := open(t, path); j.Done() != 2 {
		t.Errorf("%d results are believed, want 2", j.Done())
	}
}

func TestJournalOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	if _, err := Open(path, key); !errors.Is(err, ErrTaken) {
		t.Errorf("a journal that is written to: %v", err)
	}
	j.Close()
	if _, err := Open(path, sha256.Sum256([]byte("another"))); !errors.Is(err, ErrOther) {
		t.Errorf("the journal of another sweep: %v", err)
	}
	if err := os.WriteFile(path, []byte("some file of the user's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, key); !errors.Is(err, ErrOther) {
		t.Errorf("no journal at all: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "some file of the user's" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

// A disk that takes no more ends the sweep, and what was kept stays.
func TestJournalThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	if err := j.Append(0, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	_, err := Run(t.Context(), Config{
		Tasks: 10, Journal: j,
		Do:   func(context.Context, int) ([]byte, error) { return nil, nil },
		Emit: func(o Outcome) error { t.Errorf("task %d is emitted", o.Task); return nil }, Unordered: false,
	})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("a sweep whose journal fails: %v", err)
	}
	if err := j.Append(5, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a journal that has failed takes more: %v", err)
	}
	if j := open(t, path); j.Done() != 1 || !j.Has(0) {
		t.Errorf("%d results are left", j.Done())
	}
}

func TestJournalTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	var all sync.WaitGroup
	for task := range 200 {
		all.Go(func() {
			if err := j.Append(task, resultOf(task)); err != nil {
				t.Error(err)
			}
			if b, err := j.Result(task); err != nil || !bytes.Equal(b, resultOf(task)) {
				t.Errorf("result %d is %.40q, %v", task, b, err)
			}
		})
	}
	all.Wait()
	j.Close()
	if j := open(t, path); j.Done() != 200 {
		t.Errorf("%d results", j.Done())
	}
}

// A master that is stopped anywhere and started again does each finished task
// once, and emits every result.
func TestRunAgainAndAgain(t *testing.T) {
	for _, unordered := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "journal")
		const tasks = 300
		rng := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		kept := make(map[int]bool) // in the journal: must not be done again
		for run := 0; ; run++ {
			j := open(t, path)
			ctx, cancel := context.WithCancel(t.Context())
			left := 10 + rng.IntN(60)
			var emitted []int
			sum, err := Run(ctx, Config{
				Tasks: tasks, Journal: j, Window: 8, Unordered: unordered,
				Do: func(_ context.Context, task int) ([]byte, error) {
					mu.Lock()
					defer mu.Unlock()
					if kept[task] {
						t.Errorf("task %d is done again", task)
					}
					if left--; left < 0 {
						cancel()
					}
					return resultOf(task), nil
				},
				Emit: func(o Outcome) error {
					if o.Err != nil || !bytes.Equal(o.Result, resultOf(o.Task)) {
						t.Errorf("task %d: %.40q, %v", o.Task, o.Result, o.Err)
					}
					emitted = append(emitted, o.Task)
					return nil
				},
			})
			cancel()
			for task := range tasks {
				kept[task] = j.Has(task)
			}
			for _, task := range emitted {
				if !kept[task] {
					t.Errorf("task %d was emitted and is not in the journal", task)
				}
			}
			j.Close()
			if !unordered && !slices.IsSorted(emitted) {
				t.Errorf("emitted in the order %v", emitted)
			}
			if err == nil {
				if len(emitted) != tasks || sum.Done != tasks {
					t.Errorf("%d emitted, %+v", len(emitted), sum)
				}
				break
			}
			if !errors.Is(err, context.Canceled) || run > tasks {
				t.Fatal(run, err)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	wrong := errors.New("wrong argument")
	var outcomes []Outcome
	var counts []int
	sum, err := Run(t.Context(), Config{
		Tasks: 10,
		Do: func(_ context.Context, task int) ([]byte, error) {
			if task == 3 {
				return []byte("half"), wrong
			}
			return []byte{byte(task)}, nil
		},
		Emit:     func(o Outcome) error { outcomes = append(outcomes, o); return nil },
		Progress: func(done int) { counts = append(counts, done) },
	})
	if err != nil || sum != (Summary{Done: 9, Failed: 1}) || len(outcomes) != 10 || len(counts) != 10 || counts[9] != 10 {
		t.Fatalf("%+v, %v, %v, %v", sum, err, outcomes, counts)
	}
	if o := outcomes[3]; !errors.Is(o.Err, wrong) || o.Result != nil {
		t.Errorf("%+v", o)
	}
	full := errors.New("the disk is full")
	_, err = Run(t.Context(), Config{
		Tasks: 1000,
		Do:    func(_ context.Context, task int) ([]byte, error) { return nil, nil },
		Emit:  func(o Outcome) error { return full },
	})
	if !errors.Is(err, full) {
		t.Errorf("a result that nobody takes: %v", err)
	}
	if sum, err := Run(t.Context(), Config{}); err != nil || sum != (Summary{}) {
		t.Errorf("no tasks: %+v, %v", sum, err)
	}
}
