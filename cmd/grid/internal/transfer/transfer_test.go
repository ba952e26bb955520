package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// makeFile writes size random bytes to a new file and returns its path.
func makeFile(t *testing.T, name string, size int) string {
	t.Helper()
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	random.Read(b)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func openSource(t *testing.T, path string) *Source {
	t.Helper()
	src, err := Open(path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func sumOf(t *testing.T, path string) Sum {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// A cutConn ends, with its other end, after a number of bytes have been
// written to it.
type cutConn struct {
	net.Conn
	left *atomic.Int64 // negative from the start: never ends
}

func (c *cutConn) Write(b []byte) (int, error) {
	left := c.left.Load()
	if left < 0 {
		return c.Conn.Write(b)
	}
	if int64(len(b)) > left {
		n, _ := c.Conn.Write(b[:left])
		c.Conn.Close()
		return n, io.ErrClosedPipe
	}
	c.left.Add(-int64(len(b)))
	return c.Conn.Write(b)
}

// An attempt is one connection between a sender and a receiver.
type attempt struct {
	cut      int64 // bytes from the sender until it breaks; negative: never
	cutBack  int64 // the same from the receiver
	src      *Source
	opt      ReceiveOptions
	sender   context.Context // nil: the test's
	receiver context.Context
}

type outcome struct {
	sent, received       Result
	sendErr, receiveErr  error
	ackedAtEnd           int64 // of the sender
	start                int64
	sendSteps, recvSteps []int64
}

func (a attempt) run(t *testing.T) (o outcome) {
	t.Helper()
	left, right := net.Pipe()
	forth, back := new(atomic.Int64), new(atomic.Int64)
	forth.Store(a.cut)
	back.Store(a.cutBack)
	s, r := &cutConn{left, forth}, &cutConn{right, back}
	if a.sender == nil {
		a.sender = t.Context()
	}
	if a.receiver == nil {
		a.receiver = t.Context()
	}
	if a.opt.From == "" {
		a.opt.From = "sender"
	}
	o.start = -1
	a.opt.Observer = Observer{Progress: func(done int64) { o.recvSteps = append(o.recvSteps, done) }}
	watch := Observer{
		Begin:    func(_ Offer, start int64) { o.start = start },
		Progress: func(done int64) { o.ackedAtEnd = done; o.sendSteps = append(o.sendSteps, done) },
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.received, o.receiveErr = Receive(a.receiver, r, a.opt)
		r.Close()
	}()
	o.sent, o.sendErr = Send(a.sender, s, a.src, watch)
	s.Close()
	<-ended
	return o
}

func unbroken(src *Source, dir string) attempt {
	return attempt{cut: -1, cutBack: -1, src: src, opt: ReceiveOptions{Dir: dir}}
}

func TestWhole(t *testing.T) {
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 17, syncBytes + 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := makeFile(t, "report.bin", size)
				if err := os.Chmod(path, 0o777); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				o := unbroken(openSource(t, path), dir).run(t)
				if o.sendErr != nil || o.receiveErr != nil {
					t.Fatalf("send %v, receive %v", o.sendErr, o.receiveErr)
				}
				want := sumOf(t, path)
				if o.sent.Sum != want || o.received.Sum != want || sumOf(t, filepath.Join(dir, "report.bin")) != want {
					t.Errorf("sums: sent %v, received %v, want %v", o.sent.Sum, o.received.Sum, want)
				}
				if o.sent.Size != int64(size) || o.received.Size != int64(size) || o.received.Path != filepath.Join(dir, "report.bin") {
					t.Errorf("results %+v and %+v", o.sent, o.received)
				}
				list, err := os.ReadDir(dir)
				if err != nil || len(list) != 1 {
					t.Errorf("left behind: %v, %v", list, err)
				}
				info, err := list[0].Info()
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got&^modeMask != 0 || got&0o100 == 0 {
					t.Errorf("mode = %v", got)
				}
				// Both bars count the same bytes.
				if fmt.Sprint(o.sendSteps) != fmt.Sprint(o.recvSteps) {
					t.Errorf("the sender saw %v, the receiver %v", o.sendSteps, o.recvSteps)
				}
			})
		})
	}
}

// TestCuts breaks the connection at random places until the file is through.
func TestCuts(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 3*chunkSize + 12345
				random := rand.New(rand.NewPCG(seed, 0))
				path := makeFile(t, "data", size)
				dir := t.TempDir()
				var acked int64
				for try := range 60 {
					a := unbroken(openSource(t, path), dir)
					a.opt.volatile = true
					switch {
					case try == 59: // enough
					case random.IntN(4) == 0:
						a.cutBack = random.Int64N(300)
					default:
						a.cut = random.Int64N(chunkSize)
					}
					o := a.run(t)
					// Friendliness, section 1, line 22: at most one chunk again.
					if o.start >= 0 && acked-o.start > chunkSize {
						t.Fatalf("try %d starts at %d though %d were acknowledged", try, o.start, acked)
					}
					acked = max(acked, o.ackedAtEnd)
					if o.receiveErr == nil {
						if got, want := sumOf(t, filepath.Join(dir, "data")), sumOf(t, path); got != want {
							t.Fatalf("sum %v, want %v", got, want)
						}
						if o.sendErr == nil {
							return
						}
						// The sender has not heard of it: the next one tells it.
						a := unbroken(openSource(t, path), dir)
						a.opt.Finished = &o.received
						if o := a.run(t); o.sendErr != nil || o.receiveErr != nil || o.start != size {
							t.Fatalf("confirming: send %v, receive %v, start %d", o.sendErr, o.receiveErr, o.start)
						}
						return
					}
					var lost *LostError
					if !errors.As(o.receiveErr, &lost) || !errors.As(o.sendErr, &lost) {
						t.Fatalf("try %d: send %v, receive %v, want two LostErrors", try, o.sendErr, o.receiveErr)
					}
				}
				t.Fatal("never through")
			})
		})
	}
}

// TestTornPart resumes after a power cut that left less than was written, or
// other bytes.
func TestTornPart(t *testing.T) {
	const size = 4 * chunkSize
	for _, tt := range []struct {
		name    string
		journal int64
		damage  func(b []byte) []byte // of the part file with 3 chunks
		start   int64
	}{
		{"intact", chunkSize, func(b []byte) []byte { return b }, 3 * chunkSize},
		{"behind the journal", chunkSize, func(b []byte) []byte { b[2*chunkSize] ^= 1; return b }, chunkSize},
		{"before the journal", 2 * chunkSize, func(b []byte) []byte { b[0] ^= 1; return b }, 0},
		{"shorter than the journal", 2 * chunkSize, func(b []byte) []byte { return b[:chunkSize] }, chunkSize},
		{"too long", 2 * chunkSize, func(b []byte) []byte { return append(b, make([]byte, 2*chunkSize)...) }, 2 * chunkSize},
		{"empty", chunkSize, func(b []byte) []byte { return nil }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := makeFile(t, "data", size)
				dir := t.TempDir()
				whole, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				putPart(t, dir, "data", tt.damage(bytes.Clone(whole[:3*chunkSize])), journalEntry{From: "sender", Size: size, Offset: tt.journal})
				o := unbroken(openSource(t, path), dir).run(t)
				if o.sendErr != nil || o.receiveErr != nil {
					t.Fatalf("send %v, receive %v", o.sendErr, o.receiveErr)
				}
				if o.start != tt.start {
					t.Errorf("start = %d, want %d", o.start, tt.start)
				}
				if sumOf(t, filepath.Join(dir, "data")) != sumOf(t, path) {
					t.Error("the files differ")
				}
			})
		})
	}
}

func putPart(t *testing.T, dir, name string, content []byte, e journalEntry) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name+partSuffix), content, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := writeJournal(root, name, e, false); err != nil {
		t.Fatal(err)
	}
}

func TestInTheWay(t *testing.T) {
	whole := []byte("what was there before")
	for _, tt := range []struct {
		name  string
		put   func(t *testing.T, dir string)
		path  string // in the error; empty: none
		other string
	}{
		{"nothing", func(t *testing.T, dir string) {}, "", ""},
		{"a file", func(t *testing.T, dir string) { write(t, dir, "data.txt", whole) }, "data.txt", "data-2.txt"},
		{"two files", func(t *testing.T, dir string) { write(t, dir, "data.txt", whole); write(t, dir, "data-2.txt", whole) }, "data.txt", "data-3.txt"},
		{"a dangling link", func(t *testing.T, dir string) {
			if err := os.Symlink("nowhere", filepath.Join(dir, "data.txt")); err != nil {
				t.Skip(err)
			}
		}, "data.txt", "data-2.txt"},
		{"another program's part", func(t *testing.T, dir string) { write(t, dir, "data.txt.part", whole) }, "data.txt.part", ""},
		{"another sender's part", func(t *testing.T, dir string) {
			putPart(t, dir, "data.txt", whole, journalEntry{From: "somebody", Size: 100})
		}, "data.txt.part", ""},
		{"a broken journal", func(t *testing.T, dir string) {
			write(t, dir, "data.txt.part", whole)
			write(t, dir, "data.txt.part.journal", []byte(`{"schema":`))
		}, "data.txt.part", ""},
		{"an empty part", func(t *testing.T, dir string) { write(t, dir, "data.txt.part", nil) }, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := makeFile(t, "data.txt", 1000)
				dir := t.TempDir()
				tt.put(t, dir)
				before := listing(t, dir)
				o := unbroken(openSource(t, path), dir).run(t)
				if tt.path == "" {
					if o.receiveErr != nil || o.sendErr != nil {
						t.Fatalf("send %v, receive %v", o.sendErr, o.receiveErr)
					}
					return
				}
				var obstacle *ObstacleError
				if !errors.As(o.receiveErr, &obstacle) || obstacle.Path != filepath.Join(dir, tt.path) || obstacle.Other != tt.other {
					t.Fatalf("receive: %v (%+v), want an ObstacleError for %s, other %q", o.receiveErr, obstacle, tt.path, tt.other)
				}
				var told *AbortError
				if !errors.As(o.sendErr, &told) || told.Code != AbortExists {
					t.Errorf("send: %v, want AbortExists", o.sendErr)
				}
				if after := listing(t, dir); after != before {
					t.Errorf("the directory was %s and is %s", before, after)
				}
				a := unbroken(openSource(t, path), dir)
				a.opt.Overwrite = true
				if o := a.run(t); o.sendErr != nil || o.receiveErr != nil {
					t.Fatalf("overwriting: send %v, receive %v", o.sendErr, o.receiveErr)
				}
				if sumOf(t, filepath.Join(dir, "data.txt")) != sumOf(t, path) {
					t.Error("the files differ")
				}
			})
		})
	}
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range list {
		content, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		fmt.Fprintf(&b, "%s %x; ", e.Name(), content)
	}
	return b.String()
}

// A fullDisk takes a number of bytes and then no more.
type fullDisk struct {
	partData
	room int64
}

func (d *fullDisk) WriteAt(b []byte, offset int64) (int, error) {
	if offset+int64(len(b)) > d.room {
		n := max(0, d.room-offset)
		d.partData.WriteAt(b[:n], offset)
		return int(n), &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	return d.partData.WriteAt(b, offset)
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, room = 5 * chunkSize, 2*chunkSize + 1000
		path := makeFile(t, "big", size)
		dir := t.TempDir()
		a := unbroken(openSource(t, path), dir)
		a.opt.open = func(p *partFile, o Offer) (partData, error) {
			d, err := p.openData(o.Mode)
			return &fullDisk{d, room}, err
		}
		o := a.run(t)
		var space *SpaceError
		if !errors.As(o.receiveErr, &space) || space.Need != size-room || space.Path != filepath.Join(dir, "big.part") {
			t.Fatalf("receive: %v (%+v), want a SpaceError for %d bytes", o.receiveErr, space, size-room)
		}
		var told *AbortError
		if !errors.As(o.sendErr, &told) || told.Code != AbortSpace || !told.Temporary() {
			t.Errorf("send: %v, want AbortSpace", o.sendErr)
		}
		// Space is made.
		o = unbroken(openSource(t, path), dir).run(t)
		if o.sendErr != nil || o.receiveErr != nil || o.start != room {
			t.Fatalf("send %v, receive %v, start %d, want %d", o.sendErr, o.receiveErr, o.start, room)
		}
		if sumOf(t, filepath.Join(dir, "big")) != sumOf(t, path) {
			t.Error("the files differ")
		}
	})
}

func TestChangedFile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(path string) error
		text   string
	}{
		{"truncated", func(path string) error { return os.Truncate(path, 10) }, "now has 10"},
		{"appended", func(path string) error { return os.Truncate(path, 1<<23) }, "now has 8388608"},
		{"rewritten", func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) }, "written to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := makeFile(t, "data", 3*chunkSize)
				src := openSource(t, path)
				dir := t.TempDir()
				left, right := net.Pipe()
				var receiveErr error
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, receiveErr = Receive(t.Context(), right, ReceiveOptions{Dir: dir})
					right.Close()
				}()
				_, err := Send(t.Context(), left, src, Observer{Begin: func(Offer, int64) {
					if err := tt.change(path); err != nil {
						t.Error(err)
					}
				}})
				left.Close()
				<-done
				var changed *ChangedError
				if !errors.As(err, &changed) || !strings.Contains(err.Error(), tt.text) || changed.Path != path {
					t.Errorf("send: %v, want a ChangedError with %q", err, tt.text)
				}
				var told *AbortError
				if !errors.As(receiveErr, &told) || told.Code != AbortChanged {
					t.Errorf("receive: %v, want AbortChanged", receiveErr)
				}
				if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
					t.Error("a changed file was put in place")
				}
			})
		})
	}
}

// TestChangedBetween: a file that was changed between two attempts begins
// anew, from its first byte.
func TestChangedBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := makeFile(t, "data", 3*chunkSize)
		dir := t.TempDir()
		a := unbroken(openSource(t, path), dir)
		a.cut = 2 * chunkSize
		a.run(t)
		if err := os.WriteFile(path, bytes.Repeat([]byte("new"), chunkSize), 0o644); err != nil {
			t.Fatal(err)
		}
		o := unbroken(openSource(t, path), dir).run(t)
		if o.sendErr != nil || o.receiveErr != nil || o.start != 0 {
			t.Fatalf("send %v, receive %v, start %d", o.sendErr, o.receiveErr, o.start)
		}
		if sumOf(t, filepath.Join(dir, "data")) != sumOf(t, path) {
			t.Error("the files differ")
		}
	})
}

func TestCancel(t *testing.T) {
	for _, who := range []string{"sender", "receiver"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				a := unbroken(openSource(t, makeFile(t, "data", 2*chunkSize)), t.TempDir())
				if who == "sender" {
					a.sender = ctx
				} else {
					a.receiver = ctx
				}
				a.opt.open = func(p *partFile, o Offer) (partData, error) {
					d, err := p.openData(o.Mode)
					return &onWrite{d, cancel}, err
				}
				o := a.run(t)
				mine, theirs := o.sendErr, o.receiveErr
				if who == "receiver" {
					mine, theirs = theirs, mine
				}
				var told *AbortError
				if !errors.Is(mine, context.Canceled) || !errors.As(theirs, &told) || told.Code != AbortCancelled {
					t.Errorf("the %s returns %v, the other %v", who, mine, theirs)
				}
			})
		})
	}
}

type onWrite struct {
	partData
	call func()
}

func (w *onWrite) WriteAt(b []byte, offset int64) (int, error) {
	w.call()
	return w.partData.WriteAt(b, offset)
}

func TestBusyPart(t *testing.T) {
	path := makeFile(t, "data", 10)
	dir := t.TempDir()
	p, err := openPart(t.Context(), Offer{Name: "data", Size: 10}, ReceiveOptions{Dir: dir, From: "sender"})
	if err != nil {
		t.Fatal(err)
	}
	o := unbroken(openSource(t, path), dir).run(t)
	var obstacle *ObstacleError
	if !errors.As(o.receiveErr, &obstacle) || !strings.Contains(obstacle.Problem, "right now") {
		t.Errorf("receive beside another: %v", o.receiveErr)
	}
	p.close()
	if o := unbroken(openSource(t, path), dir).run(t); o.receiveErr != nil {
		t.Errorf("receive after the other: %v", o.receiveErr)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, ".hidden", []byte("x"))
	for _, tt := range []struct {
		path, name, text string
	}{
		{filepath.Join(dir, "nothing"), "", "no such file"},
		{dir, "", "a directory"},
		{filepath.Join(dir, ".hidden"), "", "hidden"},
		{filepath.Join(dir, ".hidden"), "shown", ""},
		{filepath.Join(dir, ".hidden"), "../shown", "separator"},
	} {
		src, err := Open(tt.path, tt.name)
		if err == nil {
			src.Close()
		}
		if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("Open(%q, %q) = %v, want %q", tt.path, tt.name, err, tt.text)
		}
	}
}
