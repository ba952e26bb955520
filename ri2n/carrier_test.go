package ri2n

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A testCarrier is one end of a relay channel in memory.
type testCarrier struct {
	delay time.Duration
	far   *Link // set before the first Send

	mu      sync.Mutex // guards what follows
	size    int
	lose    int // every so many datagrams; zero: none
	cut     bool
	sent    int
	bytes   int
	largest int
	tap     func(b []byte) // sees what leaves; nil: nobody
}

func (c *testCarrier) Send(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	c.bytes += len(b)
	c.largest = max(c.largest, len(b))
	if c.tap != nil {
		c.tap(b)
	}
	switch {
	case len(b) > c.size:
		return errors.New("datagram too large for the carrier")
	case c.cut || c.lose > 0 && c.sent%c.lose == 0:
		return nil
	}
	data := append([]byte(nil), b...)
	time.AfterFunc(c.delay, func() { c.far.Deliver(data) })
	return nil
}

func (c *testCarrier) MaxDatagram() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// traffic returns the bytes sent so far, and the size of the largest datagram.
func (c *testCarrier) traffic() (bytes, largest int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.largest
}

// carrierPair connects a and b by a channel.
func carrierPair(t testing.TB, a, b *Endpoint, size int, delay time.Duration) (la, lb *Link, ca, cb *testCarrier) {
	t.Helper()
	ca, cb = &testCarrier{size: size, delay: delay}, &testCarrier{size: size, delay: delay}
	la, err := a.AddCarrier("relay", ca)
	if err != nil {
		t.Fatal(err)
	}
	lb, err = b.AddCarrier("relay", cb)
	if err != nil {
		t.Fatal(err)
	}
	ca.far, cb.far = lb, la
	return la, lb, ca, cb
}

func TestSessionOverCarrier(t *testing.T) {
	for _, size := range []int{1000, 1100, 1200, 1400} {
		for _, lose := range []int{0, 10} {
			t.Run(fmt.Sprintf("%d bytes, one in %d lost", size, lose), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := newTestEndpoint(t), newTestEndpoint(t)
					la, _, ca, cb := carrierPair(t, a, b, size, 10*time.Millisecond)
					ca.lose, cb.lose = lose, lose
					client, server := connectSessions(t, a, b, Remote{Link: la})
					exchange(t, client, server, 200000)
					for _, c := range []*testCarrier{ca, cb} {
						if _, largest := c.traffic(); largest > size {
							t.Errorf("a datagram of %d bytes on a carrier for %d", largest, size)
						}
					}
					p := client.Paths()[0]
					if !p.Carrier || p.Remote.IsValid() || p.Local.IsValid() {
						t.Errorf("path = %+v, want one of a carrier", p)
					}
				})
			})
		}
	}
}

// TestCarrierShrinks while data is under way.
func TestCarrierShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, _, ca, cb := carrierPair(t, a, b, 1200, 10*time.Millisecond)
		client, server := connectSessions(t, a, b, Remote{Link: la})
		up, down := streamPair(t, client, server)
		time.AfterFunc(100*time.Millisecond, func() {
			for _, c := range []*testCarrier{ca, cb} {
				c.mu.Lock()
				c.size = 1000
				c.mu.Unlock()
			}
		})
		if took := transfer(t, up, down, 2<<20); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if got := client.MaxDatagramSize(); got > 1000-shortHeaderLen-aeadOverhead {
			t.Errorf("MaxDatagramSize = %d on a carrier for 1000", got)
		}
	})
}

// TestCarrierGrows: a relay takes the least at first, and more once it knows how
// much both of its halves carry.
func TestCarrierGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, _, ca, cb := carrierPair(t, a, b, minBaseSize, 10*time.Millisecond)
		client, server := connectSessions(t, a, b, Remote{Link: la})
		up, down := streamPair(t, client, server)
		transfer(t, up, down, 100_000)
		for _, c := range []*testCarrier{ca, cb} {
			c.mu.Lock()
			c.size = 1430
			c.mu.Unlock()
		}
		up, down = streamPair(t, client, server)
		transfer(t, up, down, 100_000)
		if _, largest := ca.traffic(); largest != 1430 {
			t.Errorf("largest datagram %d, want 1430", largest)
		}
		if got := client.Paths()[0].MTU; got != 1430 {
			t.Errorf("MTU = %d, want 1430", got)
		}
	})
}

// TestRelayedThenDirect is the life of a session: it begins on a relay, moves
// to a direct path, and goes back when that one dies.
func TestRelayedThenDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		relayA, relayB, ca, cb := carrierPair(t, s.a, s.b, 1100, 2*time.Millisecond)
		client, server := connectSessions(t, s.a, s.b, Remote{Link: relayA})
		exchange(t, client, server, 10000)
		changed := client.PathsChanged()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := client.AddPath(ctx, s.toB()); err != nil {
			t.Fatal(err)
		}
		if !isClosed(changed) {
			t.Error("PathsChanged told nothing of the new path")
		}
		up, upEnd := streamPair(t, client, server)
		time.Sleep(time.Second)
		// The direct path is used though the relay's round trip is shorter.
		for name, side := range map[string]*Session{"client": client, "server": server} {
			for _, p := range side.Paths() {
				if want := !p.Carrier; p.Sending != want {
					t.Errorf("%s: sending on %s is %v, want %v", name, p.Link, p.Sending, want)
				}
				if p.Carrier && p.State != PathStandby {
					t.Errorf("%s: the relay is %v, want %v", name, p.State, PathStandby)
				}
			}
		}
		used := func() int {
			there, _ := ca.traffic()
			back, _ := cb.traffic()
			return there + back
		}
		before := used()
		transfer(t, up, upEnd, 500000)
		if used := used() - before; used > 1000 {
			t.Errorf("%d bytes went over the relay while the direct path was there", used)
		}

		up, upEnd = streamPair(t, client, server)
		time.AfterFunc(200*time.Millisecond, func() { s.world.SetUplink(s.hosts[1], netsim.Link{Cut: true}) })
		go func() {
			for range 100 {
				up.Write(make([]byte, 10000))
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if gap := longestGap(t, upEnd, 1000000); gap > 150*time.Millisecond {
			t.Errorf("longest gap when the direct path died = %v", gap)
		}
		s.world.SetUplink(s.hosts[1], netsim.Delay(5*time.Millisecond))
		time.Sleep(10 * time.Second)
		if got := sendingLink(client); got != s.la.Name() {
			t.Errorf("client sends on %q 10 s after the direct path is back", got)
		}
		relayA.Close()
		relayB.Close()
		exchange(t, client, server, 10000)
		if got := len(client.Paths()); got != 1 {
			t.Errorf("paths = %d after the relay was closed, want 1", got)
		}
	})
}

// TestLastLinkCloses: the session waits for another path until its idle
// time-out.
func TestLastLinkCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		exchange(t, client, server, 10000)
		l := s.newLane(7001)
		s.la.Close()
		time.Sleep(5 * time.Second)
		if err := client.Err(); err != nil {
			t.Fatalf("session ended with its link: %v", err)
		}
		l.open(t, client)
		exchange(t, client, server, 10000)
		l.la.Close()
		begun := time.Now()
		<-client.Done()
		if got := time.Since(begun); got < 59*time.Second || got > 61*time.Second {
			t.Errorf("session without a link ended after %v, want 60 s", got)
		}
		if _, err := s.a.AddLink("again", l.ca.PacketConn); err != nil {
			t.Error(err)
		}
		s.a.Close()
		if _, err := s.a.AddCarrier("late", &testCarrier{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("AddCarrier after Close: %v, want %v", err, net.ErrClosed)
		}
	})
}
