package ri2n

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// updateOften makes s update its keys after n packets.
func updateOften(s *Session, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys.most = n
}

// TestKeyUpdates: updates cross reordered, lost and repeated packets on two
// paths, begun by one side or by both.
func TestKeyUpdates(t *testing.T) {
	for _, tt := range []struct {
		name           string
		client, server uint64
	}{
		{"by the client", 50, updateKeysAfter},
		{"by the server", updateKeysAfter, 50},
		{"by both", 70, 70},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				l := s.newLane(7001)
				l.open(t, client)
				rule := func(n int, b []byte, _ netip.AddrPort) []delivery {
					switch {
					case n%17 == 3:
						return nil
					case n%5 == 1:
						return []delivery{{time.Duration(n%7) * 3 * time.Millisecond, b}}
					case n%23 == 0:
						return []delivery{{0, b}, {40 * time.Millisecond, b}}
					}
					return as(b)
				}
				for _, c := range []*scriptedConn{s.ca, s.cb, l.ca, l.cb} {
					c.setRule(rule)
				}
				updateOften(client, tt.client)
				updateOften(server, tt.server)
				a, b := streamPair(t, client, server)
				c, d := streamPair(t, client, server)
				var both sync.WaitGroup
				both.Go(func() { transfer(t, a, b, 2<<20) })
				both.Go(func() { transfer(t, d, c, 2<<20) })
				both.Wait()
				time.Sleep(time.Second)
				if client.Err() != nil || server.Err() != nil {
					t.Fatalf("session ended: %v, %v", client.Err(), server.Err())
				}
				for name, side := range map[string]*Session{"client": client, "server": server} {
					side.mu.Lock()
					g := side.readKeys.current.Load()
					if g.count < 4 {
						t.Errorf("%s followed %d key updates, want more", name, g.count)
					}
					if g.previous != nil {
						t.Errorf("%s still has old keys after a second", name)
					}
					// An update whose only packet was an ACK that got lost is
					// still on its way.
					if g.phase != side.keys.phase && side.keys.confirmed {
						t.Errorf("%s sends in another phase than it receives", name)
					}
					side.mu.Unlock()
				}
				if got := s.a.Stats().AuthenticationFailed + s.b.Stats().AuthenticationFailed; got != 0 {
					t.Logf("packets that did not open = %d", got)
				}
			})
		})
	}
}

// TestOldKeysExpire: a packet under the last but one keys does not open.
func TestOldKeysExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, newStage(t))
		late, tooLate := l.packet(0, appendPingFrame(nil)), l.packet(0, appendPingFrame(nil))
		l.s.mu.Lock()
		l.s.keys.rotate(time.Now())
		l.s.mu.Unlock()
		l.send(appendPingFrame(nil))
		l.deliver(late)
		if got := l.victim.endpoint.Stats().AuthenticationFailed; got != 0 {
			t.Errorf("a late packet of the old phase did not open")
		}
		time.Sleep(5 * time.Second)
		l.deliver(tooLate)
		if got := l.victim.endpoint.Stats().AuthenticationFailed; got != 1 {
			t.Errorf("packets that did not open = %d, want 1", got)
		}
		l.wantAlive()
	})
}
