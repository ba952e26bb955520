package durable

import (
	"context"
	"errors"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A Source brings chunks from members that hold them: a swarm.Swarm.
type Source interface {
	Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error
}

// A Fetcher is a store's Fetcher. It asks a Source first, and restores the
// object that ctx is for (WithObject) when the Source does not have all.
type Fetcher struct {
	Source  Source
	Restore func(ctx context.Context, object [32]byte, got func(chunk.ID)) error // Guard.Restore
	Has     func(chunk.ID) bool
}

type objectKey struct{}

// WithObject says which object the fetches with ctx are for.
func WithObject(ctx context.Context, object [32]byte) context.Context {
	return context.WithValue(ctx, objectKey{}, object)
}

// Fetch implements the store's Fetcher. When the object cannot be restored
// either, the error is the Source's if there is no record of the object, and
// otherwise both.
func (f *Fetcher) Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error {
	err := f.Source.Fetch(ctx, want, got)
	object, is := ctx.Value(objectKey{}).([32]byte)
	if err == nil || !is || ctx.Err() != nil {
		return err
	}
	switch failed := f.Restore(ctx, object, nil); {
	case errors.Is(failed, ErrNoRecord):
		return err
	case failed != nil:
		return errors.Join(failed, err)
	}
	for _, id := range want {
		if !f.Has(id) {
			return err
		}
	}
	// Some may be told twice; a caller who got them all learns that by our
	// return.
	return nil
}
