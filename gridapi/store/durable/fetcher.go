package durable

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A Source brings chunks from members that hold them: a swarm.Swarm.
type Source interface {
	Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error
}

// A Fetcher is a store's Fetcher. It asks a Source first, and restores the
// object that ctx is for (WithObject) when the Source has not all, or brings
// nothing for a while: it may wait for members that are gone.
type Fetcher struct {
	Source  Source
	Restore func(ctx context.Context, object [32]byte, got func(chunk.ID)) error // Guard.Restore
	Has     func(chunk.ID) bool
	// Grace is how long the Source may bring nothing before the object is
	// restored beside it. Zero means 2 s.
	Grace time.Duration
}

type objectKey struct{}

// WithObject says which object the fetches with ctx are for.
func WithObject(ctx context.Context, object [32]byte) context.Context {
	return context.WithValue(ctx, objectKey{}, object)
}

// Fetch implements the store's Fetcher. When the object cannot be restored
// either, the error is the Source's if there is no record of the object, and
// otherwise both. got may be told of a chunk twice.
func (f *Fetcher) Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error {
	object, is := ctx.Value(objectKey{}).([32]byte)
	if !is {
		return f.Source.Fetch(ctx, want, got)
	}
	asking, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	source, silent := make(chan error, 1), f.watch(asking, &wg, got)
	wg.Go(func() { source <- f.Source.Fetch(asking, want, silent.got) })
	var failed error
	select {
	case failed = <-source:
		if failed == nil || ctx.Err() != nil {
			return failed
		}
		source = nil
	case <-silent.c:
	}
	switch err := f.Restore(ctx, object, nil); {
	case err == nil && f.all(want):
		return nil
	case source != nil: // it goes on, and may have better luck
		if failed = <-source; failed == nil {
			return nil
		}
		fallthrough
	default:
		if err == nil || errors.Is(err, ErrNoRecord) {
			return failed
		}
		return errors.Join(err, failed)
	}
}

func (f *Fetcher) all(want []chunk.ID) bool {
	for _, id := range want {
		if !f.Has(id) {
			return false
		}
	}
	return true
}

// A silence tells when nothing has come for a while.
type silence struct {
	c     chan struct{} // closed then
	heard chan struct{}
	told  func(chunk.ID)
}

func (s *silence) got(id chunk.ID) {
	select {
	case s.heard <- struct{}{}:
	default:
	}
	if s.told != nil {
		s.told(id)
	}
}

func (f *Fetcher) watch(ctx context.Context, wg *sync.WaitGroup, got func(chunk.ID)) *silence {
	s := &silence{c: make(chan struct{}), heard: make(chan struct{}, 1), told: got}
	grace := cmp.Or(f.Grace, 2*time.Second)
	wg.Go(func() {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		for {
			select {
			case <-s.heard:
				timer.Reset(grace)
			case <-timer.C:
				close(s.c)
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return s
}
