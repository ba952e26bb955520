package object

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// Number is the service's among those of routing.
const Number routing.Service = 1

// ErrConflict reports that the record's incarnation was not the expected one;
// what the record is now comes with it.
var ErrConflict = errors.New("object: the record has changed")

// ErrUnavailable reports that too few of the nodes nearest to the key answered
// or had room. The change may have been made. Trying later may succeed.
var ErrUnavailable = errors.New("object: too few replicas answered")

// ErrNotFound reports that nobody has a record at the key.
var ErrNotFound = errors.New("object: there is no record")

// A Config says how a service behaves. The zero value works.
type Config struct {
	// Replicas is how many of the nodes nearest to a key decide about its
	// record. Zero means 3.
	Replicas int

	// Witnesses is how many of the next ones keep a copy without a say: they
	// are there when those who decide die at the same time. Zero means 2;
	// negative means none.
	Witnesses int

	// MaxRecords bounds what this node stores for others. Zero means 16384.
	// When it is reached, the member with the most records loses one to a
	// member with fewer.
	MaxRecords int

	// MaxPerMember bounds the records that one member answers for at this
	// node. Zero means 256.
	MaxPerMember int

	// Keep is for how long a record is remembered after its lease has ended,
	// so that incarnations do not go back. Zero means 10 min.
	Keep time.Duration

	// SweepInterval is how often each record stored here is compared with the
	// key space. After the node's table has changed it happens within a
	// second. Zero means 10 s.
	SweepInterval time.Duration

	// MaxHeld bounds the records that this node renews, the locations that it
	// caches and those that it forwards from. Zero means 1024.
	MaxHeld int

	// Rand spreads retries. Nil means one seeded by the system.
	Rand *rand.Rand
}

// Counters count what a service did since it was made.
type Counters struct {
	Malformed uint64 `json:"malformed"` // requests and answers that no parser took
	Forged    uint64 `json:"forged"`    // records with a wrong signature or by no member
	Full      uint64 `json:"full"`      // records refused for want of room
	Pushed    uint64 `json:"pushed"`    // records handed to another replica
	Adopted   uint64 `json:"adopted"`   // records taken over from another replica
	Expired   uint64 `json:"expired"`   // leases that ended here
	Dropped   uint64 `json:"dropped"`   // records forgotten here
	Swapped   uint64 `json:"swapped"`   // swaps that succeeded
	Conflicts uint64 `json:"conflicts"` // swaps that did not
	Retries   uint64 `json:"retries"`   // attempts beyond the first
	Forwarded uint64 `json:"forwarded"` // messages passed on to where their process is
	Undeliver uint64 `json:"undeliver"` // messages dropped since nobody knows their process
}

// A Service stores records for the grid and changes those of this node's
// jobs. It has the owner of its node; callbacks are made as the node's are.
type Service struct {
	cfg  Config
	node *routing.Node
	rand *rand.Rand

	store   store
	held    map[routing.Key]*held
	hosts   map[routing.Key]func(now time.Time, d Delivery)
	located cache // where processes were last seen, or went to from here
	timers  []timer
	grants  map[[sha256.Size]byte]bool // that were checked

	sweepAt time.Time // zero: nothing is stored
	changed uint64    // of the node's table at the last sweep
	swept   time.Time

	counters Counters
}

// A timer calls f once.
type timer struct {
	at time.Time
	f  func(now time.Time)
}

// New returns the service of node and has the node serve it.
func New(node *routing.Node, cfg Config) *Service {
	def(&cfg.Replicas, 3)
	def(&cfg.Witnesses, 2)
	def(&cfg.MaxRecords, 16384)
	def(&cfg.MaxPerMember, 256)
	def(&cfg.Keep, 10*time.Minute)
	def(&cfg.SweepInterval, 10*time.Second)
	def(&cfg.MaxHeld, 1024)
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	s := &Service{
		cfg: cfg, node: node, rand: cfg.Rand,
		store:   store{max: cfg.MaxRecords, maxPerMember: cfg.MaxPerMember},
		held:    make(map[routing.Key]*held),
		hosts:   make(map[routing.Key]func(time.Time, Delivery)),
		located: cache{max: cfg.MaxHeld},
	}
	node.Handle(Number, routing.Handler{Ask: s.ask, Deliver: s.routed})
	return s
}

// def sets *v to the default d when it is zero.
func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Counters returns what was counted so far.
func (s *Service) Counters() Counters { return s.counters }

// Stored returns the number of records that this node holds for the grid.
func (s *Service) Stored() (n int) {
	for _, e := range s.store.entries {
		if e.record != nil {
			n++
		}
	}
	return n
}

// Deadline returns when Advance must be called next, or zero for never.
func (s *Service) Deadline() time.Time {
	at := s.sweepAt
	if !at.IsZero() && s.node.Changed() != s.changed {
		if soon := s.swept.Add(time.Second); soon.Before(at) {
			at = soon
		}
	}
	for i := range s.timers {
		if at.IsZero() || s.timers[i].at.Before(at) {
			at = s.timers[i].at
		}
	}
	return at
}

// Advance does what has fallen due at now.
func (s *Service) Advance(now time.Time) {
	for {
		first := -1
		for i := range s.timers {
			if !now.Before(s.timers[i].at) && (first < 0 || s.timers[i].at.Before(s.timers[first].at)) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		f := s.timers[first].f
		s.timers = append(s.timers[:first], s.timers[first+1:]...)
		f(now)
	}
	if d := s.Deadline(); !s.sweepAt.IsZero() && !d.IsZero() && !now.Before(d) {
		s.sweep(now)
	}
}

// after calls f once d has passed.
func (s *Service) after(now time.Time, d time.Duration, f func(now time.Time)) {
	s.timers = append(s.timers, timer{now.Add(d), f})
}

// valid reports whether the signatures of r, and of the ballot that it was
// accepted with, are right and its creator is a member; the member takes the
// place of the parsed one.
func (s *Service) valid(r *Record, b ballot) bool {
	creator, _, err := s.node.Verified(routing.AppendMember(nil, r.Grant.Creator))
	if err != nil || s.checkGrant(r) != nil || !r.signedByOwner() || !b.valid(r.Owner, r.Key()) {
		s.counters.Forged++
		return false
	}
	r.Grant.Creator = creator
	return true
}

// checkGrant checks the grant of r, unless it was checked before.
func (s *Service) checkGrant(r *Record) error {
	b := append(make([]byte, 0, 160), r.Owner[:]...)
	b = append(b, r.Grant.Creator.Peer[:]...)
	b = append(b, r.Grant.CreatorKey[:]...)
	id := sha256.Sum256(append(b, r.Grant.Signature[:]...))
	if s.grants[id] {
		return nil
	}
	if err := r.Grant.check(r.Owner); err != nil {
		return err
	}
	if len(s.grants) >= maxGrants {
		s.grants = nil
	}
	if s.grants == nil {
		s.grants = make(map[[sha256.Size]byte]bool)
	}
	s.grants[id] = true
	return nil
}

// maxGrants is how many checked grants are remembered.
const maxGrants = 512

// answerFor returns what this node holds at e as an answer.
func answerFor(now time.Time, st status, e *entry) *answer {
	return &answer{status: st, ballot: e.accepted, remaining: e.remaining(now), record: e.record}
}

// ask serves a request of another node.
func (s *Service) ask(now time.Time, from *routing.Member, body []byte) ([]byte, error) {
	r, err := parseRequest(body)
	if err != nil {
		s.counters.Malformed++
		return nil, err
	}
	a := s.serve(now, from, &r)
	return appendAnswer(nil, a), nil
}

// serve does what r wants; from may be this node itself.
func (s *Service) serve(now time.Time, from *routing.Member, r *request) *answer {
	e := s.store.entries[r.key]
	switch r.op {
	case opGet:
		if e == nil || e.record == nil {
			return &answer{status: statusNone}
		}
		return answerFor(now, statusEntry, e)
	case opPrepare:
		return s.prepare(now, from, r, e)
	case opAccept:
		return s.accept(now, r, e)
	case opPush:
		return s.adopt(now, r, e)
	case opRenew:
		return s.renewed(now, from, r, e)
	case opDeliver:
		return s.delivered(now, from, r)
	}
	return &answer{status: statusNone}
}

// promiseFor is how long a promise without a record is remembered.
const promiseFor = 30 * time.Second

func (s *Service) prepare(now time.Time, from *routing.Member, r *request, e *entry) *answer {
	if e != nil && r.ballot.less(e.promised) {
		return &answer{status: statusRejected, ballot: e.promised}
	}
	if e == nil && s.store.full(from.Peer) {
		s.counters.Full++
		return &answer{status: statusFull}
	}
	if !r.ballot.valid(r.owner, r.key) {
		s.counters.Forged++
		return &answer{status: statusFull}
	}
	if e == nil {
		e = &entry{}
		if !s.store.charge(r.key, e, from.Peer) {
			s.counters.Full++
			return &answer{status: statusFull}
		}
	}
	e.promised = r.ballot
	if e.record == nil {
		e.drop = now.Add(promiseFor)
		s.arm(now)
		return &answer{status: statusNone}
	}
	return answerFor(now, statusEntry, e)
}

func (s *Service) accept(now time.Time, r *request, e *entry) *answer {
	if e != nil && r.ballot.less(e.promised) {
		return &answer{status: statusRejected, ballot: e.promised}
	}
	if e != nil && e.record != nil && r.record.Incarnation < e.record.Incarnation {
		return answerFor(now, statusConflict, e)
	}
	if st := s.admit(r, e); st != statusDone {
		return &answer{status: st}
	}
	if e == nil {
		e = &entry{}
	}
	if !s.put(now, r, e, r.record.Lease) {
		return &answer{status: statusFull}
	}
	e.promised = r.ballot
	return &answer{status: statusDone}
}

// admit reports by statusDone that r may take the place of e, which may be
// nil. A creator without room costs no check of signatures.
func (s *Service) admit(r *request, e *entry) status {
	if creator := r.record.Grant.Creator.Peer; (e == nil || e.by != creator) && s.store.full(creator) {
		s.counters.Full++
		return statusFull
	}
	if !s.valid(r.record, r.ballot) {
		return statusNone
	}
	return statusDone
}

// put stores the record of r in e for a lease.
func (s *Service) put(now time.Time, r *request, e *entry, lease time.Duration) bool {
	if !s.store.charge(r.key, e, r.record.Grant.Creator.Peer) {
		s.counters.Full++
		return false
	}
	if !e.record.same(r.record) {
		r.record.Data = append([]byte(nil), r.record.Data...)
		e.record = r.record
	}
	e.accepted, e.pushed = r.ballot, nil
	e.expires = now.Add(lease)
	e.drop = e.expires.Add(s.cfg.Keep)
	s.arm(now)
	return true
}

// adopt takes a record that another replica hands on. It never prolongs the
// lease of one that is here: that is up to the holder.
func (s *Service) adopt(now time.Time, r *request, e *entry) *answer {
	if e != nil && e.record != nil {
		older := r.record.Incarnation < e.record.Incarnation || r.record.Incarnation == e.record.Incarnation && !e.accepted.less(r.ballot)
		if older || e.record.same(r.record) {
			return &answer{status: statusDone}
		}
	}
	if st := s.admit(r, e); st != statusDone {
		return &answer{status: st}
	}
	if e == nil {
		e = &entry{}
	}
	if !s.put(now, r, e, min(r.remaining, r.record.Lease)) {
		return &answer{status: statusFull}
	}
	if e.promised.less(r.ballot) {
		e.promised = r.ballot
	}
	s.counters.Adopted++
	return &answer{status: statusDone}
}

func (s *Service) renewed(now time.Time, from *routing.Member, r *request, e *entry) *answer {
	if e == nil || e.record == nil || e.record.Incarnation < r.incarnation {
		return &answer{status: statusNone}
	}
	if e.record.Incarnation > r.incarnation || e.record.Holder != from.Peer {
		return answerFor(now, statusConflict, e)
	}
	e.expires = now.Add(e.record.Lease)
	e.drop = e.expires.Add(s.cfg.Keep)
	return &answer{status: statusDone}
}

// arm starts the sweep.
func (s *Service) arm(now time.Time) {
	if s.sweepAt.IsZero() {
		s.sweepAt = now.Add(s.cfg.SweepInterval/2 + time.Duration(s.rand.Int64N(int64(s.cfg.SweepInterval))))
	}
}

// maxPushes is how many records one sweep hands on; the rest wait for the
// next, a second later.
const maxPushes = 64

// sweep forgets what has ended and hands records to nodes that have come
// nearer to their keys.
func (s *Service) sweep(now time.Time) {
	s.swept, s.changed, s.sweepAt = now, s.node.Changed(), time.Time{}
	pushes := 0
	for _, key := range s.store.keys() {
		e := s.store.entries[key]
		if !now.Before(e.drop) {
			s.counters.Dropped++
			s.store.remove(key)
			continue
		}
		if e.record == nil {
			continue
		}
		if pushes < maxPushes {
			pushes += s.handOn(now, key, e)
		} else {
			s.changed-- // come back soon
			break
		}
	}
	if len(s.store.entries) > 0 {
		s.arm(now)
	}
}

// handOn pushes e to those of the nearest nodes that have not had it from us,
// and returns how many these are. A node that is far from being among them
// forgets the record once they all have it.
func (s *Service) handOn(now time.Time, key routing.Key, e *entry) (pushes int) {
	far := 2 * (s.cfg.Replicas + max(0, s.cfg.Witnesses))
	nearest := s.node.Closest(key, far)
	rank := 0 // how many are nearer than this node
	self := s.node.Self().Position()
	for rank < len(nearest) && key.Xor(nearest[rank].Position()).Compare(key.Xor(self)) < 0 {
		rank++
	}
	copies := s.cfg.Replicas + max(0, s.cfg.Witnesses)
	if rank < copies {
		copies-- // this node is one of them
	}
	keepers := nearest[:min(len(nearest), copies)]
	had := 0
	for _, m := range keepers {
		if contains(e.pushed, m.Peer) {
			had++
			continue
		}
		pushes++
		s.counters.Pushed++
		req := &request{op: opPush, key: key, ballot: e.accepted, remaining: e.remaining(now), record: e.record}
		record := e.record
		s.node.Ask(now, m, Number, appendRequest(nil, req), func(now time.Time, b []byte, err error) {
			if err != nil {
				return
			}
			if a, err := parseAnswer(b); err == nil && a.status == statusDone && e.record == record && len(e.pushed) < 4*far {
				e.pushed = append(e.pushed, m.Peer)
			}
		})
	}
	if rank >= far && had == len(keepers) && e.remaining(now) == 0 {
		s.counters.Dropped++
		s.store.remove(key)
	}
	return pushes
}

func contains(peers []routing.PeerID, p routing.PeerID) bool {
	for _, o := range peers {
		if o == p {
			return true
		}
	}
	return false
}

// nodeNumber is this node's part of a ballot.
func (s *Service) nodeNumber() uint64 {
	return binary.BigEndian.Uint64(s.node.Self().Peer[:])
}
