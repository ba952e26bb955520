package discovery

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// golden returns the bytes in a file of testdata.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			part, err := hex.DecodeString(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, part...)
		}
	}
	return b
}

// Whatever arrives, twice and from any port: no panic, a table within its
// bounds, and never more than one unicast answer for a packet.
func FuzzReceive(f *testing.F) {
	for _, name := range []string{"announcement", "goodbye", "probe"} {
		f.Add(golden(f, name), uint16(port))
		f.Add(golden(f, name), uint16(50_000))
	}
	q, err := browse(nil).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q, uint16(port))
	f.Add(q, uint16(50_000))
	f.Fuzz(func(t *testing.T, b []byte, from uint16) {
		now := time.Unix(1_800_000_000, 0)
		at := Attachment{Index: 1, Name: "lan0", Prefix: netip.MustParsePrefix("192.168.7.1/24")}
		s := &speaker{
			self:   Self{Grid: membership.GridID{1}, Peer: ri2n.PeerID{2}, Name: "alice", Port: func(netip.Addr) uint16 { return 40001 }},
			random: rand.New(rand.NewPCG(1, 1)),
			table:  table{entries: make(map[place]*entry), known: func(ri2n.PeerID) bool { return false }},
		}
		s.attach(now, []Attachment{at})
		for range 6 {
			now = now.Add(time.Second)
			s.advance(now)
		}
		s.out = nil
		for range 2 {
			s.receive(now, Packet{Data: b, From: netip.AddrPortFrom(netip.MustParseAddr("192.168.7.2"), from), Index: 1})
		}
		unicast := 0
		for _, o := range s.out {
			if o.to.IsValid() {
				unicast++
			}
		}
		if unicast > 2 || len(s.table.entries) > maxHeardAtAddress {
			t.Errorf("%d unicast answers, %d entries", unicast, len(s.table.entries))
		}
		for range 10 {
			now = now.Add(time.Second)
			s.advance(now)
		}
		for k, e := range s.table.entries {
			if !acceptable(k.addr, at.Prefix) || e.Addr.Port() < leastPort || !isLabel(e.Name) || e.expires.After(now.Add(maxTTL)) {
				t.Errorf("entry %v: %+v", k, e)
			}
		}
	})
}
