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
	// Change is how many answers a second leave from another socket than was
	// asked, or go to another port than asked, to one /24 or /56. Zero: 5.
	Change float64
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
	address, prefix, total, change *limiter
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
		change:  rate(l.Change, 5),
	}
}

// attrPadding is PADDING (RFC 5780, section 7.6).
const attrPadding = stun.AttrType(0x0026)

// An answer is a response, the corner that it leaves from, and the port of the
// sender that it goes to.
type answer struct {
	response []byte
	from     corner
	port     uint16 // zero: where the request came from
}

// answer returns the response to request, which came from source to where at
// says, at now; or why there is none. The response holds XOR-MAPPED-ADDRESS:
// 32 bytes over IPv4, 44 over IPv6. Behavior discovery (RFC 5780) is for
// requests that are at least as long as its responses, 56 and 92 bytes, so that
// forged ones gain nothing: these get RESPONSE-ORIGIN and OTHER-ADDRESS too,
// and CHANGE-REQUEST is heeded. RESPONSE-PORT, by which a mapping proves that it
// works, is heeded without a second address as well, under the same limit.
func (r *responder) answer(now time.Time, source netip.AddrPort, at origin, request []byte) (answer, stunVerdict) {
	if !stun.IsMessage(request) || !source.IsValid() || source.Port() == 0 {
		return answer{}, stunMalformed
	}
	var req stun.Message
	if err := stun.Decode(request, &req); err != nil || int(req.Length)+20 != len(request) {
		return answer{}, stunMalformed
	}
	if req.Type != stun.BindingRequest {
		return answer{}, stunUnsupported
	}
	var change corner
	var port uint16
	for _, a := range req.Attributes {
		switch {
		case a.Type == stun.AttrChangeRequest && at.set != nil:
			var ok bool
			if change, ok = parseChange(a.Value); !ok {
				return answer{}, stunMalformed
			}
		case a.Type == stun.AttrResponsePort:
			var ok bool
			if port, ok = parseResponsePort(a.Value); !ok {
				return answer{}, stunMalformed
			}
		case a.Type < 0x8000 && a.Type != attrPadding:
			// RFC 8489, section 14: attributes below 0x8000 must be understood.
			return answer{}, stunUnsupported
		}
		if a.Type == stun.AttrFingerprint && stun.Fingerprint.Check(&req) != nil {
			return answer{}, stunMalformed
		}
	}
	addr := source.Addr().Unmap().WithZone("")
	if !r.address.allow(now, hostOf(addr)) || !r.prefix.allow(now, relay.PrefixOf(addr)) || !r.total.allow(now, netip.Prefix{}) {
		return answer{}, stunLimited
	}
	if (change != 0 || port != 0) && !r.change.allow(now, relay.PrefixOf(addr)) {
		return answer{}, stunLimited
	}
	response, err := stun.Build(
		stun.NewTransactionIDSetter(req.TransactionID),
		stun.BindingSuccess,
		&stun.XORMappedAddress{IP: addr.AsSlice(), Port: int(source.Port())},
	)
	if err != nil {
		return answer{}, stunMalformed
	}
	if port != 0 && len(response.Raw) > len(request) {
		return answer{}, stunUnsupported
	}
	if at.set == nil {
		return answer{response.Raw, at.at, port}, stunAnswered
	}
	whole := &stun.Message{Raw: append([]byte(nil), response.Raw...)}
	if whole.Decode() != nil || at.describe(whole, at.at^change) != nil {
		return answer{}, stunMalformed
	}
	switch {
	case len(whole.Raw) <= len(request):
		return answer{whole.Raw, at.at ^ change, port}, stunAnswered
	case change != 0:
		return answer{}, stunUnsupported // too short to be worth the risk
	}
	return answer{response.Raw, at.at, port}, stunAnswered
}
