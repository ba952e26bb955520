package ri2n

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A burstLoser is a simulated socket whose network card loses, or damages, what
// it is to cut up.
type burstLoser struct {
	addrPortSocket
	damage bool
	broken func() bool
	bursts *int // in one piece
}

func (s burstLoser) write(burst []byte, size int, to netip.AddrPort, whole bool) error {
	if !whole || len(burst) <= size {
		return s.addrPortSocket.write(burst, size, to, false)
	}
	*s.bursts++
	switch {
	case !s.broken():
		return s.addrPortSocket.write(burst, size, to, false)
	case s.damage:
		bad := append([]byte(nil), burst...)
		for i := shortHeaderLen; i < len(bad); i += 100 {
			bad[i] ^= 1
		}
		return s.addrPortSocket.write(bad, size, to, false)
	}
	return nil
}

// addSocket makes s a link of e.
func addSocket(t testing.TB, e *Endpoint, s socket) *Link {
	t.Helper()
	l := newLink(e, "fake")
	l.socket = s
	l.other = newOtherConn(l)
	l.interfaceMTU = 1500
	if err := e.register(l); err != nil {
		t.Fatal(err)
	}
	e.running.Go(l.read)
	return l
}

// A path on which only bursts are lost carries data all the same, packet by
// packet, and bursts are tried again later.
func TestBurstsThatGetLostAreGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage bool
	}{
		{"lost", false},
		{"damaged", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := netsim.New(t, 1)
				link := netsim.Link{Delay: 5 * time.Millisecond, Rate: 100e6, Queue: 200_000}
				ha, hb := w.Host(link), w.Host(link)
				a, b := newTestEndpoint(t), newTestEndpoint(t)
				pc, err := ha.ListenPacket(context.Background(), 7000)
				if err != nil {
					t.Fatal(err)
				}
				broken, bursts := true, 0
				la := addSocket(t, a, burstLoser{addrPortSocket{pc.(addrPortConn)}, tt.damage, func() bool { return broken }, &bursts})
				lb := addSimulated(t, b, hb, 7000)
				client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
				send := func() time.Duration {
					sa, sb := streamPair(t, client, server)
					return transfer(t, sa, sb, 4<<20)
				}

				for range 4 { // one is nearly always enough
					if send(); a.Stats().BurstsDistrusted > 0 {
						break
					}
				}
				if n := a.Stats().BurstsDistrusted; n != 1 {
					t.Errorf("bursts were given up %d times, want once", n)
				}
				before := bursts
				took := send()
				if bursts != before {
					t.Errorf("%d bursts after they were given up", bursts-before)
				}
				if limit := 1200 * time.Millisecond; took > limit {
					t.Errorf("4 MiB took %v, want %v at most", took, limit)
				}

				synctest.Wait()
				broken = false
				time.Sleep(canaryRest)
				send()
				if bursts == before {
					t.Error("bursts are never tried again")
				}
				if n := a.Stats().BurstsDistrusted; n != 1 {
					t.Errorf("bursts were given up %d times, want once", n)
				}
				a.Close()
				b.Close()
			})
		})
	}
}

func TestBurstCanary(t *testing.T) {
	start := time.Unix(1000, 0)
	type step struct {
		burst, lone lossCount
		off         bool
	}
	bad := step{burst: lossCount{lost: canaryQuick}}
	good := step{lone: lossCount{acked: canaryQuick}}
	verdict := step{lone: lossCount{acked: canaryQuick}, off: true}
	for _, tt := range []struct {
		name   string
		steps  []step
		allows bool
	}{
		{"nothing known", nil, true},
		{"few losses", []step{{burst: lossCount{acked: 60, lost: 10}}}, true},
		{"too few packets", []step{{burst: lossCount{acked: 2, lost: 8}}}, true},
		{"many losses", []step{bad}, false},
		{"one strike", []step{bad, good}, true},
		{"lone packets are lost as well", []step{bad, {lone: lossCount{acked: 50, lost: 30}}, bad, good, bad, good}, true},
		{"congestion that passes", []step{bad, good, bad, good, {burst: lossCount{acked: 100}}, bad, good}, true},
		{"three strikes", []step{bad, good, bad, good, bad, verdict}, false},
		{"a quarter", []step{
			{burst: lossCount{acked: 90, lost: 30}}, {lone: lossCount{acked: 70, lost: 2}},
			{burst: lossCount{acked: 90, lost: 30}}, {lone: lossCount{acked: 70, lost: 2}},
			{burst: lossCount{acked: 90, lost: 30}}, {lone: lossCount{acked: 70, lost: 2}, off: true},
		}, false},
	} {
		var c burstCanary
		for i, s := range tt.steps {
			if off := c.observe(start, s.burst, s.lone); off != s.off {
				t.Errorf("%s: step %d gives bursts up: %v, want %v", tt.name, i, off, s.off)
			}
		}
		if got := c.allows(start); got != tt.allows {
			t.Errorf("%s: allows = %v, want %v", tt.name, got, tt.allows)
		}
		if !c.allows(start.Add(canaryRest)) && c.phase == canaryOff {
			t.Errorf("%s: bursts get no other chance", tt.name)
		}
	}
}
