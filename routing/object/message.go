package object

import (
	"crypto/ed25519"
	"encoding/binary"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// An op is what a request wants (docs/routing-protocol.md, section 7.2).
type op uint8

const (
	opGet     op = 1 // what do you hold?
	opPrepare op = 2 // promise to take nothing below this ballot
	opAccept  op = 3 // take this record
	opPush    op = 4 // take this record, which others hold already
	opRenew   op = 5 // I, the holder, still run this incarnation
	opDeliver op = 6 // give this to the process
)

// A ballot orders the attempts to change a record. The owner signs it, so that
// nobody else can promise a key away; the zero ballot, below all others, is
// not signed.
type ballot struct {
	count     uint64
	node      uint64 // the first bytes of the proposer's peer ID
	signature [64]byte
}

func (b ballot) less(o ballot) bool {
	return b.count < o.count || b.count == o.count && b.node < o.node
}

// signBallot returns a ballot for key, which belongs to owner.
func signBallot(owner ed25519.PrivateKey, key routing.Key, count, node uint64) ballot {
	b := ballot{count: count, node: node}
	b.signature = [64]byte(ed25519.Sign(owner, b.signed(key)))
	return b
}

// signed returns what the owner's signature covers.
func (b ballot) signed(key routing.Key) []byte {
	text := append(make([]byte, 0, 80), "instantgrid ballot v1\x00"...)
	text = append(text, key[:]...)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(text, b.count), b.node)
}

// valid reports whether owner has signed b for key.
func (b ballot) valid(owner Owner, key routing.Key) bool {
	return b == ballot{} || ed25519.Verify(owner[:], b.signed(key), b.signature[:])
}

func appendBallot(b []byte, v ballot) []byte {
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, v.count), v.node)
	return append(b, v.signature[:]...)
}

func parseBallot(b []byte) (v ballot, rest []byte, err error) {
	if len(b) < 80 {
		return v, nil, malformed("a ballot is cut short")
	}
	return ballot{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), [64]byte(b[16:])}, b[80:], nil
}

// A request is one of every op; fields that its op does not have are zero.
type request struct {
	op          op
	key         routing.Key
	owner       Owner         // PREPARE: with rank, it makes the key
	rank        uint64        // PREPARE
	ballot      ballot        // PREPARE, ACCEPT, PUSH: the one it was accepted with
	remaining   time.Duration // PUSH: of the lease, in milliseconds
	incarnation uint64        // RENEW
	record      *Record       // ACCEPT, PUSH
	limit       uint8         // DELIVER: how often it may be passed on
	payload     []byte        // DELIVER
}

func appendRequest(b []byte, r *request) []byte {
	b = append(b, byte(r.op))
	b = append(b, r.key[:]...)
	switch r.op {
	case opPrepare:
		b = append(b, r.owner[:]...)
		b = binary.BigEndian.AppendUint64(b, r.rank)
		b = appendBallot(b, r.ballot)
	case opAccept:
		b = AppendRecord(appendBallot(b, r.ballot), r.record)
	case opPush:
		b = appendBallot(b, r.ballot)
		b = binary.BigEndian.AppendUint32(b, uint32(r.remaining/time.Millisecond))
		b = AppendRecord(b, r.record)
	case opRenew:
		b = binary.BigEndian.AppendUint64(b, r.incarnation)
	case opDeliver:
		b = append(append(b, r.limit), r.payload...)
	}
	return b
}

// parseRequest decodes b, which is one request and nothing else.
func parseRequest(b []byte) (r request, err error) {
	if len(b) < 33 {
		return r, malformed("a request is cut short")
	}
	r.op, r.key, b = op(b[0]), routing.Key(b[1:33]), b[33:]
	switch r.op {
	case opGet:
	case opPrepare:
		if len(b) < 40 {
			return r, malformed("a request is cut short")
		}
		r.owner, r.rank = Owner(b[:32]), binary.BigEndian.Uint64(b[32:])
		if KeyOf(r.owner, r.rank) != r.key {
			return r, malformed("the owner has another key")
		}
		r.ballot, b, err = parseBallot(b[40:])
	case opAccept, opPush:
		if r.ballot, b, err = parseBallot(b); err != nil {
			return r, err
		}
		if r.op == opPush {
			if r.remaining, b, err = parseRemaining(b); err != nil {
				return r, err
			}
		}
		if r.record, b, err = ParseRecord(b); err == nil && r.record.Key() != r.key {
			return r, malformed("the record belongs to another key")
		}
	case opRenew:
		if len(b) < 8 {
			return r, malformed("a request is cut short")
		}
		r.incarnation, b = binary.BigEndian.Uint64(b), b[8:]
	case opDeliver:
		if len(b) < 1 || b[0] > maxForwards {
			return r, malformed("a message without a limit, or with a great one")
		}
		r.limit = b[0]
		if len(b) > 1 {
			r.payload = b[1:]
		}
		b = nil
	default:
		return r, malformed("op %d", r.op)
	}
	if err == nil && len(b) > 0 {
		err = malformed("%d bytes too many", len(b))
	}
	return r, err
}

func parseRemaining(b []byte) (d time.Duration, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, malformed("a lease is cut short")
	}
	d = time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond
	if d > MaxLease {
		return 0, nil, malformed("a lease of %v", d)
	}
	return d, b[4:], nil
}

// A status opens every answer.
type status uint8

const (
	statusNone     status = 1 // nothing is held there (GET, PREPARE: promised; RENEW: unknown)
	statusEntry    status = 2 // what is held follows (GET, PREPARE: promised; DELIVER: it moved there)
	statusDone     status = 3 // ACCEPT, PUSH, RENEW, DELIVER: done
	statusRejected status = 4 // PREPARE, ACCEPT: a higher ballot was promised, it follows
	statusConflict status = 5 // ACCEPT, RENEW: what is held is newer, and follows
	statusFull     status = 6 // the creator or everybody has too many records here
)

// An answer is one of every status.
type answer struct {
	status    status
	ballot    ballot // ENTRY, CONFLICT: accepted with; REJECTED: promised
	remaining time.Duration
	record    *Record
}

func appendAnswer(b []byte, a *answer) []byte {
	b = append(b, byte(a.status))
	switch a.status {
	case statusEntry, statusConflict:
		b = appendBallot(b, a.ballot)
		b = binary.BigEndian.AppendUint32(b, uint32(a.remaining/time.Millisecond))
		b = AppendRecord(b, a.record)
	case statusRejected:
		b = appendBallot(b, a.ballot)
	}
	return b
}

// parseAnswer decodes b, which is one answer and nothing else.
func parseAnswer(b []byte) (a answer, err error) {
	if len(b) < 1 {
		return a, malformed("an answer is cut short")
	}
	a.status, b = status(b[0]), b[1:]
	switch a.status {
	case statusNone, statusDone, statusFull:
	case statusEntry, statusConflict:
		if a.ballot, b, err = parseBallot(b); err != nil {
			return a, err
		}
		if a.remaining, b, err = parseRemaining(b); err != nil {
			return a, err
		}
		a.record, b, err = ParseRecord(b)
	case statusRejected:
		a.ballot, b, err = parseBallot(b)
	default:
		return a, malformed("status %d", a.status)
	}
	if err == nil && len(b) > 0 {
		err = malformed("%d bytes too many", len(b))
	}
	return a, err
}
