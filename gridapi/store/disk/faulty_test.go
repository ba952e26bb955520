package disk

import (
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
)

// faultyFiles are files in memory that fail as they are told, and lose in a
// power cut what was not synced.
type faultyFiles struct {
	mu    sync.Mutex
	names map[string]*faultyFile
	kept  map[string]*faultyFile                       // names after a power cut
	fail  func(op string, name string, size int) error // nil: nothing fails
}

func newFaultyFiles() *faultyFiles {
	return &faultyFiles{names: map[string]*faultyFile{}, kept: map[string]*faultyFile{}}
}

type write struct {
	offset int64
	b      []byte
}

type faultyFile struct {
	of      *faultyFiles
	name    string
	b       []byte
	durable []byte
	pending []write // since the last Sync; a nil b is a truncation to offset
}

func (fs *faultyFiles) failure(op, name string, size int) error {
	if fs.fail == nil {
		return nil
	}
	return fs.fail(op, name, size)
}

func (x *faultyFiles) Create(name string) (file, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.names[name] != nil {
		return nil, fs.ErrExist
	}
	if err := x.failure("create", name, 0); err != nil {
		return nil, err
	}
	f := &faultyFile{of: x, name: name}
	x.names[name] = f
	return f, nil
}

func (x *faultyFiles) Open(name string) (file, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f := x.names[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (x *faultyFiles) Remove(name string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.names, name)
	return nil
}

func (x *faultyFiles) Rename(from, to string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.names[to] = x.names[from]
	delete(x.names, from)
	return nil
}

func (x *faultyFiles) List() (names []string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name := range x.names {
		names = append(names, name)
	}
	return names, nil
}

func (x *faultyFiles) Sync() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.kept)
	for name, f := range x.names {
		x.kept[name] = f
	}
	return nil
}

// powerCut returns what a disk may hold after one: what was synced, and any
// part of the rest.
func (x *faultyFiles) powerCut(r *rand.Rand) *faultyFiles {
	x.mu.Lock()
	defer x.mu.Unlock()
	after := newFaultyFiles()
	names := x.kept
	if r.IntN(2) == 0 {
		names = x.names
	}
	for name, f := range names {
		g := &faultyFile{of: after, name: name, b: append([]byte(nil), f.durable...)}
		for _, w := range f.pending {
			switch r.IntN(3) {
			case 0: // lost
			case 1: // a part is written
				if len(w.b) > 0 {
					g.apply(write{w.offset, w.b[:r.IntN(len(w.b))]})
				}
			default:
				g.apply(w)
			}
		}
		g.durable = append([]byte(nil), g.b...)
		after.names[name], after.kept[name] = g, g
	}
	return after
}

func (f *faultyFile) apply(w write) {
	if w.b == nil {
		if w.offset <= int64(len(f.b)) {
			f.b = f.b[:w.offset]
		}
		return
	}
	if n := w.offset + int64(len(w.b)); n > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, n-int64(len(f.b)))...)
	}
	copy(f.b[w.offset:], w.b)
}

func (f *faultyFile) ReadAt(b []byte, offset int64) (int, error) {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	if err := f.of.failure("read", f.name, len(b)); err != nil {
		return 0, err
	}
	if offset >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(b, f.b[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *faultyFile) WriteAt(b []byte, offset int64) (int, error) {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	n := len(b)
	err := f.of.failure("write", f.name, len(b))
	if err != nil {
		n = len(b) / 2 // a part is written all the same
	}
	w := write{offset, append([]byte{}, b[:n]...)}
	f.apply(w)
	f.pending = append(f.pending, w)
	return n, err
}

func (f *faultyFile) Sync() error {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	if err := f.of.failure("sync", f.name, 0); err != nil {
		f.pending = nil // the kernel takes the pages for clean (fsync's known trap)
		return err
	}
	f.durable, f.pending = append(f.durable[:0], f.b...), nil
	return nil
}

func (f *faultyFile) Truncate(size int64) error {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	w := write{offset: size}
	f.apply(w)
	f.pending = append(f.pending, w)
	return nil
}

func (f *faultyFile) Size() (int64, error) {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	return int64(len(f.b)), nil
}

func (f *faultyFile) Close() error { return nil }
