package object_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/object"
	"github.com/instantgrid/instantgrid/routing/sim"
)

// A rig is a grid whose nodes all have the service.
type rig struct {
	*sim.Grid
	t        *testing.T
	services []*object.Service
	cfg      object.Config
}

func newRig(t *testing.T, seed uint64, n int) *rig {
	t.Helper()
	r := &rig{Grid: sim.NewGrid(seed), t: t}
	r.grow(n)
	return r
}

// grow adds nodes until there are n.
func (r *rig) grow(n int) {
	r.t.Helper()
	if failed := r.Grow(n, 50); failed != 0 {
		r.t.Fatalf("%d nodes could not join", failed)
	}
	for i := len(r.services); i < n; i++ {
		cfg := r.cfg
		cfg.Rand = rand.New(rand.NewPCG(uint64(i), 7))
		s := object.New(r.Nodes[i], cfg)
		r.services = append(r.services, s)
		r.Host(i).Machines = append(r.Host(i).Machines, s)
	}
}

// jobKey is the owner of all records of a test.
func jobKey(number byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{number})
	return ed25519.NewKeyFromSeed(seed[:])
}

// record returns a signed record whose creator is host creator.
func (r *rig) record(creator, holder int, rank, incarnation uint64) *object.Record {
	key := jobKey(1)
	rec := &object.Record{
		Rank: rank, Incarnation: incarnation, Holder: r.Nodes[holder].Self().Peer, Lease: 30 * time.Second,
		Grant: object.NewGrant(r.Nodes[creator].Self(), sim.NodeKey(uint64(creator)), object.Owner(key.Public().(ed25519.PublicKey))),
	}
	rec.Sign(key)
	return rec
}

// swap swaps from host i and waits.
func (r *rig) swap(i int, expected uint64, rec *object.Record) (e object.Entry, err error) {
	r.t.Helper()
	done := false
	r.services[i].Swap(r.Now(), expected, rec, jobKey(1), func(_ time.Time, got object.Entry, gotErr error) {
		e, err, done = got, gotErr, true
	})
	r.Touch(i)
	if !r.RunUntil(time.Minute, func() bool { return done }) {
		r.t.Fatal("a swap does not end")
	}
	return e, err
}

func (r *rig) get(i int, key routing.Key) (e object.Entry, err error) {
	r.t.Helper()
	done := false
	r.services[i].Get(r.Now(), key, func(_ time.Time, got object.Entry, gotErr error) {
		e, err, done = got, gotErr, true
	})
	r.Touch(i)
	if !r.RunUntil(time.Minute, func() bool { return done }) {
		r.t.Fatal("a Get does not end")
	}
	return e, err
}

func TestCompareAndSwap(t *testing.T) {
	for _, n := range []int{1, 2, 3, 25} {
		r := newRig(t, 1, n)
		first := r.record(0, n/2, 5, 1)
		if _, err := r.get(0, first.Key()); !errors.Is(err, object.ErrNotFound) {
			t.Errorf("n=%d: Get before = %v, want ErrNotFound", n, err)
		}
		if _, err := r.swap(0, 0, first); err != nil {
			t.Fatalf("n=%d: Swap = %v", n, err)
		}
		e, err := r.get(n-1, first.Key())
		if err != nil || e.Record.Signature != first.Signature || e.Remaining == 0 || e.Remaining > first.Lease {
			t.Errorf("n=%d: Get = %+v, %v", n, e, err)
		}
		// Somebody who has not heard of it.
		other := r.record(0, n-1, 5, 1)
		other.State = 9
		other.Sign(jobKey(1))
		e, err = r.swap(n-1, 0, other)
		if !errors.Is(err, object.ErrConflict) || e.Record.Signature != first.Signature {
			t.Errorf("n=%d: second creation = %+v, %v", n, e.Record, err)
		}
		if _, err = r.swap(n-1, 1, r.record(0, n-1, 5, 2)); err != nil {
			t.Errorf("n=%d: Swap to 2 = %v", n, err)
		}
		if e, err = r.get(0, first.Key()); err != nil || e.Record.Incarnation != 2 {
			t.Errorf("n=%d: Get = %+v, %v; want incarnation 2", n, e, err)
		}
		// The same again changes nothing and succeeds.
		if _, err = r.swap(n-1, 1, r.record(0, n-1, 5, 2)); err != nil {
			t.Errorf("n=%d: the same Swap = %v", n, err)
		}
	}
}

// Of several that swap at once, one succeeds, and all agree which.
func TestConcurrentSwapsAdmitOne(t *testing.T) {
	const coordinators = 5
	for seed := range uint64(2) {
		r := newRig(t, 20+seed, 25)
		won := 0
		for rank := range uint64(6) {
			r.Loss = float64(rank%3) * 0.05
			winners, ended := 0, 0
			var winner [64]byte
			for i := range coordinators {
				rec := r.record(0, i, rank, 1)
				r.services[i].Swap(r.Now(), 0, rec, jobKey(1), func(_ time.Time, e object.Entry, err error) {
					ended++
					switch {
					case err == nil:
						winners++
						winner = rec.Signature
					case !errors.Is(err, object.ErrConflict):
						t.Logf("seed %d, rank %d: %v", seed, rank, err)
					}
				})
				r.Touch(i)
			}
			if !r.RunUntil(2*time.Minute, func() bool { return ended == coordinators }) {
				t.Fatal("the swaps do not end")
			}
			r.Loss = 0
			if winners > 1 {
				t.Errorf("seed %d, rank %d: %d swaps succeeded", seed, rank, winners)
			}
			won += winners
			e, err := r.get(20, r.record(0, 0, rank, 1).Key())
			if winners == 1 && (err != nil || e.Record.Signature != winner) {
				t.Errorf("seed %d, rank %d: Get shows another record than the winner's, or %v", seed, rank, err)
			}
		}
		t.Logf("seed %d: %d of 6 keys have a winner", seed, won)
	}
}

func TestLeaseEndsWithItsHolder(t *testing.T) {
	r := newRig(t, 3, 25)
	rec := r.record(0, 7, 1, 1)
	if _, err := r.swap(0, 0, rec); err != nil {
		t.Fatal(err)
	}
	r.services[7].Hold(r.Now(), rec, func(time.Time, object.Entry) { t.Error("lost") })
	r.Touch(7)
	r.Run(10 * time.Minute)
	if e, err := r.get(20, rec.Key()); err != nil || e.Remaining == 0 {
		t.Errorf("while it is held: %+v, %v", e, err)
	}
	r.Kill(7)
	r.Run(40 * time.Second)
	if e, err := r.get(20, rec.Key()); err != nil || e.Remaining != 0 {
		t.Errorf("after its holder died: %+v, %v; want a record without lease", e, err)
	}
	r.Run(15 * time.Minute)
	if e, err := r.get(20, rec.Key()); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("long after: %+v, %v; want ErrNotFound", e, err)
	}
}

func TestOldHolderIsTold(t *testing.T) {
	r := newRig(t, 4, 25)
	rec := r.record(0, 7, 1, 1)
	if _, err := r.swap(0, 0, rec); err != nil {
		t.Fatal(err)
	}
	var lost *object.Record
	r.services[7].Hold(r.Now(), rec, func(_ time.Time, e object.Entry) { lost = e.Record })
	r.Touch(7)
	r.Stall(7, 3*time.Minute)
	r.Run(2 * time.Minute)
	if _, err := r.swap(0, 1, r.record(0, 9, 1, 2)); err != nil {
		t.Fatal(err)
	}
	r.Run(2 * time.Minute)
	if lost == nil || lost.Incarnation != 2 {
		t.Errorf("the old holder was told of %+v, want incarnation 2", lost)
	}
}

// The key space changes: the grid grows threefold, then nodes leave one by one
// until none of the first replicas is there.
func TestRecordsMoveWithTheKeySpace(t *testing.T) {
	r := newRig(t, 5, 20)
	const objects = 6
	for rank := range uint64(objects) {
		if _, err := r.swap(int(rank), 0, r.record(0, int(rank)%3, rank, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		for rank := range uint64(objects) {
			if int(rank)%3 == i {
				r.services[i].Hold(r.Now(), r.record(0, i, rank, 1), func(time.Time, object.Entry) { t.Error("lost") })
			}
		}
		r.Touch(i)
	}
	r.grow(60)
	r.Run(30 * time.Second)
	for i := 3; i < 20; i++ {
		r.Kill(i)
		r.Run(5 * time.Second)
	}
	for rank := range uint64(objects) {
		e, err := r.get(40, r.record(0, 0, rank, 1).Key())
		if err != nil || e.Remaining == 0 {
			t.Errorf("rank %d: %+v, %v", rank, e, err)
		}
	}
}

// A fifth of all nodes leave at once.
func TestChurnLosesNoObject(t *testing.T) {
	r := newRig(t, 6, 60)
	const objects = 20
	for rank := range uint64(objects) {
		rec := r.record(0, int(rank), rank, 1)
		if _, err := r.swap(int(rank), 0, rec); err != nil {
			t.Fatal(err)
		}
		r.services[rank].Hold(r.Now(), rec, func(time.Time, object.Entry) { t.Error("lost") })
		r.Touch(int(rank))
	}
	for range 12 {
		if i := r.RandomAlive(); i != 0 {
			r.Kill(i)
		}
	}
	r.Run(30 * time.Second)
	for rank := range uint64(objects) {
		e, err := r.get(0, r.record(0, 0, rank, 1).Key())
		if err != nil || r.Alive(int(rank)) && e.Remaining == 0 {
			t.Errorf("rank %d, holder alive %v: %+v, %v", rank, r.Alive(int(rank)), e, err)
		}
	}
}

func TestMessagesFollowTheProcess(t *testing.T) {
	r := newRig(t, 7, 25)
	rec := r.record(0, 7, 1, 1)
	key := rec.Key()
	if _, err := r.swap(0, 0, rec); err != nil {
		t.Fatal(err)
	}
	got := make(map[int]int)
	host := func(i int) { r.services[i].Host(key, func(time.Time, object.Delivery) { got[i]++ }) }
	send := func(times int) {
		for range times {
			r.services[20].Send(r.Now(), key, []byte("hello"))
			r.Touch(20)
			r.Run(2 * time.Second)
		}
	}
	host(7)
	send(5)
	if got[7] != 5 {
		t.Errorf("at first, %d of 5 messages arrived", got[7])
	}
	// It moves; the old holder does the swap, so it knows where to.
	if _, err := r.swap(7, 1, r.record(0, 9, 1, 2)); err != nil {
		t.Fatal(err)
	}
	r.services[7].Host(key, nil)
	host(9)
	send(5)
	if got[9] != 5 || got[7] != 5 {
		t.Errorf("after it moved, %d of 5 messages arrived, and %d where it was", got[9], got[7]-5)
	}
	if c := r.services[7].Counters(); c.Forwarded == 0 {
		t.Error("the old holder has forwarded nothing")
	}
	// It is revived elsewhere, after its node died.
	r.Kill(9)
	host(11)
	if _, err := r.swap(0, 2, r.record(0, 11, 1, 3)); err != nil {
		t.Fatal(err)
	}
	send(10)
	if got[11] < 9 {
		t.Errorf("after it was revived, %d of 10 messages arrived", got[11])
	}
}
