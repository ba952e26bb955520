package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/object"
)

var (
	// ErrObjectNotFound reports that there is no object at a key.
	ErrObjectNotFound = errors.New("overlay: there is no object at this key")

	// ErrObjectUnavailable reports that too few of the members that keep an
	// object answered. A change may have been made; trying again is safe.
	ErrObjectUnavailable = errors.New("overlay: too few of the members that keep this object answer")
)

// MaxObjectData is the largest size of [Object.Data] in bytes.
const MaxObjectData = object.MaxData

// An Object says where a process is: a location object. Its owner, the key pair
// of a job, has signed it, and it lives at [ProcessKey] of owner and rank.
type Object struct {
	Owner       ed25519.PublicKey `json:"owner"`
	Rank        uint64            `json:"rank"`
	Incarnation uint64            `json:"incarnation"` // grows with each change
	Holder      ri2n.PeerID       `json:"holder"`      // the node that runs the process, and renews the lease
	Epoch       uint32            `json:"epoch"`       // the job's own, as are the next two
	State       uint8             `json:"state"`
	Data        []byte            `json:"data,omitempty"` // at most MaxObjectData bytes

	// Lease is for how long the object holds without being renewed, in whole
	// seconds from 1 to 3600. Zero means 30 s.
	Lease time.Duration `json:"lease_ns"`

	// Remaining is what is left of the lease, as members have it; zero: it has
	// ended, and the process is gone.
	Remaining time.Duration `json:"remaining_ns"`

	record *object.Record
}

// defaultLease is that of an Object whose Lease is zero.
const defaultLease = 30 * time.Second

// Key returns where o lives.
func (o *Object) Key() Key { return ProcessKey(o.Owner, o.Rank) }

// ProcessKey returns the key of the process of that rank in owner's job.
func ProcessKey(owner ed25519.PublicKey, rank uint64) Key {
	return object.KeyOf(object.Owner(owner), rank)
}

// A ConflictError is a change that somebody else was faster with.
type ConflictError struct {
	Current Object // what is there now
}

func (e *ConflictError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the key.
func (e *ConflictError) Object() string {
	return fmt.Sprintf("object of rank %d", e.Current.Rank)
}

// Cause says what is there.
func (e *ConflictError) Cause() string {
	return fmt.Sprintf("it has changed: incarnation %d is on %s", e.Current.Incarnation, e.Current.Holder.Short())
}

// Next says what to do.
func (e *ConflictError) Next() string { return "look at what it is now, and decide again" }

// Objects keeps location objects for the grid and changes those of jobs whose
// key it is given. Its methods may be called concurrently.
type Objects struct{ n *Node }

// Objects returns the location objects of the node's grid.
func (n *Node) Objects() *Objects { return &Objects{n} }

func objectOf(r *object.Record, remaining time.Duration) Object {
	return Object{
		Owner: r.Owner[:], Rank: r.Rank, Incarnation: r.Incarnation, Holder: ri2n.PeerID(r.Holder), Epoch: r.Epoch,
		State: r.State, Data: r.Data, Lease: r.Lease, Remaining: remaining, record: r,
	}
}

// deleted reports whether r is what Delete leaves behind.
func deleted(r *object.Record) bool { return r.Holder == routing.PeerID{} }

// A swapResult is what became of a change.
type swapResult struct {
	entry object.Entry
	err   error
}

// Create makes the object o, which must not exist: its incarnation is 1, or one
// more than that of an object which was deleted there. A holder of zero is this
// node. owner is the job's key; it signs, and is kept nowhere. The error is a
// [*ConflictError], [ErrObjectUnavailable], [ErrNoRouting], [ErrClosed] or ctx's.
func (s *Objects) Create(ctx context.Context, owner ed25519.PrivateKey, o Object) (Object, error) {
	made, err := s.Swap(ctx, owner, 0, o)
	var conflict *ConflictError
	if errors.As(err, &conflict) && conflict.Current.Holder.IsZero() {
		return s.Swap(ctx, owner, conflict.Current.Incarnation, o)
	}
	return made, err
}

// Swap makes o the object at its key if the one there has the incarnation
// expected (zero: there is none): of several who try, one succeeds. The new
// incarnation is one more. Owner and Incarnation of o are filled in. Two who
// want exactly the same both succeed.
func (s *Objects) Swap(ctx context.Context, owner ed25519.PrivateKey, expected uint64, o Object) (Object, error) {
	if o.Holder.IsZero() {
		o.Holder = s.n.PeerID()
	}
	return s.swap(ctx, owner, expected, o)
}

func (s *Objects) swap(ctx context.Context, owner ed25519.PrivateKey, expected uint64, o Object) (Object, error) {
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Lease < time.Second || o.Lease > object.MaxLease || o.Lease%time.Second != 0 || len(o.Data) > MaxObjectData {
		return Object{}, fmt.Errorf("overlay: a lease of %v and %d bytes of data: whole seconds up to %v, and %d bytes", o.Lease, len(o.Data), object.MaxLease, MaxObjectData)
	}
	r := &object.Record{
		Rank: o.Rank, Incarnation: expected + 1, Holder: routing.PeerID(o.Holder), Epoch: o.Epoch, State: o.State,
		Lease: o.Lease, Data: append([]byte(nil), o.Data...),
	}
	result := make(chan swapResult, 1)
	if err := s.n.router.do(ctx, func(now time.Time) {
		r.Grant = object.NewGrant(s.n.router.routing.Self(), s.n.router.key, object.Owner(owner.Public().(ed25519.PublicKey)))
		r.Sign(owner)
		s.n.router.objects.Swap(now, expected, r, owner, func(_ time.Time, e object.Entry, err error) { result <- swapResult{e, err} })
	}); err != nil {
		return Object{}, err
	}
	return s.await(ctx, result)
}

// await waits for the outcome of a change or a question.
func (s *Objects) await(ctx context.Context, result <-chan swapResult) (Object, error) {
	select {
	case r := <-result:
		switch {
		case errors.Is(r.err, object.ErrConflict):
			return Object{}, &ConflictError{objectOf(r.entry.Record, r.entry.Remaining)}
		case errors.Is(r.err, object.ErrNotFound):
			return Object{}, ErrObjectNotFound
		case errors.Is(r.err, object.ErrUnavailable):
			return Object{}, ErrObjectUnavailable
		case r.err != nil:
			return Object{}, r.err
		}
		return objectOf(r.entry.Record, r.entry.Remaining), nil
	case <-s.n.ctx.Done():
		return Object{}, ErrClosed
	case <-ctx.Done():
		return Object{}, ctx.Err()
	}
}

// Get returns the object at key. One whose lease has ended is returned for some
// minutes, with Remaining zero. The error is [ErrObjectNotFound],
// [ErrObjectUnavailable], [ErrNoRouting], [ErrClosed] or ctx's.
func (s *Objects) Get(ctx context.Context, key Key) (Object, error) {
	result := make(chan swapResult, 1)
	if err := s.n.router.do(ctx, func(now time.Time) {
		s.n.router.objects.Get(now, key, func(_ time.Time, e object.Entry, err error) { result <- swapResult{e, err} })
	}); err != nil {
		return Object{}, err
	}
	o, err := s.await(ctx, result)
	if err == nil && deleted(o.record) {
		return Object{}, ErrObjectNotFound
	}
	return o, err
}

// Delete ends the object of rank if it has the incarnation expected. A later
// Create goes on with its incarnations.
func (s *Objects) Delete(ctx context.Context, owner ed25519.PrivateKey, rank, expected uint64) error {
	if expected == 0 {
		return ErrObjectNotFound
	}
	_, err := s.swap(ctx, owner, expected, Object{Rank: rank, Lease: time.Second})
	return err
}

// Hold renews the lease of o, which Create or Swap on this node has returned,
// until release is called. When somebody else has changed the object, what it
// is now comes from lost, once: the process must stop then, since another
// incarnation of it may run. Renewals come after a third of the lease.
func (s *Objects) Hold(ctx context.Context, o Object) (lost <-chan Object, release func(), err error) {
	if o.record == nil || o.Holder != s.n.PeerID() {
		return nil, nil, errors.New("overlay: only what Create or Swap has returned can be held, on the node that it names")
	}
	gone, held := make(chan Object, 1), make(chan bool, 1)
	if err := s.n.router.do(ctx, func(now time.Time) {
		held <- s.n.router.objects.Hold(now, o.record, func(_ time.Time, e object.Entry) { gone <- objectOf(e.Record, e.Remaining) })
	}); err != nil {
		return nil, nil, err
	}
	select {
	case ok := <-held:
		if !ok {
			return nil, nil, &TooManyError{What: "objects held", Limit: maxHeld}
		}
	case <-s.n.ctx.Done():
		return nil, nil, ErrClosed
	}
	return gone, func() {
		_ = s.n.router.do(s.n.ctx, func(time.Time) { s.n.router.objects.Release(o.Key()) }) // it fails when the node has ended
	}, nil
}

// maxHeld is object.Config.MaxHeld's default.
const maxHeld = 1024

// watchObject bounds the pause between two looks of Watch.
const (
	watchObject     = time.Second
	watchObjectLast = 8 * time.Second
)

// Watch sends the object at key at each change that a look notices, the first
// one at once, until ctx or the node ends; then the channel is closed. An object
// that ends comes with Remaining zero. It looks every second while there are
// changes, and every 8 s later on; a reader who is slow gets the newest only.
func (s *Objects) Watch(ctx context.Context, key Key) (<-chan Object, error) {
	if s.n.router == nil {
		return nil, ErrNoRouting
	}
	changes := make(chan Object, 1)
	if !s.n.spawn(func() { s.look(ctx, key, changes) }) {
		return nil, ErrClosed
	}
	return changes, nil
}

func (s *Objects) look(ctx context.Context, key Key, changes chan Object) {
	defer close(changes)
	var last Object
	pause := watchObject
	for {
		o, err := s.Get(ctx, key)
		if errors.Is(err, ErrObjectNotFound) {
			o, err = Object{Owner: last.Owner, Rank: last.Rank, Incarnation: last.Incarnation}, nil
		}
		changed := o.Incarnation != last.Incarnation || o.Holder != last.Holder || (o.Remaining == 0) != (last.Remaining == 0)
		pause = min(2*pause, watchObjectLast)
		if err == nil && changed {
			last, pause = o, watchObject
			select {
			case <-changes: // nobody has read what was before
			default:
			}
			changes <- o
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.n.ctx.Done():
			timer.Stop()
			return
		}
	}
}
