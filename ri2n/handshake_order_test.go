package ri2n

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A swappingConn sends each two datagrams of a burst in reverse order: it
// holds one back until the next is sent, or for a millisecond.
type swappingConn struct {
	net.PacketConn
	mu   sync.Mutex // guards held
	held func()     // sends what is held back
}

func (c *swappingConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		copied := append([]byte(nil), b...)
		c.held = func() { c.PacketConn.WriteTo(copied, to) }
		time.AfterFunc(time.Millisecond, c.release)
		return len(b), nil
	}
	n, err := c.PacketConn.WriteTo(b, to)
	c.held()
	c.held = nil
	return n, err
}

func (c *swappingConn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		c.held()
		c.held = nil
	}
}

// TestDialWaitsForNoRepetition: neither a network that swaps the datagrams of
// a flight nor workers that race for them cost a probe time-out.
func TestDialWaitsForNoRepetition(t *testing.T) {
	for _, tt := range []struct {
		name string
		swap bool
	}{
		{"in order", false},
		{"each two swapped", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const oneWay = 10 * time.Millisecond
				world, err := netsim.Start(netsim.Scenario{Hosts: []netsim.HostNode{
					{Name: "a", Uplink: netsim.Link{Delay: oneWay / 2}},
					{Name: "b", Uplink: netsim.Link{Delay: oneWay / 2}},
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer world.Close()
				a, b := newTestEndpoint(t), newTestEndpoint(t)
				defer a.Close()
				defer b.Close()
				link := func(e *Endpoint, host string) *Link {
					pc, err := world.Host(host).ListenPacket(t.Context(), 0)
					if err != nil {
						t.Fatal(err)
					}
					if tt.swap {
						pc = &swappingConn{PacketConn: pc}
					}
					l, err := e.AddLink(host, pc)
					if err != nil {
						t.Fatal(err)
					}
					return l
				}
				la, lb := link(a, "a"), link(b, "b")
				for i := range 10 {
					start := time.Now()
					client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
					if took := time.Since(start); took >= handshakePTO {
						t.Errorf("dial %d took %v, want less than the %v of a repetition", i, took, handshakePTO)
					}
					client.Close()
					server.Close()
				}
			})
		})
	}
}

// TestFirstPacketsFindTheirSession: the server may answer the dialer's last
// flight before the dialer's send has returned, on another core.
func TestFirstPacketsFindTheirSession(t *testing.T) {
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	la, lb := addLoopback(t, a), addLoopback(t, b)
	for range 50 {
		client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
		streamPair(t, client, server)
		if resets := a.counters.statelessResetsSent.Load() + b.counters.statelessResetsSent.Load(); resets != 0 {
			t.Fatalf("stateless resets sent = %d, want 0: a session answered a packet of its own with one", resets)
		}
	}
}
