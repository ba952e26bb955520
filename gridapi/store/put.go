package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// PutOptions say what becomes of an object. The zero value keeps it until room
// is needed, and lists it nowhere: whoever has its ID gets it.
type PutOptions struct {
	// Name is set to the object. Empty: none.
	Name string
	// Pin keeps it until it is unpinned or removed.
	Pin bool
	// Label is what List shows of it. Empty with List false: the object is not
	// listed, unless it is named or pinned.
	Label string
	List  bool

	// Progress is called after each chunk, from one goroutine at a time. Nil:
	// nobody is told.
	Progress func(Progress)
	// Size is how many bytes come, for Progress only. Zero: unknown.
	Size int64
}

// A Progress says how far a Put or Get is, in bytes of content.
type Progress struct {
	Done  int64
	Total int64 // zero: unknown
}

// A PutResult says what has been put.
type PutResult struct {
	Object
	Chunks int     `json:"chunks"`
	Fresh  int     `json:"fresh_chunks"` // those that were not there before
	Stored int64   `json:"stored_bytes"` // in them, compressed and sealed
	Name   *Record `json:"name,omitempty"`
}

// A putting is a Put that goes on. Its chunks are pinned while it does.
type putting struct {
	s      *Store
	losses uint64 // of the disk, before

	mu     sync.Mutex // guards what follows
	chunks []chunk.ID
	result PutResult
}

// keep keeps a sealed chunk, and pins it.
func (p *putting) keep(sealed []byte) (chunk.ID, error) {
	for range 3 {
		id, fresh, err := p.s.disk.Add(sealed)
		if err != nil {
			return id, storeError(err)
		}
		if !p.s.disk.Pin(id) {
			continue // evicted at once, by a store that is nearly full
		}
		p.mu.Lock()
		p.chunks = append(p.chunks, id)
		if p.result.Chunks++; fresh {
			p.result.Fresh++
			p.result.Stored += int64(len(sealed))
		}
		p.mu.Unlock()
		return id, nil
	}
	return chunk.ID{}, errors.New("store: chunks are evicted faster than they are put")
}

// settle returns once all that was kept survives a crash.
func (p *putting) settle() error {
	if err := p.s.disk.Sync(); err != nil {
		return storeError(err)
	}
	if p.s.disk.Losses() == p.losses {
		return nil
	}
	for _, id := range p.chunks {
		if !p.s.disk.Has(id) {
			return errors.New("store: the disk has failed to keep chunks of it; put it again")
		}
	}
	return nil
}

// unpin lets go of what keep has pinned.
func (p *putting) unpin() {
	for _, id := range p.chunks {
		p.s.disk.Unpin(id)
	}
}

// keepLeaf seals and keeps a leaf.
func (p *putting) keepLeaf(plain []byte) (ref, error) {
	return p.keepSealed(leafKind, plain, int64(len(plain)))
}

func (p *putting) keepSealed(k kind, plain []byte, size int64) (ref, error) {
	buf := p.s.buffer()
	defer p.s.release(buf)
	sealed, key := p.s.sealer.seal(*buf, k, plain)
	id, err := p.keep(sealed)
	return ref{id, key, size}, err
}

// keepNode seals and keeps a node.
func (p *putting) keepNode(depth uint8, refs []ref) (ref, error) {
	var size int64
	for _, r := range refs {
		size += r.size
	}
	buf := p.s.buffer()
	defer p.s.release(buf)
	return p.keepSealed(nodeKind, appendNode(*buf, depth, refs), size)
}

// Put puts what it reads from r, to the end, and returns once that survives a
// crash. Memory does not grow with the object. When ctx ends, Put does once the
// Read that is under way has. What was put of an object that did not end stays
// for a while, so that putting it again stores only the rest.
//
// It returns a disk.FullError where there is no room, and the error of r as it
// is.
func (s *Store) Put(ctx context.Context, r io.Reader, o PutOptions) (PutResult, error) {
	if o.Name != "" {
		if err := CheckName(o.Name); err != nil {
			return PutResult{}, err
		}
	}
	p := &putting{s: s, losses: s.disk.Losses()}
	pinned := false
	defer func() {
		if !pinned {
			p.unpin()
		}
	}()
	top, err := p.read(ctx, r, o)
	if err != nil {
		return PutResult{}, err
	}
	buf, sealed := s.buffer(), s.buffer()
	defer s.release(buf)
	defer s.release(sealed)
	id, err := p.keep(s.sealer.sealRoot(*sealed, appendRoot(*buf, top)))
	if err != nil {
		return PutResult{}, err
	}
	if err := p.settle(); err != nil {
		return PutResult{}, err
	}
	p.result.Object = Object{id, top.size}
	if o.Pin || o.List || o.Label != "" || o.Name != "" {
		if pinned, err = s.enter(p.result.Object, p.chunks, o); err != nil {
			return PutResult{}, storeError(err)
		}
	}
	if o.Name != "" {
		if p.result.Name, err = s.SetName(ctx, o.Name, p.result.Object); err != nil {
			return PutResult{}, err
		}
	}
	return p.result, nil
}

// enter puts an object on the list. It reports whether the pins of chunks, which
// the caller has set, are the object's from now on.
func (s *Store) enter(x Object, chunks []chunk.ID, o PutOptions) (keepPins bool, err error) {
	before, err := s.catalog.record(x.ID, catalogEntry{Size: x.Size, Label: o.Label, Added: time.Now().UTC(), Pinned: o.Pin}, chunks)
	return o.Pin && !before && err == nil, err
}

// read puts the content, and returns the root, which is not kept yet.
func (p *putting) read(ctx context.Context, r io.Reader, o PutOptions) (root, error) {
	c := newCutter(&p.s.sealer.gear, r)
	first, err := c.next()
	if err != nil && err != io.EOF {
		return root{}, err
	}
	if first = bytes.Clone(first); len(first) <= maxInline {
		second, err := c.next()
		if err == io.EOF {
			if o.Progress != nil {
				o.Progress(Progress{int64(len(first)), o.Size})
			}
			return root{size: int64(len(first)), inline: first}, ctx.Err()
		}
		if err != nil {
			return root{}, err
		}
		return p.plant(ctx, [][]byte{first, bytes.Clone(second)}, c, o)
	}
	return p.plant(ctx, [][]byte{first}, c, o)
}

// A sealing is a leaf that is being sealed and kept.
type sealing struct {
	plain *[]byte
	done  chan struct{} // closed when what follows is set
	leaf  ref
}

// plant keeps the leaves, several at a time, and grows the tree. What was cut
// before comes first.
func (p *putting) plant(ctx context.Context, before [][]byte, c *cutter, o PutOptions) (root, error) {
	workers := p.s.cfg.Workers
	jobs := make(chan *sealing, workers)
	inOrder := make(chan *sealing, 2*workers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(jobs)
		defer close(inOrder)
		for {
			var piece []byte
			var err error
			if len(before) > 0 {
				piece, before = before[0], before[1:]
			} else if piece, err = c.next(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			plain := p.s.buffer()
			*plain = append(*plain, piece...)
			j := &sealing{plain: plain, done: make(chan struct{})}
			for _, to := range []chan *sealing{inOrder, jobs} {
				select {
				case to <- j:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
	})
	for range workers {
		g.Go(func() error {
			for j := range jobs {
				var err error
				if j.leaf, err = p.keepLeaf(*j.plain); err != nil {
					return err
				}
				p.s.release(j.plain)
				close(j.done)
			}
			return nil
		})
	}
	tree := planter{keep: p.keepNode}
	g.Go(func() error {
		for j := range inOrder {
			select {
			case <-j.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := tree.add(j.leaf); err != nil {
				return err
			}
			if o.Progress != nil {
				o.Progress(Progress{tree.size, o.Size})
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return root{}, err
	}
	return tree.root()
}

// PutBytes puts b.
func (s *Store) PutBytes(ctx context.Context, b []byte, o PutOptions) (PutResult, error) {
	o.Size = int64(len(b))
	return s.Put(ctx, bytes.NewReader(b), o)
}

// PutFile puts the content of a file. Its name is the label unless there is one.
func (s *Store) PutFile(ctx context.Context, path string, o PutOptions) (PutResult, error) {
	f, err := os.Open(path)
	if err != nil {
		return PutResult{}, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		o.Size = info.Size()
	}
	if o.Label == "" {
		o.Label = filepath.Base(path)
	}
	return s.Put(ctx, f, o)
}
