package punch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v4"
)

// transactionID is the 96 bits of RFC 8489, section 5.
type transactionID = [stun.TransactionIDSize]byte

const (
	stunHeaderBytes = 20
	stunCookie      = 0x2112A442
	maxSTUNBytes    = 1500 // a larger message cannot have crossed the Internet unharmed
)

// stunClass is the class of a message (RFC 8489, section 5).
type stunClass uint8

const (
	classRequest stunClass = iota
	classIndication
	classSuccess
	classError
)

// A stunHeader is what the mux must know of a message to route it.
type stunHeader struct {
	class stunClass
	id    transactionID
	ufrag string // before the colon of USERNAME; requests only
}

var errNotSTUN = errors.New("punch: not a STUN Binding message")

// parseSTUN reads the header of a Binding message that fills b, and the local
// ufrag of a request. It allocates for the ufrag only, which is bounded.
func parseSTUN(b []byte) (stunHeader, error) {
	if len(b) < stunHeaderBytes || len(b) > maxSTUNBytes || b[0] > 3 ||
		binary.BigEndian.Uint32(b[4:]) != stunCookie {
		return stunHeader{}, errNotSTUN
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length%4 != 0 || length != len(b)-stunHeaderBytes {
		return stunHeader{}, errNotSTUN
	}
	h := stunHeader{class: stunClass(b[0]<<1&2 | b[1]>>4&1)}
	if b[0]&^1 != 0 || b[1]&^0x10 != 1 {
		return stunHeader{}, errNotSTUN // another method than Binding
	}
	copy(h.id[:], b[8:])
	for rest := b[stunHeaderBytes:]; len(rest) > 0; {
		if len(rest) < 4 {
			return stunHeader{}, errNotSTUN
		}
		kind, n := stun.AttrType(binary.BigEndian.Uint16(rest)), int(binary.BigEndian.Uint16(rest[2:]))
		padded := (n + 3) &^ 3
		if rest = rest[4:]; len(rest) < padded {
			return stunHeader{}, errNotSTUN
		}
		if kind == stun.AttrUsername && h.class == classRequest && h.ufrag == "" {
			for i, c := range rest[:min(n, maxUfrag+1)] {
				if c == ':' {
					h.ufrag = string(rest[:i])
					break
				}
			}
		}
		rest = rest[padded:]
	}
	return h, nil
}

// decodeSTUN decodes a whole message for closer looks; it keeps a copy of b.
func decodeSTUN(b []byte) (*stun.Message, error) {
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if err := m.Decode(); err != nil {
		return nil, fmt.Errorf("punch: decode STUN: %w", err)
	}
	return m, nil
}

// bindingResponseRoom is the longest answer we expect to a Binding request:
// header, XOR-MAPPED-ADDRESS, RESPONSE-ORIGIN and OTHER-ADDRESS for IPv6,
// SOFTWARE of some length, FINGERPRINT. A request is at least as long, so that
// servers need not answer with more than they got.
const bindingResponseRoom = stunHeaderBytes + 3*24 + 20 + 8

// newBinding builds a padded Binding request.
func newBinding(id transactionID, change changeRequest) []byte {
	m := stun.New()
	m.TransactionID = id
	m.SetType(stun.BindingRequest)
	m.WriteHeader()
	// PADDING (RFC 5780, section 7.6) must be understood, so only a request
	// that is of no use to an ordinary server has it. Others get a long
	// SOFTWARE, which any server may ignore (RFC 8489, section 14.14).
	padding := stun.AttrSoftware
	if change != changeNothing {
		m.Add(stun.AttrChangeRequest, []byte{0, 0, 0, byte(change)})
		padding = stun.AttrPadding
	}
	if room := bindingResponseRoom - len(m.Raw) - 4; room > 0 {
		m.Add(padding, bytes.Repeat([]byte{' '}, room&^3))
	}
	return m.Raw
}

// A changeRequest asks the server to answer from elsewhere (RFC 5780,
// section 7.2).
type changeRequest byte

const (
	changeNothing changeRequest = 0
	changePort    changeRequest = 2
	changeAddress changeRequest = 4
)

// Errors of a Binding transaction.
var (
	errNoMapped    = errors.New("punch: Binding response without XOR-MAPPED-ADDRESS")
	errBogusMapped = errors.New("punch: Binding response with a mapped address that nobody can have")
)

// mappedAddress returns the XOR-MAPPED-ADDRESS of m. An address that cannot be
// a sender's is refused; a private one is not, since the server may be inside
// the same network.
func mappedAddress(m *stun.Message) (netip.AddrPort, error) {
	var x stun.XORMappedAddress
	if err := x.GetFrom(m); err != nil {
		return netip.AddrPort{}, errNoMapped
	}
	a, ok := netip.AddrFromSlice(x.IP)
	if !ok || x.Port <= 0 || x.Port > 0xffff {
		return netip.AddrPort{}, errBogusMapped
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		a.IsLinkLocalUnicast() {
		return netip.AddrPort{}, errBogusMapped
	}
	return netip.AddrPortFrom(a, uint16(x.Port)), nil
}

// otherAddress returns the alternate address that a server offers (RFC 5780,
// section 7.4), or the zero value.
func otherAddress(m *stun.Message) netip.AddrPort {
	var other stun.MappedAddress
	if err := other.GetFromAs(m, stun.AttrOtherAddress); err != nil {
		return netip.AddrPort{}
	}
	a, ok := netip.AddrFromSlice(other.IP)
	if !ok || other.Port <= 0 || other.Port > 0xffff {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(other.Port))
}
