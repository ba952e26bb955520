package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"

	"github.com/instantgrid/instantgrid/ri2n"
)

// What a flooder must know of the wire format it has from docs/wire-format.md
// alone (sections 3.2, 4 and 5.2), not from the transport that it attacks.
const (
	floodVersion     = 0x52320001
	floodInitial     = 0xc0
	floodRetry       = 0xe0
	floodSize        = 1200
	floodMAC         = 16
	floodPrefix      = 21 // first byte, version, DCID, SCID
	floodCryptoFrame = 0x06
)

// initialMaker makes Initials for one responder.
type initialMaker struct {
	key   [32]byte // of mac1
	hello []byte   // a complete ClientHello
}

func newInitialMaker(peer ri2n.PeerID) (*initialMaker, error) {
	m := &initialMaker{key: sha256.Sum256(append([]byte("ri2n mac1"), peer[:]...))}
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{
		NextProtos: []string{"ri2n/1"}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
	}})
	defer q.Close()
	q.SetTransportParameters([]byte{})
	if err := q.Start(context.Background()); err != nil {
		return nil, err
	}
	for {
		switch ev := q.NextEvent(); ev.Kind {
		case tls.QUICNoEvent:
			if len(m.hello) == 0 {
				return nil, errors.New("crypto/tls wrote no ClientHello")
			}
			return m, nil
		case tls.QUICWriteData:
			m.hello = append(m.hello, ev.Data...)
		}
	}
}

// flight returns the Initials that carry the ClientHello to dcid.
func (m *initialMaker) flight(dcid uint64, token []byte) (datagrams [][]byte, err error) {
	aead, iv, err := initialProtection(dcid)
	if err != nil {
		return nil, err
	}
	for pn, at := 0, 0; at < len(m.hello); pn++ {
		b := append(make([]byte, 0, floodSize), floodInitial)
		b = binary.BigEndian.AppendUint32(b, floodVersion)
		b = binary.BigEndian.AppendUint64(b, dcid)
		b = binary.BigEndian.AppendUint64(b, ^dcid)
		b = binary.BigEndian.AppendUint16(b, uint16(len(token)))
		b = append(b, token...)
		mac := hmac.New(sha256.New, m.key[:])
		mac.Write(b)
		b = append(b, mac.Sum(nil)[:floodMAC]...)
		b = binary.BigEndian.AppendUint16(b, uint16(floodSize-len(b)-2))
		b = binary.BigEndian.AppendUint16(b, uint16(pn))
		header := len(b)
		n := min(900, len(m.hello)-at)
		b = append(b, floodCryptoFrame)
		b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(at))
		if at < 64 { // the shortest form only
			b = append(b[:len(b)-2], byte(at))
		}
		b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(n))
		b = append(b, m.hello[at:at+n]...)
		b = append(b, make([]byte, floodSize-len(b)-aead.Overhead())...)
		nonce := iv
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(iv[4:])^uint64(pn))
		datagrams = append(datagrams, aead.Seal(b[:header], nonce[:], b[header:], b[:header]))
		at += n
	}
	return datagrams, nil
}

// retryToken returns what a Retry asks for.
func retryToken(b []byte) (scid uint64, token []byte, ok bool) {
	if len(b) < floodPrefix+2+floodMAC || b[0] != floodRetry {
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[floodPrefix:]))
	if len(b) != floodPrefix+2+n+floodMAC {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b[13:]), b[floodPrefix+2 : floodPrefix+2+n], true
}

// initialProtection derives the client's Initial keys.
func initialProtection(dcid uint64) (aead cipher.AEAD, iv [12]byte, err error) {
	salt := sha256.Sum256([]byte("ri2n v1 initial"))
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], dcid)
	secret, err := hkdf.Extract(sha256.New, id[:], salt[:])
	if err != nil {
		return nil, iv, err
	}
	label := func(secret []byte, name string, n int) []byte {
		name = "tls13 " + name
		info := append([]byte{byte(n >> 8), byte(n), byte(len(name))}, name...)
		out, expandErr := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
		err = errors.Join(err, expandErr)
		return out
	}
	secret = label(secret, "client in", sha256.Size)
	key := label(secret, "ri2n key", 16)
	copy(iv[:], label(secret, "ri2n iv", len(iv)))
	if err != nil {
		return nil, iv, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, iv, err
	}
	aead, err = cipher.NewGCM(block)
	return aead, iv, err
}

// junkInitial returns a datagram that looks like an Initial of ri2n, and of
// nobody who knows the responder.
func junkInitial() []byte {
	b := make([]byte, floodSize)
	cryptorand.Read(b)
	b[0] = floodInitial
	binary.BigEndian.PutUint32(b[1:], floodVersion)
	binary.BigEndian.PutUint16(b[floodPrefix:], 0)
	binary.BigEndian.PutUint16(b[floodPrefix+2+floodMAC:], uint16(floodSize-floodPrefix-2-floodMAC-2))
	return b
}

// quicInitial returns a well-formed Initial of QUIC version 1 (RFC 9000,
// section 17.2.2) with connection IDs of its own.
func quicInitial() []byte {
	b := make([]byte, floodSize)
	cryptorand.Read(b)
	copy(b, []byte{0xc3, 0, 0, 0, 1, 8})
	b[14] = 8                                               // SCID
	b[23] = 0                                               // no token
	binary.BigEndian.PutUint16(b[24:], 0x4000|floodSize-26) // length
	return b
}
