package object

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// floods is how many records TestFlood stores: go test ./routing/object -floods 1000000.
var floods = flag.Int("floods", 10000, "records of TestFlood")

type nowhere struct{}

func (nowhere) Send(*routing.Member, []byte) {}

// testService returns the service of a node that knows nobody, with members
// of which those whose proof is "stranger" are none.
func testService(t *testing.T, cfg Config) *Service {
	t.Helper()
	node, err := routing.New(routing.Config{
		Self:      routing.NewMember(routing.PeerID{1}, routing.Nonce{}, nil),
		Messenger: nowhere{},
		Verify: func(m *routing.Member) error {
			if string(m.Proof) == "stranger" {
				return errors.New("a stranger")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return New(node, cfg)
}

// creatorOf returns a member of its own for each number, and its node key.
func creatorOf(number byte, proof string) (*routing.Member, ed25519.PrivateKey) {
	key := testKey(100 + number)
	return routing.NewMember(routing.PeerIDOf(key.Public().(ed25519.PublicKey)), routing.Nonce{number}, []byte(proof)), key
}

// A member sends signed records until it is tired: its cap holds, the heap
// stays flat, and another member still gets its place.
func TestFlood(t *testing.T) {
	s := testService(t, Config{MaxRecords: 200, MaxPerMember: 150})
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	owner := testKey(2)
	store := func(who byte, rank uint64) status {
		creator, key := creatorOf(who, "proof")
		r := &Record{Rank: rank, Incarnation: 1, Lease: time.Hour, Data: bytes.Repeat([]byte{1}, MaxData),
			Grant: NewGrant(creator, key, Owner(owner.Public().(ed25519.PublicKey)))}
		r.Sign(owner)
		return s.serve(now, creator, &request{op: opAccept, key: r.Key(), record: r}).status
	}
	grant := func(who byte) Grant {
		creator, key := creatorOf(who, "proof")
		return NewGrant(creator, key, Owner(owner.Public().(ed25519.PublicKey)))
	}(0)
	for i := range 150 {
		if got := store(0, uint64(i)); got != statusDone {
			t.Fatalf("record %d: status %d", i, got)
		}
	}
	before := heapBytes()
	for i := range *floods {
		// What is beyond the cap is refused before its signature is looked at.
		r := &Record{Owner: Owner(owner.Public().(ed25519.PublicKey)), Rank: uint64(1000 + i), Incarnation: 1, Lease: time.Hour, Grant: grant}
		if got := s.serve(now, grant.Creator, &request{op: opAccept, key: r.Key(), record: r}).status; got != statusFull {
			t.Fatalf("record %d beyond the cap: status %d", i, got)
		}
	}
	if grown := int64(heapBytes()) - int64(before); grown > 64<<10 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if got := s.Counters().Full; got != uint64(*floods) {
		t.Errorf("counted %d, want %d", got, *floods)
	}
	// Two more members fill what is left, and then take from the greatest.
	for who := byte(1); who < 3; who++ {
		for i := range 60 {
			if got := store(who, uint64(5000+100*int(who)+i)); got != statusDone {
				t.Fatalf("member %d, record %d: status %d", who, i, got)
			}
		}
	}
	if got := s.Stored(); got != 200 {
		t.Errorf("stored = %d, want 200", got)
	}
	// Promises alone take places as well.
	for i := range 300 {
		stranger := routing.NewMember(routing.PeerID{99}, routing.Nonce{}, nil)
		r := &request{op: opPrepare, owner: Owner(owner.Public().(ed25519.PublicKey)), rank: uint64(9000 + i)}
		r.key = KeyOf(r.owner, r.rank)
		r.ballot = signBallot(owner, r.key, 1, 1)
		s.serve(now, stranger, r)
	}
	if len(s.store.entries) > 200 {
		t.Errorf("%d entries, want at most 200", len(s.store.entries))
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestForgedRecordsAreRefused(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	owner := testKey(2)
	stranger, strangerKey := creatorOf(1, "stranger")
	member, memberKey := creatorOf(2, "proof")
	grant := func(m *routing.Member, k ed25519.PrivateKey) Grant {
		return NewGrant(m, k, Owner(owner.Public().(ed25519.PublicKey)))
	}
	for _, tt := range []struct {
		name  string
		grant Grant
		spoil func(r *Record)
		want  status
	}{
		{"as it should be", grant(member, memberKey), func(*Record) {}, statusDone},
		{"creator is no member", grant(stranger, strangerKey), func(*Record) {}, statusNone},
		{"grant of somebody else", Grant{Creator: member, CreatorKey: grant(stranger, strangerKey).CreatorKey, Signature: grant(stranger, strangerKey).Signature}, func(*Record) {}, statusNone},
		{"changed after it was signed", grant(member, memberKey), func(r *Record) { r.Holder[0]++ }, statusNone},
	} {
		s := testService(t, Config{})
		for _, o := range []op{opAccept, opPush} {
			r := &Record{Rank: 1, Incarnation: 1, Lease: time.Minute, Grant: tt.grant}
			r.Sign(owner)
			tt.spoil(r)
			if got := s.serve(now, member, &request{op: o, key: r.Key(), remaining: time.Minute, record: r}).status; got != tt.want {
				t.Errorf("%s, op %d: status %d, want %d", tt.name, o, got, tt.want)
			}
		}
	}
}

// Incarnations do not go back, leases are renewed by the holder alone, and
// nobody prolongs the lease of what is already there.
func TestReplicaRules(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	s := testService(t, Config{})
	holder := routing.NewMember(routing.PeerID{5}, routing.Nonce{}, nil)
	other := routing.NewMember(routing.PeerID{6}, routing.Nonce{}, nil)
	member, memberKey := creatorOf(2, "proof")
	owner := testKey(2)
	rec := func(incarnation uint64) *Record {
		r := &Record{Rank: 1, Incarnation: incarnation, Holder: holder.Peer, Lease: time.Minute,
			Grant: NewGrant(member, memberKey, Owner(owner.Public().(ed25519.PublicKey)))}
		r.Sign(owner)
		return r
	}
	key := rec(1).Key()
	at := func(count, node uint64) ballot { return signBallot(owner, key, count, node) }
	forged := at(9, 9)
	forged.count = 1 << 63
	for i, tt := range []struct {
		name string
		from *routing.Member
		r    request
		want status
	}{
		{"a promise", member, request{op: opPrepare, ballot: at(5, 1)}, statusNone},
		{"a promise that the owner has not signed", member, request{op: opPrepare, ballot: forged}, statusFull},
		{"a smaller promise", member, request{op: opPrepare, ballot: at(4, 9)}, statusRejected},
		{"below the promise", member, request{op: opAccept, ballot: at(4, 9), record: rec(3)}, statusRejected},
		{"as promised", member, request{op: opAccept, ballot: at(5, 1), record: rec(3)}, statusDone},
		{"with a ballot that the owner has not signed", member, request{op: opAccept, ballot: forged, record: rec(4)}, statusNone},
		{"the same handed on", member, request{op: opPush, ballot: forged, record: rec(4)}, statusNone},
		{"an earlier incarnation", member, request{op: opAccept, ballot: at(9, 1), record: rec(2)}, statusConflict},
		{"an earlier one is handed on", member, request{op: opPush, ballot: at(9, 1), record: rec(2)}, statusDone},
		{"what is held", member, request{op: opGet}, statusEntry},
		{"renewed by the holder", holder, request{op: opRenew, incarnation: 3}, statusDone},
		{"renewed by another", other, request{op: opRenew, incarnation: 3}, statusConflict},
		{"renewed too late", holder, request{op: opRenew, incarnation: 2}, statusConflict},
		{"renewed of what is unknown", holder, request{op: opRenew, incarnation: 4}, statusNone},
	} {
		tt.r.key, tt.r.owner, tt.r.rank = key, rec(1).Owner, 1
		if got := s.serve(now, tt.from, &tt.r).status; got != tt.want {
			t.Errorf("%d, %s: status %d, want %d", i, tt.name, got, tt.want)
		}
	}
	now = now.Add(50 * time.Second)
	s.serve(now, other, &request{op: opPush, key: key, ballot: at(5, 1), remaining: time.Minute, record: rec(3)})
	if got := s.serve(now, other, &request{op: opGet, key: key}).remaining; got != 10*time.Second {
		t.Errorf("after it was handed on again, %v remain, want 10 s", got)
	}
}
