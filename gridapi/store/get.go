package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// GetOptions say how an object is got.
type GetOptions struct {
	// Progress is called after each chunk, from one goroutine at a time. Nil:
	// nobody is told.
	Progress func(Progress)
}

// Stat returns what is known of an object once its root is here.
func (s *Store) Stat(ctx context.Context, id chunk.ID) (Object, error) {
	top, err := s.root(ctx, id)
	return Object{id, top.size}, err
}

// Get writes an object to w, and fetches what is missing. All that it writes is
// verified, and in order. Memory does not grow with the object.
//
// It returns a [NotFoundError] or a [ContentError]; the error of w as it is.
func (s *Store) Get(ctx context.Context, id chunk.ID, w io.Writer, o GetOptions) (Object, error) {
	top, err := s.root(ctx, id)
	if err != nil {
		return Object{}, err
	}
	return Object{id, top.size}, s.write(ctx, id, top, 0, w, o)
}

// An opening is a leaf that is being fetched and opened.
type opening struct {
	leaf  ref
	ready chan struct{} // closed when it is here; nil: it was
	done  chan struct{} // closed when what follows is set
	plain *[]byte
}

// write writes the object from offset on, which is where a leaf begins.
func (s *Store) write(ctx context.Context, id chunk.ID, top root, offset int64, w io.Writer, o GetOptions) error {
	done := offset
	wrote := func(b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		if done += int64(len(b)); o.Progress != nil {
			o.Progress(Progress{done, top.size})
		}
		return nil
	}
	if top.depth == 0 {
		return wrote(top.inline[offset:])
	}
	windows := make(chan *window, 1)
	jobs := make(chan *opening, s.cfg.Workers)
	inOrder := make(chan *opening, 2*s.cfg.Workers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.fetchWindows(ctx, id, top, offset, windows) })
	g.Go(func() error {
		defer close(jobs)
		defer close(inOrder)
		for win := range windows {
			for _, j := range win.leaves {
				for _, to := range []chan *opening{inOrder, jobs} {
					select {
					case to <- j:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
		}
		return nil
	})
	for range s.cfg.Workers {
		g.Go(func() error {
			for j := range jobs {
				if j.ready != nil {
					select {
					case <-j.ready:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				j.plain = s.buffer()
				var err error
				if *j.plain, err = s.leaf(ctx, id, j.leaf, *j.plain); err != nil {
					return err
				}
				close(j.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range inOrder {
			select {
			case <-j.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := wrote(*j.plain); err != nil {
				return err
			}
			s.release(j.plain)
		}
		return nil
	})
	return g.Wait()
}

// fetchWindows sends the leaves from offset on, in windows, and fetches each
// window after it is sent, so that what arrives first is read first.
func (s *Store) fetchWindows(ctx context.Context, id chunk.ID, top root, offset int64, windows chan<- *window) error {
	defer close(windows)
	win := new(window)
	quota := s.disk.Status().Quota
	flush := func() error {
		if len(win.leaves) == 0 {
			return nil
		}
		select {
		case windows <- win:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := win.fetch(ctx, s, id)
		win = new(window)
		return err
	}
	err := s.walk(ctx, id, top, offset, visitor{leaf: func(_ int64, r ref) error {
		j := &opening{leaf: r, done: make(chan struct{})}
		if !s.disk.Has(r.id) {
			j.ready = make(chan struct{})
		}
		win.leaves = append(win.leaves, j)
		win.bytes += r.size
		if win.full(quota) {
			return flush()
		}
		return nil
	}})
	if err != nil {
		return err
	}
	return flush()
}

// GetBytes returns an object of at most limit bytes.
func (s *Store) GetBytes(ctx context.Context, id chunk.ID, limit int64) ([]byte, error) {
	top, err := s.root(ctx, id)
	if err != nil {
		return nil, err
	}
	if top.size > limit {
		return nil, fmt.Errorf("store: object %s has %d bytes, more than %d", id, top.size, limit)
	}
	var b bytes.Buffer
	err = s.write(ctx, id, top, 0, &b, GetOptions{})
	return b.Bytes(), err
}

// partSuffix names what a get has not ended of a file.
const partSuffix = ".part"

// GetFile writes an object to a file, which appears once it is whole, and
// replaces what was there. Until then it is PATH.part; a GetFile that did not
// end is continued by the next one, which verifies what is there.
func (s *Store) GetFile(ctx context.Context, id chunk.ID, path string, o GetOptions) (Object, error) {
	top, err := s.root(ctx, id)
	if err != nil {
		return Object{}, err
	}
	x := Object{id, top.size}
	f, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return Object{}, err
	}
	err = s.fill(ctx, f, id, top, o)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+partSuffix, path)
	}
	return x, err
}

// fill makes f the object.
func (s *Store) fill(ctx context.Context, f *os.File, id chunk.ID, top root, o GetOptions) error {
	begun, err := s.begun(ctx, f, id, top)
	if err != nil {
		return err
	}
	if err := f.Truncate(begun); err != nil {
		return err
	}
	if _, err := f.Seek(begun, io.SeekStart); err != nil {
		return err
	}
	if o.Progress != nil && begun > 0 {
		o.Progress(Progress{begun, top.size})
	}
	return s.write(ctx, id, top, begun, f, o)
}

// errStop ends a walk early.
var errStop = errors.New("store: far enough")

// begun returns how much of the object f holds already, up to the end of a leaf.
// The key of a leaf follows from its content, so what gives that key is it.
func (s *Store) begun(ctx context.Context, f *os.File, id chunk.ID, top root) (offset int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 || top.depth == 0 {
		return 0, nil
	}
	buf := s.buffer()
	defer s.release(buf)
	err = s.walk(ctx, id, top, 0, visitor{leaf: func(at int64, r ref) error {
		if at+r.size > info.Size() {
			return errStop
		}
		b := (*buf)[:r.size]
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		if s.sealer.key(leafKind, b) != r.key {
			return errStop
		}
		offset = at + r.size
		return nil
	}})
	if err == errStop {
		err = nil
	}
	return offset, err
}

// Chunks returns the chunks of an object, its root first, and fetches those that
// are missing. They stay until room is needed, unless they are pinned.
func (s *Store) Chunks(ctx context.Context, id chunk.ID) ([]chunk.ID, error) {
	top, err := s.root(ctx, id)
	if err != nil {
		return nil, err
	}
	ids := []chunk.ID{id}
	var missing []chunk.ID
	flush := func() error {
		if len(missing) == 0 {
			return nil
		}
		err := s.fetch(ctx, id, missing, nil)
		missing = missing[:0]
		return err
	}
	seen := map[chunk.ID]bool{id: true}
	add := func(c chunk.ID) bool {
		if seen[c] {
			return false
		}
		seen[c] = true
		ids = append(ids, c)
		return true
	}
	err = s.walk(ctx, id, top, 0, visitor{
		node: func(r ref) error { add(r.id); return nil },
		leaf: func(_ int64, r ref) error {
			if add(r.id) && !s.disk.Has(r.id) {
				missing = append(missing, r.id)
			}
			if len(missing) >= windowLeaves {
				return flush()
			}
			return nil
		},
	})
	if err == nil {
		err = flush()
	}
	return ids, err
}

// Pin fetches what is missing of an object, keeps it until it is unpinned or
// removed, and puts it on the list.
func (s *Store) Pin(ctx context.Context, id chunk.ID, label string) (Object, error) {
	top, err := s.root(ctx, id)
	if err != nil {
		return Object{}, err
	}
	x := Object{id, top.size}
	p := &putting{s: s, losses: s.disk.Losses()}
	keep := false
	defer func() {
		if !keep {
			p.unpin()
		}
	}()
	if err := p.pin(ctx, id, id); err != nil {
		return x, err
	}
	var batch []chunk.ID
	flush := func() error {
		var missing []chunk.ID
		for _, id := range batch {
			if !s.disk.Has(id) {
				missing = append(missing, id)
			}
		}
		if len(missing) > 0 {
			if err := s.fetch(ctx, id, missing, nil); err != nil {
				return err
			}
		}
		for _, c := range batch {
			if err := p.pin(ctx, id, c); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	err = s.walk(ctx, id, top, 0, visitor{
		node: func(r ref) error { return p.pin(ctx, id, r.id) },
		leaf: func(_ int64, r ref) error {
			batch = append(batch, r.id)
			if len(batch) >= windowLeaves {
				return flush()
			}
			return nil
		},
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = p.settle()
	}
	if err != nil {
		return x, err
	}
	keep, err = s.enter(x, p.chunks, PutOptions{Pin: true, Label: label})
	return x, storeError(err)
}

// pin pins a chunk of object, which is fetched if it has gone meanwhile.
func (p *putting) pin(ctx context.Context, object, id chunk.ID) error {
	for range 3 {
		if p.s.disk.Pin(id) {
			p.chunks = append(p.chunks, id)
			return nil
		}
		if err := p.s.fetch(ctx, object, []chunk.ID{id}, nil); err != nil {
			return err
		}
	}
	return &NotFoundError{What: "object " + object.String(), Chunk: id, Err: errors.New("it is evicted before it can be pinned; raise the quota")}
}
