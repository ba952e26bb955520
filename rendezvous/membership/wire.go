package membership

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An Op is what a ledger is asked to do (docs/rendezvous-protocol.md,
// section 9).
type Op byte

// The operations there are.
const (
	OpSetUp       Op = 1 // keep a ledger for a grid
	OpGrid        Op = 2 // the grid's signed description
	OpJoin        Op = 3 // count a member in
	OpRenew       Op = 4 // a fresh record
	OpMembers     Op = 5 // the proofs of members, a page at a time
	OpRevocations Op = 6 // the list, if there is a newer one
	OpPublish     Op = 7 // a newer list
)

// MaxRequest and MaxAnswer bound what is sent to and by a ledger, in bytes.
// MaxSmallRequest holds for everything but a list.
const (
	MaxSmallRequest = 8 << 10
	MaxRequest      = MaxRevocations + 256
	MaxAnswer       = MaxRevocations + 256
)

// ClaimSize is the number of bytes of a claim, which lets somebody set up a
// grid on a rendezvous that knows none.
const ClaimSize = 10

// A Request is a question to the ledger. Which fields count depends on Op.
type Request struct {
	Op       Op
	Grid     GridID
	Claim    [ClaimSize]byte // OpSetUp; zero: none
	Body     []byte          // OpSetUp: a Grid. OpJoin: a Chain. OpPublish: a list.
	After    ri2n.PeerID     // OpMembers: the last one of the page before
	Sequence uint64          // OpRevocations: of the list that is known
}

// AppendRequest extends b by r.
func AppendRequest(b []byte, r *Request) []byte {
	b = append(append(b, byte(r.Op)), r.Grid[:]...)
	switch r.Op {
	case OpSetUp:
		b = append(append(b, r.Claim[:]...), r.Body...)
	case OpJoin, OpPublish:
		b = append(b, r.Body...)
	case OpMembers:
		b = append(b, r.After[:]...)
	case OpRevocations:
		b = binary.BigEndian.AppendUint64(b, r.Sequence)
	}
	return b
}

// ParseRequest decodes what AppendRequest wrote. It does not look into Body,
// which aliases b.
func ParseRequest(b []byte) (*Request, error) {
	d := decoder{b: b}
	r := &Request{Op: Op(d.byte()), Grid: d.array32()}
	switch r.Op {
	case OpSetUp:
		copy(r.Claim[:], d.take(ClaimSize))
		r.Body = d.take(len(d.b))
	case OpJoin, OpPublish:
		r.Body = d.take(len(d.b))
	case OpMembers:
		r.After = d.array32()
	case OpRevocations:
		r.Sequence = d.uint64()
	case OpGrid, OpRenew:
	default:
		d.fail("operation %d", r.Op)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return r, nil
}

// An answer begins with 0 and the result, or with 1 and an error.
const (
	answerOK    = 0
	answerError = 1
)

// AppendAnswer extends b by a result.
func AppendAnswer(b, result []byte) []byte { return append(append(b, answerOK), result...) }

// AppendFailure extends b by err. An error that is no [*Error] is sent as its
// text alone.
func AppendFailure(b []byte, err error) []byte {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Problem: "failed", What: "the ledger", Detail: err.Error()}
	}
	b = append(b, answerError)
	b = appendShort(b, clip(string(e.Problem), 32))
	b = appendShort(b, clip(e.What, 200))
	b = appendShort(b, clip(e.Detail, 200))
	for _, t := range []time.Time{e.From, e.Until, e.Now} {
		b = appendTime(b, t)
	}
	return b
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// ParseAnswer returns the result in b, which aliases it, or the error that the
// ledger sent, an [*Error].
func ParseAnswer(b []byte) ([]byte, error) {
	d := decoder{b: b}
	switch kind := d.byte(); {
	case d.err != nil:
		return nil, d.err
	case kind == answerOK:
		return d.b, nil
	case kind != answerError:
		return nil, malformed("an answer of kind %d", kind)
	}
	e := &Error{Problem: Problem(d.short()), What: printable(d.short()), Detail: printable(d.short())}
	e.From, e.Until, e.Now = d.time(), d.time(), d.time()
	if err := d.end(); err != nil {
		return nil, err
	}
	return nil, e
}

// printable keeps control characters of a server off the terminal.
func printable(b []byte) string {
	out := make([]rune, 0, len(b))
	for _, c := range string(b) {
		if c < ' ' || c == 0x7f || c == 0xfffd {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}

// AppendListAnswer extends b by the result of OpRevocations: the sequence of the
// ledger's list, and the list itself if the one who asks has an older one.
func AppendListAnswer(b []byte, sequence uint64, list []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, sequence), list...)
}

// ParseListAnswer decodes what AppendListAnswer wrote. The list aliases b and
// has not been verified.
func ParseListAnswer(b []byte) (sequence uint64, list []byte, err error) {
	d := decoder{b: b}
	sequence = d.uint64()
	return sequence, d.b, d.err
}

// AppendPage extends b by one member of a page: when it joined, and its proof.
func AppendPage(b []byte, joined time.Time, p *Proof) []byte {
	return AppendProof(appendTime(b, joined), p)
}

// A Listed is a member as the ledger lists it. The proof has not been verified.
type Listed struct {
	Joined time.Time
	Proof  *Proof
}

// ParsePage decodes a page. Who is last on it is where the next page begins; an
// empty page is the end.
func ParsePage(b []byte) ([]Listed, error) {
	var list []Listed
	for len(b) > 0 {
		d := decoder{b: b}
		joined := d.time()
		if d.err != nil {
			return nil, d.err
		}
		p, rest, err := ParseProof(d.b)
		if err != nil {
			return nil, err
		}
		list = append(list, Listed{joined, p})
		b = rest
	}
	return list, nil
}
