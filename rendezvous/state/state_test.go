package state

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/etcdtest"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
)

// childVariable makes this test binary the child of TestKillLosesNothing.
const childVariable = "STATE_TEST_CHILD"

func TestMain(m *testing.M) {
	if file := os.Getenv(childVariable); file != "" {
		child(file)
		return
	}
	os.Exit(m.Run())
}

// stores gives each kind of store, and how to open it once more: for etcd as a
// second server would, at the same time; for a file after Close.
func stores(t *testing.T, test func(t *testing.T, open func() ledger.Store, shared bool)) {
	t.Run("bbolt", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "ledger", "ledger.db")
		test(t, func() ledger.Store {
			s, err := OpenBolt(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}, false)
	})
	t.Run("etcd", func(t *testing.T) {
		endpoint := etcdtest.Start(t)
		test(t, func() ledger.Store {
			s, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: []string{endpoint}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}, true)
	})
}

func put(t *testing.T, s ledger.Store, key, value string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx ledger.Tx) error { return tx.Put(key, []byte(value)) }); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s ledger.Store, key string) (value string, found bool) {
	t.Helper()
	err := s.View(t.Context(), func(r ledger.Reader) error {
		b, err := r.Get(key)
		value, found = string(b), b != nil
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value, found
}

// The one suite that both stores pass.
func TestConformance(t *testing.T) {
	stores(t, func(t *testing.T, open func() ledger.Store, shared bool) {
		s := open()
		t.Run("put, get, delete", func(t *testing.T) {
			put(t, s, "a/1", "one")
			if v, ok := get(t, s, "a/1"); v != "one" || !ok {
				t.Errorf("get = %q, %v", v, ok)
			}
			if _, ok := get(t, s, "a"); ok {
				t.Error("a key that nobody wrote is there")
			}
			err := s.Update(t.Context(), func(tx ledger.Tx) error {
				if err := tx.Delete("a/1"); err != nil {
					return err
				}
				if v, err := tx.Get("a/1"); v != nil || err != nil {
					t.Errorf("a deleted key is still there: %q, %v", v, err)
				}
				if err := tx.Put("a/2", []byte("two")); err != nil {
					return err
				}
				if v, err := tx.Get("a/2"); string(v) != "two" || err != nil {
					t.Errorf("a transaction does not see what it wrote: %q, %v", v, err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := get(t, s, "a/1"); ok {
				t.Error("deleted, and there")
			}
		})
		t.Run("an error changes nothing", func(t *testing.T) {
			no := errors.New("no")
			err := s.Update(t.Context(), func(tx ledger.Tx) error {
				if err := tx.Put("b/1", []byte("x")); err != nil {
					return err
				}
				return no
			})
			if !errors.Is(err, no) {
				t.Errorf("Update = %v", err)
			}
			if _, ok := get(t, s, "b/1"); ok {
				t.Error("a failed transaction has written")
			}
		})
		t.Run("ranges", func(t *testing.T) {
			for i := range 300 { // more than a page
				put(t, s, fmt.Sprintf("c/%03d", i), strconv.Itoa(i))
			}
			put(t, s, "c0", "behind")
			var keys []string
			err := s.View(t.Context(), func(r ledger.Reader) error {
				return r.Range("c/", func(key string, value []byte) bool {
					keys = append(keys, key+"="+string(value))
					return true
				})
			})
			if err != nil || len(keys) != 300 || keys[0] != "c/000=0" || keys[299] != "c/299=299" {
				t.Errorf("%d keys, %v", len(keys), err)
			}
			n := 0
			s.View(t.Context(), func(r ledger.Reader) error {
				return r.Range("c/", func(string, []byte) bool { n++; return n < 5 })
			})
			if n != 5 {
				t.Errorf("a range that was stopped went on to %d", n)
			}
		})
		t.Run("large values", func(t *testing.T) {
			big := strings.Repeat("x", 256<<10)
			put(t, s, "d", big)
			if v, _ := get(t, s, "d"); v != big {
				t.Errorf("%d bytes came back", len(v))
			}
		})
		t.Run("revision", func(t *testing.T) {
			before, err := s.Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "e", "1")
			after, err := s.Revision(t.Context())
			if err != nil || after == before {
				t.Errorf("revision %d before, %d after, %v", before, after, err)
			}
		})
		t.Run("transactions do not cross", func(t *testing.T) {
			handles := []ledger.Store{s}
			if shared {
				handles = append(handles, open())
			}
			const workers, each = 8, 10
			var wg sync.WaitGroup
			for i := range workers {
				wg.Go(func() {
					for range each {
						err := handles[i%len(handles)].Update(t.Context(), func(tx ledger.Tx) error {
							b, err := tx.Get("counter")
							if err != nil {
								return err
							}
							var n uint32
							if len(b) == 4 {
								n = binary.BigEndian.Uint32(b)
							}
							return tx.Put("counter", binary.BigEndian.AppendUint32(nil, n+1))
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if v, _ := get(t, s, "counter"); v != "\x00\x00\x00\x50" {
				t.Errorf("counter = %x, want %x", v, workers*each)
			}
		})
		t.Run("a cancelled context", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Update(ctx, func(tx ledger.Tx) error { return tx.Put("f", nil) }); err == nil {
				t.Error("Update with a cancelled context")
			}
			if err := s.View(ctx, func(r ledger.Reader) error { _, err := r.Get("f"); return err }); err == nil {
				t.Error("View with a cancelled context")
			}
		})
		t.Run("open again", func(t *testing.T) {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("the second Close: %v", err)
			}
			if v, _ := get(t, open(), "e"); v != "1" {
				t.Errorf("after it was opened again: %q", v)
			}
		})
	})
}

func TestBoltIsPrivateAndTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	s, err := OpenBolt(file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
	if _, err := OpenBolt(file); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
}

func TestBoltSaysWhenAFileIsDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(file, bytes.Repeat([]byte("not a database "), 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBolt(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestEtcdThatIsNotThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := OpenEtcd(ctx, EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}}); err == nil || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("OpenEtcd = %v", err)
	}
}

// child writes number after number, each in its transaction, and says so once
// Update has returned.
func child(file string) {
	s, err := OpenBolt(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := bufio.NewWriter(os.Stdout)
	for i := 1; ; i++ {
		err := s.Update(context.Background(), func(tx ledger.Tx) error {
			if err := tx.Put("last", []byte(strconv.Itoa(i))); err != nil {
				return err
			}
			return tx.Put("n/"+strconv.Itoa(i), bytes.Repeat([]byte{byte(i)}, 900))
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(out, i)
		out.Flush()
	}
}

// A process that is killed at any instant has lost nothing that it was told is
// there, and what is there is whole. A smoke count: 10 kills.
func TestKillLosesNothing(t *testing.T) {
	for range 10 {
		file := filepath.Join(t.TempDir(), "ledger.db")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+file)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := make(chan int)
		go func() {
			last := 0
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				if n, err := strconv.Atoi(lines.Text()); err == nil {
					last = n
				}
			}
			io.Copy(io.Discard, out)
			acknowledged <- last
		}()
		time.Sleep(20*time.Millisecond + time.Duration(rand.Int64N(int64(120*time.Millisecond))))
		cmd.Process.Kill()
		want := <-acknowledged
		cmd.Wait()
		s, err := OpenBolt(file)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		last := 0
		if v, ok := get(t, s, "last"); ok {
			if last, err = strconv.Atoi(v); err != nil {
				t.Fatal(err)
			}
		}
		if last < want || last > want+1 {
			t.Errorf("%d is there, %d was acknowledged", last, want)
		}
		for i := 1; i <= last; i++ {
			if v, _ := get(t, s, "n/"+strconv.Itoa(i)); len(v) != 900 || v[0] != byte(i) {
				t.Fatalf("number %d of %d has %d bytes", i, last, len(v))
			}
		}
		s.Close()
	}
}
