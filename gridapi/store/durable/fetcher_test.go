package durable

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

type sourceFunc func(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error

func (f sourceFunc) Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error {
	return f(ctx, want, got)
}

// A Fetcher restores where its source fails or hangs, and only there.
func TestFetcher(t *testing.T) {
	errNobody := errors.New("nobody has it")
	hangs := func(ctx context.Context, _ []chunk.ID, _ func(chunk.ID)) error { <-ctx.Done(); return ctx.Err() }
	fails := func(context.Context, []chunk.ID, func(chunk.ID)) error { return errNobody }
	slow := func(_ context.Context, want []chunk.ID, got func(chunk.ID)) error {
		for _, id := range want {
			time.Sleep(1500 * time.Millisecond)
			got(id)
		}
		return nil
	}
	late := func(context.Context, []chunk.ID, func(chunk.ID)) error { time.Sleep(time.Minute); return nil }
	few := &HoldersError{Have: 3, Need: 4, Doing: "restore"}
	for _, tt := range []struct {
		name     string
		source   sourceFunc
		plain    bool // without an object
		restore  error
		restored bool
		want     error
		took     time.Duration
	}{
		{name: "source has all", source: slow, took: 4500 * time.Millisecond},
		{name: "source has nothing", source: fails, restored: true},
		{name: "source hangs", source: hangs, restored: true, took: 2 * time.Second},
		{name: "no record", source: fails, restore: ErrNoRecord, restored: true, want: errNobody},
		{name: "too few parts", source: fails, restore: few, restored: true, want: few},
		{name: "no record, source late", source: late, restore: ErrNoRecord, restored: true, took: time.Minute},
		{name: "no object", source: fails, plain: true, want: errNobody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				restored := false
				f := &Fetcher{
					Source: tt.source,
					Restore: func(_ context.Context, object [32]byte, _ func(chunk.ID)) error {
						restored = object == [32]byte{7}
						return tt.restore
					},
					Has: func(chunk.ID) bool { return restored && tt.restore == nil },
				}
				ctx := t.Context()
				if !tt.plain {
					ctx = WithObject(ctx, [32]byte{7})
				}
				began := time.Now()
				err := f.Fetch(ctx, []chunk.ID{{1}, {2}, {3}}, nil)
				if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if took := time.Since(began); restored != tt.restored || took != tt.took {
					t.Errorf("restored: %v, after %v", restored, took)
				}
			})
		})
	}
}
