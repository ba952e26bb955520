package overlay

import (
	"encoding/binary"
	"testing"
	"time"
)

// Packets that are sent while the session comes up, and moves from the relay to
// the direct path, arrive all, but for those that come before the handshake has
// ended and find no room: they are counted.
func TestNoPacketIsLostInTheMove(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond} {
		t.Run(every.String(), func(t *testing.T) {
			for seed := range uint64(3) {
				bubble(t, func(t *testing.T) { testPacketMove(t, seed, every) })
			}
		})
	}
}

func testPacketMove(t *testing.T, seed uint64, every time.Duration) {
	r := newRig(t, seed, restricted, restricted)
	a, b := r.pair(nil)
	at, err := b.ListenPacket("udp", ":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	from, err := a.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	const count = 1000
	arrived := make(chan map[uint32]int, 1)
	go func() {
		got := make(map[uint32]int)
		buf := make([]byte, MaxPacketSize)
		for {
			at.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, _, err := at.ReadFrom(buf)
			if err != nil {
				break
			}
			got[binary.BigEndian.Uint32(buf[:n])]++
		}
		arrived <- got
	}()
	to := PacketAddr{Addr{b.PeerID(), 9000}}
	packet := make([]byte, 200)
	for i := range count {
		binary.BigEndian.PutUint32(packet, uint32(i))
		if _, err := from.WriteTo(packet, to); err != nil {
			t.Fatal(err)
		}
		time.Sleep(every)
	}
	got := <-arrived
	waitDirect(t, a, b)
	var lost []int
	for i := range count {
		if got[uint32(i)] == 0 {
			lost = append(lost, i)
		}
	}
	if early := b.Transport().EarlyPacketsDropped; len(lost) > int(early) {
		t.Errorf("lost %d, of which %d too early: %v", len(lost), early, lost)
		for _, n := range []*Node{a, b} {
			t.Logf("counters %+v", n.Status().Counters)
			t.Logf("transport %+v", n.Transport())
		}
		for _, p := range a.peerByID(b.PeerID()).best().session.Paths() {
			t.Logf("%s sent %d lost %d rtt %v state %v", p.Link, p.PacketsSent, p.PacketsLost, p.RTT, p.State)
		}
	}
}
