package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
)

// storeSettings say how much of the grid's data this computer keeps
// (docs/store.md).
type storeSettings struct {
	quota     int // MiB
	directory string
	key       string
	patience  time.Duration
}

// maxPatience is the longest one: who is away for longer is taken for lost.
const maxPatience = 30 * 24 * time.Hour

func defaultStore() *storeSettings { return &storeSettings{patience: time.Hour} }

func (s *storeSettings) section() config.Section {
	return config.Section{
		Name: "store",
		Doc:  "Data that members of the grid share: grid put, grid get (docs/store.md).",
		Keys: []config.Key{
			{
				Name: "quota", Value: &s.quota,
				Doc:  "MiB that this computer keeps at most. 0: it keeps and serves nothing.",
				Flag: "store", Usage: "keep up to so many `MiB` of data that members share, for grid put and grid get (default off)",
				Check: func() error {
					if s.quota == 0 {
						return nil
					}
					return inRange(s.quota, 16, 1<<30)
				},
			},
			{
				Name: "directory", Value: &s.directory,
				Doc: "Where they are kept. Empty: store in the state directory.",
			},
			{
				Name: "key", Value: &s.key,
				Doc: "File with the grid's store key (grid store key). Empty: store.key in the state directory.",
			},
			{
				Name: "patience", Value: &s.patience,
				Doc: "How long a member may be away before what it kept of durable objects is made anew elsewhere (grid put --durable).",
				Check: func() error {
					if s.patience < time.Second || s.patience > maxPatience {
						return fmt.Errorf("%v is not between 1s and %v", s.patience, maxPatience)
					}
					return nil
				},
			},
		},
	}
}

// storeKeyFile is the default of store.key.
const storeKeyFile = "store.key"

func (s *storeSettings) keyFile(stateDir string) string {
	if s.key != "" {
		return s.key
	}
	return filepath.Join(stateDir, storeKeyFile)
}

func (s *storeSettings) apply(a *agent) error {
	x := &storeService{
		node: a.node, log: a.log, keyFile: s.keyFile(a.dir), quota: int64(s.quota) << 20, dir: s.directory, stateDir: a.dir,
		patience: s.patience,
	}
	if x.dir == "" {
		x.dir = filepath.Join(a.dir, "store")
	}
	x.serve(a.control)
	a.stored = x.status
	if s.quota == 0 {
		return nil
	}
	a.onClose(x.close)
	return x.start(a.ctx, &a.running)
}
