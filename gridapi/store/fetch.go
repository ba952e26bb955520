package store

import (
	"context"
	"errors"
	"sync"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
)

// fetch brings wanted chunks here. It returns a [NotFoundError] for object where
// that fails.
func (s *Store) fetch(ctx context.Context, object chunk.ID, want []chunk.ID, got func(chunk.ID)) error {
	f := s.network.Load().fetcher
	if f == nil {
		return &NotFoundError{What: "object " + object.String(), Chunk: want[0]}
	}
	err := f.Fetch(ctx, want, got)
	var full *disk.FullError
	switch {
	case err == nil, ctx.Err() != nil:
		return errors.Join(ctx.Err()) // nil, or what ended ctx
	case errors.As(err, &full):
		return err
	}
	missing := want[0]
	for _, id := range want {
		if !s.disk.Has(id) {
			missing = id
			break
		}
	}
	return &NotFoundError{What: "object " + object.String(), Chunk: missing, Err: err}
}

// chunk appends a chunk of object to buf[:0], from here or from elsewhere.
func (s *Store) chunk(ctx context.Context, object, id chunk.ID, buf []byte) ([]byte, error) {
	// A chunk may be evicted before it is read, and one that is damaged here is
	// fetched from somebody who has it whole.
	for range 3 {
		b, err := s.disk.Get(id, buf)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, chunk.ErrNotHeld) {
			return nil, storeError(err)
		}
		var damaged *disk.DamagedError
		if errors.As(err, &damaged) {
			s.counters.damaged.Add(1)
		}
		if err := s.fetch(ctx, object, []chunk.ID{id}, nil); err != nil {
			return nil, err
		}
	}
	return nil, &NotFoundError{What: "object " + object.String(), Chunk: id, Err: errors.New("it is evicted before it can be read; raise the quota")}
}

// root returns the root of an object.
func (s *Store) root(ctx context.Context, id chunk.ID) (root, error) {
	buf := s.buffer()
	defer s.release(buf)
	sealed, err := s.chunk(ctx, id, id, *buf)
	if err != nil {
		return root{}, err
	}
	plain, err := s.sealer.openRoot(nil, sealed)
	if err != nil {
		return root{}, &ContentError{ID: id, Chunk: id, Err: err}
	}
	r, err := parseRoot(plain)
	if err != nil {
		return root{}, &ContentError{ID: id, Chunk: id, Err: err}
	}
	return r, nil
}

// node returns the refs of a node.
func (s *Store) node(ctx context.Context, object chunk.ID, r ref, depth uint8) ([]ref, error) {
	buf, plain := s.buffer(), s.buffer()
	defer s.release(buf)
	defer s.release(plain)
	sealed, err := s.chunk(ctx, object, r.id, *buf)
	if err != nil {
		return nil, err
	}
	b, err := s.sealer.open(*plain, nodeKind, r.key, sealed)
	var refs []ref
	if err == nil {
		refs, err = parseNode(b, depth, r.size)
	}
	if err != nil {
		return nil, &ContentError{ID: object, Chunk: r.id, Err: err}
	}
	return refs, nil
}

// leaf appends the content of a leaf to dst.
func (s *Store) leaf(ctx context.Context, object chunk.ID, r ref, dst []byte) ([]byte, error) {
	buf := s.buffer()
	defer s.release(buf)
	sealed, err := s.chunk(ctx, object, r.id, *buf)
	if err != nil {
		return nil, err
	}
	plain, err := s.sealer.open(dst, leafKind, r.key, sealed)
	if err == nil && int64(len(plain)-len(dst)) != r.size {
		err = errManifest
	}
	if err != nil {
		return nil, &ContentError{ID: object, Chunk: r.id, Err: err}
	}
	return plain, nil
}

// A visitor is told of the refs of a tree, those of nodes before what is under
// them.
type visitor struct {
	node func(ref) error // may be nil
	leaf func(offset int64, r ref) error
}

// walk visits the tree of an object in the order of its content, save what ends
// at or before from.
func (s *Store) walk(ctx context.Context, object chunk.ID, top root, from int64, v visitor) error {
	return s.walkRefs(ctx, object, top.refs, top.depth, 0, from, v)
}

func (s *Store) walkRefs(ctx context.Context, object chunk.ID, refs []ref, depth uint8, offset, from int64, v visitor) error {
	if depth > 1 {
		var missing []chunk.ID
		at := offset
		for _, r := range refs {
			if at += r.size; at > from && !s.disk.Has(r.id) {
				missing = append(missing, r.id)
			}
		}
		if len(missing) > 0 {
			if err := s.fetch(ctx, object, missing, nil); err != nil {
				return err
			}
		}
	}
	for _, r := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := offset + r.size
		if end <= from {
			offset = end
			continue
		}
		var err error
		if depth == 1 {
			err = v.leaf(offset, r)
		} else {
			if v.node != nil {
				err = v.node(r)
			}
			var below []ref
			if err == nil {
				below, err = s.node(ctx, object, r, depth-1)
			}
			if err == nil {
				err = s.walkRefs(ctx, object, below, depth-1, offset, from, v)
			}
		}
		if err != nil {
			return err
		}
		offset = end
	}
	return nil
}

// A window is a run of leaves that are fetched together.
type window struct {
	leaves []*opening
	bytes  int64
}

// windowLeaves is how many leaves are fetched together at most. A fetcher that
// begins with what is rarest wants many; memory and quota want few. It is a
// guess: about 256 MiB.
const windowLeaves = 1024

// full reports whether no more leaves should join.
func (w *window) full(quota int64) bool {
	return len(w.leaves) >= windowLeaves || w.bytes >= quota/8
}

// fetch brings the missing leaves, and tells each one when it is there.
func (w *window) fetch(ctx context.Context, s *Store, object chunk.ID) error {
	var mu sync.Mutex // guards waiting
	waiting := make(map[chunk.ID][]*opening)
	var want []chunk.ID
	for _, o := range w.leaves {
		if o.ready == nil {
			continue
		}
		if waiting[o.leaf.id] == nil {
			want = append(want, o.leaf.id)
		}
		waiting[o.leaf.id] = append(waiting[o.leaf.id], o)
	}
	if len(want) == 0 {
		return nil
	}
	tell := func(id chunk.ID) {
		mu.Lock()
		list := waiting[id]
		delete(waiting, id)
		mu.Unlock()
		for _, o := range list {
			close(o.ready)
		}
	}
	err := s.fetch(ctx, object, want, tell)
	if err == nil {
		for _, id := range want {
			tell(id)
		}
	}
	return err
}
