package sweep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
)

// The file: the title, 32 bytes that say which sweep it is of, and records of
// length (4), CRC-32C (4), task (8) and result. Length and sum are of what
// follows them. A record that is not whole, which a crash has left, ends the
// file.
const (
	journalTitle = "instantgrid sweep 1\n"
	keyLen       = 32
	recordHeader = 8
	taskLen      = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrTaken reports that another process writes to the journal.
var ErrTaken = filelock.ErrTaken

// ErrOther reports a file that is no journal, or one of another sweep.
var ErrOther = errors.New("sweep: the file is not the journal of this sweep")

// A Journal keeps the results of a sweep on disk. Its methods may be called
// from several goroutines.
type Journal struct {
	file *os.File

	writing sync.Mutex // held by the one that writes a batch

	mu   sync.Mutex // guards what follows
	at   map[int]extent
	end  int64
	next *batch
	err  error // of a write; stays
}

// An extent is where a result lies in the file.
type extent struct {
	offset int64
	length int
}

// A batch is records that reach the disk together.
type batch struct {
	b    []byte
	at   map[int]extent // offsets within b
	done bool
	err  error
}

// Open opens the journal at path, or makes it, for the sweep that key stands
// for. What is in it is kept. The error wraps [ErrTaken] or [ErrOther] where
// somebody else has the file.
func Open(path string, key [32]byte) (*Journal, error) {
	f, err := filelock.Open(path)
	if err != nil {
		return nil, err
	}
	j := &Journal{file: f, at: make(map[int]extent), next: newBatch()}
	if err := j.read(key); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func newBatch() *batch { return &batch{at: make(map[int]extent)} }

// read takes in what is there, and cuts off what a crash has left.
func (j *Journal) read(key [32]byte) error {
	head := append([]byte(journalTitle), key[:]...)
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	have := make([]byte, len(head))
	n, err := j.file.ReadAt(have, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if string(have[:n]) != string(head[:n]) {
		return fmt.Errorf("%w: %s", ErrOther, j.file.Name())
	}
	if n < len(head) { // new, or killed at its beginning
		if _, err := j.file.WriteAt(head, 0); err != nil {
			return err
		}
		if err := j.file.Sync(); err != nil {
			return err
		}
		j.end = int64(len(head))
		return syncDir(filepath.Dir(j.file.Name()))
	}
	j.end = int64(len(head))
	r := io.NewSectionReader(j.file, j.end, size-j.end)
	for {
		task, length, ok := readRecord(r, size-j.end)
		if !ok {
			break
		}
		j.at[task] = extent{j.end + recordHeader + taskLen, length}
		j.end += recordHeader + taskLen + int64(length)
	}
	if j.end == size {
		return nil
	}
	if err := j.file.Truncate(j.end); err != nil {
		return err
	}
	return j.file.Sync()
}

// readRecord reads one of at most room bytes and checks its sum.
func readRecord(r io.Reader, room int64) (task, length int, ok bool) {
	var head [recordHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, false
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n < taskLen || n > room-recordHeader {
		return 0, 0, false
	}
	sum := crc32.New(castagnoli)
	var number [taskLen]byte
	body := io.TeeReader(r, sum)
	if _, err := io.ReadFull(body, number[:]); err != nil {
		return 0, 0, false
	}
	if _, err := io.CopyN(io.Discard, body, n-taskLen); err != nil {
		return 0, 0, false
	}
	if sum.Sum32() != binary.BigEndian.Uint32(head[4:]) {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint64(number[:])), int(n - taskLen), true
}

// syncDir has the entry of a new file survive a crash, where the system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.Sync() // not every system has it
	return nil
}

// Done returns how many tasks have their result.
func (j *Journal) Done() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.at)
}

// Has reports whether a task has its result.
func (j *Journal) Has(task int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, ok := j.at[task]
	return ok
}

// Result returns the result of a task that has one.
func (j *Journal) Result(task int) ([]byte, error) {
	j.mu.Lock()
	x, ok := j.at[task]
	j.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("sweep: task %d has no result", task)
	}
	b := make([]byte, x.length)
	_, err := j.file.ReadAt(b, x.offset)
	return b, err
}

// Append keeps the result of a task, and returns when it is on disk. Results
// that come at the same time share a write. A failed write leaves the journal
// without further results; what was kept before stays.
func (j *Journal) Append(task int, result []byte) error {
	if len(result) > 1<<32-1-taskLen {
		return fmt.Errorf("sweep: a result of %d bytes is too large for a journal", len(result))
	}
	j.mu.Lock()
	mine := j.next
	mine.add(task, result)
	j.mu.Unlock()

	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if mine.done {
		return mine.err
	}
	j.next = newBatch()
	if mine.err = j.err; mine.err == nil {
		j.mu.Unlock()
		_, err := j.file.WriteAt(mine.b, j.end)
		if err == nil {
			err = j.file.Sync()
		}
		j.mu.Lock()
		j.err, mine.err = err, err
	}
	mine.done = true
	if mine.err != nil {
		return mine.err
	}
	for task, x := range mine.at {
		j.at[task] = extent{j.end + x.offset, x.length}
	}
	j.end += int64(len(mine.b))
	return nil
}

func (b *batch) add(task int, result []byte) {
	at := len(b.b)
	b.b = binary.BigEndian.AppendUint32(b.b, uint32(taskLen+len(result)))
	b.b = append(b.b, 0, 0, 0, 0)
	b.b = binary.BigEndian.AppendUint64(b.b, uint64(task))
	b.at[task] = extent{int64(len(b.b)), len(result)}
	b.b = append(b.b, result...)
	binary.BigEndian.PutUint32(b.b[at+4:], crc32.Checksum(b.b[at+recordHeader:], castagnoli))
}

// Close lets go of the file.
func (j *Journal) Close() error { return j.file.Close() }

// Remove closes the journal and removes its file.
func (j *Journal) Remove() error {
	err := os.Remove(j.file.Name())
	return errors.Join(err, j.file.Close())
}
