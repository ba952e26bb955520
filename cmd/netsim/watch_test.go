package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestWatch(t *testing.T) {
	x := pair(t, "EIM/APDF", "EIM/APDF").transfer(1, 1)
	addresses, err := x.Scenario.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) netip.AddrPort { return netip.AddrPortFrom(addresses[name].Addr, 5000) }
	stranger := netip.MustParseAddrPort("5.200.0.1:80")
	probe, packet := []byte{0}, []byte{0x40}
	answer := append([]byte{1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
	type send struct {
		to      netip.AddrPort
		payload []byte
		n       int
		apart   time.Duration
	}
	for _, tt := range []struct {
		name   string
		sends  []send
		heard  netip.AddrPort // whose packet a NAT translated before
		probes int
		rate   int
		broken string
	}{
		{"to the peer", []send{{at("home-b"), probe, 10, time.Millisecond}}, netip.AddrPort{}, 10, 10, ""},
		{"of a session", []send{{at("home-b"), packet, 5000, time.Millisecond}}, netip.AddrPort{}, 0, 0, ""},
		{"answers", []send{{at("home-b"), answer, 5000, time.Millisecond}}, netip.AddrPort{}, 0, 0, ""},
		{"to the rendezvous", []send{{at(rendezvousHost), probe, 5000, time.Millisecond}}, netip.AddrPort{}, 0, 0, ""},
		{"to a stranger", []send{{stranger, packet, 1, 0}}, netip.AddrPort{}, 0, 0, "a sent to a stranger, 5.200.0.1:80 after 0s"},
		{"to one that was heard", []send{{stranger, probe, 1, 0}}, stranger, 1, 1, ""},
		{"at the rate", []send{{at("home-b"), probe, 1000, 4 * time.Millisecond}}, netip.AddrPort{}, 1000, 250, ""},
		{"too fast", []send{{at("home-b"), probe, 251, time.Millisecond}}, netip.AddrPort{}, 251, 251, "a sent 251 probes in a second after 250ms"},
		{"too many", []send{{at("home-b"), probe, 2049, 4 * time.Millisecond}}, netip.AddrPort{}, 2049, 250, "a sent probe 2049 after 8.192s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatch(x)
			if tt.heard.IsValid() {
				w.see(netsim.TraceEvent{Kind: netsim.TraceTranslate, Place: "home-b", Src: tt.heard})
			}
			var now time.Duration
			for _, s := range tt.sends {
				for i := range s.n {
					now = time.Duration(i) * s.apart
					w.see(netsim.TraceEvent{At: now, Kind: netsim.TraceSend, Place: hostA, Src: at(hostA), Dst: s.to, Payload: s.payload})
				}
			}
			var o outcome
			w.report(&o)
			if o.Probes != tt.probes || o.ProbeRate != tt.rate || o.Broken != tt.broken {
				t.Errorf("%d probes, %d in a second, broken %q; want %d, %d, %q", o.Probes, o.ProbeRate, o.Broken, tt.probes, tt.rate, tt.broken)
			}
		})
	}
}

func TestRunCaptures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.pcapng")
	code, _, stderr := command(t, "run", "cgn-both", "--bytes", "1000", "--pcap", file)
	data, err := os.ReadFile(file)
	if code != 0 || err != nil || len(data) < 1000 || !strings.HasPrefix(string(data), "\n\r\r\n") {
		t.Errorf("exit code %d, %d bytes of capture, error %v: %s", code, len(data), err, stderr)
	}
	code, _, stderr = command(t, "run", "cgn-both", "--bytes", "1000", "--pcap", filepath.Join(t.TempDir(), "no", "c"))
	if code == 0 || !strings.Contains(stderr, "capture packets") {
		t.Errorf("a capture to nowhere: exit code %d, %s", code, stderr)
	}
}
