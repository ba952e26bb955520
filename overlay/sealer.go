package overlay

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"
)

// A sealer closes frames between the processes of one job, so that members who
// pass them on can neither read nor forge them (docs/overlay-protocol.md,
// section 11.3).
type sealer struct{ aead cipher.AEAD }

var errSeal = errors.New("overlay: a frame that this job has not sealed")

func newSealer(owner ed25519.PrivateKey) (sealer, error) {
	key, err := mailKey(owner)
	if err != nil {
		return sealer{}, err
	}
	aead, err := chacha20poly1305.NewX(key)
	return sealer{aead}, err
}

// seal closes a frame of rank from for the process at to. Nonces are random: at
// 192 bits none comes twice.
func (s sealer) seal(to Key, from uint64, frame []byte) []byte {
	b := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+8+len(frame)+chacha20poly1305.Overhead)
	rand.Read(b)
	text := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(frame)), from)
	return s.aead.Seal(b, b, append(text, frame...), to[:])
}

// open returns the frame and whose it is.
func (s sealer) open(to Key, b []byte) (from uint64, frame []byte, err error) {
	if len(b) < chacha20poly1305.NonceSizeX {
		return 0, nil, errSeal
	}
	text, err := s.aead.Open(nil, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], to[:])
	if err != nil || len(text) < 8 {
		return 0, nil, errSeal
	}
	return binary.BigEndian.Uint64(text), text[8:], nil
}

// sealerInfo separates the key of mail from all else that is made of a job's.
const sealerInfo = "instantgrid mail v1"

// mailKey derives the key of a job's mail.
func mailKey(owner ed25519.PrivateKey) ([]byte, error) {
	return hkdf.Key(sha256.New, owner.Seed(), nil, sealerInfo, 32)
}
