package membership

import (
	"crypto/ed25519"
	"crypto/x509"
	"net/netip"
	"strconv"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A Chain leads from a grid key to a member's key: the certificate of the node,
// and that of the invite key which signed it, both in DER.
type Chain struct {
	Node, Invite []byte
}

// AppendChain extends b by c.
func AppendChain(b []byte, c *Chain) []byte { return appendLong(appendLong(b, c.Node), c.Invite) }

// MaxChain is the size of the largest encoded chain, in bytes.
const MaxChain = 2 * (2 + maxCertificate)

func (d *decoder) chain() *Chain {
	c := &Chain{Node: append([]byte(nil), d.long()...), Invite: append([]byte(nil), d.long()...)}
	if d.err == nil && (len(c.Node) == 0 || len(c.Node) > maxCertificate || len(c.Invite) == 0 || len(c.Invite) > maxCertificate) {
		d.fail("a certificate of %d or %d bytes", len(c.Node), len(c.Invite))
	}
	return c
}

// ParseChain decodes what AppendChain wrote. It does not look into the
// certificates.
func ParseChain(b []byte) (*Chain, error) {
	d := decoder{b: b}
	c := d.chain()
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}

// A link is a chain that has been followed from a grid key.
type link struct {
	invite *Invite
	node   *node
}

func (c *Chain) open(gridKey ed25519.PublicKey) (*link, error) {
	invite, err := parseInvite(c.Invite, gridKey)
	if err != nil {
		return nil, err
	}
	n, err := parseNode(c.Node, invite)
	if err != nil {
		return nil, err
	}
	return &link{invite, n}, nil
}

// A Proof is what a member shows: its chain, and the ledger's record.
type Proof struct {
	Chain  *Chain
	Record *Record // nil in a grid without a ledger, and only there
}

// Peer returns whose proof this is, before anything in it has been verified;
// the zero PeerID if nobody can say.
func (p *Proof) Peer() ri2n.PeerID {
	if p.Record != nil {
		return p.Record.Peer
	}
	c, err := x509.ParseCertificate(p.Chain.Node)
	if err != nil {
		return ri2n.PeerID{}
	}
	key, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok {
		return ri2n.PeerID{}
	}
	return ri2n.PeerIDOf(key)
}

// MaxProof is the size of the largest encoded proof, in bytes.
const MaxProof = MaxChain + 512

// AppendProof extends b by p.
func AppendProof(b []byte, p *Proof) []byte {
	b = AppendChain(b, p.Chain)
	if p.Record == nil {
		return appendLong(b, nil)
	}
	return appendLong(b, AppendRecord(nil, p.Record))
}

// ParseProof decodes what AppendProof wrote, and returns the bytes after it.
func ParseProof(b []byte) (p *Proof, rest []byte, err error) {
	d := decoder{b: b}
	chain, record := d.chain(), d.long()
	if d.err != nil {
		return nil, nil, d.err
	}
	if len(record) == 0 {
		return &Proof{Chain: chain}, d.b, nil
	}
	r, err := ParseRecord(record)
	if err != nil {
		return nil, nil, err
	}
	return &Proof{Chain: chain, Record: r}, d.b, nil
}

// A Member is somebody whose proof holds.
type Member struct {
	Peer     ri2n.PeerID
	Name     string
	Roles    Roles
	Invite   KeyID      // the invite key that it came with
	Address  netip.Addr // IPv4
	Position [32]byte   // in the routing key space
	Issued   time.Time  // of the record; without one, of the certificate
	Expires  time.Time  // of the record or the certificate, whichever ends first
	// CertificateExpires is until when records can be renewed.
	CertificateExpires time.Time
}

// An Applicant is somebody whose chain holds: what the ledger looks at before
// it makes a record.
type Applicant struct {
	Peer   ri2n.PeerID
	Name   string
	Roles  Roles
	Invite *Invite

	NotBefore, NotAfter time.Time // of the certificate
}

// VerifyChain checks a chain for the key named peer: everything but the record.
// Times get a tolerance of ten minutes. The error is [ErrMalformed] or an
// [*Error].
func VerifyChain(c *Chain, peer ri2n.PeerID, gridKey ed25519.PublicKey, revoked *Revocations, now time.Time) (*Applicant, error) {
	l, err := c.open(gridKey)
	if err != nil {
		return nil, err
	}
	what := "the certificate of " + strconv.Quote(l.node.name)
	if ri2n.PeerIDOf(l.node.key) != peer {
		return nil, &Error{Problem: OtherKey, What: what}
	}
	if err := checkTimes(what, l.node.notBefore, l.node.notAfter, now); err != nil {
		return nil, err
	}
	if err := checkTimes("the invite certificate of "+strconv.Quote(l.node.name), l.invite.NotBefore, l.invite.NotAfter, now); err != nil {
		return nil, err
	}
	switch {
	case revoked.Has(peer):
		return nil, &Error{Problem: Revoked, What: "the key of " + strconv.Quote(l.node.name)}
	case revoked.Has(l.invite.ID()):
		return nil, &Error{Problem: Revoked, What: "the invitation of " + strconv.Quote(l.node.name)}
	}
	return &Applicant{Peer: peer, Name: l.node.name, Roles: l.node.roles, Invite: l.invite, NotBefore: l.node.notBefore, NotAfter: l.node.notAfter}, nil
}

// Verify decides whether p makes peer, whose key a session has proven, a member
// of grid at now. Revoked may be nil: nobody. The error is [ErrMalformed] or an
// [*Error] that names what does not hold; where it is a matter of time it names
// the clock too.
func Verify(p *Proof, peer ri2n.PeerID, grid *Grid, revoked *Revocations, now time.Time) (*Member, error) {
	a, err := VerifyChain(p.Chain, peer, grid.Key, revoked, now)
	if err != nil {
		return nil, err
	}
	r := p.Record
	what := "the membership record of " + strconv.Quote(a.Name)
	if grid.Ledgerless() {
		if r != nil {
			return nil, &Error{Problem: NotLedger, What: what, Detail: "this grid has none"}
		}
		return verifyLedgerless(a, grid)
	}
	switch {
	case r == nil:
		return nil, &Error{Problem: NoRecord, What: "the membership of " + strconv.Quote(a.Name)}
	case r.Grid != grid.ID():
		return nil, &Error{Problem: OtherGrid, What: what}
	case !grid.IsLedger(r.Ledger()):
		return nil, &Error{Problem: NotLedger, What: what}
	case r.Peer != peer:
		return nil, &Error{Problem: OtherKey, What: what}
	case r.Invite != a.Invite.ID() || r.Name != a.Name:
		return nil, &Error{Problem: OtherChain, What: what}
	case !grid.Network.Contains(r.Address):
		return nil, &Error{Problem: WrongAddress, What: what, Detail: r.Address.String() + " is not in " + grid.Network.String()}
	case r.Expires.Sub(r.Issued) > RecordLife || r.Expires.Before(r.Issued):
		return nil, &Error{Problem: WrongTime, What: what, Detail: "it claims to hold longer than a record may"}
	}
	if err := checkTimes(what, r.Issued, r.Expires, now); err != nil {
		return nil, err
	}
	expires := r.Expires
	if a.NotAfter.Before(expires) {
		expires = a.NotAfter
	}
	return &Member{
		Peer: peer, Name: a.Name, Roles: a.Roles, Invite: r.Invite, Address: r.Address,
		Position: Position(peer, r.Nonce), Issued: r.Issued, Expires: expires, CertificateExpires: a.NotAfter,
	}, nil
}

// verifyLedgerless is what Verify has to add to a chain in a grid without a
// ledger. The time in which an invitation may be used is looked at, as far as a
// member's own certificate tells the truth about it.
func verifyLedgerless(a *Applicant, grid *Grid) (*Member, error) {
	if a.NotBefore.Add(-Tolerance).After(a.Invite.JoinBefore) {
		return nil, &Error{Problem: InviteExpired, What: "the invitation of " + strconv.Quote(a.Name), Until: a.Invite.JoinBefore, Now: a.NotBefore}
	}
	id := grid.ID()
	return &Member{
		Peer: a.Peer, Name: a.Name, Roles: a.Roles, Invite: a.Invite.ID(), Address: derivedAddress(id, grid.Network, a.Peer),
		Position: Position(a.Peer, derivedNonce(id, a.Peer)), Issued: a.NotBefore, Expires: a.NotAfter, CertificateExpires: a.NotAfter,
	}, nil
}

// checkTimes compares a span with a clock that may be wrong by Tolerance.
func checkTimes(what string, from, until, now time.Time) error {
	switch {
	case now.Add(Tolerance).Before(from):
		return &Error{Problem: NotYet, What: what, From: from, Until: until, Now: now}
	case now.Add(-Tolerance).After(until):
		return &Error{Problem: Expired, What: what, From: from, Until: until, Now: now}
	}
	return nil
}
