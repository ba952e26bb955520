package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// PCP and NAT-PMP share the router's port and the first byte, their version.
const (
	routerPort   = 5351 // RFC 6887, section 19.1
	announcePort = 5350

	pcpVersion       = 2
	pcpHeaderLen     = 24
	pcpMapLen        = pcpHeaderLen + 36
	pcpMaxLen        = 1100 // RFC 6887, section 7
	pcpAnnounce      = 0
	pcpMap           = 1
	pcpIsResponse    = 0x80
	protocolUDP      = 17
	pcpSuccess       = 0
	pcpUnsuppVersion = 1
)

// errMalformed reports an answer that breaks its format, or is to another
// question.
var errMalformed = errors.New("portmap: malformed answer")

// A PCPError is a result code other than SUCCESS (RFC 6887, section 7.4).
type PCPError struct{ Code uint8 }

var pcpResults = map[uint8]string{
	1: "it does not speak this version", 2: "it is not allowed", 3: "the request is malformed", 4: "the operation is not known",
	5: "an option is not known", 6: "an option is malformed", 7: "its network is down", 8: "it has no ports left",
	9: "the protocol is not known", 10: "too many mappings", 11: "the outside port cannot be had",
	12: "the request passed another NAT", 13: "too many peers",
}

func (e *PCPError) Error() string {
	if text := pcpResults[e.Code]; text != "" {
		return "portmap: the router refuses by PCP: " + text
	}
	return fmt.Sprintf("portmap: the router refuses by PCP: result %d", e.Code)
}

// A pcpNonce tells the owner of a mapping (RFC 6887, section 11.1).
type pcpNonce [12]byte

// A pcpMapping is the MAP part of a request or response (RFC 6887, section 11.1).
type pcpMapping struct {
	nonce    pcpNonce
	internal uint16
	outside  netip.AddrPort // suggested, or assigned
}

// appendPCPRequest appends a request header of client (RFC 6887, section 7.1).
func appendPCPRequest(b []byte, opcode byte, lifetime time.Duration, client netip.Addr) []byte {
	b = append(b, pcpVersion, opcode, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
	ip := client.As16()
	return append(b, ip[:]...)
}

// appendPCPMap appends a MAP request for a UDP port.
func appendPCPMap(b []byte, lifetime time.Duration, client netip.Addr, m pcpMapping) []byte {
	b = appendPCPRequest(b, pcpMap, lifetime, client)
	b = append(b, m.nonce[:]...)
	b = append(b, protocolUDP, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, m.internal)
	b = binary.BigEndian.AppendUint16(b, m.outside.Port())
	addr := m.outside.Addr()
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	ip := addr.As16()
	return append(b, ip[:]...)
}

// A pcpResponse is the header of a response (RFC 6887, section 7.2).
type pcpResponse struct {
	opcode   byte
	result   uint8
	lifetime time.Duration
	epoch    uint32
	mapping  pcpMapping // of a MAP response
}

// parsePCP decodes a response that fills b. Options, which follow, are left out:
// we ask for none.
func parsePCP(b []byte) (pcpResponse, error) {
	if len(b) < pcpHeaderLen || len(b) > pcpMaxLen || len(b)%4 != 0 || b[0] != pcpVersion || b[1]&pcpIsResponse == 0 {
		return pcpResponse{}, errMalformed
	}
	r := pcpResponse{
		opcode: b[1] &^ pcpIsResponse, result: b[3],
		lifetime: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second,
		epoch:    binary.BigEndian.Uint32(b[8:]),
	}
	if r.opcode != pcpMap {
		return r, nil
	}
	if len(b) < pcpMapLen {
		if r.result != pcpSuccess {
			return r, nil // a server that knows no MAP may send its header only
		}
		return pcpResponse{}, errMalformed
	}
	m := b[pcpHeaderLen:]
	copy(r.mapping.nonce[:], m)
	if m[12] != protocolUDP {
		return pcpResponse{}, errMalformed
	}
	r.mapping.internal = binary.BigEndian.Uint16(m[16:])
	r.mapping.outside = netip.AddrPortFrom(netip.AddrFrom16([16]byte(m[20:36])).Unmap(), binary.BigEndian.Uint16(m[18:]))
	return r, nil
}

// A pcp speaks PCP with a router.
type pcp struct {
	r     *router
	nonce pcpNonce
}

func (p *pcp) look(ctx context.Context) (netip.Addr, error) {
	_, err := p.ask(ctx, appendPCPRequest(nil, pcpAnnounce, 0, p.r.local.Addr()), pcpAnnounce)
	return netip.Addr{}, err
}

// ask sends a request and returns the response to it.
func (p *pcp) ask(ctx context.Context, request []byte, opcode byte) (pcpResponse, error) {
	var answer pcpResponse
	var refusal error
	err := p.r.ask(ctx, routerPort, [][]byte{request}, func(b []byte) bool {
		if isNATPMP(b) {
			// RFC 6887, appendix A: this is how a NAT-PMP server answers.
			refusal = &PCPError{pcpUnsuppVersion}
			return true
		}
		r, err := parsePCP(b)
		if err != nil || r.opcode != opcode || opcode == pcpMap && r.result == pcpSuccess &&
			(r.mapping.nonce != p.nonce || r.mapping.internal != p.r.local.Port()) {
			return false
		}
		answer, refusal = r, nil
		if r.result != pcpSuccess {
			refusal = &PCPError{r.result}
		}
		return true
	})
	if err == nil {
		err = refusal
	}
	return answer, err
}

func (p *pcp) mapPort(ctx context.Context, want netip.AddrPort) (lease, error) {
	r, err := p.ask(ctx, appendPCPMap(nil, leaseTime, p.r.local.Addr(), pcpMapping{p.nonce, p.r.local.Port(), want}), pcpMap)
	if err != nil {
		return lease{}, err
	}
	return lease{protocol: PCP, outside: r.mapping.outside, lifetime: r.lifetime, epoch: r.epoch, hasEpoch: true}, nil
}

func (p *pcp) unmap(ctx context.Context, l lease) error {
	// RFC 6887, section 11.1: to delete, the suggested address and port are zero.
	_, err := p.ask(ctx, appendPCPMap(nil, 0, p.r.local.Addr(), pcpMapping{nonce: p.nonce, internal: p.r.local.Port()}), pcpMap)
	return err
}
