package ri2n

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// At most two certificates and 8 KiB of them are looked at.
const (
	maxCertificates     = 2
	maxCertificateBytes = 8 << 10
)

// verify is called by crypto/tls once the peer has proven that it holds the
// key of its certificate.
func (h *handshake) verify(cs tls.ConnectionState) error {
	h.refusal = h.check(cs.PeerCertificates, time.Now())
	return h.refusal
}

func (h *handshake) check(certs []*x509.Certificate, now time.Time) error {
	total := 0
	for _, c := range certs {
		total += len(c.Raw)
	}
	if len(certs) > maxCertificates || total > maxCertificateBytes {
		return fmt.Errorf("ri2n: peer sent %d certificates of %d bytes", len(certs), total)
	}
	id, err := peerIDOfCertificates(certs)
	if err != nil {
		return err
	}
	leaf := certs[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("ri2n: certificate of %s is valid from %s to %s only", id.Short(),
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	if !h.endpoint.certificates.ownSignature(leaf) {
		return fmt.Errorf("ri2n: certificate of %s is not signed by its own key", id.Short())
	}
	if h.client {
		if id != h.peer {
			return &PeerMismatchError{Want: h.peer, Got: id}
		}
		return nil
	}
	h.peer = id
	if authorize := h.endpoint.cfg.Authorize; authorize == nil {
		return ErrRefused
	} else if err := authorize(id); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}
