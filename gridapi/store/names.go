package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

var errDatabaseClosed = berrors.ErrDatabaseNotOpen

// verify returns an error unless the signer may say what the name means.
func (s *Store) verify(r *Record) error {
	if s.cfg.Signer != nil && bytes.Equal(r.Signer, s.cfg.Signer[32:]) {
		return nil
	}
	if s.cfg.Verify == nil {
		return &NameError{Name: r.Name, Problem: "its record is signed by somebody else"}
	}
	if err := s.cfg.Verify(r.Name, r.Signer); err != nil {
		return &NameError{Name: r.Name, Problem: "its record is signed by nobody who may", Err: err}
	}
	return nil
}

// Learn takes a record that another member has sent. It returns a [NameError]
// for one that does not count.
func (s *Store) Learn(record []byte) error {
	r, err := ParseRecord(record)
	if err != nil {
		s.counters.refusedRecords.Add(1)
		return &NameError{Problem: err.Error()}
	}
	return s.learn(r)
}

func (s *Store) learn(r *Record) error {
	err := s.verify(r)
	if err == nil {
		_, err = s.catalog.learn(r, true)
	}
	if err != nil {
		s.counters.refusedRecords.Add(1)
	}
	return storeError(err)
}

// Records returns the encoded records of a name that this store knows, for a
// member who asks.
func (s *Store) Records(name string) ([][]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	list, err := s.catalog.recordsOf(name)
	encoded := make([][]byte, len(list))
	for i, r := range list {
		encoded[i] = r.encoded
	}
	return encoded, storeError(err)
}

// best returns the record that counts of those whose signers may, or nil. Who
// was a member once and is none any more does not count.
func (s *Store) best(list []*Record) (best *Record) {
	for _, r := range list {
		if s.verify(r) == nil && r.beats(best) {
			best = r
		}
	}
	return best
}

// names returns what the names that this store knows mean.
func (s *Store) names() (map[string]*Record, error) {
	list, err := s.catalog.recordsOf("")
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*Record)
	for _, r := range list {
		if s.verify(r) == nil && r.beats(byName[r.Name]) {
			byName[r.Name] = r
		}
	}
	for name, r := range byName {
		if r.Removed() {
			delete(byName, name)
		}
	}
	return byName, nil
}

// lookup returns the record that counts, also one that removes the name, or nil.
// It asks other members as well; their silence is an error only where nothing
// is known here.
func (s *Store) lookup(ctx context.Context, name string) (*Record, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var asking error
	if d := s.network.Load().directory; d != nil {
		var found [][]byte
		found, asking = d.Lookup(ctx, name)
		for _, b := range found {
			r, err := ParseRecord(b)
			if err != nil || r.Name != name {
				s.counters.refusedRecords.Add(1)
				continue
			}
			_ = s.learn(r) // which counts what it refuses
		}
	}
	list, err := s.catalog.recordsOf(name)
	if err != nil {
		return nil, storeError(err)
	}
	best := s.best(list)
	if best == nil {
		return nil, asking
	}
	return best, nil
}

// Resolve returns what a name means, or a [NotFoundError].
func (s *Store) Resolve(ctx context.Context, name string) (*Record, error) {
	r, err := s.lookup(ctx, name)
	var bad *NameError
	if errors.As(err, &bad) {
		return nil, err
	}
	if r == nil || r.Removed() {
		return nil, &NotFoundError{What: "name " + name, Err: err}
	}
	return r, nil
}

// Find returns the object that text means: its ID, or a name.
func (s *Store) Find(ctx context.Context, text string) (chunk.ID, error) {
	if id, err := chunk.Parse(text); err == nil {
		return id, nil
	}
	r, err := s.Resolve(ctx, text)
	if err != nil {
		return chunk.ID{}, err
	}
	return r.Object, nil
}

// SetName has a name mean an object from now on, and tells other members. A zero
// object removes the name. It returns once the record survives a crash here,
// also when nobody could be told; they ask when they look the name up.
func (s *Store) SetName(ctx context.Context, name string, o Object) (*Record, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if s.cfg.Signer == nil {
		return nil, &NameError{Name: name, Problem: "this store has no key to sign with"}
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	r := &Record{Name: name, Signer: s.cfg.Signer.Public().(ed25519.PublicKey), Version: 1, Time: time.Now(), Object: o.ID, Size: o.Size}
	if s.cfg.Verify != nil {
		if err := s.cfg.Verify(name, r.Signer); err != nil {
			return nil, &NameError{Name: name, Problem: "this store may not set it", Err: err}
		}
	}
	before, err := s.lookup(ctx, name)
	if errors.Is(err, ErrClosed) {
		return nil, err
	}
	if before != nil {
		if before.Version == ^uint64(0) {
			return nil, &NameError{Name: name, Problem: "its versions are used up by " + chunk.ID(before.Signer).String()}
		}
		r.Version = before.Version + 1
	}
	r = r.sign(s.cfg.Signer)
	if _, err := s.catalog.learn(r, false); err != nil {
		return nil, storeError(err)
	}
	if d := s.network.Load().directory; d != nil {
		if err := d.Publish(ctx, r.encoded); err != nil {
			s.cfg.Logger.Info("other members do not know a name yet", "name", name, "err", err)
		}
	}
	return r, nil
}
