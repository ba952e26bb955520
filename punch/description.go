package punch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// descriptionVersion is the first byte of an encoded description.
const descriptionVersion = 1

const (
	maxCandidates       = 16   // in one description
	maxDescriptionBytes = 2048 // encoded

	ufragLength = 16 // ours, of characters with 6 bits each
	pwdLength   = 32
	minUfrag    = 4 // RFC 8445, section 5.3
	minPwd      = 22
	maxUfrag    = 32 // our limits; RFC 8839, section 5.4 would allow 256
	maxPwd      = 64
)

// A Kind is the type of a candidate (RFC 8445, section 5.1.1).
type Kind uint8

const (
	KindHost            Kind = 1
	KindServerReflexive Kind = 2
)

// String returns ICE's word.
func (k Kind) String() string {
	switch k {
	case KindHost:
		return "host"
	case KindServerReflexive:
		return "server-reflexive"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// A Candidate is a transport address where a link may be reached.
type Candidate struct {
	Addr netip.AddrPort
	Kind Kind
	// Priority as in RFC 8445, section 5.1.2. Zero lets punch compute it.
	Priority uint32
}

// priority fills in a zero Priority (RFC 8445, section 5.1.2.1): type
// preferences 126 and 100, one component, earlier candidates first.
func (c Candidate) priority(index int) uint32 {
	if c.Priority != 0 {
		return c.Priority
	}
	typePreference := uint32(100)
	if c.Kind == KindHost {
		typePreference = 126
	}
	return typePreference<<24 | uint32(65535-index)<<8 | 255
}

// A Description is what one side tells the other about one pair of links: the
// ICE credentials of this generation, the candidates and the behavior of the
// network before them. It is secret: it travels in the encrypted session.
type Description struct {
	Generation uint32
	Link       uint16 // the sender's link
	PeerLink   uint16 // the receiver's link; zero: any
	Ufrag, Pwd string
	Behavior   Behavior
	Candidates []Candidate // at most 16
}

// errDescription reports a description that breaks its format.
var errDescription = errors.New("punch: malformed description")

// ErrVersion reports a message of a version that we do not speak.
var ErrVersion = errors.New("punch: unknown version")

// appendDescription appends the encoding of d:
//
//	version(1) generation(4) link(2) peer link(2)
//	mapping(1) filtering(1) findings(1) port delta(2)
//	length(1) ufrag length(1) pwd
//	count(1) { kind(1) address length(1): 4 or 16, address port(2) priority(4) } ...
//
// Numbers are big-endian. Findings holds two bits each for translated, port
// preserving and UDP blocked, from the lowest bit on.
func appendDescription(b []byte, d Description) []byte {
	b = append(b, descriptionVersion)
	b = binary.BigEndian.AppendUint32(b, d.Generation)
	b = binary.BigEndian.AppendUint16(b, d.Link)
	b = binary.BigEndian.AppendUint16(b, d.PeerLink)
	b = appendBehavior(b, d.Behavior)
	b = append(b, byte(len(d.Ufrag)))
	b = append(b, d.Ufrag...)
	b = append(b, byte(len(d.Pwd)))
	b = append(b, d.Pwd...)
	b = append(b, byte(len(d.Candidates)))
	for _, c := range d.Candidates {
		addr := c.Addr.Addr().AsSlice()
		b = append(b, byte(c.Kind), byte(len(addr)))
		b = append(b, addr...)
		b = binary.BigEndian.AppendUint16(b, c.Addr.Port())
		b = binary.BigEndian.AppendUint32(b, c.Priority)
	}
	return b
}

func appendBehavior(b []byte, v Behavior) []byte {
	b = append(b, byte(v.Mapping), byte(v.Filtering),
		byte(v.Translated)|byte(v.PortPreserving)<<2|byte(v.UDPBlocked)<<4)
	return binary.BigEndian.AppendUint16(b, uint16(v.PortDelta))
}

// A reader takes an encoding apart from its front; after the first shortage
// every result is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) behavior() Behavior {
	v := Behavior{Mapping: Dependence(r.byte()), Filtering: Dependence(r.byte())}
	findings := r.byte()
	v.Translated = Finding(findings & 3)
	v.PortPreserving = Finding(findings >> 2 & 3)
	v.UDPBlocked = Finding(findings >> 4 & 3)
	v.PortDelta = int16(r.uint16())
	if v.Mapping > everyDependence || v.Filtering > everyDependence || findings>>6 != 0 ||
		v.Translated > No || v.PortPreserving > No || v.UDPBlocked > No {
		r.bad = true
	}
	return v
}

// credential reads one length-prefixed ICE credential.
func (r *reader) credential(least, most int) string {
	n := int(r.byte())
	if n < least || n > most {
		r.bad = true
	}
	s := r.take(n)
	for _, c := range s {
		if !isICEChar(c) {
			r.bad = true
		}
	}
	return string(s)
}

// isICEChar reports whether c is an ice-char (RFC 8839, section 5.1).
func isICEChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '+' || c == '/'
}

// parseDescription decodes the description at the front of b and returns the
// bytes after it. The result shares no memory with b. Whether a candidate may
// be sent to is decided later, by a [Filter].
func parseDescription(b []byte) (Description, []byte, error) {
	if len(b) > 0 && b[0] != descriptionVersion {
		return Description{}, nil, fmt.Errorf("description %d: %w", b[0], ErrVersion)
	}
	whole := len(b)
	r := reader{b: b}
	r.byte()
	d := Description{
		Generation: r.uint32(),
		Link:       r.uint16(),
		PeerLink:   r.uint16(),
		Behavior:   r.behavior(),
		Ufrag:      r.credential(minUfrag, maxUfrag),
		Pwd:        r.credential(minPwd, maxPwd),
	}
	n := int(r.byte())
	if r.bad || n > maxCandidates {
		return Description{}, nil, errDescription
	}
	for range n {
		kind := Kind(r.byte())
		length := int(r.byte())
		if kind != KindHost && kind != KindServerReflexive || length != 4 && length != 16 {
			return Description{}, nil, errDescription
		}
		addr, _ := netip.AddrFromSlice(r.take(length))
		c := Candidate{Kind: kind, Addr: netip.AddrPortFrom(addr, r.uint16()), Priority: r.uint32()}
		if r.bad {
			return Description{}, nil, errDescription
		}
		d.Candidates = append(d.Candidates, c)
	}
	if whole-len(r.b) > maxDescriptionBytes {
		return Description{}, nil, errDescription
	}
	return d, r.b, nil
}
