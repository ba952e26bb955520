package store

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/disk"
)

// A Fetcher brings chunks from other members. Package swarm has one.
type Fetcher interface {
	// Fetch puts wanted chunks into the store's Holdings, and calls got, which
	// may be nil, with each as it arrives, from any goroutine. It returns nil
	// once all are there, and otherwise why some are not.
	Fetch(ctx context.Context, want []chunk.ID, got func(chunk.ID)) error
}

// A Directory tells other members what names mean. What it is given and returns
// are encoded records; they need not be verified.
type Directory interface {
	Publish(ctx context.Context, record []byte) error
	// Lookup returns the records of a name that members know.
	Lookup(ctx context.Context, name string) ([][]byte, error)
}

// Config configures a Store. Dir and Key are needed; the rest may be zero.
type Config struct {
	// Dir holds everything, 0700 with files 0600. It is made if it does not
	// exist.
	Dir string

	// Key seals what is put, and opens what is got.
	Key Key

	// Quota bounds the bytes of chunks on the disk. Zero means 10 GiB.
	Quota int64

	// Signer signs names. Nil: the store sets none.
	Signer ed25519.PrivateKey

	// Verify returns an error unless the signer may say what the name means: is
	// it a member? Nil: only the store's own signer may.
	Verify func(name string, signer ed25519.PublicKey) error

	// Workers is how many chunks are sealed or opened at a time. Zero means
	// GOMAXPROCS.
	Workers int

	// Logger receives what an operator should know. Nil: silent.
	Logger *slog.Logger
}

// A Store is the objects of one node.
type Store struct {
	cfg     Config
	disk    *disk.Disk
	catalog *catalog
	sealer  *sealer
	buffers sync.Pool // *[]byte of chunk.MaxSize

	network atomic.Pointer[network]
	naming  sync.Mutex // held while a name is set, so that versions rise

	counters counters
}

// A network is what a Store has of other members.
type network struct {
	fetcher   Fetcher
	directory Directory
}

type counters struct {
	damaged, refusedRecords atomic.Uint64
}

// Open opens a store.
func Open(cfg Config) (*Store, error) {
	if cfg.Key == (Key{}) {
		return nil, errors.New("store: Config.Key is not set")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	z, err := newSqueezer(cfg.Workers)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{cfg: cfg, sealer: newSealer(cfg.Key, z)}
	s.buffers.New = func() any { b := make([]byte, 0, chunk.MaxSize+recordRoom); return &b }
	s.network.Store(new(network))
	if s.disk, err = disk.Open(disk.Config{Dir: cfg.Dir, Quota: cfg.Quota, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if s.catalog, err = openCatalog(cfg.Dir); err == nil {
		err = s.pinAgain()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// recordRoom is what the disk reads together with a chunk.
const recordRoom = 64

// pinAgain pins the chunks of pinned objects, which the disk does not remember.
func (s *Store) pinAgain() error {
	missing := 0
	err := s.catalog.each(func(_ chunk.ID, e catalogEntry, chunks []byte) error {
		for ; e.Pinned && len(chunks) >= chunk.Size; chunks = chunks[chunk.Size:] {
			if !s.disk.Pin(chunk.ID(chunks)) {
				missing++
			}
		}
		return nil
	})
	if missing > 0 {
		s.cfg.Logger.Warn("chunks of pinned objects are missing; they are fetched when the object is pinned again", "chunks", missing)
	}
	return err
}

// Connect has the store fetch from other members, and find names with them.
// Either may be nil. It replaces what was there.
func (s *Store) Connect(f Fetcher, d Directory) { s.network.Store(&network{f, d}) }

// Holdings are the store's chunks, for whoever serves them to others, or puts
// there what it has fetched.
func (s *Store) Holdings() *disk.Disk { return s.disk }

// Close ends it. It may be called twice; calls that are under way fail.
func (s *Store) Close() error {
	err := s.disk.Close()
	if s.catalog != nil {
		if e := s.catalog.close(); err == nil {
			err = e
		}
	}
	return err
}

// A Status says how a Store is doing.
type Status struct {
	disk.Status
	Key            string `json:"key"` // its fingerprint
	Objects        int    `json:"objects"`
	Pinned         int    `json:"pinned"`
	Names          int    `json:"names"`
	RefusedRecords uint64 `json:"refused_records"` // of names: signed by nobody who may, or too many
}

// Status returns what is in the store now.
func (s *Store) Status() (Status, error) {
	status := Status{Status: s.disk.Status(), Key: s.cfg.Key.Fingerprint(), RefusedRecords: s.counters.refusedRecords.Load()}
	err := s.catalog.each(func(_ chunk.ID, e catalogEntry, _ []byte) error {
		status.Objects++
		if e.Pinned {
			status.Pinned++
		}
		return nil
	})
	if err != nil {
		return status, storeError(err)
	}
	names, err := s.names()
	status.Names = len(names)
	return status, storeError(err)
}

// storeError makes an error of a closed catalog one of ours.
func storeError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, disk.ErrClosed) || errors.Is(err, errDatabaseClosed) {
		return ErrClosed
	}
	return err
}

// An Object is something that was put.
type Object struct {
	ID   chunk.ID `json:"id"`
	Size int64    `json:"size_bytes"`
}

// A Listed object is one that the store remembers for its user.
type Listed struct {
	Object
	Label  string    `json:"label,omitempty"` // what the user has called it, or its file
	Names  []string  `json:"names"`
	Pinned bool      `json:"pinned"`
	Added  time.Time `json:"added"`
	Chunks int       `json:"chunks"`
	Held   int       `json:"held"` // of the chunks
}

// List returns the objects that were put for the list, or are pinned or named
// here, the newest first.
func (s *Store) List() ([]Listed, error) {
	names, err := s.names()
	if err != nil {
		return nil, storeError(err)
	}
	named := make(map[chunk.ID][]string)
	for name, r := range names {
		named[r.Object] = append(named[r.Object], name)
	}
	list := []Listed{}
	err = s.catalog.each(func(id chunk.ID, e catalogEntry, chunks []byte) error {
		x := Listed{Object: Object{id, e.Size}, Label: e.Label, Names: named[id], Pinned: e.Pinned, Added: e.Added, Chunks: len(chunks) / chunk.Size}
		delete(named, id)
		for ; len(chunks) >= chunk.Size; chunks = chunks[chunk.Size:] {
			if s.disk.Has(chunk.ID(chunks)) {
				x.Held++
			}
		}
		list = append(list, x)
		return nil
	})
	for _, r := range names { // what other members have named
		if of := named[r.Object]; len(of) > 0 {
			list = append(list, Listed{Object: Object{r.Object, r.Size}, Names: of, Added: r.Time})
			delete(named, r.Object)
		}
	}
	for i := range list {
		slices.Sort(list[i].Names)
		if list[i].Names == nil {
			list[i].Names = []string{}
		}
	}
	slices.SortFunc(list, func(a, b Listed) int {
		return cmp.Or(b.Added.Compare(a.Added), slices.Compare(a.ID[:], b.ID[:]))
	})
	return list, storeError(err)
}

// Unpin lets the store give an object up when it needs room. It returns a
// [NotFoundError] for one that it does not list.
func (s *Store) Unpin(id chunk.ID) error {
	known, chunks, err := s.catalog.unpin(id)
	if err != nil {
		return storeError(err)
	}
	if !known {
		return &NotFoundError{What: "object " + id.String()}
	}
	for _, x := range chunks {
		s.disk.Unpin(x)
	}
	return nil
}

// Remove takes objects off the list, pinned ones too, and deletes the chunks
// that no other listed object has. Copies on other members stay. It returns how
// many were on the list.
func (s *Store) Remove(ids ...chunk.ID) (int, error) {
	removed, pinned, only, err := s.catalog.remove(ids)
	if err != nil {
		return 0, storeError(err)
	}
	for _, x := range pinned {
		s.disk.Unpin(x)
	}
	s.disk.Delete(only...)
	return removed, nil
}

// buffer returns an empty one with room for a chunk.
func (s *Store) buffer() *[]byte {
	b := s.buffers.Get().(*[]byte)
	*b = (*b)[:0]
	return b
}

func (s *Store) release(b *[]byte) { s.buffers.Put(b) }
