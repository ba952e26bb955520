package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	natpmpVersion    = 0
	natpmpAddress    = 0 // opcodes, RFC 6886, section 3
	natpmpMapUDP     = 1
	natpmpIsResponse = 0x80
	natpmpAddressLen = 12
	natpmpMapLen     = 16
)

// A NATPMPError is a result code other than success (RFC 6886, section 3.5).
type NATPMPError struct{ Code uint16 }

var natpmpResults = map[uint16]string{
	1: "it does not speak this version", 2: "it is not allowed", 3: "its network is down", 4: "it has no ports left", 5: "the operation is not known",
}

func (e *NATPMPError) Error() string {
	if text := natpmpResults[e.Code]; text != "" {
		return "portmap: the router refuses by NAT-PMP: " + text
	}
	return fmt.Sprintf("portmap: the router refuses by NAT-PMP: result %d", e.Code)
}

// appendNATPMPMap appends a request to map a UDP port (RFC 6886, section 3.3).
func appendNATPMPMap(b []byte, internal, outside uint16, lifetime time.Duration) []byte {
	b = append(b, natpmpVersion, natpmpMapUDP, 0, 0)
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, outside)
	return binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
}

// A natpmpResponse is an answer of a NAT-PMP server.
type natpmpResponse struct {
	opcode            byte
	result            uint16
	epoch             uint32
	address           netip.Addr    // of natpmpAddress
	internal, outside uint16        // of natpmpMapUDP
	lifetime          time.Duration // of natpmpMapUDP
}

// isNATPMP reports whether b could be an answer of a NAT-PMP server.
func isNATPMP(b []byte) bool {
	return len(b) >= 4 && b[0] == natpmpVersion && b[1]&natpmpIsResponse != 0
}

// parseNATPMP decodes a response that fills b. What a failed one holds beside
// the result is not looked at.
func parseNATPMP(b []byte) (natpmpResponse, error) {
	if !isNATPMP(b) || len(b) > natpmpMapLen {
		return natpmpResponse{}, errMalformed
	}
	r := natpmpResponse{opcode: b[1] &^ natpmpIsResponse, result: binary.BigEndian.Uint16(b[2:])}
	if r.result != 0 {
		return r, nil
	}
	switch {
	case r.opcode == natpmpAddress && len(b) == natpmpAddressLen:
		r.address = netip.AddrFrom4([4]byte(b[8:12]))
	case r.opcode == natpmpMapUDP && len(b) == natpmpMapLen:
		r.internal, r.outside = binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
		r.lifetime = time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second
	default:
		return natpmpResponse{}, errMalformed
	}
	r.epoch = binary.BigEndian.Uint32(b[4:])
	return r, nil
}

// A natpmp speaks NAT-PMP with a router.
type natpmp struct{ r *router }

func (p natpmp) ask(ctx context.Context, request []byte) (natpmpResponse, error) {
	var answer natpmpResponse
	var refusal error
	err := p.r.ask(ctx, routerPort, [][]byte{request}, func(b []byte) bool {
		if r, err := parsePCP(b); err == nil && r.result == pcpUnsuppVersion {
			refusal = &NATPMPError{1} // a PCP server that speaks nothing else
			return true
		}
		r, err := parseNATPMP(b)
		if err != nil || r.opcode != request[1] || r.opcode == natpmpMapUDP && r.result == 0 && r.internal != p.r.local.Port() {
			return false
		}
		answer, refusal = r, nil
		if r.result != 0 {
			refusal = &NATPMPError{r.result}
		}
		return true
	})
	if err == nil {
		err = refusal
	}
	return answer, err
}

func (p natpmp) look(ctx context.Context) (netip.Addr, error) {
	r, err := p.ask(ctx, []byte{natpmpVersion, natpmpAddress})
	return r.address, err
}

func (p natpmp) mapPort(ctx context.Context, want netip.AddrPort) (lease, error) {
	port := want.Port()
	if port == 0 {
		port = p.r.local.Port()
	}
	r, err := p.ask(ctx, appendNATPMPMap(nil, p.r.local.Port(), port, leaseTime))
	if err != nil {
		return lease{}, err
	}
	// The address is asked for after the mapping: it is the one that counts.
	addr, err := p.look(ctx)
	if err != nil {
		return lease{}, err
	}
	return lease{protocol: NATPMP, outside: netip.AddrPortFrom(addr, r.outside), lifetime: r.lifetime, epoch: r.epoch, hasEpoch: true}, nil
}

func (p natpmp) unmap(ctx context.Context, l lease) error {
	// RFC 6886, section 3.4: outside port and lifetime are zero.
	_, err := p.ask(ctx, appendNATPMPMap(nil, p.r.local.Port(), 0, 0))
	return err
}
