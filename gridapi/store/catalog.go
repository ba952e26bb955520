package store

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// A catalog remembers which objects the user wants listed or pinned, of which
// chunks they consist, and what names mean. It is small, and its changes are
// transactions.
type catalog struct {
	db      *bbolt.DB
	records atomic.Int64 // in the bucket of names, about
}

var (
	objectsBucket = []byte("objects") // ID of the object: catalogEntry as JSON
	chunksBucket  = []byte("chunks")  // ID of the object: IDs of its chunks, its root first
	namesBucket   = []byte("names")   // name, a zero, the signer's key: record
)

const (
	// maxSigners bounds how many members' records of one name are kept.
	maxSigners = 64
	// maxRecords bounds the records that other members have brought.
	maxRecords = 1 << 16
)

// errManyRecords reports that no more records of others are kept.
var errManyRecords = errors.New("store: too many records of names")

type catalogEntry struct {
	Size   int64     `json:"size"`
	Label  string    `json:"label,omitempty"`
	Added  time.Time `json:"added"`
	Pinned bool      `json:"pinned,omitempty"`
}

// openCatalog opens the file in dir. Another program that has it open is an
// error after a second.
func openCatalog(dir string) (*catalog, error) {
	name := filepath.Join(dir, "catalog.db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("store: %s is in use by another program", name)
	}
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", name, err)
	}
	db.MaxBatchDelay = time.Millisecond // for those who come together; an fsync takes longer
	c := &catalog{db: db}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{objectsBucket, chunksBucket, namesBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		c.records.Store(int64(tx.Bucket(namesBucket).Stats().KeyN))
		return nil
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("store: open %s: %w", name, err)
	}
	return c, nil
}

// record enters an object, or changes what is known of it. A pin stays.
func (c *catalog) record(id chunk.ID, e catalogEntry, chunks []chunk.ID) (pinnedBefore bool, err error) {
	err = c.db.Batch(func(tx *bbolt.Tx) error {
		objects := tx.Bucket(objectsBucket)
		var old catalogEntry
		if b := objects.Get(id[:]); b != nil {
			if err := json.Unmarshal(b, &old); err != nil {
				return err
			}
			if e.Label == "" {
				e.Label = old.Label
			}
			e.Added = old.Added
		}
		pinnedBefore = old.Pinned
		e.Pinned = e.Pinned || old.Pinned
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := objects.Put(id[:], b); err != nil {
			return err
		}
		list := make([]byte, 0, len(chunks)*chunk.Size)
		for _, id := range chunks {
			list = append(list, id[:]...)
		}
		return tx.Bucket(chunksBucket).Put(id[:], list)
	})
	return pinnedBefore, err
}

func parseIDs(b []byte) []chunk.ID {
	list := make([]chunk.ID, len(b)/chunk.Size)
	for i := range list {
		list[i] = chunk.ID(b[i*chunk.Size:])
	}
	return list
}

// unpin clears the pin of an object and returns its chunks, none if it had none.
func (c *catalog) unpin(id chunk.ID) (known bool, chunks []chunk.ID, err error) {
	err = c.db.Update(func(tx *bbolt.Tx) error {
		objects := tx.Bucket(objectsBucket)
		b := objects.Get(id[:])
		known, chunks = b != nil, nil
		if !known {
			return nil
		}
		var e catalogEntry
		if err := json.Unmarshal(b, &e); err != nil || !e.Pinned {
			return err
		}
		e.Pinned = false
		chunks = parseIDs(tx.Bucket(chunksBucket).Get(id[:]))
		if b, err := json.Marshal(e); err != nil {
			return err
		} else {
			return objects.Put(id[:], b)
		}
	})
	return known, chunks, err
}

// remove drops objects. It returns the chunks of the pinned ones, and those that
// no other object of the catalog has.
func (c *catalog) remove(ids []chunk.ID) (removed int, pinned, only []chunk.ID, err error) {
	err = c.db.Update(func(tx *bbolt.Tx) error {
		removed, pinned, only = 0, nil, nil
		objects, lists := tx.Bucket(objectsBucket), tx.Bucket(chunksBucket)
		candidates := make(map[chunk.ID]bool)
		for _, id := range ids {
			b := objects.Get(id[:])
			if b == nil {
				continue
			}
			removed++
			var e catalogEntry
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			chunks := parseIDs(lists.Get(id[:]))
			for _, x := range chunks {
				candidates[x] = true
			}
			if e.Pinned {
				pinned = append(pinned, chunks...)
			}
			if err := errors.Join(objects.Delete(id[:]), lists.Delete(id[:])); err != nil {
				return err
			}
		}
		err := lists.ForEach(func(_, b []byte) error {
			for ; len(b) >= chunk.Size; b = b[chunk.Size:] {
				delete(candidates, chunk.ID(b))
			}
			return nil
		})
		for id := range candidates {
			only = append(only, id)
		}
		return err
	})
	return removed, pinned, only, err
}

// each calls f with every object. The chunks are those of the transaction: f
// must not keep them.
func (c *catalog) each(f func(id chunk.ID, e catalogEntry, chunks []byte) error) error {
	return c.db.View(func(tx *bbolt.Tx) error {
		lists := tx.Bucket(chunksBucket)
		return tx.Bucket(objectsBucket).ForEach(func(k, b []byte) error {
			var e catalogEntry
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			return f(chunk.ID(k), e, lists.Get(k))
		})
	})
}

func recordKey(name string, signer ed25519.PublicKey) []byte {
	return append(append([]byte(name), 0), signer...)
}

// learn keeps a record unless it has one of the signer's that counts more, and
// reports whether it is news. Foreign ones are bounded.
func (c *catalog) learn(r *Record, foreign bool) (news bool, err error) {
	key := recordKey(r.Name, r.Signer)
	added := int64(0)
	err = c.db.Batch(func(tx *bbolt.Tx) error {
		news, added = false, 0
		names := tx.Bucket(namesBucket)
		if old := names.Get(key); old != nil {
			o, err := ParseRecord(old)
			if err == nil && !r.beats(o) {
				return nil
			}
		} else if foreign {
			if countRecords(names, r.Name) >= maxSigners || c.records.Load() >= maxRecords {
				return errManyRecords
			}
			added = 1
		}
		news = true
		return names.Put(key, r.encoded)
	})
	if err == nil {
		c.records.Add(added)
	}
	return news, err
}

func recordsOf(names *bbolt.Bucket, name string) (list []*Record) {
	prefix := append([]byte(name), 0)
	for c, k, v := cursorAt(names, prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if r, err := ParseRecord(v); err == nil {
			list = append(list, r)
		}
	}
	return list
}

func countRecords(names *bbolt.Bucket, name string) (n int) {
	prefix := append([]byte(name), 0)
	for c, k, _ := cursorAt(names, prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		n++
	}
	return n
}

func cursorAt(b *bbolt.Bucket, key []byte) (c *bbolt.Cursor, k, v []byte) {
	c = b.Cursor()
	k, v = c.Seek(key)
	return c, k, v
}

// recordsOf returns those of a name, or all if it is empty.
func (c *catalog) recordsOf(name string) (list []*Record, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		names := tx.Bucket(namesBucket)
		if name != "" {
			list = recordsOf(names, name)
			return nil
		}
		return names.ForEach(func(_, v []byte) error {
			if r, err := ParseRecord(v); err == nil {
				list = append(list, r)
			}
			return nil
		})
	})
	return list, err
}

func (c *catalog) close() error { return c.db.Close() }
