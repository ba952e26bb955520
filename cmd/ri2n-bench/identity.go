package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An identity is one fresh key in the two forms that contenders want, and who
// is told what ri2n does with it.
type identity struct {
	ri2n  *ri2n.Identity
	cert  tls.Certificate
	trace func(*ri2n.Session) ri2n.Tracer // nil: nobody
}

func newIdentity() (identity, error) {
	id, err := ri2n.NewIdentity(rand.Reader)
	if err != nil {
		return identity{}, err
	}
	key := ed25519.NewKeyFromSeed(id.Seed())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.PeerID().String()},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return identity{}, fmt.Errorf("make certificate: %w", err)
	}
	return identity{ri2n: id, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

// peerOf returns the peer ID that a TLS connection proved.
func peerOf(state tls.ConnectionState) (ri2n.PeerID, error) {
	if len(state.PeerCertificates) == 0 {
		return ri2n.PeerID{}, errors.New("peer sent no certificate")
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return ri2n.PeerID{}, errors.New("peer's certificate holds no Ed25519 key")
	}
	return ri2n.PeerIDOf(key), nil
}
