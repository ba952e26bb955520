package ri2n

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"io"
)

const resetTokenLen = 16

// Sizes of a stateless reset in bytes. The least is that of the smallest
// packet with a frame in it; the most is enough to look like an ordinary small
// one.
const (
	minStatelessReset = shortHeaderLen + 1 + aeadOverhead
	maxStatelessReset = 48
)

// statelessResetToken returns the token that resets whoever sends to cid. The
// key is the endpoint's own and outlives its sessions.
func statelessResetToken(key *[32]byte, cid connID) (token [resetTokenLen]byte) {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], uint64(cid))
	m := hmac.New(sha256.New, key[:])
	m.Write(id[:])
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	copy(token[:], sum[:])
	return token
}

// appendStatelessReset appends a datagram that looks like a short packet and
// ends with token. It has at most maxLen bytes; the caller passes one less than
// the packet that it answers had, so that two endpoints never reset each other
// for ever. When that leaves too little room, or random fails, b is returned as
// it was.
func appendStatelessReset(b []byte, random io.Reader, token [resetTokenLen]byte, maxLen int) []byte {
	n := min(maxLen, maxStatelessReset)
	if n < minStatelessReset {
		return b
	}
	var head [maxStatelessReset - resetTokenLen]byte
	noise := head[:n-resetTokenLen]
	if _, err := io.ReadFull(random, noise); err != nil {
		return b
	}
	noise[0] = bitSession | noise[0]&bitKeyPhase
	b = append(b, noise...)
	return append(b, token[:]...)
}

// isStatelessReset reports, in constant time, whether datagram resets the
// session that was given token. It is asked once no key opens the datagram,
// whose last bytes open leaves alone.
func isStatelessReset(datagram []byte, token [resetTokenLen]byte) bool {
	if len(datagram) < minStatelessReset || datagram[0]&(bitLong|bitSession) != bitSession {
		return false
	}
	return subtle.ConstantTimeCompare(datagram[len(datagram)-resetTokenLen:], token[:]) == 1
}
