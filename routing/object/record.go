package object

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// ErrMalformed is the cause of every error of the parsers.
var ErrMalformed = errors.New("object: malformed message")

// ErrSignature reports a record or a grant whose signature is wrong.
var ErrSignature = errors.New("object: wrong signature")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

const (
	// MaxData is the largest size of [Record.Data] in bytes.
	MaxData = 512

	// MaxLease is the longest lease.
	MaxLease = time.Hour
)

// An Owner is the public key of a job.
type Owner [ed25519.PublicKeySize]byte

// KeyOf returns where the record of rank in owner's job lives.
func KeyOf(owner Owner, rank uint64) routing.Key {
	b := append(make([]byte, 0, 64), "instantgrid location v1\x00"...)
	b = append(b, owner[:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, rank))
}

// A Grant is a member's word that it answers for the records of an owner:
// whoever stores them counts them against that member.
type Grant struct {
	Creator    *routing.Member
	CreatorKey [ed25519.PublicKeySize]byte // its hash is Creator.Peer
	Signature  [64]byte
}

// NewGrant returns creator's grant for owner. key is the node key of creator.
func NewGrant(creator *routing.Member, key ed25519.PrivateKey, owner Owner) Grant {
	g := Grant{Creator: creator, CreatorKey: [32]byte(key.Public().(ed25519.PublicKey))}
	g.Signature = [64]byte(ed25519.Sign(key, grantText(owner)))
	return g
}

func grantText(owner Owner) []byte {
	return append([]byte("instantgrid grant v1\x00"), owner[:]...)
}

// check reports whether g is what it says; whether its creator is a member of
// the grid is another question.
func (g *Grant) check(owner Owner) error {
	if routing.PeerIDOf(g.CreatorKey[:]) != g.Creator.Peer || !ed25519.Verify(g.CreatorKey[:], grantText(owner), g.Signature[:]) {
		return ErrSignature
	}
	return nil
}

// A Record says where a process is. The owner signs it.
type Record struct {
	Owner Owner
	Rank  uint64

	// Incarnation grows each time that the process is started or moved. Zero
	// is none.
	Incarnation uint64

	// Holder is the node that runs the process, and renews the lease.
	Holder routing.PeerID

	// Epoch and State are the job's own: of its checkpoint, and of the process.
	Epoch uint32
	State uint8

	// Lease is for how long the record holds without being renewed: whole
	// seconds, from one to MaxLease.
	Lease time.Duration

	// Data is the job's own as well, at most MaxData bytes: addresses, for one.
	Data []byte

	Grant     Grant
	Signature [64]byte
}

// Key returns where r lives.
func (r *Record) Key() routing.Key { return KeyOf(r.Owner, r.Rank) }

// Sign signs r with the owner's key. It panics when a field is out of its
// range, since no other node would take the record.
func (r *Record) Sign(owner ed25519.PrivateKey) {
	r.Owner = Owner(owner.Public().(ed25519.PublicKey))
	if len(r.Data) > MaxData || r.Lease < time.Second || r.Lease > MaxLease || r.Lease%time.Second != 0 || r.Incarnation == 0 {
		panic("object: a record's lease, data and incarnation have limits")
	}
	r.Signature = [64]byte(ed25519.Sign(owner, r.signed()))
}

// signed returns what the owner's signature covers.
func (r *Record) signed() []byte {
	return r.appendFields(append(make([]byte, 0, 160+len(r.Data)), "instantgrid record v1\x00"...))
}

// signedByOwner reports whether the owner's signature of r is right.
func (r *Record) signedByOwner() bool {
	return ed25519.Verify(r.Owner[:], r.signed(), r.Signature[:])
}

// same reports whether r and o are one record; either may be nil.
func (r *Record) same(o *Record) bool {
	return r == o || r != nil && o != nil && r.Signature == o.Signature
}

// fieldsSize is that of a record's own fields, without data.
const fieldsSize = 32 + 8 + 8 + 32 + 4 + 1 + 2 + 2

func (r *Record) appendFields(b []byte) []byte {
	b = append(b, r.Owner[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Rank)
	b = binary.BigEndian.AppendUint64(b, r.Incarnation)
	b = append(b, r.Holder[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Epoch)
	b = append(b, r.State)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Lease/time.Second))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Data)))
	return append(b, r.Data...)
}

// AppendRecord extends b by r (docs/routing-protocol.md, section 7.1).
func AppendRecord(b []byte, r *Record) []byte {
	b = r.appendFields(b)
	b = append(b, r.Signature[:]...)
	b = routing.AppendMember(b, r.Grant.Creator)
	b = append(b, r.Grant.CreatorKey[:]...)
	return append(b, r.Grant.Signature[:]...)
}

// ParseRecord decodes the record at the front of b and returns the bytes after
// it. Nothing of it is verified, and its slices alias b. The error is
// [ErrMalformed] or [routing.ErrMalformed].
func ParseRecord(b []byte) (r *Record, rest []byte, err error) {
	if len(b) < fieldsSize {
		return nil, nil, malformed("a record is cut short")
	}
	r = &Record{
		Owner:       Owner(b[:32]),
		Rank:        binary.BigEndian.Uint64(b[32:]),
		Incarnation: binary.BigEndian.Uint64(b[40:]),
		Holder:      routing.PeerID(b[48:80]),
		Epoch:       binary.BigEndian.Uint32(b[80:]),
		State:       b[84],
		Lease:       time.Duration(binary.BigEndian.Uint16(b[85:])) * time.Second,
	}
	size := int(binary.BigEndian.Uint16(b[87:]))
	if r.Incarnation == 0 || r.Lease < time.Second || r.Lease > MaxLease || size > MaxData {
		return nil, nil, malformed("incarnation %d, lease %v, %d bytes of data", r.Incarnation, r.Lease, size)
	}
	b = b[fieldsSize:]
	if len(b) < size+64 {
		return nil, nil, malformed("a record is cut short")
	}
	if size > 0 {
		r.Data = b[:size:size]
	}
	r.Signature = [64]byte(b[size:])
	if r.Grant.Creator, b, err = routing.ParseMember(b[size+64:]); err != nil {
		return nil, nil, err
	}
	if len(b) < 96 {
		return nil, nil, malformed("a grant is cut short")
	}
	r.Grant.CreatorKey, r.Grant.Signature = [32]byte(b), [64]byte(b[32:])
	return r, b[96:], nil
}
