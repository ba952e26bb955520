package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

const (
	version     = 5
	noAuth      = 0x00
	noMethod    = 0xff
	cmdConnect  = 1
	cmdUDP      = 3
	addrIPv4    = 1
	addrName    = 3
	addrIPv6    = 4
	maxHostName = 255
)

// A reply is the code of RFC 1928, section 6.
type reply byte

const (
	succeeded      reply = 0
	failed         reply = 1
	notAllowed     reply = 2
	netUnreachable reply = 3
	hostUnreach    reply = 4
	refused        reply = 5
	ttlExpired     reply = 6
	noCommand      reply = 7
	noAddressType  reply = 8
)

var (
	errVersion  = errors.New("socks: not SOCKS version 5; use socks5h:// or --socks5-hostname")
	errNoMethod = errors.New("socks: the client wants to authenticate, and there is nothing to authenticate with")
	errAddress  = errors.New("socks: malformed address")
)

// A target is where a client wants to go.
type target struct {
	host string // a name, or an IP address
	port uint16
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// readGreeting reads the methods that a client offers (section 3) and reports
// whether none at all is among them.
func readGreeting(r io.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if head[0] != version {
		return errVersion
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return err
	}
	for _, m := range methods {
		if m == noAuth {
			return nil
		}
	}
	return errNoMethod
}

// readRequest reads a request (section 4).
func readRequest(r io.Reader) (command byte, t target, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, target{}, err
	}
	if head[0] != version {
		return 0, target{}, errVersion
	}
	size := 0
	switch head[3] {
	case addrIPv4:
		size = 4
	case addrIPv6:
		size = 16
	case addrName:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return 0, target{}, err
		}
		size = int(n[0])
	default:
		return head[1], target{}, fmt.Errorf("%w: type %d", errAddress, head[3])
	}
	b := make([]byte, size+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, target{}, err
	}
	t, err = makeTarget(head[3], b[:size], b[size:])
	return head[1], t, err
}

func makeTarget(kind byte, host, port []byte) (target, error) {
	t := target{port: binary.BigEndian.Uint16(port)}
	if kind == addrName {
		for _, c := range host {
			if c <= ' ' || c >= 0x7f {
				return target{}, fmt.Errorf("%w: a name with the byte %#x", errAddress, c)
			}
		}
		if len(host) == 0 {
			return target{}, fmt.Errorf("%w: an empty name", errAddress)
		}
		t.host = string(host)
		return t, nil
	}
	ip, _ := netip.AddrFromSlice(host)
	t.host = ip.Unmap().String()
	return t, nil
}

// appendAddress extends b by an address as it stands in replies and packets.
func appendAddress(b []byte, t target) []byte {
	switch ip, err := netip.ParseAddr(t.host); {
	case err != nil:
		b = append(b, addrName, byte(len(t.host)))
		b = append(b, t.host...)
	case ip.Is4():
		b = append(b, addrIPv4)
		b = append(b, ip.AsSlice()...)
	default:
		b = append(b, addrIPv6)
		b = append(b, ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, t.port)
}

// appendReply extends b by a reply with the address that the server uses.
func appendReply(b []byte, code reply, bound netip.AddrPort) []byte {
	if !bound.IsValid() {
		bound = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return appendAddress(append(b, version, byte(code), 0), target{bound.Addr().Unmap().String(), bound.Port()})
}

// appendPacket extends b by a packet with its header (section 7).
func appendPacket(b []byte, t target, payload []byte) []byte {
	return append(appendAddress(append(b, 0, 0, 0), t), payload...)
}

// parsePacket decodes a packet of a client. The payload aliases b.
func parsePacket(b []byte) (t target, payload []byte, err error) {
	if len(b) < 4 {
		return target{}, nil, fmt.Errorf("%w: packet cut short", errAddress)
	}
	if b[0] != 0 || b[1] != 0 || b[2] != 0 {
		return target{}, nil, fmt.Errorf("%w: a fragment, or a header with other bits", errAddress)
	}
	kind, size := b[3], 0
	b = b[4:]
	switch kind {
	case addrIPv4:
		size = 4
	case addrIPv6:
		size = 16
	case addrName:
		if len(b) == 0 {
			return target{}, nil, fmt.Errorf("%w: packet cut short", errAddress)
		}
		size, b = int(b[0]), b[1:]
	default:
		return target{}, nil, fmt.Errorf("%w: type %d", errAddress, kind)
	}
	if len(b) < size+2 {
		return target{}, nil, fmt.Errorf("%w: packet cut short", errAddress)
	}
	t, err = makeTarget(kind, b[:size], b[size:size+2])
	return t, b[size+2:], err
}
