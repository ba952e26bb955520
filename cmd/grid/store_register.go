package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/overlay"
)

// A locator keeps location objects: an overlay.Objects.
type locator interface {
	Get(ctx context.Context, key overlay.Key) (overlay.Object, error)
	Create(ctx context.Context, owner ed25519.PrivateKey, o overlay.Object) (overlay.Object, error)
	Swap(ctx context.Context, owner ed25519.PrivateKey, expected uint64, o overlay.Object) (overlay.Object, error)
}

// A storeRegister is durable's Register: the record of an object is the data of a
// location object, whose owner is a key that follows from the store's key and the
// object's hash. So whoever has the key of the store can find and change it, and
// nobody else.
//
// A location object ends with its lease. Whoever reads a record therefore
// remembers it on disk, renews the lease when half of it is gone, and puts the
// record back where the grid has forgotten it: holders read theirs every few
// minutes. Of two records the one of the higher version counts.
//
// All methods may be called concurrently.
type storeRegister struct {
	key     store.Key
	objects locator
	db      *bbolt.DB
	log     *slog.Logger

	renewed, restored, conflicts atomic.Uint64
}

// registerCounters count since the start.
type registerCounters struct {
	Records   int    `json:"records"`          // remembered on this computer
	Renewed   uint64 `json:"leases_renewed"`   // of records in the grid
	Restored  uint64 `json:"records_restored"` // that the grid had forgotten, or had in an old version
	Conflicts uint64 `json:"record_conflicts"` // changes that somebody else was faster with
}

const (
	// registerLease is that of a record: the longest that there is.
	registerLease = time.Hour
	// registerTime bounds one question or change.
	registerTime = 20 * time.Second
	// registerTries is how often a change is tried to which too few members
	// answer: a guess.
	registerTries = 3
)

var recordsBucket = []byte("records") // object: record

// openRegister opens the file of the records that are remembered.
func openRegister(file string, key store.Key, objects locator, log *slog.Logger) (*storeRegister, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(recordsBucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	return &storeRegister{key: key, objects: objects, db: db, log: log}, nil
}

func (r *storeRegister) close() error { return r.db.Close() }

func (r *storeRegister) counters() registerCounters {
	n := registerCounters{Renewed: r.renewed.Load(), Restored: r.restored.Load(), Conflicts: r.conflicts.Load()}
	_ = r.db.View(func(tx *bbolt.Tx) error { // it fails once it is closed
		n.Records = tx.Bucket(recordsBucket).Stats().KeyN
		return nil
	})
	return n
}

// owner returns the key pair of an object's record.
func (r *storeRegister) owner(object [32]byte) ed25519.PrivateKey {
	seed, err := hkdf.Key(sha256.New, r.key[:], object[:], "instantgrid durable record", ed25519.SeedSize)
	if err != nil {
		panic("the key of a record has a length that HKDF cannot make: " + err.Error())
	}
	return ed25519.NewKeyFromSeed(seed)
}

// remembered returns what is remembered of an object; nil: nothing.
func (r *storeRegister) remembered(object [32]byte) (record []byte) {
	_ = r.db.View(func(tx *bbolt.Tx) error {
		record = bytes.Clone(tx.Bucket(recordsBucket).Get(object[:]))
		return nil
	})
	return record
}

// all returns all records that are remembered.
func (r *storeRegister) all() map[[32]byte]durable.Record {
	list := make(map[[32]byte]durable.Record)
	_ = r.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
			if rec, err := durable.ParseRecord(v); err == nil {
				list[rec.Object] = rec
			}
			return nil
		})
	})
	return list
}

// remember returns once the record would survive a crash here.
func (r *storeRegister) remember(object [32]byte, record []byte) error {
	if bytes.Equal(r.remembered(object), record) {
		return nil
	}
	return r.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(recordsBucket)
		if versionOf(object, b.Get(object[:])) > versionOf(object, record) {
			return nil
		}
		return b.Put(object[:], record)
	})
}

// versionOf returns the version of a record, zero for what is none of object.
func versionOf(object [32]byte, record []byte) uint64 {
	rec, err := durable.ParseRecord(record)
	if err != nil || rec.Object != object {
		return 0
	}
	return rec.Version
}

// Get implements durable.Register.
func (r *storeRegister) Get(ctx context.Context, object [32]byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	owner := r.owner(object)
	known := r.remembered(object)
	there, err := r.objects.Get(ctx, keyOf(owner))
	switch {
	case errors.Is(err, overlay.ErrObjectNotFound):
		there = overlay.Object{}
	case err != nil && known != nil:
		r.log.Debug("the record of an object is the one of before", "object", fmt.Sprintf("%x", object[:8]), "err", err)
		return known, nil
	case err != nil:
		return nil, err
	}
	found := there.Data
	if versionOf(object, found) == 0 {
		found = nil
	}
	old := versionOf(object, known) > versionOf(object, found)
	if old {
		found = known
	}
	if found == nil {
		return nil, durable.ErrNoRecord
	}
	if old || there.Remaining < registerLease/2 {
		// Somebody else may be faster, and does the same.
		if err := r.store(ctx, owner, there, found); err != nil {
			r.log.Debug("the record of an object is not renewed", "object", fmt.Sprintf("%x", object[:8]), "err", err)
		} else if old {
			r.restored.Add(1)
		} else {
			r.renewed.Add(1)
		}
	}
	if err := r.remember(object, found); err != nil {
		r.log.Warn("the record of an object is not remembered", "object", fmt.Sprintf("%x", object[:8]), "err", err)
	}
	return found, nil
}

// Swap implements durable.Register.
func (r *storeRegister) Swap(ctx context.Context, object [32]byte, old uint64, record []byte) error {
	record, err := fitRecord(record)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	owner := r.owner(object)
	for try := 1; ; try++ {
		there, err := r.objects.Get(ctx, keyOf(owner))
		if errors.Is(err, overlay.ErrObjectNotFound) {
			there, err = overlay.Object{}, nil
		}
		now := max(versionOf(object, there.Data), versionOf(object, r.remembered(object)))
		switch {
		case err != nil:
		case bytes.Equal(there.Data, record): // a try of before
			return r.remember(object, record)
		case now != old:
			r.conflicts.Add(1)
			return durable.ErrConflict
		default:
			err = r.store(ctx, owner, there, record)
		}
		var conflict *overlay.ConflictError
		switch {
		case err == nil:
			return r.remember(object, record)
		case errors.As(err, &conflict), errors.Is(err, overlay.ErrObjectUnavailable):
			// A renewal may have come between, which changes nothing.
			if try < registerTries {
				continue
			}
			if conflict != nil {
				r.conflicts.Add(1)
				return durable.ErrConflict
			}
		}
		return err
	}
}

// store makes record the data of the location object that was there, which may be
// none.
func (r *storeRegister) store(ctx context.Context, owner ed25519.PrivateKey, there overlay.Object, record []byte) error {
	o := overlay.Object{Data: record, Lease: registerLease}
	var err error
	if there.Incarnation == 0 {
		_, err = r.objects.Create(ctx, owner, o)
	} else {
		_, err = r.objects.Swap(ctx, owner, there.Incarnation, o)
	}
	return err
}

func keyOf(owner ed25519.PrivateKey) overlay.Key {
	return overlay.ProcessKey(owner.Public().(ed25519.PublicKey), 0)
}

// fitRecord returns the record in a form that fits a location object: without
// holders of before, if need be, of which another has the same by now.
func fitRecord(record []byte) ([]byte, error) {
	rec, err := durable.ParseRecord(record)
	if err != nil {
		return nil, err
	}
	for i := len(rec.Holders) - 1; i >= 0 && len(record) > overlay.MaxObjectData; i-- {
		rec.Holders[i] = rec.Holders[i][:1]
		record = rec.Append(nil)
	}
	if len(record) > overlay.MaxObjectData {
		return nil, fmt.Errorf("the object is too large to be durable: its record has %d bytes, and %d fit; cut it in parts of 4 GiB", len(record), overlay.MaxObjectData)
	}
	return record, nil
}
