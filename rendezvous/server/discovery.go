package server

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/pion/stun/v4"
)

// A corner is one of the four transport addresses that behavior discovery
// takes: two addresses times two ports (RFC 5780, section 6). Bit 0 stands for
// the other port, bit 1 for the other address.
type corner uint8

const (
	otherPort    corner = 1
	otherAddress corner = 2
	corners             = 4
)

// An origin is where a request arrived. The zero value has no alternate
// address.
type origin struct {
	set *cornerSet
	at  corner
}

// A cornerSet is the four sockets of one address family.
type cornerSet struct {
	sockets [corners]net.PacketConn
	addrs   [corners]netip.AddrPort
}

// newCornerSets arranges sockets on a second address with those of the first.
// Each family that has any must have four sockets on two addresses and two
// ports, none of them a wildcard.
func newCornerSets(listen, alternate, other []net.PacketConn) (map[net.PacketConn]origin, error) {
	found := make(map[net.PacketConn]origin)
	for _, first := range listen {
		a1 := addrPortOf(first.LocalAddr())
		set := new(cornerSet)
		place := func(at corner, pc net.PacketConn) error {
			if set.sockets[at] != nil {
				return fmt.Errorf("server: two sockets for one corner of behavior discovery: %v and %v", set.addrs[at], addrPortOf(pc.LocalAddr()))
			}
			set.sockets[at], set.addrs[at] = pc, addrPortOf(pc.LocalAddr())
			return nil
		}
		if err := place(0, first); err != nil {
			return nil, err
		}
		further := 0
		for _, pc := range append(append([]net.PacketConn(nil), alternate...), other...) {
			a := addrPortOf(pc.LocalAddr())
			if a.Addr().Is4() != a1.Addr().Is4() {
				continue
			}
			var at corner
			if a.Port() != a1.Port() {
				at |= otherPort
			}
			if a.Addr() != a1.Addr() {
				at |= otherAddress
				further++
			}
			if err := place(at, pc); err != nil {
				return nil, err
			}
		}
		if further == 0 {
			continue
		}
		for at, pc := range set.sockets {
			switch {
			case pc == nil:
				return nil, fmt.Errorf("server: behavior discovery takes two addresses with two ports each, and of the family of %v one is missing", a1)
			case set.addrs[at].Addr().IsUnspecified():
				return nil, fmt.Errorf("server: behavior discovery takes two addresses, and %v stands for all", set.addrs[at])
			case set.addrs[at].Port() != set.addrs[corner(at)&otherPort].Port() || set.addrs[at].Addr() != set.addrs[corner(at)&otherAddress].Addr():
				return nil, fmt.Errorf("server: the sockets of behavior discovery are not on two addresses with the same two ports each: %v", set.addrs)
			}
		}
		for at, pc := range set.sockets {
			found[pc] = origin{set, corner(at)}
		}
	}
	return found, nil
}

// Bits of CHANGE-REQUEST (RFC 5780, section 7.2).
const (
	changeIP   = 0x04
	changePort = 0x02
)

// parseChange decodes the value of a CHANGE-REQUEST into the corners that
// change.
func parseChange(v []byte) (change corner, ok bool) {
	if len(v) != 4 || v[0]|v[1]|v[2] != 0 || v[3]&^(changeIP|changePort) != 0 {
		return 0, false
	}
	if v[3]&changeIP != 0 {
		change |= otherAddress
	}
	if v[3]&changePort != 0 {
		change |= otherPort
	}
	return change, true
}

// leastResponsePort is the lowest port that RESPONSE-PORT may name: services of
// third parties live below.
const leastResponsePort = 1024

// parseResponsePort decodes the value of a RESPONSE-PORT (RFC 5780,
// section 7.5).
func parseResponsePort(v []byte) (port uint16, ok bool) {
	if len(v) != 4 || v[2]|v[3] != 0 {
		return 0, false
	}
	port = binary.BigEndian.Uint16(v)
	return port, port >= leastResponsePort
}

// describe adds RESPONSE-ORIGIN and OTHER-ADDRESS (RFC 5780, section 7.3 and
// 7.4) to a response that leaves from corner from. OTHER-ADDRESS differs from
// where the request arrived in address and port.
func (o origin) describe(m *stun.Message, from corner) error {
	at := func(c corner) (net.IP, int) { return o.set.addrs[c].Addr().AsSlice(), int(o.set.addrs[c].Port()) }
	ip, port := at(from)
	if err := (&stun.ResponseOrigin{IP: ip, Port: port}).AddTo(m); err != nil {
		return err
	}
	ip, port = at(o.at ^ (otherAddress | otherPort))
	return (&stun.OtherAddress{IP: ip, Port: port}).AddTo(m)
}
