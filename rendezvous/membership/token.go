package membership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Token is an invitation as it is handed over: the grid's key, an invite key
// with its certificate, and where the ledger is. Its text form is a secret
// until it is used up. That of a grid without a ledger is never used up, and
// carries the grid's description, since there is nobody to ask for it.
type Token struct {
	GridKey ed25519.PublicKey
	Invite  *Invite
	Server  rendezvous.Address // zero: the grid has no ledger
	Grid    *Grid              // of a grid without a ledger; otherwise nil

	seed        []byte // of the invite key
	certificate []byte
}

// InviteOptions say what an invitation gives. Zero fields take their default.
type InviteOptions struct {
	Roles      Roles         // zero: Worker
	Uses       int           // zero: 1
	TTL        time.Duration // in which to join; zero: 24 h
	Names      Pattern       // zero: "*"
	MemberLife time.Duration // of members' certificates; zero: MemberLife
}

func (o *InviteOptions) setDefaults() {
	if o.Roles == 0 {
		o.Roles = Worker
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	if o.TTL == 0 {
		o.TTL = 24 * time.Hour
	}
	if o.Names == "" {
		o.Names = "*"
	}
	if o.MemberLife == 0 {
		o.MemberLife = MemberLife
	}
}

// NewInvite makes an invite key from random, a cryptographic source, and
// certifies it with the grid key, for a grid whose ledger is at server.
func NewInvite(random io.Reader, gridKey ed25519.PrivateKey, server rendezvous.Address, now time.Time, o InviteOptions) (*Token, error) {
	t, err := newInvite(random, gridKey, now, o)
	if err == nil {
		t.Server = server
	}
	return t, err
}

// NewLedgerlessInvite is NewInvite for a grid without a ledger. Nobody counts its
// uses, or stops the clock: whoever has the token can become a member until the
// invitation is revoked or its certificate ends.
func NewLedgerlessInvite(random io.Reader, gridKey ed25519.PrivateKey, grid *Grid, now time.Time, o InviteOptions) (*Token, error) {
	if !grid.Ledgerless() {
		return nil, fmt.Errorf("membership: the grid %s has a ledger", grid.Name)
	}
	t, err := newInvite(random, gridKey, now, o)
	if err == nil {
		t.Grid = grid
	}
	return t, err
}

func newInvite(random io.Reader, gridKey ed25519.PrivateKey, now time.Time, o InviteOptions) (*Token, error) {
	o.setDefaults()
	switch {
	case !o.Roles.Valid():
		return nil, fmt.Errorf("membership: an invitation without a role")
	case o.Uses < 1 || o.Uses > MaxUses:
		return nil, fmt.Errorf("membership: %d uses; between 1 and %d are possible", o.Uses, MaxUses)
	case o.TTL < time.Second:
		return nil, fmt.Errorf("membership: an invitation lives for a second at least")
	case o.MemberLife < time.Hour:
		return nil, fmt.Errorf("membership: members' certificates hold for an hour at least")
	}
	if err := o.Names.Check(); err != nil {
		return nil, err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("membership: read invite seed: %w", err)
	}
	public := gridKey.Public().(ed25519.PublicKey)
	now = now.Truncate(time.Second).UTC()
	before := now.Add(o.TTL)
	invite := &Invite{
		Grid: GridIDOf(public), Key: ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey),
		Roles: o.Roles, Uses: o.Uses, JoinBefore: before, Names: o.Names,
		NotBefore: now, NotAfter: before.Add(o.MemberLife).Truncate(time.Second),
	}
	der, err := certify(gridKey, invite.Grid.String(), "invite", invite.uri(), invite.Key, invite.NotBefore, invite.NotAfter, true)
	if err != nil {
		return nil, err
	}
	if invite, err = parseInvite(der, public); err != nil {
		return nil, err
	}
	return &Token{GridKey: public, Invite: invite, seed: seed, certificate: der}, nil
}

// Join certifies key under name with the invite key and returns the chain, which
// the ledger is asked to record.
func (t *Token) Join(key ed25519.PublicKey, name string, now time.Time) (*Chain, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	from := now.Truncate(time.Second).UTC()
	if from.Before(t.Invite.NotBefore) {
		from = t.Invite.NotBefore // within what clocks may differ; the ledger says if not
	}
	n := &node{
		grid: t.Invite.Grid, key: key, roles: t.Invite.Roles, name: name,
		notBefore: from, notAfter: t.Invite.NotAfter,
	}
	der, err := certify(ed25519.NewKeyFromSeed(t.seed), "invite", name, n.uri(), key, n.notBefore, n.notAfter, false)
	if err != nil {
		return nil, err
	}
	c := &Chain{Node: der, Invite: t.certificate}
	if _, err := c.open(t.GridKey); err != nil {
		return nil, err
	}
	return c, nil
}

// Check returns nil while the invitation may be used, as far as a clock can
// tell.
func (t *Token) Check(now time.Time) error {
	if now.Add(-Tolerance).Before(t.Invite.JoinBefore) {
		return nil
	}
	return &Error{Problem: InviteExpired, What: "the invitation", Until: t.Invite.JoinBefore, Now: now}
}

const (
	tokenPrefix   = "igj" // so that people and programs recognise one
	tokenChecksum = 4
	maxTokenText  = 4 << 10

	tokenFormat     = 1
	tokenLedgerless = 2
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Encode returns the text form, about 900 characters: a secret.
func (t *Token) Encode() string {
	format := byte(tokenFormat)
	if t.Grid != nil {
		format = tokenLedgerless
	}
	b := append([]byte{format}, t.GridKey...)
	b = append(b, t.seed...)
	b = appendLong(b, t.certificate)
	if t.Grid != nil {
		b = appendLong(b, AppendGrid(nil, t.Grid))
	} else {
		b = append(b, t.Server.Peer[:]...)
		b = binary.BigEndian.AppendUint16(b, t.Server.Port)
		b = appendShort(b, t.Server.Host)
	}
	sum := tokenSum(b)
	return tokenPrefix + tokenEncoding.EncodeToString(append(b, sum[:]...))
}

func tokenSum(b []byte) (sum [tokenChecksum]byte) {
	full := sha256.Sum256(append([]byte("instantgrid invitation checksum "), b...))
	copy(sum[:], full[:])
	return sum
}

// String shows what the token is for, and not its secret.
func (t *Token) String() string {
	return fmt.Sprintf("invitation to grid %s as %s until %s", t.Invite.Grid.Short(), t.Invite.Roles, t.Invite.JoinBefore.UTC().Format(time.RFC3339))
}

// GoString keeps the secret out of %#v.
func (t *Token) GoString() string { return "membership.Token(" + t.String() + ")" }

// IsToken reports whether text looks like an invitation.
func IsToken(text string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(text)), tokenPrefix)
}

// ParseToken decodes the text form. Blanks and line ends within it are ignored
// and capitals accepted. It does not look at the clock; see [Token.Check]. The
// error is an [*Error] with problem BadToken.
func ParseToken(s string) (*Token, error) {
	bad := func(detail string) (*Token, error) {
		return nil, &Error{Problem: BadToken, What: "the invitation", Detail: detail}
	}
	text := strings.ToLower(strings.Join(strings.Fields(s), ""))
	body, found := strings.CutPrefix(text, tokenPrefix)
	switch {
	case text == "":
		return bad("it is empty")
	case !found:
		return bad(fmt.Sprintf("an invitation starts with %q", tokenPrefix))
	case len(text) > maxTokenText:
		return bad(fmt.Sprintf("it has %d characters, more than any invitation", len(text)))
	}
	for i, c := range []byte(body) {
		if !(c >= 'a' && c <= 'z' || c >= '2' && c <= '7') {
			return bad(fmt.Sprintf("character %d cannot be in an invitation (letters and the digits 2 to 7 can)", len(tokenPrefix)+i+1))
		}
	}
	b, err := tokenEncoding.DecodeString(body)
	if err != nil || tokenEncoding.EncodeToString(b) != body {
		return bad("it is cut short, or has a character too many")
	}
	if len(b) > 0 && b[0] != tokenFormat && b[0] != tokenLedgerless {
		return bad(fmt.Sprintf("its format is %d, this program reads formats %d and %d: upgrade the older of the two", b[0], tokenFormat, tokenLedgerless))
	}
	if len(b) < tokenChecksum {
		return bad("it is cut short")
	}
	b, sum := b[:len(b)-tokenChecksum], b[len(b)-tokenChecksum:]
	if want := tokenSum(b); string(sum) != string(want[:]) {
		return bad("its checksum does not match: it is cut short, or a character is wrong")
	}
	d := decoder{b: b[1:]}
	t := &Token{GridKey: d.key(), seed: append([]byte(nil), d.take(ed25519.SeedSize)...)}
	t.certificate = append([]byte(nil), d.long()...)
	var description []byte
	if b[0] == tokenLedgerless {
		description = d.long()
	} else {
		t.Server = rendezvous.Address{Peer: d.array32(), Port: d.uint16(), Host: string(d.short())}
	}
	if d.end() != nil {
		return bad("its fields do not fit together")
	}
	if b[0] == tokenLedgerless {
		if t.Grid, err = ParseGrid(description); err != nil {
			return bad("its description of the grid does not hold: " + err.Error())
		}
		if !t.Grid.Ledgerless() || !t.Grid.Key.Equal(t.GridKey) {
			return bad("its description of the grid is of another one")
		}
	} else if again, err := rendezvous.ParseAddress(t.Server.String()); err != nil || again != t.Server {
		return bad("its rendezvous is no address")
	}
	if t.Invite, err = parseInvite(t.certificate, t.GridKey); err != nil {
		return bad("its certificate does not hold: " + err.Error())
	}
	if ri2n.PeerIDOf(ed25519.NewKeyFromSeed(t.seed).Public().(ed25519.PublicKey)) != t.Invite.ID() {
		return bad("its key and its certificate do not fit together")
	}
	return t, nil
}
