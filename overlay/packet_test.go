package overlay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var goldenPackets = []struct {
	name string
	p    packet
}{
	{"packet", packet{from: 0xc001, to: 9000, payload: []byte("whole")}},
	{"packet-empty", packet{from: 1, to: 2}},
	{"packet-first", packet{part: partFirst, from: 0xc001, to: 9000, number: 0x01020304, payload: []byte("fir")}},
	{"packet-second", packet{part: partSecond, from: 0xc001, to: 9000, number: 0x01020304, payload: []byte("st")}},
	{"packet-refusal", packet{part: partRefusal, from: 9000, to: 0xc001, code: resetPolicy}},
}

func TestPacketsGolden(t *testing.T) {
	for _, tt := range goldenPackets {
		b := appendPacket(nil, tt.p)
		compareHex(t, tt.name, "overlay.packet. Kind, part, source port, destination port, the rest.", b, 1, 1, 2, 2)
		got, err := parsePacket(b[1:])
		if len(got.payload) == 0 {
			got.payload = nil
		}
		if err != nil || b[0] != byte(datagramPort) || !reflect.DeepEqual(got, tt.p) {
			t.Errorf("%s: parse = %+v, %v", tt.name, got, err)
		}
		// What follows the ports of a whole packet is its payload, of any length;
		// a half has at least a byte of it.
		prefixes := map[packetPart]int{partWhole: 5, partFirst: 10, partSecond: 10, partRefusal: 7}[tt.p.part]
		for i := range prefixes {
			if p, err := parsePacket(b[1 : 1+i]); !errors.Is(err, errMalformed) {
				t.Errorf("%s: prefix of %d bytes = %+v, %v", tt.name, i, p, err)
			}
		}
	}
	for name, bad := range map[string]string{
		"part 4": "04 c001 2328 00", "from port 0": "00 0000 2328", "to port 0": "00 0001 0000",
		"long refusal": "03 0001 0002 000102", "empty half": "01 0001 0002 00000001",
		"too large": "00 0001 0002" + strings.Repeat("00", MaxPacketSize+1),
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(bad, " ", ""))
		if err != nil {
			t.Fatal(name, err)
		}
		if p, err := parsePacket(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: parse = %+v, %v", name, p, err)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, g := range goldenPackets {
		f.Add(appendPacket(nil, g.p)[1:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		if err != nil {
			return
		}
		if again := appendPacket(nil, p)[1:]; !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, p, again)
		}
	})
}

func TestHalves(t *testing.T) {
	var h halves
	now := time.Unix(1, 0)
	first := func(n uint32) packet {
		return packet{part: partFirst, from: 1, to: 2, number: n, payload: []byte("first ")}
	}
	second := func(n uint32) packet {
		return packet{part: partSecond, from: 1, to: 2, number: n, payload: []byte("second")}
	}
	expect := func(what string, p packet, want string, wantLost int) {
		t.Helper()
		got, lost := h.add(now, p)
		if string(got) != want || lost != wantLost {
			t.Errorf("%s: %q, %d lost; want %q and %d", what, got, lost, want, wantLost)
		}
	}
	expect("a first half", first(1), "", 0)
	expect("its other one", second(1), "first second", 0)
	expect("a second half that is early", second(2), "", 0)
	expect("and its first one", first(2), "first second", 0)
	expect("a half alone", first(3), "", 0)
	expect("the same again", first(3), "", 1)
	other := second(3)
	other.from = 9
	expect("one of another port", other, "", 0)
	now = now.Add(halfLife)
	expect("one that comes too late", second(3), "", 2)
	for n := range uint32(maxHalves - 1) {
		expect("many", first(100+n), "", 0)
	}
	expect("one too many", first(999), "", 1)
	if len(h.waiting) != maxHalves {
		t.Errorf("%d halves wait, want %d", len(h.waiting), maxHalves)
	}
	big := first(999)
	big.part, big.payload = partSecond, make([]byte, MaxPacketSize)
	expect("two halves that are more than a packet", big, "", 1)
}
