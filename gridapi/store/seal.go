package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/zstd"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

// Sealed chunks (docs/store-format.md, section 2).
const (
	nonceLen = 12
	tagLen   = 16
	saltLen  = 32
	sealLen  = nonceLen + tagLen // what sealing adds

	codingRaw  = 0
	codingZstd = 1
	lengthLen  = 4 // of the plain length, before a zstd frame
)

// A kind says what a chunk is, and is authenticated with it, so that nobody can
// pass one for the other.
type kind string

const (
	leafKind kind = "instantgrid store 1 leaf"
	nodeKind kind = "instantgrid store 1 node"
	rootKind kind = "instantgrid store 1 root"
)

// errSeal reports a chunk that was not sealed with this key.
var errSeal = errors.New("it was not sealed with this key")

// A sealer seals with one Key.
type sealer struct {
	content, salts, roots [32]byte
	gear                  [256]uint64
	squeezer              *squeezer
}

func newSealer(k Key, z *squeezer) *sealer {
	return &sealer{
		content: k.derive("content"), salts: k.derive("salts"), roots: k.derive("roots"),
		gear: k.gear(), squeezer: z,
	}
}

// key returns the key of a leaf or node. It follows from the content, so that
// equal chunks become equal when sealed, and from the secret, so that nobody
// outside can tell whether a chunk is one that he knows.
func (s *sealer) key(k kind, plain []byte) [32]byte {
	sum := sha256.Sum256(plain)
	return mac(s.content, []byte(k), sum[:])
}

// seal appends a sealed leaf or node to dst and returns its key.
func (s *sealer) seal(dst []byte, k kind, plain []byte) ([]byte, [32]byte) {
	key := s.key(k, plain)
	return s.sealWith(dst, k, key, plain), key
}

// sealRoot appends a sealed root to dst. Its key follows from the secret and a
// salt before it, so that its ID is all that one needs to read it.
func (s *sealer) sealRoot(dst []byte, plain []byte) []byte {
	sum := sha256.Sum256(plain)
	salt := mac(s.salts, sum[:])
	return s.sealWith(append(dst, salt[:]...), rootKind, mac(s.roots, salt[:]), plain)
}

// sealWith appends nonce, ciphertext and tag. One key seals one plain text only,
// but zstd may one day make other bytes of it; then the nonce, which has their
// hash, is another.
func (s *sealer) sealWith(dst []byte, k kind, key [32]byte, plain []byte) []byte {
	var nonce [nonceLen]byte
	body := plain
	squeezed := s.squeezer.squeeze(plain)
	if squeezed != nil {
		body = *squeezed
		sum := sha256.Sum256(body)
		copy(nonce[1:], sum[:])
		nonce[0] = codingZstd
		defer s.squeezer.release(squeezed)
	}
	return newGCM(key).Seal(append(dst, nonce[:]...), nonce[:], body, []byte(k))
}

func newGCM(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("store: a key has 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("store: AES has blocks of 16 bytes: " + err.Error())
	}
	return aead
}

// openRoot appends what a sealed root holds to dst.
func (s *sealer) openRoot(dst, sealed []byte) ([]byte, error) {
	if len(sealed) < saltLen {
		return nil, errSeal
	}
	return s.open(dst, rootKind, mac(s.roots, sealed[:saltLen]), sealed[saltLen:])
}

// open appends what was sealed with key to dst. It overwrites sealed.
func (s *sealer) open(dst []byte, k kind, key [32]byte, sealed []byte) ([]byte, error) {
	if len(sealed) < sealLen {
		return nil, errSeal
	}
	nonce, text := sealed[:nonceLen], sealed[nonceLen:]
	switch nonce[0] {
	case codingRaw:
		plain, err := newGCM(key).Open(dst, nonce, text, []byte(k))
		if err != nil || len(bytes.Trim(nonce, "\x00")) > 0 {
			return nil, errSeal
		}
		return plain, nil
	case codingZstd:
		body, err := newGCM(key).Open(text[:0], nonce, text, []byte(k))
		if err != nil {
			return nil, errSeal
		}
		return s.squeezer.expand(dst, body)
	}
	return nil, errSeal
}

// A squeezer compresses.
type squeezer struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	free    chan *[]byte
}

func newSqueezer(concurrency int) (*squeezer, error) {
	z := &squeezer{free: make(chan *[]byte, concurrency)}
	var err error
	z.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(concurrency),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	z.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(concurrency), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(chunk.MaxSize))
	return z, err
}

const (
	// sampleLen is how much of a chunk is looked at, at three places, to guess
	// whether it can be compressed.
	sampleLen = 4 << 10
	// leastEstimate is the guess, from 0 to 1, below which it is not tried. The
	// value separates compressed files (0.00 to 0.02) from all else in decision
	// 0032.
	leastEstimate = 0.05
	// worthSaving: a chunk is kept compressed if that takes off one part of so
	// many.
	worthSaving = 16
)

// squeeze returns the compressed form of plain with its length before it, or nil
// where that is hardly shorter. The caller releases it.
func (z *squeezer) squeeze(plain []byte) *[]byte {
	if !promising(plain) {
		return nil
	}
	var p *[]byte
	select {
	case p = <-z.free:
	default:
		p = new([]byte)
	}
	*p = binary.BigEndian.AppendUint32((*p)[:0], uint32(len(plain)))
	*p = z.encoder.EncodeAll(plain, *p)
	if len(*p) > len(plain)-len(plain)/worthSaving {
		z.release(p)
		return nil
	}
	return p
}

func (z *squeezer) release(p *[]byte) {
	select {
	case z.free <- p:
	default:
	}
}

// promising guesses from samples whether b can be compressed.
func promising(b []byte) bool {
	if len(b) < 64 {
		return false
	}
	if len(b) <= 3*sampleLen {
		return compress.Estimate(b) >= leastEstimate
	}
	for _, at := range []int{0, len(b)/2 - sampleLen/2, len(b) - sampleLen} {
		if compress.Estimate(b[at:at+sampleLen]) >= leastEstimate {
			return true
		}
	}
	return false
}

// expand appends the plain form of what squeeze has returned to dst.
func (z *squeezer) expand(dst, body []byte) ([]byte, error) {
	if len(body) < lengthLen {
		return nil, errSeal
	}
	n := binary.BigEndian.Uint32(body)
	if n > maxCut {
		return nil, errors.New("a chunk expands to too much")
	}
	at := len(dst)
	if cap(dst)-at < int(n) {
		dst = append(make([]byte, 0, at+int(n)), dst...)
	}
	// The decoder writes no further than the capacity.
	plain, err := z.decoder.DecodeAll(body[lengthLen:], dst[:at:at+int(n)])
	if err != nil || len(plain) != at+int(n) {
		return nil, errors.New("a chunk does not expand to what it says")
	}
	return plain, nil
}
