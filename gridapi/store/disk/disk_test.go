package disk

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

func TestMain(m *testing.M) {
	if os.Getenv(putterVariable) != "" {
		putForEver()
	}
	goleak.VerifyTestMain(m)
}

// A fixture is a Disk whose clock the test sets.
type fixture struct {
	*Disk
	t   testing.TB
	cfg Config

	mu  sync.Mutex
	now time.Time
}

func open(t testing.TB, cfg Config) *fixture {
	t.Helper()
	x := &fixture{t: t, now: useEpoch.AddDate(1, 0, 0)}
	if cfg.Dir == "" && cfg.files == nil {
		cfg.Dir = t.TempDir()
	}
	cfg.now = x.clock
	x.cfg = cfg
	x.start()
	t.Cleanup(func() { x.Close() })
	return x
}

func (x *fixture) start() {
	x.t.Helper()
	var err error
	if x.Disk, err = Open(x.cfg); err != nil {
		x.t.Fatal(err)
	}
}

// abandon leaves the directory as a killed program does, except for what the
// kernel has not written: that stays.
func (x *fixture) abandon() {
	x.stop()
	x.done.Wait()
	for _, g := range x.segments {
		g.close()
	}
	x.Disk.mu.Lock()
	x.closed = true
	x.Disk.mu.Unlock()
}

func (x *fixture) restart() {
	x.t.Helper()
	if err := x.Close(); err != nil {
		x.t.Fatal(err)
	}
	x.start()
}

func (x *fixture) clock() time.Time { x.mu.Lock(); defer x.mu.Unlock(); return x.now }
func (x *fixture) pass(d time.Duration) {
	x.mu.Lock()
	x.now = x.now.Add(d)
	x.mu.Unlock()
}

// content returns the n'th chunk of a test, of size bytes.
func content(n, size int) (chunk.ID, []byte) {
	b := make([]byte, size)
	block, err := aes.NewCipher(binary.LittleEndian.AppendUint64(make([]byte, 8), uint64(n)))
	if err != nil {
		panic(err)
	}
	cipher.NewCTR(block, make([]byte, 16)).XORKeyStream(b, b)
	binary.LittleEndian.PutUint32(b, uint32(n))
	return chunk.Sum(b), b
}

func (x *fixture) put(n, size int) chunk.ID {
	x.t.Helper()
	id, b := content(n, size)
	if err := x.Put(id, b); err != nil {
		x.t.Fatalf("put %d: %v", n, err)
	}
	return id
}

func (x *fixture) want(n, size int) {
	x.t.Helper()
	id, b := content(n, size)
	if got, err := x.Get(id, nil); err != nil || !bytes.Equal(got, b) {
		x.t.Fatalf("get %d: %d bytes, %v", n, len(got), err)
	}
}

func TestPutGet(t *testing.T) {
	x := open(t, Config{})
	sizes := []int{4, 5, 4096, 100_001, chunk.MaxSize}
	for n, size := range sizes {
		x.put(n, size)
		x.put(n, size) // again: no error, no room
	}
	for round := range 3 {
		for n, size := range sizes {
			x.want(n, size)
		}
		if got := x.Status(); got.Chunks != len(sizes) {
			t.Errorf("round %d: %d chunks, want %d", round, got.Chunks, len(sizes))
		}
		if round == 1 { // without an index
			x.Close()
			os.Remove(filepath.Join(x.cfg.Dir, snapshotName))
			x.start()
		} else {
			x.restart()
		}
	}
	id, b := content(99, 10)
	if _, err := x.Get(id, nil); !errors.Is(err, chunk.ErrNotHeld) || x.Has(id) {
		t.Errorf("a chunk that was never put: %v", err)
	}
	if err := x.Put(id, b[1:]); !errors.Is(err, chunk.ErrMismatch) {
		t.Errorf("put with a wrong ID: %v", err)
	}
	buf := make([]byte, 10, 4096)
	id, b = content(0, 4)
	if got, err := x.Get(id, buf); err != nil || !bytes.Equal(got, b) || &got[0] != &buf[0] {
		t.Errorf("get with a buffer does not use it: %x, %v", got, err)
	}
	x.Close()
	if _, err := x.Get(id, nil); err != ErrClosed {
		t.Errorf("get after Close: %v", err)
	}
	if err := x.Put(content(1000, 10)); err != ErrClosed {
		t.Errorf("put after Close: %v", err)
	}
}

// TestConcurrent has many goroutines put and get the same chunks.
func TestConcurrent(t *testing.T) {
	x := open(t, Config{})
	var running sync.WaitGroup
	const chunks = 200
	for g := range 8 {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for _, n := range r.Perm(chunks) {
				id, b := content(n, 100+n)
				if err := x.Put(id, b); err != nil {
					t.Error(err)
				}
				if got, err := x.Get(id, nil); err != nil || !bytes.Equal(got, b) {
					t.Errorf("get %d: %v", n, err)
				}
			}
		})
	}
	running.Wait()
	if got := x.Status().Chunks; got != chunks {
		t.Errorf("chunks = %d, want %d", got, chunks)
	}
}

// TestEviction fills a store twice over: it stays within its quota, keeps
// what is pinned and what was used lately, and forgets the rest.
func TestEviction(t *testing.T) {
	const size, quota = 200_000, 24 << 20
	x := open(t, Config{Quota: quota})
	for n := range 10 {
		x.Pin(x.put(n, size))
	}
	x.put(10, size)
	for n := 11; n < 2*quota/size; n++ {
		x.pass(time.Minute)
		x.put(n, size)
		x.want(10, size) // is used all the time
		if s := x.Status(); s.Disk > quota {
			t.Fatalf("after put %d: %d bytes on the disk, more than %d", n, s.Disk, quota)
		}
	}
	for n := range 11 {
		x.want(n, size)
	}
	x.want(2*quota/size-1, size)
	if id, _ := content(11, size); x.Has(id) {
		t.Error("the least recently used chunk is still there")
	}
	s := x.Status()
	if s.Evicted == 0 || s.Moved == 0 || s.Live < quota/2 {
		t.Errorf("status = %+v: want evictions, compactions and a well-filled store", s)
	}
	x.restart()
	for n := range 11 {
		x.want(n, size)
	}
}

// TestPinnedQuota: what is pinned is not given up, so that the next put fails,
// with an error that says so; then the store is as usable as before.
func TestPinnedQuota(t *testing.T) {
	const size = 500_000
	x := open(t, Config{Quota: minQuota})
	var full *FullError
	n := 0
	for ; ; n++ {
		id, b := content(n, size)
		err := x.Put(id, b)
		if errors.As(err, &full) {
			break
		}
		if err != nil || !x.Pin(id) {
			t.Fatal(err)
		}
		if n > 100 {
			t.Fatal("it is never full")
		}
	}
	if full.Quota != minQuota || full.Err != nil || x.Status().Full != 1 {
		t.Errorf("error = %+v, full = %d", full, x.Status().Full)
	}
	for i := range n {
		x.want(i, size)
	}
	id, _ := content(0, size)
	x.Unpin(id)
	x.put(n, size)
	if x.Has(id) {
		t.Error("the only unpinned chunk is still there")
	}
}

func TestDelete(t *testing.T) {
	x := open(t, Config{})
	a, b := x.put(1, 100), x.put(2, 100)
	x.Delete(a)
	if x.Has(a) || !x.Has(b) {
		t.Errorf("after Delete: %v, %v", x.Has(a), x.Has(b))
	}
	x.restart()
	if x.Has(a) || !x.Has(b) {
		t.Errorf("after a restart: %v, %v", x.Has(a), x.Has(b))
	}
}

// TestDamage flips bits all over a record, one at a time.
func TestDamage(t *testing.T) {
	x := open(t, Config{})
	x.put(0, 64)
	id := x.put(1, 64)
	x.put(2, 64)
	l := x.Disk.segments[0].end.Load() - 2*recordSize(64)
	f := x.Disk.segments[0].file
	for bit := 0; bit < 8*int(recordSize(64)); bit += 5 {
		at := l + int64(bit/8)
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << (bit % 8)
		f.WriteAt(b[:], at)
		_, err := x.Get(id, nil)
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !errors.Is(err, chunk.ErrNotHeld) || damaged.ID != id {
			t.Fatalf("bit %d: %v", bit, err)
		}
		if _, err := x.Get(id, nil); err != chunk.ErrNotHeld || x.Has(id) {
			t.Fatalf("bit %d: it is still there: %v", bit, err)
		}
		x.put(1, 64)
		x.want(1, 64)
		l = x.Disk.segments[0].end.Load() - recordSize(64)
	}
	x.want(0, 64)
	x.want(2, 64)
	x.abandon()
	os.Remove(filepath.Join(x.cfg.Dir, snapshotName))
	x.start()
	for n := range 3 {
		x.want(n, 64)
	}
}

// TestTornTail cuts the last segment within its last record.
func TestTornTail(t *testing.T) {
	for _, snapshot := range []bool{true, false} {
		x := open(t, Config{})
		x.put(0, 100)
		x.restart() // writes the snapshot
		x.put(1, 100)
		last := x.put(2, 100)
		name := filepath.Join(x.cfg.Dir, segmentName(0))
		x.abandon()
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !snapshot {
			os.Remove(filepath.Join(x.cfg.Dir, snapshotName))
		}
		for n := len(whole) - int(recordSize(100)); n < len(whole)-4; n += 7 { // the last 4 are padding
			os.WriteFile(name, whole[:n], 0o600)
			x.start()
			x.want(0, 100)
			x.want(1, 100)
			if x.Has(last) {
				t.Fatalf("%d of %d bytes: the torn chunk is taken for whole", n, len(whole))
			}
			x.put(2, 100)
			x.want(2, 100)
			x.abandon()
		}
		x.start()
	}
}

// TestFileSystemFull fails writes in the middle of puts.
func TestFileSystemFull(t *testing.T) {
	fs := newFaultyFiles()
	x := open(t, Config{files: fs})
	x.put(0, 1000)
	fs.fail = func(op, _ string, _ int) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	var full *FullError
	if err := x.Put(content(1, 1000)); !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("put on a full file system: %v", err)
	}
	x.want(0, 1000)
	fs.fail = nil
	x.put(2, 900)
	x.want(2, 900)
	id, _ := content(1, 1000)
	if x.Has(id) {
		t.Error("the chunk that was not put is there")
	}
	x.restart()
	x.want(0, 1000)
	x.want(2, 900)
}

// TestReadError: a disk that fails to read is not one that has lost.
func TestReadError(t *testing.T) {
	fs := newFaultyFiles()
	x := open(t, Config{files: fs})
	id := x.put(0, 1000)
	fs.fail = func(op, _ string, _ int) error {
		if op == "read" {
			return syscall.EIO
		}
		return nil
	}
	if _, err := x.Get(id, nil); !errors.Is(err, syscall.EIO) || errors.Is(err, chunk.ErrNotHeld) {
		t.Errorf("get: %v", err)
	}
	fs.fail = nil
	x.want(0, 1000)
}

// TestSyncFails: what an fsync failed to keep is not acknowledged, not later
// either, and the next put goes to another file.
func TestSyncFails(t *testing.T) {
	fs := newFaultyFiles()
	x := open(t, Config{files: fs})
	x.put(0, 1000)
	fail := true
	fs.fail = func(op, _ string, _ int) error {
		if op == "sync" && fail {
			fail = false // the second one succeeds, and has nothing to write
			return syscall.EIO
		}
		return nil
	}
	id, b := content(1, 1000)
	if err := x.Put(id, b); !errors.Is(err, syscall.EIO) {
		t.Fatalf("put: %v", err)
	}
	if x.Has(id) {
		t.Error("the chunk is there, though no disk has it")
	}
	x.put(1, 1000)
	x.put(2, 1000)
	if s := x.Status(); s.SyncFailures != 1 || s.Segments != 2 {
		t.Errorf("status = %+v", s)
	}
	after := fs.powerCut(rand.New(rand.NewPCG(1, 1)))
	x.abandon()
	x.cfg.files = after
	x.start()
	for n := range 3 {
		x.want(n, 1000)
	}
}

// TestPowerCut cuts the power at random moments, with failing writes and fsyncs
// before. What was acknowledged is there, and nothing is wrong.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	injections := 0
	for range 20 {
		fs := newFaultyFiles()
		x := open(t, Config{files: fs, Quota: 64 << 20, SegmentSize: minSegment})
		acknowledged := map[int]bool{}
		sizes := map[int]int{}
		next := 0
		for range 4 {
			fs := x.cfg.files.(*faultyFiles)
			fs.fail = func(op, _ string, _ int) error {
				if op != "read" && r.IntN(20) == 0 {
					injections++
					return []error{syscall.ENOSPC, syscall.EIO}[r.IntN(2)]
				}
				return nil
			}
			for range 30 {
				next++
				id, b := content(next, 8+r.IntN(2000))
				switch r.IntN(4) {
				case 0:
					if x.Stage(id, b) == nil && x.Sync() == nil && x.Has(id) {
						acknowledged[next] = true
					}
				case 1:
					x.Stage(id, b)
				case 2:
					x.saveSnapshot()
				default:
					if x.Put(id, b) == nil {
						acknowledged[next] = true
					}
				}
				if acknowledged[next] {
					sizes[next] = len(b)
				}
			}
			injections++
			fs.mu.Lock()
			fs.fail = nil
			fs.mu.Unlock()
			x.cfg.files = fs.powerCut(r)
			x.abandon()
			x.start()
			for n := range acknowledged {
				x.want(n, sizes[n])
			}
		}
	}
	t.Logf("%d injections", injections)
}
