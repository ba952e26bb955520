package server

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/netsim"
)

// fourCorners returns the sockets of a set as a server is given them.
func fourCorners(t *testing.T) (listen, alternate, other []net.PacketConn) {
	t.Helper()
	world := netsim.New(t, 1)
	a, b := world.Host(), world.Host()
	open := func(h netsim.Host, port uint16) net.PacketConn {
		pc, err := h.ListenPacket(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		return pc
	}
	return []net.PacketConn{open(a, 3478)}, []net.PacketConn{open(a, 3479)}, []net.PacketConn{open(b, 3478), open(b, 3479)}
}

// RFC 5780, section 6.1: which socket answers, and what OTHER-ADDRESS and
// RESPONSE-ORIGIN then say.
func TestAnswersLeaveFromTheCornerAskedFor(t *testing.T) {
	listen, alternate, other := fourCorners(t)
	origins, err := newCornerSets(listen, alternate, other)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(pc net.PacketConn) netip.AddrPort { return addrPortOf(pc.LocalAddr()) }
	padding := stun.RawAttribute{Type: attrPadding, Value: make([]byte, 100)}
	change := func(bits byte) stun.Setter {
		return stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, bits}}
	}
	for _, tt := range []struct {
		name    string
		asked   net.PacketConn
		request []byte
		origin  netip.AddrPort
		other   netip.AddrPort
	}{
		{"nothing changes", listen[0], binding(t, padding), addr(listen[0]), addr(other[1])},
		{"port", listen[0], binding(t, padding, change(2)), addr(alternate[0]), addr(other[1])},
		{"address", listen[0], binding(t, padding, change(4)), addr(other[0]), addr(other[1])},
		{"both", listen[0], binding(t, padding, change(6)), addr(other[1]), addr(other[1])},
		{"asked at the other end", other[1], binding(t, padding, change(6)), addr(listen[0]), addr(listen[0])},
		{"zero bits", alternate[0], binding(t, padding, change(0)), addr(alternate[0]), addr(other[0])},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := origins[tt.asked]
			a, verdict := newResponder(STUNLimits{}).answer(t0, source4, at, tt.request)
			if verdict != stunAnswered {
				t.Fatalf("verdict %s", stunVerdictNames[verdict])
			}
			if got := at.set.addrs[a.from]; got != tt.origin {
				t.Errorf("answered from %v, want %v", got, tt.origin)
			}
			m := new(stun.Message)
			if err := stun.Decode(a.response, m); err != nil {
				t.Fatal(err)
			}
			var from stun.ResponseOrigin
			var otherAddr stun.OtherAddress
			if err := from.GetFrom(m); err != nil || from.String() != tt.origin.String() {
				t.Errorf("RESPONSE-ORIGIN %v, %v; want %v", from, err, tt.origin)
			}
			if err := otherAddr.GetFrom(m); err != nil || otherAddr.String() != tt.other.String() {
				t.Errorf("OTHER-ADDRESS %v, %v; want %v", otherAddr, err, tt.other)
			}
			// security.md: never more than came in.
			if len(a.response) > len(tt.request) {
				t.Errorf("%d bytes answer %d", len(a.response), len(tt.request))
			}
		})
	}
}

func TestShortRequestsGetNoBehaviorDiscovery(t *testing.T) {
	listen, alternate, other := fourCorners(t)
	origins, err := newCornerSets(listen, alternate, other)
	if err != nil {
		t.Fatal(err)
	}
	r := newResponder(STUNLimits{})
	a, verdict := r.answer(t0, source4, origins[listen[0]], binding(t))
	if verdict != stunAnswered || len(a.response) != 32 {
		t.Errorf("a short request got %d bytes, %s; want 32", len(a.response), stunVerdictNames[verdict])
	}
	short := binding(t, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, 6}})
	if _, verdict := r.answer(t0, source4, origins[listen[0]], short); verdict != stunUnsupported {
		t.Errorf("a short CHANGE-REQUEST: %s, want unsupported", stunVerdictNames[verdict])
	}
	for _, v := range [][]byte{{}, {0, 0, 0}, {1, 0, 0, 6}, {0, 0, 0, 8}, {0, 0, 0, 0xff}} {
		bad := binding(t, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: v}, stun.RawAttribute{Type: attrPadding, Value: make([]byte, 100)})
		if _, verdict := r.answer(t0, source4, origins[listen[0]], bad); verdict != stunMalformed {
			t.Errorf("CHANGE-REQUEST %x: %s, want malformed", v, stunVerdictNames[verdict])
		}
	}
}

func TestChangedAnswersAreLimitedByPrefix(t *testing.T) {
	listen, alternate, other := fourCorners(t)
	origins, err := newCornerSets(listen, alternate, other)
	if err != nil {
		t.Fatal(err)
	}
	r := newResponder(STUNLimits{})
	request := binding(t, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, 6}}, stun.RawAttribute{Type: attrPadding, Value: make([]byte, 100)})
	answered := 0
	for i := range 50 {
		source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 4000)
		if _, v := r.answer(t0, source, origins[listen[0]], request); v == stunAnswered {
			answered++
		}
	}
	if answered != 10 { // 5 a second, and a burst of two seconds
		t.Errorf("%d answers to one /24 at once, want 10", answered)
	}
}

func TestIncompleteCornersAreRefused(t *testing.T) {
	listen, alternate, other := fourCorners(t)
	if _, err := newCornerSets(listen, alternate, other[:1]); err == nil {
		t.Error("three sockets were taken")
	}
	if _, err := newCornerSets(listen, nil, other); err == nil {
		t.Error("sockets without a second port at home were taken")
	}
	if found, err := newCornerSets(listen, alternate, nil); err != nil || len(found) != 0 {
		t.Errorf("without a second address: %v, %v; want nothing", found, err)
	}
}

// RFC 5780, section 7.5, with the bounds of docs/rendezvous-protocol.md.
func TestResponsePort(t *testing.T) {
	padding := stun.RawAttribute{Type: attrPadding, Value: make([]byte, 100)}
	to := func(v ...byte) stun.RawAttribute { return stun.RawAttribute{Type: stun.AttrResponsePort, Value: v} }
	for _, tt := range []struct {
		name    string
		request []byte
		verdict stunVerdict
		port    uint16
	}{
		{"padded", binding(t, to(0x10, 0, 0, 0), padding), stunAnswered, 4096},
		{"not padded", binding(t, to(0x10, 0, 0, 0)), stunUnsupported, 0},
		{"privileged port", binding(t, to(0, 53, 0, 0), padding), stunMalformed, 0},
		{"reserved bits", binding(t, to(0x10, 0, 0, 1), padding), stunMalformed, 0},
		{"short", binding(t, to(0x10, 0), padding), stunMalformed, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, verdict := newResponder(STUNLimits{}).answer(t0, source4, origin{}, tt.request)
			if verdict != tt.verdict || a.port != tt.port {
				t.Errorf("%s to port %d, want %s to %d", stunVerdictNames[verdict], a.port, stunVerdictNames[tt.verdict], tt.port)
			}
		})
	}
	r, answered := newResponder(STUNLimits{}), 0
	for range 50 {
		if _, v := r.answer(t0, source4, origin{}, binding(t, to(0x10, 0, 0, 0), padding)); v == stunAnswered {
			answered++
		}
	}
	if answered != 10 {
		t.Errorf("%d answers at once, want 10", answered)
	}
}
