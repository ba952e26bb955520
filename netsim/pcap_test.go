package netsim_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A captured is one packet of a capture, as the test's own reader sees it.
type captured struct {
	place    string
	at       time.Duration
	src, dst netip.AddrPort // of UDP
	protocol byte
	payload  []byte
	comment  string
}

// readPcap reads a capture by draft-ietf-opsawg-pcapng, checking lengths and
// checksums.
func readPcap(b []byte) (all []captured, err error) {
	var places []string
	le := binary.LittleEndian
	options := func(b []byte, each func(code uint16, value []byte)) error {
		for len(b) >= 4 {
			code, n := le.Uint16(b), int(le.Uint16(b[2:]))
			if code == 0 {
				if n != 0 || len(b) != 4 {
					return errors.New("bytes after the end of options")
				}
				return nil
			}
			if 4+(n+3)/4*4 > len(b) {
				return errors.New("option is too long")
			}
			each(code, b[4:4+n])
			b = b[4+(n+3)/4*4:]
		}
		return errors.New("options without end")
	}
	for first := true; len(b) > 0; first = false {
		if len(b) < 12 {
			return all, fmt.Errorf("%d bytes after the last block", len(b))
		}
		kind, size := le.Uint32(b), int(le.Uint32(b[4:]))
		if size%4 != 0 || size < 12 || size > len(b) || int(le.Uint32(b[size-4:])) != size {
			return all, fmt.Errorf("block of %d bytes", size)
		}
		body := b[8 : size-4]
		b = b[size:]
		if first != (kind == 0x0a0d0d0a) {
			return all, errors.New("a section is not first")
		}
		switch kind {
		case 0x0a0d0d0a:
			if le.Uint32(body) != 0x1a2b3c4d {
				return all, errors.New("byte order")
			}
		case 1:
			if le.Uint16(body) != 228 {
				return all, errors.New("link type")
			}
			if err := options(body[8:], func(code uint16, v []byte) {
				if code == 2 {
					places = append(places, string(v))
				}
			}); err != nil {
				return all, err
			}
		case 6:
			place, n := le.Uint32(body), int(le.Uint32(body[12:]))
			at := uint64(le.Uint32(body[4:]))<<32 | uint64(le.Uint32(body[8:]))
			p := body[20 : 20+n]
			c := captured{
				place:    places[place],
				at:       time.Unix(0, int64(at)).Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)),
				protocol: p[9],
			}
			if int(binary.BigEndian.Uint16(p[2:])) != n {
				return all, errors.New("length in the IP header")
			}
			var sum uint32
			for i := 0; i < 20; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(p[i:]))
			}
			if sum>>16+sum&0xffff != 0xffff {
				return all, errors.New("checksum of the IP header")
			}
			addr := func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
			if c.protocol == 17 {
				c.src = netip.AddrPortFrom(addr(p[12:16]), binary.BigEndian.Uint16(p[20:]))
				c.dst = netip.AddrPortFrom(addr(p[16:20]), binary.BigEndian.Uint16(p[22:]))
				c.payload = p[28:]
			}
			if err := options(body[20+(n+3)/4*4:], func(code uint16, v []byte) {
				if code == 1 {
					c.comment = string(v)
				}
			}); err != nil {
				return all, err
			}
			all = append(all, c)
		default:
			return all, fmt.Errorf("block type %d", kind)
		}
	}
	return all, nil
}

// capture punches between two homes, one of which has a narrow link, and
// returns the steps and the capture of them.
func capture(t *testing.T) (events []netsim.TraceEvent, file []byte) {
	t.Helper()
	restricted := netsim.NAT{Filtering: apd, Allocation: netsim.Random}
	s, err := netsim.NewStepped(pair(1, restricted, restricted, netsim.Link{Delay: 10 * time.Millisecond, MTU: 576, TooBig: true, Loss: 0.02}))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := netsim.NewPcapWriter(&out)
	s.Trace(func(e netsim.TraceEvent) {
		w.Trace(e)
		e.Payload = bytes.Clone(e.Payload)
		events = append(events, e)
	})
	a, _ := punch(t, s)
	s.At(500*time.Millisecond, func() { a.port.Send(netip.AddrPortFrom(s.Addr("rendezvous"), 5000), make([]byte, 1000)) })
	s.Run(time.Second)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return events, out.Bytes()
}

func TestPcap(t *testing.T) {
	events, file := capture(t)
	got, err := readPcap(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(events) {
		t.Fatalf("%d packets, want %d", len(got), len(events))
	}
	kinds := make(map[netsim.TraceKind]int)
	told := 0
	for i, e := range events {
		kinds[e.Kind]++
		want := captured{place: e.Place, at: e.At, src: e.Src, dst: e.Dst, protocol: 17, payload: e.Payload}
		if e.Kind == netsim.TraceDrop {
			want.comment = "dropped: " + e.Cause.String()
		}
		if e.TooBig > 0 {
			want.protocol, want.src, want.dst, want.payload = 1, netip.AddrPort{}, netip.AddrPort{}, nil
			told++
		}
		if fmt.Sprint(got[i]) != fmt.Sprint(want) {
			t.Errorf("packet %d is %v, want %v", i, got[i], want)
		}
	}
	if len(kinds) != 4 || told == 0 {
		t.Errorf("kinds of steps = %v with %d of ICMP; the test is too narrow", kinds, told)
	}
}

// Wireshark's own reader, where it is installed, agrees and finds nothing
// malformed.
func TestPcapInTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed")
	}
	events, data := capture(t)
	file := filepath.Join(t.TempDir(), "c.pcapng")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), tshark, append([]string{"-n", "-r", file}, args...)...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	if n := len(strings.Split(run("-T", "fields", "-e", "frame.number"), "\n")); n != len(events) {
		t.Errorf("tshark sees %d packets, want %d", n, len(events))
	}
	if bad := run("-Y", "_ws.malformed || ip.checksum.status == 0 || icmp.checksum.status == 0", "-o", "ip.check_checksum:TRUE"); bad != "" {
		t.Errorf("malformed: %s", bad)
	}
	if got := run("-Y", `icmp.type == 3 && icmp.code == 4 && icmp.mtu == 576`, "-T", "fields", "-e", "frame.interface_name"); !strings.Contains(got, "a") {
		t.Errorf("ICMP at %q, want one at the host", got)
	}
}
