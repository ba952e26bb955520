package rendezvous

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// TokenLifetime is how long a token lives unless its maker says otherwise.
const TokenLifetime = 24 * time.Hour

// SecretSize is the number of secret bytes in a token.
const SecretSize = 16

// A Token lets one stranger reach one peer, once: it names the rendezvous and
// the peer, and holds the secret that both walls ask for. The rendezvous sees
// [Token.AdmitKey] only; the peer asks for [Proof] made with [Token.PeerKey],
// which never leaves the two ends, so that the rendezvous cannot pose as the
// guest.
//
// Its text form is one word of lower-case letters and digits; docs/
// rendezvous-protocol.md, section 7. Whoever holds the text is the guest.
type Token struct {
	Server Address
	Sender ri2n.PeerID // whom the token leads to
	Secret [SecretSize]byte
	Expiry time.Time // whole seconds
}

// NewToken makes a token that leads to sender and lives until expiry, with a
// secret read from random, which must be a cryptographic source such as
// [crypto/rand.Reader].
func NewToken(random io.Reader, server Address, sender ri2n.PeerID, expiry time.Time) (*Token, error) {
	t := &Token{Server: server, Sender: sender, Expiry: time.Unix(expiry.Unix(), 0)}
	if _, err := io.ReadFull(random, t.Secret[:]); err != nil {
		return nil, fmt.Errorf("rendezvous: read token secret: %w", err)
	}
	return t, nil
}

const (
	tokenPrefix   = "igt" // so that people and programs recognise one
	tokenVersion  = 1
	tokenChecksum = 4 // bytes
	tokenFixed    = 1 + 32 + SecretSize + 4 + 32 + 2 + 1
	maxTokenText  = 1 << 10 // characters; far above what a 253-byte host needs
)

// tokenEncoding has no letter that a double click or a shell would stop at.
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Encode returns the text form, which is a secret. Its length is below 560
// characters, and about 170 for an IPv4 rendezvous.
func (t *Token) Encode() string {
	b := []byte{tokenVersion}
	b = append(b, t.Sender[:]...)
	b = append(b, t.Secret[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(max(0, min(t.Expiry.Unix(), 1<<32-1))))
	b = append(b, t.Server.Peer[:]...)
	b = binary.BigEndian.AppendUint16(b, t.Server.Port)
	b = append(b, byte(len(t.Server.Host)))
	b = append(b, t.Server.Host...)
	sum := tokenSum(b)
	return tokenPrefix + tokenEncoding.EncodeToString(append(b, sum[:]...))
}

// String shows whom the token leads to and until when, and not its secret; the
// text form comes from [Token.Encode].
func (t *Token) String() string {
	return fmt.Sprintf("token for %s at %s until %s", t.Sender.Short(), t.Server.HostPort(), t.Expiry.UTC().Format(time.RFC3339))
}

// GoString keeps the secret out of %#v.
func (t *Token) GoString() string { return "rendezvous.Token(" + t.String() + ")" }

// tokenSum guards against typing errors, nothing else.
func tokenSum(b []byte) (sum [tokenChecksum]byte) {
	full := sha256.Sum256(append([]byte("instantgrid token checksum "), b...))
	copy(sum[:], full[:])
	return sum
}

// ParseToken decodes the text form. Blanks and line ends within it are
// ignored, as terminals and mail programs add them, and capitals are accepted.
// It does not look at the clock; see [Token.Check]. The error is a
// [*TokenError].
func ParseToken(s string) (*Token, error) {
	bad := func(problem TokenProblem, detail string) (*Token, error) {
		return nil, &TokenError{Problem: problem, Detail: detail}
	}
	text := strings.ToLower(strings.Join(strings.Fields(s), ""))
	if text == "" {
		return bad(TokenMalformed, "it is empty")
	}
	body, found := strings.CutPrefix(text, tokenPrefix)
	if !found {
		return bad(TokenMalformed, fmt.Sprintf("a token starts with %q", tokenPrefix))
	}
	if len(text) > maxTokenText {
		return bad(TokenMalformed, fmt.Sprintf("it has %d characters, more than any token", len(text)))
	}
	for i, c := range []byte(body) {
		if !(c >= 'a' && c <= 'z' || c >= '2' && c <= '7') {
			return bad(TokenMalformed, fmt.Sprintf("character %d cannot be in a token (letters and the digits 2 to 7 can)", len(tokenPrefix)+i+1))
		}
	}
	b, err := tokenEncoding.DecodeString(body)
	if err != nil || tokenEncoding.EncodeToString(b) != body {
		return bad(TokenDamaged, "its length is not that of a token: it is cut short, or has a character too many")
	}
	if len(b) > 0 && b[0] != tokenVersion {
		return bad(TokenVersion, fmt.Sprintf("its format is %d, this program reads format %d", b[0], tokenVersion))
	}
	if len(b) < tokenFixed+tokenChecksum {
		return bad(TokenDamaged, "it is cut short")
	}
	b, sum := b[:len(b)-tokenChecksum], b[len(b)-tokenChecksum:]
	if want := tokenSum(b); string(sum) != string(want[:]) {
		if missing := tokenFixed + int(b[tokenFixed-1]) - len(b); missing > 0 {
			return bad(TokenDamaged, "it is cut short")
		}
		return bad(TokenDamaged, "its checksum does not match: a character is wrong or missing")
	}
	t := new(Token)
	b = b[1:]
	b = b[copy(t.Sender[:], b):]
	b = b[copy(t.Secret[:], b):]
	t.Expiry = time.Unix(int64(binary.BigEndian.Uint32(b)), 0)
	b = b[4:]
	b = b[copy(t.Server.Peer[:], b):]
	t.Server.Port = binary.BigEndian.Uint16(b)
	length, host := int(b[2]), b[3:]
	if length != len(host) {
		return bad(TokenDamaged, "its host has another length than it says")
	}
	t.Server.Host = string(host)
	if problem := hostProblem(t.Server.Host); problem != "" {
		return bad(TokenDamaged, problem)
	}
	if t.Server.Port == 0 {
		return bad(TokenDamaged, "its port is zero")
	}
	return t, nil
}

// Check reports whether the token may still be used at now: nil, or a
// [*TokenError] whose problem is [TokenExpired].
func (t *Token) Check(now time.Time) error {
	if now.Before(t.Expiry) {
		return nil
	}
	return &TokenError{
		Problem: TokenExpired,
		Detail:  fmt.Sprintf("it was valid until %s", t.Expiry.UTC().Format("2006-01-02 15:04:05 MST")),
	}
}

// Labels that keep the keys of one secret apart.
const (
	labelAdmit = "instantgrid token 1 admit"
	labelPeer  = "instantgrid token 1 peer"
	labelProof = "instantgrid token 1 proof"
)

// ExporterLabel is the label for [ri2n.Session.Export] under which both ends
// of a session derive the bytes that [Proof] binds.
const ExporterLabel = "EXPORTER-instantgrid-token-1"

// A Key is derived from a token's secret.
type Key [sha256.Size]byte

// String and GoString keep keys out of logs.
func (Key) String() string   { return "rendezvous.Key(secret)" }
func (Key) GoString() string { return "rendezvous.Key(secret)" }

// AdmitKey returns kAdmit, which the guest shows to the rendezvous.
func (t *Token) AdmitKey() Key { return t.derive(labelAdmit) }

// PeerKey returns kPeer, which never leaves the two ends.
func (t *Token) PeerKey() Key { return t.derive(labelPeer) }

// derive binds the key to the token's sender as well as to its secret.
func (t *Token) derive(label string) (k Key) {
	b, err := hkdf.Key(sha256.New, t.Secret[:], t.Sender[:], label, len(k))
	if err != nil {
		panic("rendezvous: HKDF refused a constant length: " + err.Error())
	}
	copy(k[:], b)
	return k
}

// Digest returns what the token's maker deposits at the rendezvous: H(kAdmit).
func (k Key) Digest() [32]byte { return sha256.Sum256(k[:]) }

// Proof returns what the guest sends first on its first stream to the sender:
// HMAC(kPeer, exporter), with exporter from [ExporterLabel]. It holds for that
// one session.
func Proof(kPeer Key, exporter []byte) [32]byte {
	mac := hmac.New(sha256.New, kPeer[:])
	mac.Write([]byte(labelProof))
	mac.Write(exporter)
	return [32]byte(mac.Sum(nil))
}

// VerifyProof reports whether proof is [Proof] of the same key and session, in
// constant time.
func VerifyProof(kPeer Key, exporter, proof []byte) bool {
	want := Proof(kPeer, exporter)
	return subtle.ConstantTimeCompare(want[:], proof) == 1
}
