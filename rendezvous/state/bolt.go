package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/instantgrid/instantgrid/rendezvous/ledger"
)

// bucket holds everything.
var bucket = []byte("ledger")

// lockTime is how long OpenBolt waits for another process that has the file.
const lockTime = time.Second

// A boltStore is a store in one file.
type boltStore struct{ db *bolt.DB }

// OpenBolt opens the store in a file, which is made if it does not exist, with
// mode 0600. One process at a time can have it open; another one gets an error
// after a second.
func OpenBolt(file string) (ledger.Store, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: lockTime, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("state: %s: another process has it open", file)
	case err != nil && !errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("state: %s cannot be used: %w", file, err)
	case err != nil:
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &boltStore{db}, nil
}

type boltTx struct{ b *bolt.Bucket }

func (t boltTx) Get(key string) ([]byte, error)     { return t.b.Get([]byte(key)), nil }
func (t boltTx) Put(key string, value []byte) error { return t.b.Put([]byte(key), value) }
func (t boltTx) Delete(key string) error            { return t.b.Delete([]byte(key)) }

func (t boltTx) Range(prefix string, f func(key string, value []byte) bool) error {
	p := []byte(prefix)
	c := t.b.Cursor()
	for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
		if !f(string(k), v) {
			return nil
		}
	}
	return nil
}

func (s *boltStore) Update(ctx context.Context, f func(ledger.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// bbolt syncs the file before Update returns.
	return s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if err := f(boltTx{b}); err != nil {
			return err
		}
		_, err := b.NextSequence()
		return err
	})
}

func (s *boltStore) View(ctx context.Context, f func(ledger.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(tx *bolt.Tx) error { return f(boltTx{tx.Bucket(bucket)}) })
}

func (s *boltStore) Revision(context.Context) (n uint64, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(bucket).Sequence()
		return nil
	})
	return n, err
}

func (s *boltStore) Close() error { return s.db.Close() }
