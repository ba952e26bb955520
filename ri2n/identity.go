package ri2n

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// A PeerID names one side of a session: the SHA-256 of its Ed25519 public key
// in SubjectPublicKeyInfo form. The zero value names nobody.
type PeerID [sha256.Size]byte

// peerIDEncoding is lower-case base32 without padding (RFC 4648, section 6):
// 52 characters that survive a phone call, a file name and a DNS label.
var peerIDEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ParsePeerID decodes the text form of a peer ID. Upper-case letters are
// accepted, other lengths and alphabets are not.
func ParsePeerID(s string) (PeerID, error) {
	var id PeerID
	if len(s) != peerIDEncoding.EncodedLen(len(id)) {
		return PeerID{}, fmt.Errorf("ri2n: peer ID %q has %d characters, want %d", s, len(s), peerIDEncoding.EncodedLen(len(id)))
	}
	b, err := peerIDEncoding.DecodeString(strings.ToLower(s))
	if err != nil {
		return PeerID{}, fmt.Errorf("ri2n: peer ID %q: %w", s, err)
	}
	copy(id[:], b)
	if id.String() != strings.ToLower(s) {
		return PeerID{}, fmt.Errorf("ri2n: peer ID %q has stray bits in its last character", s)
	}
	return id, nil
}

// PeerIDOf returns the peer ID of an Ed25519 public key.
func PeerIDOf(key ed25519.PublicKey) PeerID {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("ri2n: an Ed25519 public key of the right size always has a SubjectPublicKeyInfo: " + err.Error())
	}
	return sha256.Sum256(spki)
}

// String returns the 52-character text form.
func (p PeerID) String() string { return peerIDEncoding.EncodeToString(p[:]) }

// Short returns the first eight characters, for logs and tables. It is not
// unique and is never parsed.
func (p PeerID) Short() string { return p.String()[:8] }

// IsZero reports whether p names nobody.
func (p PeerID) IsZero() bool { return p == PeerID{} }

// MarshalText implements [encoding.TextMarshaler].
func (p PeerID) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *PeerID) UnmarshalText(b []byte) error {
	id, err := ParsePeerID(string(b))
	if err != nil {
		return err
	}
	*p = id
	return nil
}

// An Identity is an Ed25519 key with the self-signed certificate that carries
// it in the handshake. It is immutable and safe for concurrent use. Its String
// form shows the peer ID only, never the key.
type Identity struct {
	key  ed25519.PrivateKey
	cert tls.Certificate
	id   PeerID
}

// NewIdentity makes a fresh identity from 32 bytes of random, which must be a
// cryptographic source such as [crypto/rand.Reader].
func NewIdentity(random io.Reader) (*Identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("ri2n: read identity seed: %w", err)
	}
	return IdentityFromSeed(seed)
}

// IdentityFromSeed rebuilds the identity that seed, 32 secret bytes as
// returned by [Identity.Seed], stands for. It keeps no reference to seed.
func IdentityFromSeed(seed []byte) (*Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("ri2n: identity seed has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	key := ed25519.NewKeyFromSeed(seed)
	public := key.Public().(ed25519.PublicKey)
	id := PeerIDOf(public)
	// The certificate is only an envelope for the key: peers pin the peer ID
	// and look at no name or date in it, so a wrong clock cannot lock a node
	// out. Ed25519 signs deterministically, so one seed has one certificate.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, section 4.1.2.5
	}
	der, err := x509.CreateCertificate(nil, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("ri2n: make identity certificate: %w", err)
	}
	return &Identity{
		key:  key,
		id:   id,
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}, nil
}

// Seed returns a copy of the 32 secret bytes to store.
func (i *Identity) Seed() []byte { return append([]byte(nil), i.key.Seed()...) }

// PeerID returns the public name of the identity.
func (i *Identity) PeerID() PeerID { return i.id }

// String returns the peer ID.
func (i *Identity) String() string { return i.id.String() }

// GoString keeps the key out of %#v.
func (i *Identity) GoString() string { return "ri2n.Identity(" + i.id.String() + ")" }

// errNotEd25519 reports a certificate whose key is of another kind.
var errNotEd25519 = errors.New("ri2n: peer certificate does not hold an Ed25519 key")

// peerIDOfCertificates returns the peer ID that the leaf of a peer's
// certificate list proves.
func peerIDOfCertificates(certs []*x509.Certificate) (PeerID, error) {
	if len(certs) == 0 {
		return PeerID{}, errors.New("ri2n: peer sent no certificate")
	}
	key, ok := certs[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return PeerID{}, errNotEd25519
	}
	return PeerIDOf(key), nil
}
