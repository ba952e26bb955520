package ri2n

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"
)

// retryTokenLifetime is how long a Retry token proves an address: ten times
// the round trip of any path that is worth a session.
const retryTokenLifetime = 10 * time.Second

// A Retry token (docs/wire-format.md, section 5.5): generation of the key,
// nonce, AEAD(time of issue, ODCID), tag.
const (
	retryNonceLen = 12
	retryPlainLen = 16
	retryTokenLen = 1 + retryNonceLen + retryPlainLen + aeadOverhead
)

// errRetryToken reports a token that proves nothing: not ours, expired, or
// issued to another address.
var errRetryToken = errors.New("ri2n: Retry token is not valid here and now")

// retryTokens issues and checks Retry tokens, by which a dialer proves that it
// receives at its address before we keep any state for it. It keeps two keys,
// whatever the number of tokens, and may be used concurrently.
type retryTokens struct {
	random io.Reader

	mu         sync.Mutex
	epoch      time.Time // of the first token; times in tokens count from here
	generation byte      // of current
	rotated    time.Time // when current was made
	current    cipher.AEAD
	previous   cipher.AEAD // nil before the first rotation
}

func newRetryTokens(random io.Reader) *retryTokens { return &retryTokens{random: random} }

// issue returns a token of retryTokenLen bytes for the dialer at addr whose
// first Initial went to odcid. It returns nil when random fails.
func (r *retryTokens) issue(now time.Time, addr netip.AddrPort, odcid connID) []byte {
	return r.issueIn(new(retryScratch), now, addr, odcid)
}

// A retryScratch is what making one token needs. It is lent, since a flood
// asks for tens of thousands a second.
type retryScratch struct {
	token  [retryTokenLen]byte
	plain  [retryPlainLen]byte
	aad    [18]byte
	packet [longPrefixLen + 2 + retryTokenLen + mac1Len]byte
}

// issueIn is issue with its memory lent: the token lies in s.
func (r *retryTokens) issueIn(s *retryScratch, now time.Time, addr netip.AddrPort, odcid connID) []byte {
	token := s.token[:1+retryNonceLen]
	aead, issued, ok := r.issuer(now, token)
	if !ok {
		return nil
	}
	binary.BigEndian.PutUint64(s.plain[:], uint64(issued))
	binary.BigEndian.PutUint64(s.plain[8:], uint64(odcid))
	return aead.Seal(token, token[1:], s.plain[:], appendRetryAAD(s.aad[:0], addr))
}

// issuer fills the generation and the nonce of token and returns the current
// key and the time since the epoch. A key older than a token's lifetime is
// replaced: the tokens of its predecessor have all expired by then.
func (r *retryTokens) issuer(now time.Time, token []byte) (aead cipher.AEAD, issued time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || now.Sub(r.rotated) >= retryTokenLifetime {
		var key [16]byte
		if _, err := io.ReadFull(r.random, key[:]); err != nil {
			return nil, 0, false
		}
		next, err := newAESGCM(key[:])
		if err != nil {
			panic("ri2n: 16 bytes are an AES-128 key: " + err.Error())
		}
		if r.current == nil {
			r.epoch = now
		}
		r.previous, r.current = r.current, next
		r.generation++
		r.rotated = now
	}
	token[0] = r.generation
	if _, err := io.ReadFull(r.random, token[1:1+retryNonceLen]); err != nil {
		return nil, 0, false
	}
	return r.current, now.Sub(r.epoch), true
}

// open returns the ODCID of a token that was issued to addr within the last
// retryTokenLifetime; otherwise the error is errRetryToken. A token may be
// shown more than once within its lifetime, since Initials are repeated.
func (r *retryTokens) open(now time.Time, addr netip.AddrPort, token []byte) (odcid connID, err error) {
	if len(token) != retryTokenLen {
		return 0, errRetryToken
	}
	r.mu.Lock()
	var aead cipher.AEAD
	switch token[0] {
	case r.generation:
		aead = r.current
	case r.generation - 1:
		aead = r.previous
	}
	epoch := r.epoch
	r.mu.Unlock()
	if aead == nil {
		return 0, errRetryToken
	}
	var room [retryPlainLen]byte
	plain, err := aead.Open(room[:0], token[1:1+retryNonceLen], token[1+retryNonceLen:], retryAAD(addr))
	if err != nil {
		return 0, errRetryToken
	}
	age := now.Sub(epoch) - time.Duration(binary.BigEndian.Uint64(plain))
	if age < 0 || age > retryTokenLifetime {
		return 0, errRetryToken
	}
	return connID(binary.BigEndian.Uint64(plain[8:])), nil
}

// retryAAD is what binds a token to an address: 16 bytes of address, IPv4 in
// its mapped form, and the port. Zones stay out: they name our links.
func retryAAD(addr netip.AddrPort) []byte { return appendRetryAAD(nil, addr) }

func appendRetryAAD(b []byte, addr netip.AddrPort) []byte {
	a := addr.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, a[:]...), addr.Port())
}
