package punch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// A probe is a packet of the search through hard NATs. Unlike a connectivity
// check it has no STUN cookie, which some NATs look for and rewrite.
type probe struct {
	kind    probeKind
	attempt uint64
}

type probeKind uint8

const (
	probeOpen     probeKind = 1 // opens a mapping, or hits one
	probeAnswer   probeKind = 2
	probeNominate probeKind = 3 // the controlling side's choice
	probeAgree    probeKind = 4 // answers a nomination
)

const (
	// probeFirst is the first byte of every probe. Bit 6 tells packets of the
	// transport, and 0 to 3 STUN (docs/wire-format.md, section 2).
	probeFirst = 0x30
	probeBytes = 100
	probeMAC   = 16
)

// appendProbe appends the encoding of p, with a code under the password of the
// receiver:
//
//	0x30(1) kind(1) attempt(8) zero(74) code(16)
func appendProbe(b []byte, p probe, pwd string) []byte {
	start := len(b)
	b = append(b, probeFirst, byte(p.kind))
	b = binary.BigEndian.AppendUint64(b, p.attempt)
	b = append(b, make([]byte, probeBytes-probeMAC-10)...)
	return append(b, probeCode(b[start:], pwd)...)
}

func probeCode(b []byte, pwd string) []byte {
	code := hmac.New(sha256.New, []byte(pwd))
	code.Write(b)
	return code.Sum(nil)[:probeMAC]
}

// isProbe reports whether b may be a probe.
func isProbe(b []byte) bool { return len(b) == probeBytes && b[0] == probeFirst }

// probeAttempt returns the attempt that a probe says it is for.
func probeAttempt(b []byte) uint64 { return binary.BigEndian.Uint64(b[2:]) }

// parseProbe decodes a probe that our password authenticates.
func parseProbe(b []byte, pwd string) (p probe, ok bool) {
	if !isProbe(b) {
		return probe{}, false
	}
	body := b[:probeBytes-probeMAC]
	if !hmac.Equal(probeCode(body, pwd), b[probeBytes-probeMAC:]) {
		return probe{}, false
	}
	p = probe{kind: probeKind(b[1]), attempt: probeAttempt(b)}
	return p, p.kind >= probeOpen && p.kind <= probeAgree
}
