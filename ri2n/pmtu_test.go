package ri2n

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestPMTUSearch(t *testing.T) {
	for _, tt := range []struct {
		name          string
		base, largest int
		carries       int
		least         int
		maxProbes     int
	}{
		{"Ethernet, IPv4", 1200, 1472, 1472, 1472, 1},
		{"PPPoE", 1200, 1472, 1464, 1440, 20},
		{"underlay of 1280", 1200, 1472, 1252, 1252, 25},
		{"nothing above the base", 1200, 1472, 1200, 1200, 25},
		{"jumbo frames", 1200, 8972, 8972, 8972, 6},
		{"jumbo interface, Ethernet route", 1200, 8972, 1472, 1472, 40},
		{"loopback", 1200, 16000, 16000, 16000, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			m := newPMTUSearch(tt.base, tt.largest)
			m.start(now)
			now = now.Add(pmtuDelay)
			probes := 0
			for {
				size := m.probe(now)
				if size == 0 {
					break
				}
				if size <= m.passes || size > tt.largest {
					t.Fatalf("probe of %d bytes, passes %d, largest %d", size, m.passes, tt.largest)
				}
				m.sent(size)
				if probes++; probes > 100 {
					t.Fatal("the search does not end")
				}
				if size <= tt.carries {
					m.acked(size, now)
				} else {
					m.failed(size, now)
				}
			}
			if m.passes < tt.least || m.passes > tt.carries {
				t.Errorf("found %d, want %d to %d", m.passes, tt.least, tt.carries)
			}
			if probes > tt.maxProbes {
				t.Errorf("probes = %d, want at most %d", probes, tt.maxProbes)
			}
			if got := m.due.Sub(now); got != pmtuInterval {
				t.Errorf("next search in %v, want %v", got, pmtuInterval)
			}
		})
	}
}

func TestPLPMTUGrowsAndBlackHoleIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := netsim.Link{Delay: 10 * time.Millisecond}
		w, client, server := simPair(t, 1, up)
		a, b := streamPair(t, client, server)
		go io.Copy(io.Discard, b)
		a.Write(make([]byte, 1<<20))
		time.Sleep(2 * time.Second)
		// RFC 8899, section 5.3: an Ethernet path carries 1472 bytes over IPv4.
		if got, want := client.Paths()[0].MTU, 1472; got != want {
			t.Errorf("MTU = %d, want %d", got, want)
		}
		lost := client.Paths()[0].PacketsLost
		if lost != 0 {
			t.Errorf("packets lost = %d, want 0", lost)
		}
		up.MTU = 1300
		w.SetUplink("host1", up)
		begun := time.Now()
		a.Write(make([]byte, 4<<20))
		a.CloseWrite()
		for a.Session() == client && func() bool { client.mu.Lock(); defer client.mu.Unlock(); return !a.send.done() }() {
			time.Sleep(10 * time.Millisecond)
		}
		if got := time.Since(begun); got > 5*time.Second {
			t.Errorf("4 MiB took %v after the MTU shrank", got)
		}
		if got, want := client.Paths()[0].MTU, 1200; got != want {
			t.Errorf("MTU = %d, want %d", got, want)
		}
	})
}
