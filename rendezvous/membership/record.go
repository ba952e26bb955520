package membership

import (
	"crypto/ed25519"
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// RecordLife is how long a record holds. It is renewed from half of that on.
const RecordLife = 14 * 24 * time.Hour

// A Record says that the ledger has counted a member in: under which name and
// address, and where in the routing key space. It holds together with a
// certificate chain only.
type Record struct {
	Grid    GridID
	Peer    ri2n.PeerID
	Invite  KeyID // the invite key of the member's chain
	Name    string
	Address netip.Addr // IPv4
	Nonce   Nonce
	Issued  time.Time // whole seconds
	Expires time.Time

	ledger    ed25519.PublicKey
	signature []byte
}

// Ledger returns whose key has signed the record.
func (r *Record) Ledger() ri2n.PeerID { return ri2n.PeerIDOf(r.ledger) }

// RenewAt returns when the record should be renewed: at half of its life.
func (r *Record) RenewAt() time.Time { return r.Issued.Add(r.Expires.Sub(r.Issued) / 2) }

func (r *Record) appendBody(b []byte) []byte {
	b = append(append(b, 1), r.Grid[:]...)
	b = append(b, r.Peer[:]...)
	b = append(b, r.Invite[:]...)
	b = appendShort(b, r.Name)
	b = append(b, r.Address.AsSlice()...)
	b = append(b, r.Nonce[:]...)
	b = appendTime(b, r.Issued)
	b = appendTime(b, r.Expires)
	return append(b, r.ledger...)
}

// SignRecord signs r with a ledger's key.
func SignRecord(key ed25519.PrivateKey, r Record) *Record {
	r.Issued, r.Expires = r.Issued.Truncate(time.Second).UTC(), r.Expires.Truncate(time.Second).UTC()
	r.ledger = key.Public().(ed25519.PublicKey)
	r.signature = sign(key, contextRecord, r.appendBody(nil))
	return &r
}

// AppendRecord extends b by r with its signature: less than 300 bytes.
func AppendRecord(b []byte, r *Record) []byte { return append(r.appendBody(b), r.signature...) }

// ParseRecord decodes what AppendRecord wrote and checks the signature against
// the key inside; [Verify] checks whose that is.
func ParseRecord(b []byte) (*Record, error) {
	body, signature, err := signed(b)
	if err != nil {
		return nil, err
	}
	d := decoder{b: body}
	if v := d.byte(); v != 1 {
		d.fail("format %d", v)
	}
	r := &Record{Grid: d.array32(), Peer: d.array32(), Invite: d.array32(), Name: d.name()}
	if addr := d.take(4); addr != nil {
		r.Address = netip.AddrFrom4([4]byte(addr))
	}
	r.Nonce, r.Issued, r.Expires, r.ledger = d.array32(), d.time(), d.time(), d.key()
	if err := d.end(); err != nil {
		return nil, err
	}
	if !verifySignature(r.ledger, contextRecord, body, signature) {
		return nil, &Error{Problem: BadSignature, What: "the membership record of " + r.Name}
	}
	r.signature = append([]byte(nil), signature...)
	return r, nil
}
