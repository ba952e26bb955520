package ri2n

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// maxKnownCertificates bounds a certificateCache: 32 bytes for each.
const maxKnownCertificates = 1024

// A certificateCache remembers certificates that are signed by their own key,
// by their SHA-256: a peer that comes again shows the same one. That the peer
// holds the key is proven anew each time, by crypto/tls.
type certificateCache struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]struct{}
}

// ownSignature reports whether leaf is signed by the key that it holds.
func (c *certificateCache) ownSignature(leaf *x509.Certificate) bool {
	sum := sha256.Sum256(leaf.Raw)
	c.mu.Lock()
	_, known := c.known[sum]
	c.mu.Unlock()
	if known {
		return true
	}
	if leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxKnownCertificates {
		c.known = make(map[[sha256.Size]byte]struct{})
	}
	c.known[sum] = struct{}{}
	return true
}
