package membership

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// MemberLife is how long a certificate holds unless the admin says
	// otherwise. A member whose certificate ends joins again with a new
	// invitation and keeps its name.
	MemberLife = 366 * 24 * time.Hour

	// Tolerance is how far two clocks may be apart.
	Tolerance = 10 * time.Minute

	maxCertificate = 1200 // bytes
	// MaxUses is how many members one invitation can admit.
	MaxUses = 1 << 16
)

// An Invite is what the grid key says about an invite key.
type Invite struct {
	Grid       GridID
	Key        ed25519.PublicKey
	Roles      Roles
	Uses       int       // how many members may join with it, counted by the ledger
	JoinBefore time.Time // the ledger lets nobody join later
	Names      Pattern   // which names its members may have
	NotBefore  time.Time
	NotAfter   time.Time // no member's certificate holds longer
}

// ID names the invite key, for the ledger and for revocations.
func (i *Invite) ID() KeyID { return ri2n.PeerIDOf(i.Key) }

// A node is what an invite key says about a member's key.
type node struct {
	grid      GridID
	key       ed25519.PublicKey
	roles     Roles
	name      string
	notBefore time.Time
	notAfter  time.Time
}

// What a certificate says stands in one URI of its subject alternative names
// (RFC 5280, section 4.2.1.6), so that openssl shows it:
//
//	grid://GRIDID/invite/ROLES/USES/JOINBEFORE/PATTERN
//	grid://GRIDID/node/ROLES/NAME
const uriScheme = "grid://"

func (i *Invite) uri() string {
	return fmt.Sprintf("%s%s/invite/%s/%d/%d/%s", uriScheme, i.Grid, i.Roles, i.Uses, i.JoinBefore.Unix(), i.Names)
}

func (n *node) uri() string {
	return fmt.Sprintf("%s%s/node/%s/%s", uriScheme, n.grid, n.roles, n.name)
}

// certify makes a certificate for key, signed by issuer.
func certify(issuer ed25519.PrivateKey, issuerName, name, uri string, key ed25519.PublicKey, from, until time.Time, invite bool) ([]byte, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	id := ri2n.PeerIDOf(key)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(append([]byte{1}, id[:15]...)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             from,
		NotAfter:              until,
		URIs:                  []*url.URL{u},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if invite {
		template.IsCA, template.MaxPathLenZero = true, true
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: issuerName}}
	// Ed25519 signs without randomness.
	return x509.CreateCertificate(rand.Reader, template, parent, key, issuer)
}

// parseCertificate checks form and signature of one certificate and returns
// the fields of its URI after grid and kind.
func parseCertificate(der []byte, issuer ed25519.PublicKey, kind string, fields int) (*x509.Certificate, GridID, []string, error) {
	fail := func(format string, args ...any) (*x509.Certificate, GridID, []string, error) {
		return nil, GridID{}, nil, malformed(kind+" certificate: "+format, args...)
	}
	if len(der) == 0 || len(der) > maxCertificate {
		return fail("%d bytes", len(der))
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fail("%v", err)
	}
	_, ok := c.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok || c.SignatureAlgorithm != x509.PureEd25519:
		return fail("it is not of Ed25519")
	case c.Version != 3 || !c.BasicConstraintsValid || len(c.UnhandledCriticalExtensions) > 0:
		return fail("its extensions are not ours")
	case len(c.URIs) != 1:
		return fail("%d URIs", len(c.URIs))
	case c.NotBefore.After(c.NotAfter):
		return fail("it ends before it begins")
	}
	if !ed25519.Verify(issuer, c.RawTBSCertificate, c.Signature) {
		return nil, GridID{}, nil, &Error{Problem: BadSignature, What: "the " + kind + " certificate"}
	}
	text, found := strings.CutPrefix(c.URIs[0].String(), uriScheme)
	words := strings.Split(text, "/")
	if !found || len(words) != fields+2 || words[1] != kind {
		return fail("its URI is not ours")
	}
	grid, err := ParseGridID(words[0])
	if err != nil {
		return fail("its URI names no grid")
	}
	return c, grid, words[2:], nil
}

// parseInvite decodes an invite certificate and checks that the grid key has
// signed it.
func parseInvite(der []byte, gridKey ed25519.PublicKey) (*Invite, error) {
	c, grid, words, err := parseCertificate(der, gridKey, "invite", 4)
	if err != nil {
		return nil, err
	}
	roles, err := ParseRoles(words[0])
	if err != nil {
		return nil, malformed("invite certificate: roles")
	}
	uses, err1 := strconv.ParseUint(words[1], 10, 32)
	before, err2 := strconv.ParseUint(words[2], 10, 40)
	if err1 != nil || err2 != nil || uses == 0 || uses > MaxUses {
		return nil, malformed("invite certificate: its numbers")
	}
	i := &Invite{
		Grid: grid, Key: c.PublicKey.(ed25519.PublicKey), Roles: roles, Uses: int(uses),
		JoinBefore: time.Unix(int64(before), 0).UTC(), Names: Pattern(words[3]),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
	if err := i.Names.Check(); err != nil {
		return nil, malformed("invite certificate: its pattern of names")
	}
	switch {
	case c.URIs[0].String() != i.uri():
		return nil, malformed("invite certificate: its URI is not in its one form")
	case !c.IsCA || c.KeyUsage != x509.KeyUsageCertSign || !c.MaxPathLenZero:
		return nil, malformed("invite certificate: it is not one of an issuer")
	case grid != GridIDOf(gridKey):
		return nil, &Error{Problem: OtherGrid, What: "the invite certificate"}
	}
	return i, nil
}

// parseNode decodes a member's certificate and checks that the invite key has
// signed it, within what it may sign.
func parseNode(der []byte, i *Invite) (*node, error) {
	c, grid, words, err := parseCertificate(der, i.Key, "node", 2)
	if err != nil {
		return nil, err
	}
	roles, err := ParseRoles(words[0])
	if err != nil {
		return nil, malformed("node certificate: roles")
	}
	n := &node{
		grid: grid, key: c.PublicKey.(ed25519.PublicKey), roles: roles, name: words[1],
		notBefore: c.NotBefore, notAfter: c.NotAfter,
	}
	what := "the certificate of " + strconv.Quote(n.name)
	switch {
	case CheckName(n.name) != nil:
		return nil, malformed("node certificate: its name")
	case c.URIs[0].String() != n.uri():
		return nil, malformed("node certificate: its URI is not in its one form")
	case c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature:
		return nil, malformed("node certificate: it is one of an issuer")
	case grid != i.Grid:
		return nil, &Error{Problem: OtherGrid, What: what}
	case !i.Roles.Has(roles):
		return nil, &Error{Problem: WrongRole, What: what, Detail: "its invitation gives " + i.Roles.String() + ", and it claims " + roles.String()}
	case !i.Names.Match(n.name):
		return nil, &Error{Problem: WrongName, What: what, Detail: "its invitation is for names like " + string(i.Names)}
	case n.notAfter.After(i.NotAfter):
		return nil, &Error{Problem: WrongTime, What: what, Detail: "it claims to hold longer than its invitation"}
	}
	return n, nil
}
