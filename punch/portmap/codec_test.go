package portmap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A field is a run of bytes and what it is.
type field struct{ hex, name string }

// golden compares b with testdata/name.hex, whose lines are hexadecimal and a
// comment.
func golden(t *testing.T, name string, b []byte, fields []field) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var text strings.Builder
		for _, f := range fields {
			text.WriteString(f.hex + "  # " + f.name + "\n")
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		before, _, _ := strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(before), ""))
	}
	want, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s is\n%x, want\n%x", name, b, want)
	}
}

var testNonce = pcpNonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

func TestGoldenRequests(t *testing.T) {
	client := netip.MustParseAddr("192.168.1.20")
	golden(t, "pcp-map", appendPCPMap(nil, 2*time.Hour, client, pcpMapping{testNonce, 40000, netip.MustParseAddrPort("5.1.1.10:40001")}), []field{
		{"02 01 0000", "version 2, opcode MAP, reserved"},
		{"00001c20", "lifetime 7200 s"},
		{"00000000 00000000 0000ffff c0a80114", "client 192.168.1.20"},
		{"01020304 05060708 090a0b0c", "nonce"},
		{"11 000000", "UDP, reserved"},
		{"9c40 9c41", "internal port 40000, suggested external port 40001"},
		{"00000000 00000000 0000ffff 0501010a", "suggested external address 5.1.1.10"},
	})
	golden(t, "pcp-announce", appendPCPRequest(nil, pcpAnnounce, 0, client), []field{
		{"02 00 0000", "version 2, opcode ANNOUNCE, reserved"},
		{"00000000", "lifetime"},
		{"00000000 00000000 0000ffff c0a80114", "client 192.168.1.20"},
	})
	golden(t, "natpmp-map", appendNATPMPMap(nil, 40000, 40001, 2*time.Hour), []field{
		{"00 01 0000", "version 0, opcode 1 (UDP), reserved"},
		{"9c40 9c41", "internal port 40000, suggested external port 40001"},
		{"00001c20", "lifetime 7200 s"},
	})
}

// pcpAnswer turns a MAP request into the answer of a server.
func pcpAnswer(request []byte, result byte, lifetime, epoch uint32, outside netip.AddrPort) []byte {
	b := bytes.Clone(request)
	b[1] |= pcpIsResponse
	b[3] = result
	for i := range 4 {
		b[4+i], b[8+i] = byte(lifetime>>(24-8*i)), byte(epoch>>(24-8*i))
	}
	clear(b[12:24])
	if len(b) >= pcpMapLen {
		b[42], b[43] = byte(outside.Port()>>8), byte(outside.Port())
		ip := outside.Addr().As16()
		copy(b[44:], ip[:])
	}
	return b
}

func natpmpAnswer(opcode byte, epoch uint32, rest ...byte) []byte {
	return append([]byte{0, natpmpIsResponse | opcode, 0, 0, byte(epoch >> 24), byte(epoch >> 16), byte(epoch >> 8), byte(epoch)}, rest...)
}

var (
	outside   = netip.MustParseAddrPort("5.1.1.10:40001")
	pcpSample = pcpAnswer(appendPCPMap(nil, leaseTime, netip.MustParseAddr("192.168.1.20"), pcpMapping{testNonce, 40000, outside}), 0, 3600, 77, outside)
)

func TestParsePCP(t *testing.T) {
	r, err := parsePCP(pcpSample)
	if err != nil || r.opcode != pcpMap || r.lifetime != time.Hour || r.epoch != 77 || r.mapping != (pcpMapping{testNonce, 40000, outside}) {
		t.Errorf("parsed %+v, %v", r, err)
	}
	for n := range len(pcpSample) {
		if _, err := parsePCP(pcpSample[:n]); err == nil {
			t.Errorf("a prefix of %d bytes was taken", n)
		}
	}
	tcp := bytes.Clone(pcpSample)
	tcp[36] = 6
	if _, err := parsePCP(tcp); !errors.Is(err, errMalformed) {
		t.Errorf("a TCP mapping: %v", err)
	}
}

func TestParseNATPMP(t *testing.T) {
	for _, b := range [][]byte{
		natpmpAnswer(natpmpAddress, 5, 5, 1, 1, 10),
		natpmpAnswer(natpmpMapUDP, 5, 0x9c, 0x40, 0x9c, 0x41, 0, 0, 0x1c, 0x20),
	} {
		r, err := parseNATPMP(b)
		if err != nil || r.epoch != 5 {
			t.Errorf("%x: %+v, %v", b, r, err)
		}
		for n := range len(b) {
			if _, err := parseNATPMP(b[:n]); err == nil {
				t.Errorf("%d bytes of %x were taken", n, b)
			}
		}
	}
	if r, err := parseNATPMP([]byte{0, 128, 0, 2, 0, 0, 0, 0}); err != nil || r.result != 2 {
		t.Errorf("a refusal: %+v, %v", r, err)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(pcpSample)
	f.Add(natpmpAnswer(natpmpAddress, 5, 5, 1, 1, 10))
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n"))
	f.Add([]byte(rootXML))
	f.Add([]byte(faultXML(725)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parsePCP(b); err == nil && r.opcode == pcpMap && r.result == pcpSuccess && len(b) < pcpMapLen {
			t.Errorf("%x is no MAP response", b)
		}
		parseNATPMP(b)
		isAnnouncement(b)
		if l, err := parseSSDP(b); err == nil && l.Host == "" {
			t.Errorf("%q has no location", b)
		}
		if service, _, err := parseDescription(b); err == nil && service == "" {
			t.Errorf("%q has no service", b)
		}
		parseSOAP(b)
	})
}

func TestEpoch(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		server uint32
		after  time.Duration
		want   bool
	}{
		{"as expected", 1100, 100 * time.Second, true},
		{"two seconds off", 1102, 100 * time.Second, true},
		{"a second back", 999, 0, true},
		{"two seconds back", 998, 0, false},
		{"began anew", 3, 100 * time.Second, false},
		{"a sixteenth slow", 1000 + 936, 1000 * time.Second, true},
		{"much slower", 1500, 1000 * time.Second, false},
		{"much faster", 2500, 1000 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e epoch
			if !e.follow(1000, t0) {
				t.Fatal("the first is wrong")
			}
			if got := e.follow(tt.server, t0.Add(tt.after)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSchedule(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s schedule
	s.begun(t0)
	if s.kept(t0, 2*time.Hour); s.early(t0) != time.Hour {
		t.Errorf("renewed after %v, want half the lifetime", s.early(t0))
	}
	if s.failed(t0.Add(time.Hour)); s.due != t0.Add(time.Hour+retryFirst) {
		t.Errorf("tried again at %v", s.due)
	}
	for range 20 {
		was := s.due
		if s.failed(was); s.due.Sub(was) < shortest || s.due.Sub(was) > retryMost {
			t.Errorf("waits %v", s.due.Sub(was))
		}
	}
	s.begun(t0.Add(time.Hour))
	if s.kicked(); s.early(t0.Add(time.Hour)) != spacing {
		t.Errorf("asked again after %v, want %v", s.early(t0.Add(time.Hour)), spacing)
	}
}
