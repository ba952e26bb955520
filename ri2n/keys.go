package ri2n

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// aeadOverhead is the length of the tag of every suite, in bytes.
const aeadOverhead = 16

// errOpen reports a packet that is not from the peer, or that was damaged.
var errOpen = errors.New("ri2n: packet fails authentication")

// packetKeys protect the packets of one direction, encryption level and key
// phase, on all paths. They never change and may be used concurrently.
type packetKeys struct {
	suite uint16
	iv    [12]byte
	key   [32]byte // as long as the suite says

	// cipher is what key expands to, 20 times its size, while packets pass.
	cipher atomic.Pointer[cipher.AEAD]
}

// nonces lends the 12 bytes that an interface call would otherwise move to the
// heap for each packet. All sessions share it: a pool of each would hold, and
// make the collector visit, 128 bytes for each processor.
var nonces = sync.Pool{New: func() any { return new([12]byte) }}

// A packetSuite is what the packet protection takes from a TLS 1.3 suite.
type packetSuite struct {
	keyLen int
	hash   func() hash.Hash
	aead   func(key []byte) (cipher.AEAD, error)
}

func packetSuiteOf(suite uint16) (packetSuite, error) {
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		return packetSuite{16, sha256.New, newAESGCM}, nil
	case tls.TLS_AES_256_GCM_SHA384:
		return packetSuite{32, sha512.New384, newAESGCM}, nil
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return packetSuite{chacha20poly1305.KeySize, sha256.New, chacha20poly1305.New}, nil
	}
	return packetSuite{}, fmt.Errorf("ri2n: unknown TLS 1.3 suite %#04x", suite)
}

func newAESGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expandLabel is HKDF-Expand-Label (RFC 8446, section 7.1) with an empty
// context.
func expandLabel(h func() hash.Hash, secret []byte, label string, n int) ([]byte, error) {
	const prefix = "tls13 "
	info := binary.BigEndian.AppendUint16(make([]byte, 0, 4+len(prefix)+len(label)), uint16(n))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(info, prefix...)
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(h, secret, string(info), n)
}

// newPacketKeys derives the keys of a traffic secret of a TLS 1.3 suite
// (docs/wire-format.md, section 5.1).
func newPacketKeys(suite uint16, secret []byte) (*packetKeys, error) {
	s, err := packetSuiteOf(suite)
	if err != nil {
		return nil, err
	}
	key, err := expandLabel(s.hash, secret, "ri2n key", s.keyLen)
	if err != nil {
		return nil, fmt.Errorf("ri2n: derive packet key: %w", err)
	}
	k := &packetKeys{suite: suite}
	copy(k.key[:], key)
	iv, err := expandLabel(s.hash, secret, "ri2n iv", len(k.iv))
	if err != nil {
		return nil, fmt.Errorf("ri2n: derive packet IV: %w", err)
	}
	copy(k.iv[:], iv)
	aead, err := s.aead(key)
	if err != nil {
		return nil, fmt.Errorf("ri2n: packet cipher: %w", err)
	}
	k.cipher.Store(&aead)
	return k, nil
}

// aead returns the cipher, made again if park has dropped it.
func (k *packetKeys) aead() cipher.AEAD {
	if a := k.cipher.Load(); a != nil {
		return *a
	}
	s, err := packetSuiteOf(k.suite)
	if err != nil {
		panic("ri2n: keys keep the suite that they were made for: " + err.Error())
	}
	a, err := s.aead(k.key[:s.keyLen])
	if err != nil {
		panic("ri2n: a key that made one cipher makes another: " + err.Error())
	}
	k.cipher.Store(&a)
	return a
}

// park drops the expanded key until the next packet, which pays about a
// microsecond for it.
func (k *packetKeys) park() { k.cipher.Store(nil) }

// nextSecret returns the traffic secret after secret at a key update
// (docs/wire-format.md, section 5.3). It panics for a suite that
// newPacketKeys refuses.
func nextSecret(suite uint16, secret []byte) []byte {
	s, err := packetSuiteOf(suite)
	if err != nil {
		panic("ri2n: a key update keeps the suite of its handshake: " + err.Error())
	}
	next, err := expandLabel(s.hash, secret, "ri2n ku", len(secret))
	if err != nil {
		panic("ri2n: a traffic secret is as long as its hash: " + err.Error())
	}
	return next
}

// initialSalt returns the salt of the Initial keys of version1. A version that
// changes the packet layout changes the salt, so that neither takes packets of
// the other for its own.
func initialSalt() [32]byte { return sha256.Sum256([]byte("ri2n v1 initial")) }

// initialKeys returns the keys of Initial packets for dcid, the connection ID
// that the client chose at random. They protect from accidents and from those
// who did not see the first packet, from nobody else.
func initialKeys(dcid connID) (client, server *packetKeys) {
	salt := initialSalt()
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], uint64(dcid))
	secret, err := hkdf.Extract(sha256.New, id[:], salt[:])
	if err != nil {
		panic("ri2n: Initial keys derive from any connection ID: " + err.Error())
	}
	direction := func(label string) *packetKeys {
		secret, err := expandLabel(sha256.New, secret, label, sha256.Size)
		if err != nil {
			panic("ri2n: Initial keys derive from any connection ID: " + err.Error())
		}
		k, err := newPacketKeys(tls.TLS_AES_128_GCM_SHA256, secret)
		if err != nil {
			panic("ri2n: Initial keys derive from any connection ID: " + err.Error())
		}
		return k
	}
	return direction("client in"), direction("server in")
}

// putNonce writes IV XOR (path as u32, pn as u64).
func (k *packetKeys) putNonce(nonce *[12]byte, path pathID, pn packetNumber) {
	binary.BigEndian.PutUint32(nonce[:], binary.BigEndian.Uint32(k.iv[:])^uint32(path))
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(k.iv[4:])^uint64(pn))
}

// seal encrypts packet, a header of headerLen bytes and then the frames, in
// place, and returns it longer by the tag of aeadOverhead bytes. The caller
// provides that much spare capacity, otherwise seal panics. Handshake packets
// have path 0. It allocates nothing.
func (k *packetKeys) seal(packet []byte, headerLen int, path pathID, pn packetNumber) []byte {
	if cap(packet)-len(packet) < aeadOverhead {
		panic("ri2n: a packet has room for its tag")
	}
	nonce := nonces.Get().(*[12]byte)
	k.putNonce(nonce, path, pn)
	sealed := k.aead().Seal(packet[:headerLen], nonce[:], packet[headerLen:], packet[:headerLen])
	nonces.Put(nonce)
	return sealed
}

// open authenticates and decrypts packet, a header of headerLen bytes and then
// what seal made, in place. The plaintext aliases packet. When it fails, with
// errOpen, only the header and the last aeadOverhead bytes of packet are still
// what arrived. It allocates nothing.
func (k *packetKeys) open(packet []byte, headerLen int, path pathID, pn packetNumber) (plaintext []byte, err error) {
	if len(packet) < headerLen+aeadOverhead {
		return nil, errTruncated
	}
	nonce := nonces.Get().(*[12]byte)
	k.putNonce(nonce, path, pn)
	plaintext, err = k.aead().Open(packet[headerLen:headerLen], nonce[:], packet[headerLen:], packet[:headerLen])
	nonces.Put(nonce)
	if err != nil {
		return nil, errOpen
	}
	return plaintext, nil
}
