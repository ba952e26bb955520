package ri2n

import (
	"sync"
	"sync/atomic"
)

// The two sizes of slabs, in bytes. A stream that carries little must not hold
// the memory of one that carries much.
const (
	smallSlab = 4 << 10
	largeSlab = 64 << 10
)

// A slab is a block of stream bytes from a pool. It goes back to the pool when
// its last reference is dropped. Only the reference count may be used by
// several goroutines at once.
type slab struct {
	buf  []byte // length smallSlab or largeSlab; contents undefined at first
	refs atomic.Int32
}

// These caches are shared by all endpoints; they hold no state.
var (
	smallSlabs = sync.Pool{New: func() any { return &slab{buf: make([]byte, smallSlab)} }}
	largeSlabs = sync.Pool{New: func() any { return &slab{buf: make([]byte, largeSlab)} }}
	warmSlabs  slabStack
)

// maxWarmSlabs bounds what a slabStack keeps for ever: 4 MiB.
const maxWarmSlabs = 64

// A slabStack gives back the large slab that was freed last, on whichever
// processor that was: it is the likeliest to be in a cache. A sync.Pool
// prefers what its own processor freed, which for a stream whose ends work on
// two processors is nothing.
type slabStack struct {
	mu    sync.Mutex
	count int
	slabs [maxWarmSlabs]*slab
}

func (w *slabStack) get() *slab {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		return nil
	}
	w.count--
	s := w.slabs[w.count]
	w.slabs[w.count] = nil
	return s
}

// put reports whether there was room for s.
func (w *slabStack) put(s *slab) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == len(w.slabs) {
		return false
	}
	w.slabs[w.count] = s
	w.count++
	return true
}

// getSlab returns a slab with one reference: a small one if sizeHint, in bytes,
// fits into it, a large one otherwise.
func getSlab(sizeHint int) *slab {
	var s *slab
	if sizeHint <= smallSlab {
		s = smallSlabs.Get().(*slab)
	} else if s = warmSlabs.get(); s == nil {
		s = largeSlabs.Get().(*slab)
	}
	s.refs.Store(1)
	return s
}

// hold adds a reference to a slab that has one already.
func (s *slab) hold() { s.refs.Add(1) }

// putSlab drops one reference to s. The caller must not use s afterwards.
func putSlab(s *slab) {
	switch left := s.refs.Add(-1); {
	case left > 0:
	case left < 0:
		panic("ri2n: slab released more often than held")
	case len(s.buf) == smallSlab:
		smallSlabs.Put(s)
	case !warmSlabs.put(s):
		largeSlabs.Put(s)
	}
}
