package server

import (
	"net/netip"
	"time"

	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/rendezvous/relay"
)

// STUNLimits bound what STUN may cost. Zero fields take the default.
type STUNLimits struct {
	PerAddress float64 // Bindings a second answered to one address; zero: 20
	PerPrefix  float64 // to one /24 or /56; zero: 100
	Total      float64 // to everybody; zero: 20,000
}

// stunVerdict is what became of one datagram that is not RI2N.
type stunVerdict int

const (
	stunAnswered stunVerdict = iota
	stunMalformed
	stunUnsupported // not a Binding request, or with an attribute that must be understood
	stunLimited
	stunVerdicts
)

var stunVerdictNames = [stunVerdicts]string{"answered", "malformed", "unsupported", "limited"}

// A responder answers STUN Binding requests (RFC 8489). It keeps no state for
// a sender beyond the slots of its limiters, and what it does not answer it
// drops in silence: an error response would be a service to whoever forges
// requests. It is safe for concurrent use.
type responder struct {
	address, prefix, total *limiter
}

func newResponder(l STUNLimits) *responder {
	rate := func(v, byDefault float64) *limiter {
		if v <= 0 {
			v = byDefault
		}
		return newLimiter(v, int(2*v))
	}
	return &responder{
		address: rate(l.PerAddress, 20),
		prefix:  rate(l.PerPrefix, 100),
		total:   rate(l.Total, 20_000),
	}
}

// attrPadding is PADDING (RFC 5780, section 7.6).
const attrPadding = stun.AttrType(0x0026)

// answer returns the response to request, which came from source at now, or
// nil. The response holds XOR-MAPPED-ADDRESS and nothing else: 32 bytes over
// IPv4, 44 over IPv6.
func (r *responder) answer(now time.Time, source netip.AddrPort, request []byte) ([]byte, stunVerdict) {
	if !stun.IsMessage(request) || !source.IsValid() || source.Port() == 0 {
		return nil, stunMalformed
	}
	var req stun.Message
	if err := stun.Decode(request, &req); err != nil || int(req.Length)+20 != len(request) {
		return nil, stunMalformed
	}
	if req.Type != stun.BindingRequest {
		return nil, stunUnsupported
	}
	for _, a := range req.Attributes {
		// RFC 8489, section 14: attributes below 0x8000 must be understood.
		if a.Type < 0x8000 && a.Type != attrPadding {
			return nil, stunUnsupported
		}
		if a.Type == stun.AttrFingerprint && stun.Fingerprint.Check(&req) != nil {
			return nil, stunMalformed
		}
	}
	addr := source.Addr().Unmap().WithZone("")
	if !r.address.allow(now, hostOf(addr)) || !r.prefix.allow(now, relay.PrefixOf(addr)) || !r.total.allow(now, netip.Prefix{}) {
		return nil, stunLimited
	}
	response, err := stun.Build(
		stun.NewTransactionIDSetter(req.TransactionID),
		stun.BindingSuccess,
		&stun.XORMappedAddress{IP: addr.AsSlice(), Port: int(source.Port())},
	)
	if err != nil {
		return nil, stunMalformed
	}
	return response.Raw, stunAnswered
}
