package ri2n

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func responderForTest() PeerID {
	var id PeerID
	for i := range id {
		id[i] = byte(i)
	}
	return id
}

func parseShortVector(b []byte) (any, []byte, int, error) {
	h, payload, err := parseShortHeader(b)
	return h, appendShortHeader(nil, h), len(b) - len(payload), err
}

// parseLongVector takes the header and the sealed rest of one packet.
func parseLongVector(b []byte) (any, []byte, int, error) {
	h, headerLen, rest, err := parseLongHeader(b)
	if err != nil {
		return h, nil, 0, err
	}
	key := mac1Key(responderForTest())
	again := appendLongHeader(nil, h, &key)
	taken := len(b) - len(rest)
	return h, append(again, b[headerLen:taken]...), taken, nil
}

func parseVersionNegotiationVector(b []byte) (any, []byte, int, error) {
	v, err := parseVersionNegotiation(b)
	if err != nil {
		return v, nil, 0, err
	}
	return v, appendVersionNegotiation(nil, v), len(b), nil
}

func headerVectors() []vector {
	const (
		dcid = connID(0x0102030405060708)
		scid = connID(0xa1a2a3a4a5a6a7a8)
	)
	key := mac1Key(responderForTest())
	sealed := bytes.Repeat([]byte{0xee}, 18) // two bytes of frames and a tag, not a real one
	prefix := func(kind string) []field {
		return []field{{1, kind}, {4, `version "R2\x00\x01"`}, {8, "DCID"}, {8, "SCID"}}
	}
	short := func(name, first string, h shortHeader) vector {
		return vector{
			name:   name,
			fields: []field{{1, first}, {8, "DCID"}, {4, "packet number, low 32 bits"}},
			encode: func(b []byte) []byte { return appendShortHeader(b, h) },
			parse:  parseShortVector,
			want:   h,
		}
	}
	long := func(name string, fields []field, h longHeader, sealed []byte) vector {
		want := h
		if h.typ.hasMAC1() {
			b := appendLongHeader(nil, h, &key)
			want.mac1 = [mac1Len]byte(b[longPrefixLen+2+len(h.token):])
		}
		return vector{
			name:    name,
			fields:  fields,
			encode:  func(b []byte) []byte { return append(appendLongHeader(b, h, &key), sealed...) },
			parse:   parseLongVector,
			want:    want,
			bounded: h.typ == longRetry,
		}
	}
	versions := versionNegotiation{dcid: scid, scid: dcid, versions: []uint32{version1, 0x52320002}}
	return []vector{
		short("short", "short header", shortHeader{dcid: dcid, pn: 0x11121314}),
		short("short_key_phase", "short header, key phase 1", shortHeader{keyPhase: true, dcid: dcid, pn: 0}),
		short("short_redundant", "short header, key phase 1, redundant copy", shortHeader{keyPhase: true, redundant: true, dcid: dcid, pn: 0xffffffff}),
		long("initial", append(prefix("Initial"),
			field{2, "token length"}, field{16, "mac1"}, field{2, "length"}, field{2, "packet number"}, field{18, "sealed frames and tag"}),
			longHeader{typ: longInitial, version: version1, dcid: dcid, scid: scid, token: []byte{}, length: 2 + 18, pn: 1}, sealed),
		long("initial_token", append(prefix("Initial"),
			field{2, "token length"}, field{3, "token"}, field{16, "mac1"}, field{2, "length"}, field{2, "packet number"}, field{18, "sealed frames and tag"}),
			longHeader{typ: longInitial, version: version1, dcid: dcid, scid: scid, token: []byte{0xc0, 0xc1, 0xc2}, length: 2 + 18, pn: 0x0203}, sealed),
		long("handshake", append(prefix("Handshake"),
			field{2, "length"}, field{2, "packet number"}, field{18, "sealed frames and tag"}),
			longHeader{typ: longHandshake, version: version1, dcid: dcid, scid: scid, length: 2 + 18, pn: 7}, sealed),
		long("retry", append(prefix("Retry"),
			field{2, "token length"}, field{3, "token"}, field{16, "mac1"}),
			longHeader{typ: longRetry, version: version1, dcid: dcid, scid: scid, token: []byte{0xc0, 0xc1, 0xc2}}, nil),
		{
			name: "version_negotiation",
			fields: []field{{1, "Version Negotiation"}, {4, "version 0"}, {8, "DCID"}, {8, "SCID"},
				{4, `version "R2\x00\x01"`}, {4, `version "R2\x00\x02"`}},
			encode:  func(b []byte) []byte { return appendVersionNegotiation(b, versions) },
			parse:   parseVersionNegotiationVector,
			want:    versions,
			bounded: true,
			// One version less is also a list.
			validPrefix: func(n int) bool { return n == longPrefixLen+4 },
		},
	}
}

func TestPacketKinds(t *testing.T) {
	for _, tt := range []struct {
		name          string
		b0            byte
		session, long bool
	}{
		{"STUN request", 0x00, false, false},
		{"STUN response", 0x01, false, false},
		{"DTLS", 0x16, false, false},
		{"RTP", 0x80, false, false},
		{"short", 0x40, true, false},
		{"short with every other bit", 0x7f, true, false},
		{"Initial", 0xc0, true, true},
		{"Version Negotiation", 0xf0, true, true},
	} {
		if got := isSessionPacket(tt.b0); got != tt.session {
			t.Errorf("%s: isSessionPacket(%#x) = %v, want %v", tt.name, tt.b0, got, tt.session)
		}
		if got := isLongPacket(tt.b0); got != tt.long {
			t.Errorf("%s: isLongPacket(%#x) = %v, want %v", tt.name, tt.b0, got, tt.long)
		}
	}
}

func TestParseShortHeader(t *testing.T) {
	b := appendShortHeader(nil, shortHeader{reserved: 0x5, dcid: 1, pn: 2})
	b = append(b, "payload"...)
	h, payload, err := parseShortHeader(b)
	if err != nil || string(payload) != "payload" {
		t.Fatalf("payload = %q, %v", payload, err)
	}
	// The session judges the reserved bits, once they are authentic.
	if h.reserved != 0x5 {
		t.Errorf("reserved = %#x, want 0x5", h.reserved)
	}
	for _, b0 := range []byte{0x00, 0x3f, 0x80, 0xc0} {
		b[0] = b0
		if _, _, err := parseShortHeader(b); err != errMalformed {
			t.Errorf("first byte %#x: %v, want %v", b0, err, errMalformed)
		}
	}
}

func TestExpandPacketNumber(t *testing.T) {
	const window = 1 << 32
	for _, tt := range []struct {
		name      string
		largest   packetNumber
		truncated uint32
		want      packetNumber
	}{
		{"the first", 0, 0, 0},
		{"the second", 0, 1, 1},
		{"never negative", 0, 0xffffffff, 0xffffffff},
		{"a gap of half a window", 0, 1<<31 + 1, 1<<31 + 1},
		{"late across the wrap", window + 5, 0xfffffffe, window - 2},
		{"early across the wrap", window - 2, 3, window + 3},
		{"as expected at the wrap", window - 1, 0, window},
		{"half a window ahead", 5 * window, 1<<31 + 1, 5*window + 1<<31 + 1},
		{"more than that is behind", 5 * window, 1<<31 + 2, 4*window + 1<<31 + 2},
		{"half a window behind is ahead", 5*window + 1<<31, 1, 6*window + 1},
		{"less than that is behind", 5*window + 1<<31, 2, 5*window + 2},
		{"at the end of the numbers", maxVarint, 0, maxVarint + 1 - window},
	} {
		if got := expandPacketNumber(tt.largest, tt.truncated); got != tt.want {
			t.Errorf("%s: expandPacketNumber(%#x, %#x) = %#x, want %#x", tt.name, tt.largest, tt.truncated, got, tt.want)
		}
	}
}

// Any number within the window around the next expected one is found.
func TestExpandPacketNumberWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		largest := packetNumber(rng.Uint64N(1 << (1 + rng.UintN(61))))
		distance := packetNumber(rng.Uint64N(1 << 31))
		pn := largest + 1 + distance
		if rng.IntN(2) == 0 {
			if distance > largest {
				continue
			}
			pn = largest - distance
		}
		if pn > maxVarint {
			continue
		}
		if got := expandPacketNumber(largest, uint32(pn)); got != pn {
			t.Fatalf("after %#x, %#x is taken for %#x", largest, pn, got)
		}
	}
}

func TestParseLongHeader(t *testing.T) {
	key := mac1Key(responderForTest())
	valid := func(h longHeader, extra int) []byte {
		return append(appendLongHeader(nil, h, &key), make([]byte, extra)...)
	}
	initial := longHeader{typ: longInitial, version: version1, dcid: 1, scid: 2, length: sealedMin}
	handshake := longHeader{typ: longHandshake, version: version1, dcid: 1, scid: 2, length: sealedMin}
	retry := longHeader{typ: longRetry, version: version1, dcid: 1, scid: 2, token: []byte("t")}
	with := func(h longHeader, change func(*longHeader)) longHeader {
		change(&h)
		return h
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"initial", valid(initial, 16), nil},
		{"short header", appendShortHeader(nil, shortHeader{}), errTruncated},
		{"reserved bits", func() []byte { b := valid(initial, 16); b[0] |= 1; return b }(), errMalformed},
		{"length below a tag", valid(with(initial, func(h *longHeader) { h.length = sealedMin - 1 }), 16), errMalformed},
		{"length beyond the datagram", valid(with(handshake, func(h *longHeader) { h.length = sealedMin + 1 }), 16), errTruncated},
		{"longest token", valid(with(initial, func(h *longHeader) { h.token = make([]byte, maxTokenLen) }), 16), nil},
		{"token above the limit", func() []byte {
			b := valid(with(initial, func(h *longHeader) { h.token = make([]byte, maxTokenLen) }), 17)
			b[longPrefixLen+1]++
			return b
		}(), errMalformed},
		{"retry", valid(retry, 0), nil},
		{"retry without token", valid(with(retry, func(h *longHeader) { h.token = nil }), 0), errMalformed},
		{"bytes after a retry", valid(retry, 1), errMalformed},
		{"other version", valid(with(initial, func(h *longHeader) { h.version++ }), 16), errVersion},
		{"version zero", valid(with(initial, func(h *longHeader) { h.version = 0 }), 16), errMalformed},
		{"version negotiation", appendVersionNegotiation(nil, versionNegotiation{versions: []uint32{version1}}), errMalformed},
	} {
		if _, _, _, err := parseLongHeader(tt.b); err != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestCoalescedPackets(t *testing.T) {
	key := mac1Key(responderForTest())
	first := longHeader{typ: longInitial, version: version1, dcid: 1, scid: 2, token: []byte("token"), length: sealedMin + 3, pn: 4}
	second := longHeader{typ: longHandshake, version: version1, dcid: 1, scid: 2, length: sealedMin, pn: 5}
	b := appendLongHeader(nil, first, &key)
	b = append(b, bytes.Repeat([]byte{1}, 19)...)
	b = appendLongHeader(b, second, nil)
	b = append(b, bytes.Repeat([]byte{2}, 16)...)
	b = append(b, "junk"...)

	h, headerLen, rest, err := parseLongHeader(b)
	if err != nil || h.typ != longInitial || h.pn != 4 || string(h.token) != "token" {
		t.Fatalf("first = %+v, %v", h, err)
	}
	if headerLen != longHeaderLen(first) {
		t.Errorf("first header has %d bytes, want %d", headerLen, longHeaderLen(first))
	}
	packet := b[:headerLen-2+int(h.length)]
	if got := packet[headerLen:]; !bytes.Equal(got, bytes.Repeat([]byte{1}, 19)) {
		t.Errorf("first payload = %x", got)
	}
	h, headerLen, rest, err = parseLongHeader(rest)
	if err != nil || h.typ != longHandshake || h.pn != 5 || headerLen != longHeaderLen(second) {
		t.Fatalf("second = %+v, header of %d bytes, %v", h, headerLen, err)
	}
	if string(rest) != "junk" {
		t.Errorf("rest = %q, want junk", rest)
	}
}

func TestMAC1(t *testing.T) {
	key := mac1Key(responderForTest())
	other := mac1Key(PeerID{})
	for _, tt := range []struct {
		name string
		h    longHeader
		tail int
	}{
		{"initial", longHeader{typ: longInitial, version: version1, dcid: 1, scid: 2, length: sealedMin}, 16},
		{"initial with token", longHeader{typ: longInitial, version: version1, token: []byte("token"), length: sealedMin}, 16},
		{"retry", longHeader{typ: longRetry, version: version1, token: []byte("token")}, 0},
		{"initial of a version to come", longHeader{typ: longInitial, version: version1 + 1, dcid: 1, scid: 2}, 0},
	} {
		// Coalesced behind something else, mac1 covers its own packet alone.
		b := appendLongHeader([]byte("before"), tt.h, &key)[len("before"):]
		b = append(b, make([]byte, tt.tail)...)
		h, _, _, err := parseLongHeader(b)
		if err != nil && err != errVersion {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if !checkMAC1(b, h, &key) {
			t.Errorf("%s: mac1 is refused", tt.name)
		}
		if checkMAC1(b, h, &other) {
			t.Errorf("%s: mac1 for another responder is accepted", tt.name)
		}
		for i := range longPrefixLen + 2 + len(h.token) + mac1Len {
			b[i] ^= 0x10
			if h, _, _, err := parseLongHeader(b); (err == nil || err == errVersion) && checkMAC1(b, h, &key) {
				t.Errorf("%s: accepted with byte %d changed", tt.name, i)
			}
			b[i] ^= 0x10
		}
	}
	handshake := appendLongHeader(nil, longHeader{typ: longHandshake, version: version1, length: sealedMin}, nil)
	handshake = append(handshake, make([]byte, 32)...)
	if h, _, _, err := parseLongHeader(handshake); err != nil || checkMAC1(handshake, h, &key) {
		t.Errorf("a Handshake packet has no mac1 to accept (%v)", err)
	}
}

func TestParseVersionNegotiation(t *testing.T) {
	full := versionNegotiation{dcid: 1, scid: 2, versions: make([]uint32, maxVersions)}
	b := appendVersionNegotiation(nil, full)
	if _, err := parseVersionNegotiation(b); err != nil {
		t.Errorf("%d versions: %v", maxVersions, err)
	}
	if _, err := parseVersionNegotiation(append(b, 0, 0, 0, 1)); err != errMalformed {
		t.Errorf("%d versions: %v, want %v", maxVersions+1, err, errMalformed)
	}
	if _, err := parseVersionNegotiation(b[:longPrefixLen]); err == nil {
		t.Error("no version at all is accepted")
	}
	b[4] = 1
	if _, err := parseVersionNegotiation(b); err != errMalformed {
		t.Errorf("version 1 in the header: %v, want %v", err, errMalformed)
	}
}

func TestPeekLong(t *testing.T) {
	key := mac1Key(responderForTest())
	// Only the first 21 bytes count, in every version.
	b := appendLongHeader(nil, longHeader{typ: longRetry, version: 0xabcdef01, dcid: 3, scid: 4, token: []byte("x")}, &key)
	b[0] |= 0x0f
	typ, version, dcid, scid, ok := peekLong(b[:longPrefixLen])
	if !ok || typ != longRetry || version != 0xabcdef01 || dcid != 3 || scid != 4 {
		t.Errorf("peekLong = %d, %#x, %d, %d, %v", typ, version, dcid, scid, ok)
	}
	if _, _, _, _, ok := peekLong(b[:longPrefixLen-1]); ok {
		t.Error("20 bytes are accepted")
	}
	b[0] &= 0x7f
	if _, _, _, _, ok := peekLong(b); ok {
		t.Error("a short header is accepted")
	}
}
