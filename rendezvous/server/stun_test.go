package server

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// binding returns a Binding request with the given attributes.
func binding(t testing.TB, attributes ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, attributes...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

var (
	source4 = netip.MustParseAddrPort("192.0.2.33:32853")
	source6 = netip.MustParseAddrPort("[2001:db8::33]:32853")
)

// plain is answer at a server without a second address.
func (r *responder) plain(now time.Time, source netip.AddrPort, request []byte) ([]byte, stunVerdict) {
	a, verdict := r.answer(now, source, origin{}, request)
	return a.response, verdict
}

func TestBindingGetsTheStandardsAnswer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		source  netip.AddrPort
		request []byte
		want    int // bytes
	}{
		{"plain over IPv4", source4, binding(t), 32},
		{"plain over IPv6", source6, binding(t), 44},
		{"IPv4 seen by an IPv6 socket", netip.AddrPortFrom(netip.AddrFrom16(source4.Addr().As16()), 32853), binding(t), 32},
		{"with SOFTWARE", source4, binding(t, stun.NewSoftware("someone's client")), 32},
		{"with FINGERPRINT", source4, binding(t, stun.Fingerprint), 32},
		{"padded", source4, binding(t, stun.RawAttribute{Type: attrPadding, Value: make([]byte, 400)}), 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response, verdict := newResponder(STUNLimits{}).plain(t0, tt.source, tt.request)
			if verdict != stunAnswered || len(response) != tt.want {
				t.Fatalf("verdict %s, %d bytes; want answered, %d", stunVerdictNames[verdict], len(response), tt.want)
			}
			var m stun.Message
			if err := stun.Decode(response, &m); err != nil {
				t.Fatal(err)
			}
			var mapped stun.XORMappedAddress
			if err := mapped.GetFrom(&m); err != nil {
				t.Fatal(err)
			}
			if m.Type != stun.BindingSuccess || string(m.TransactionID[:]) != string(tt.request[8:20]) ||
				!mapped.IP.Equal(tt.source.Addr().AsSlice()) || mapped.Port != int(tt.source.Port()) || len(m.Attributes) != 1 {
				t.Errorf("response %x", response)
			}
		})
	}
}

// RFC 5769, section 2.2 holds the same address, so its attribute must come out.
func TestXORMappedAddressOfRFC5769(t *testing.T) {
	request, _ := hex.DecodeString("000100002112a442b7e7a701bc34d686fa87dfae")
	response, _ := newResponder(STUNLimits{}).plain(t0, netip.MustParseAddrPort("192.0.2.1:32853"), request)
	want := "0101000c2112a442b7e7a701bc34d686fa87dfae" + "00200008" + "0001a147" + "e112a643"
	if got := hex.EncodeToString(response); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEverythingElseGetsSilence(t *testing.T) {
	longer := append(binding(t), 0, 0, 0, 0)
	lying := binding(t, stun.NewSoftware("abcdefgh"))
	binary.BigEndian.PutUint16(lying[2:], 400)
	truncated := binding(t, stun.NewSoftware("abcdefgh"))
	forged := binding(t, stun.Fingerprint)
	forged[len(forged)-1] ^= 1
	with := func(mt stun.MessageType) []byte {
		m, err := stun.Build(stun.TransactionID, mt)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	for _, tt := range []struct {
		name    string
		request []byte
		want    stunVerdict
	}{
		{"nothing", nil, stunMalformed},
		{"one byte", []byte{0}, stunMalformed},
		{"header cut short", binding(t)[:19], stunMalformed},
		{"bytes after the message", longer, stunMalformed},
		{"length beyond the datagram", lying, stunMalformed},
		{"attribute cut short", truncated[:len(truncated)-4], stunMalformed},
		{"wrong cookie", append([]byte{0, 1, 0, 0, 1, 2, 3, 4}, make([]byte, 12)...), stunMalformed},
		{"wrong fingerprint", forged, stunMalformed},
		{"response", with(stun.BindingSuccess), stunUnsupported},
		{"error response", with(stun.BindingError), stunUnsupported},
		{"indication", with(stun.NewType(stun.MethodBinding, stun.ClassIndication)), stunUnsupported},
		{"TURN Allocate", with(stun.NewType(stun.MethodAllocate, stun.ClassRequest)), stunUnsupported},
		{"ICE check", binding(t, stun.NewUsername("a:b"), stun.NewShortTermIntegrity("password")), stunUnsupported},
		{"CHANGE-REQUEST", binding(t, stun.RawAttribute{Type: stun.AttrType(0x0003), Value: []byte{0, 0, 0, 6}}), stunUnsupported},
		{"RESPONSE-PORT of a service", binding(t, stun.RawAttribute{Type: stun.AttrType(0x0027), Value: []byte{0, 80, 0, 0}}), stunMalformed},
		{"RESPONSE-PORT without padding", binding(t, stun.RawAttribute{Type: stun.AttrType(0x0027), Value: []byte{0x80, 0, 0, 0}}), stunUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newResponder(STUNLimits{})
			if response, verdict := r.plain(t0, source4, tt.request); verdict != tt.want || response != nil {
				t.Errorf("verdict %s with %d bytes, want %s and silence", stunVerdictNames[verdict], len(response), stunVerdictNames[tt.want])
			}
		})
	}
	if response, verdict := newResponder(STUNLimits{}).plain(t0, netip.AddrPortFrom(source4.Addr(), 0), binding(t)); response != nil {
		t.Errorf("source port zero: verdict %s, want silence", stunVerdictNames[verdict])
	}
}

func TestBindingsAreLimited(t *testing.T) {
	r := newResponder(STUNLimits{PerAddress: 10, PerPrefix: 50, Total: 1000})
	count := func(n int, source func(i int) netip.AddrPort) (answered int) {
		for i := range n {
			if _, v := r.plain(t0, source(i), binding(t)); v == stunAnswered {
				answered++
			}
		}
		return answered
	}
	if got := count(1000, func(i int) netip.AddrPort { return netip.AddrPortFrom(from(1, 1).Addr(), uint16(1+i)) }); got != 20 {
		t.Errorf("one address got %d answers at once, want 20", got)
	}
	if got := count(1000, func(i int) netip.AddrPort { return from(2, i%256) }); got != 100 {
		t.Errorf("one /24 got %d answers at once, want 100", got)
	}
	v6 := func(i int) netip.AddrPort {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[7], a[15] = byte(i), byte(i) // the last byte of a /56
		return netip.AddrPortFrom(netip.AddrFrom16(a), 1)
	}
	if got := count(1000, v6); got != 100 {
		t.Errorf("one /56 got %d answers at once, want 100", got)
	}
	if got := count(10_000, func(i int) netip.AddrPort { return from(100+i, 1) }); got > 2000 {
		t.Errorf("everybody together got %d answers at once, want at most 2000", got)
	}
	t1 := t0.Add(time.Second)
	answered := 0
	for range 100 {
		if _, v := r.plain(t1, from(1, 1), binding(t)); v == stunAnswered {
			answered++
		}
	}
	if answered != 10 {
		t.Errorf("a second later one address got %d more answers, want 10", answered)
	}
}

func TestLimiterIsFairToOthers(t *testing.T) {
	l := newLimiter(1, 1)
	flooder := hostOf(from(1, 1).Addr())
	for range 1000 {
		l.allow(t0, flooder)
	}
	refused := 0
	for i := range 1000 {
		if !l.allow(t0, hostOf(from(1000+i, 1).Addr())) {
			refused++
		}
	}
	// 1,000 keys in 32,768 slots: some 15 meet.
	if refused > 60 {
		t.Errorf("%d of 1000 others were refused", refused)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(binding(f))
	f.Add(binding(f, stun.Fingerprint, stun.NewSoftware("x")))
	f.Add(binding(f, stun.RawAttribute{Type: attrPadding, Value: make([]byte, 40)}))
	f.Add(binding(f, stun.RawAttribute{Type: stun.AttrXORMappedAddress, Value: nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, tt := range []struct {
			source netip.AddrPort
			most   int
		}{{source4, 32}, {source6, 44}} {
			r := &responder{newLimiter(1e9, 1000), newLimiter(1e9, 1000), newLimiter(1e9, 1000), newLimiter(1e9, 1000)}
			response, verdict := r.plain(t0, tt.source, b)
			if len(response) > tt.most || (response != nil) != (verdict == stunAnswered) {
				t.Errorf("%x: %s with %d bytes", b, stunVerdictNames[verdict], len(response))
			}
			if response != nil && len(b) < 20 {
				t.Errorf("%d bytes were answered", len(b))
			}
		}
	})
}
