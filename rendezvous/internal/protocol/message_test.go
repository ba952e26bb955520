package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

var update = flag.Bool("update", false, "rewrite testdata")

func peer(fill byte) (id ri2n.PeerID) {
	for i := range id {
		id[i] = fill
	}
	return id
}

// examples hold each kind of message at least once.
func examples() []struct {
	name string
	m    Message
} {
	return []struct {
		name string
		m    Message
	}{
		{"hello", Hello{Version: 1, Software: "instantgrid/1"}},
		{"register", Register{Sequence: 7}},
		{"registered", Registered{
			Sequence: 7, Lifetime: 60 * time.Second, STUN: 3478, AlternateSTUN: 3479,
			Observed: netip.MustParseAddrPort("192.0.2.1:40000"),
		}},
		{"registered-ipv6", Registered{
			Sequence: 8, Lifetime: 60 * time.Second, STUN: 3478,
			Observed: netip.MustParseAddrPort("[2001:db8::1]:40000"),
		}},
		{"registered-unseen", Registered{Sequence: 9, Lifetime: 60 * time.Second, STUN: 3478}},
		{"open", Open{Channel: 4, Key: 0x0102030405060708, Generation: 1, Target: peer(0xbb)}},
		{"opened", Opened{Channel: 4, Size: 1165}},
		{"incoming", Incoming{Channel: 1, Key: 0x0102030405060708, Generation: 1, Source: peer(0xaa), Size: 1165}},
		{"refused", Refused{Channel: 4, Reason: ReasonUnknownPeer}},
		{"closed", Closed{Channel: 300, Reason: ReasonIdle}},
		{"max-size", MaxSize{Channel: 4, Size: 1400}},
		{"deposit", Deposit{Request: 1, Digest: peer(0xdd), Expiry: time.Unix(1_800_000_000, 0)}},
		{"admit", Admit{Request: 2, Key: peer(0xcc)}},
		{"ok", OK{Request: 2}},
		{"error", Error{Request: 2, Reason: ReasonTokenUsed, Text: "token used"}},
		{"ask", Ask{Request: 3, More: true, Data: []byte{4, 5, 6}}},
		{"answer", Answer{Request: 3, Data: []byte{7, 8}}},
		{"time", Time{Now: time.UnixMilli(1_800_000_000_123)}},
		{"show", Show{Channel: 4}},
		{"shown", Shown{Channel: 3, Addr: netip.MustParseAddrPort("192.0.2.1:40000")}},
		{"extension", Unknown{Kind: 0x42, Body: []byte{1, 2, 3}}},
	}
}

func TestMessagesMatchGoldenBytes(t *testing.T) {
	for _, tt := range examples() {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join("testdata", tt.name+".hex")
			encoded := Append(nil, tt.m)
			if *update {
				text := fmt.Sprintf("# %T, as in message_test.go. Kind, length, body.\n%x\n%x\n%x\n",
					tt.m, encoded[:1], encoded[1:3], encoded[3:])
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readHex(t, file); !bytes.Equal(encoded, want) {
				t.Errorf("got  %x\nwant %x", encoded, want)
			}
			got, rest, err := Parse(append(encoded, 0xee))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.m) || !bytes.Equal(rest, []byte{0xee}) {
				t.Errorf("Parse = %+v, rest %x; want %+v, rest ee", got, rest, tt.m)
			}
			got, err = Read(iotest.OneByteReader(bytes.NewReader(encoded)))
			if err != nil || !reflect.DeepEqual(got, tt.m) {
				t.Errorf("Read = %+v, %v; want %+v", got, err, tt.m)
			}
		})
	}
}

// readHex returns the bytes of a file of hexadecimal digits, in which lines
// from # on are annotation.
func readHex(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}

func TestEveryStrictPrefixIsRefused(t *testing.T) {
	for _, tt := range examples() {
		t.Run(tt.name, func(t *testing.T) {
			encoded := Append(nil, tt.m)
			for n := range len(encoded) {
				if m, _, err := Parse(encoded[:n]); !errors.Is(err, ErrMalformed) {
					t.Errorf("first %d of %d bytes: Parse = %+v, %v; want ErrMalformed", n, len(encoded), m, err)
				}
				want := io.ErrUnexpectedEOF
				if n == 0 {
					want = io.EOF
				}
				if m, err := Read(bytes.NewReader(encoded[:n])); err != want {
					t.Errorf("first %d of %d bytes: Read = %+v, %v; want %v", n, len(encoded), m, err, want)
				}
			}
		})
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		hex  string
	}{
		{"kind zero", "000000"},
		{"kind of a later version that must be known", "3f0000"},
		{"body above the limit", "400201"},
		{"byte after the body", "0c00050000000100"},
		{"varint not in its shortest form", "080003400401"},
		{"software not UTF-8", "0100030001ff"},
		{"IPv4 address in IPv6 form", "03001c" + "00000007003c0d960000" + "00000000000000000000ffffc0000201" + "9c40"},
		{"transport address of five bytes", "03000f" + "00000007003c0d960000" + "c000020101"},
		{"time beyond reason", "0a002c" + "00000001" + strings.Repeat("dd", 32) + "ffffffffffffffff"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.hex)
			if err != nil {
				t.Fatal(err)
			}
			if m, _, err := Parse(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("Parse(%x) = %+v, %v; want ErrMalformed", b, m, err)
			}
			if m, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrMalformed) {
				t.Errorf("Read(%x) = %+v, %v; want ErrMalformed", b, m, err)
			}
		})
	}
}

func TestTextsAreClippedToTheirLimits(t *testing.T) {
	long := strings.Repeat("é", 400)
	for _, m := range []Message{Hello{Version: 1, Software: long}, Error{Text: long + "\xff"}} {
		if _, _, err := Parse(Append(nil, m)); err != nil {
			t.Errorf("%T with a long text: %v", m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range examples() {
		f.Add(Append(nil, tt.m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, rest, err := Parse(b)
		fromStream, streamErr := Read(bytes.NewReader(b))
		if (err == nil) != (streamErr == nil) {
			t.Fatalf("%x: Parse says %v, Read says %v", b, err, streamErr)
		}
		if err != nil {
			return
		}
		if again := append(Append(nil, m), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, m, again)
		}
		if !reflect.DeepEqual(m, fromStream) {
			t.Errorf("%x: Parse = %+v, Read = %+v", b, m, fromStream)
		}
	})
}

func TestFrames(t *testing.T) {
	frame := AppendFrame(nil, 300, []byte{0x40, 1, 2})
	if want := []byte{0x41, 0x2c, 0x40, 1, 2}; !bytes.Equal(frame, want) {
		t.Errorf("frame = %x, want %x", frame, want)
	}
	channel, packet, err := ParseFrame(frame)
	if err != nil || channel != 300 || !bytes.Equal(packet, []byte{0x40, 1, 2}) {
		t.Errorf("ParseFrame = %d, %x, %v", channel, packet, err)
	}
	for n := range 3 { // nothing, half a varint, no packet
		if _, _, err := ParseFrame(frame[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("first %d bytes: %v, want ErrMalformed", n, err)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(AppendFrame(nil, 1<<40, []byte("packet")))
	f.Fuzz(func(t *testing.T, b []byte) {
		channel, packet, err := ParseFrame(b)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, channel, packet); !bytes.Equal(again, b) {
			t.Errorf("%x decodes to channel %d, packet %x, which encodes to %x", b, channel, packet, again)
		}
	})
}

// RFC 9000, appendix A.1.
func TestVarintsOfRFC9000(t *testing.T) {
	for _, tt := range []struct {
		hex  string
		want uint64
	}{
		{"c2197c5eff14e88c", 151_288_809_941_952_652},
		{"9d7f3e7d", 494_878_333},
		{"7bbd", 15_293},
		{"25", 37},
	} {
		b, _ := hex.DecodeString(tt.hex)
		if v, rest, err := ParseVarint(b); v != tt.want || len(rest) != 0 || err != nil {
			t.Errorf("ParseVarint(%s) = %d, %x, %v; want %d", tt.hex, v, rest, err, tt.want)
		}
		if again := AppendVarint(nil, tt.want); !bytes.Equal(again, b) || VarintLen(tt.want) != len(b) {
			t.Errorf("AppendVarint(%d) = %x, want %s", tt.want, again, tt.hex)
		}
	}
}

func TestRelayedSizeStaysAboveItsFloor(t *testing.T) {
	for _, tt := range []struct {
		outer   int
		channel uint64
		want    int
	}{
		{1400, 4, 1399},
		{1400, 64, 1398},
		{1000, 4, 1000},
		{0, 4, 1000},
	} {
		if got := Relayed(tt.outer, tt.channel); got != tt.want {
			t.Errorf("Relayed(%d, %d) = %d, want %d", tt.outer, tt.channel, got, tt.want)
		}
	}
}

func TestHold(t *testing.T) {
	t0 := time.Unix(1_000_000, 0)
	var h Hold
	for i := range HoldDatagrams {
		if !h.Put(t0, 4, []byte{byte(i)}) {
			t.Fatalf("datagram %d refused", i)
		}
	}
	if h.Put(t0, 4, []byte{99}) {
		t.Errorf("datagram %d of one channel kept, want refused", HoldDatagrams+1)
	}
	for i := 1; i < HoldChannels; i++ {
		h.Put(t0, uint64(4+2*i), []byte{1})
	}
	if h.Put(t0, 1000, []byte{1}) {
		t.Errorf("channel %d kept, want refused", HoldChannels+1)
	}
	got := h.Take(t0.Add(HoldTime-1), 4)
	if len(got) != HoldDatagrams || got[0][0] != 0 || got[7][0] != 7 {
		t.Errorf("Take = %x, want the datagrams in order", got)
	}
	if again := h.Take(t0, 4); again != nil {
		t.Errorf("second Take = %x, want nothing", again)
	}
	if got := h.Take(t0.Add(HoldTime), 6); got != nil {
		t.Errorf("Take after %v = %x, want nothing", HoldTime, got)
	}
	if dropped := h.Expire(t0.Add(HoldTime)); dropped != HoldChannels-2 || h.Len() != 0 {
		t.Errorf("Expire dropped %d, left %d; want %d, 0", dropped, h.Len(), HoldChannels-2)
	}
	if !h.Put(t0.Add(2*HoldTime), 1000, []byte{1}) {
		t.Error("a place freed by time was refused")
	}
}

func TestReasonNames(t *testing.T) {
	seen := map[string]Reason{}
	for r := Reason(0); r <= ReasonNotRegistered; r++ {
		name := r.String()
		if name == "" || strings.HasPrefix(name, "reason-") {
			t.Errorf("reason %d has no name", r)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("reasons %d and %d share the name %q", r, other, name)
		}
		seen[name] = r
	}
	if got := Reason(200).String(); got != "reason-200" {
		t.Errorf("Reason(200) = %q, want reason-200", got)
	}
}
