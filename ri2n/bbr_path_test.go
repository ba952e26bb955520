package ri2n

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// bbrPair connects two public hosts whose ends use cc. up is the uplink of
// the sender, which a delay follows on the receiver's side.
func bbrPair(t testing.TB, cc Congestion, seed uint64, up netsim.Link, rest time.Duration) (client, server *Session) {
	t.Helper()
	w := netsim.New(t, seed)
	ha, hb := w.Host(up), w.Host(netsim.Delay(rest))
	choose := func(c *Config) { c.Congestion = cc }
	a, b := newTestEndpoint(t, choose), newTestEndpoint(t, choose)
	la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
	return connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
}

// TestBBRGoodput sends for a while over the whole transport and compares what
// the application received with what the link could carry.
func TestBBRGoodput(t *testing.T) {
	for _, tt := range []struct {
		name string
		up   netsim.Link
		rest time.Duration
		want float64 // of what the link can carry for the application
	}{
		{"100 Mbit/s 40 ms", netsim.Link{Delay: 10 * ms, Rate: 100e6, Queue: 500_000}, 10 * ms, 0.80},
		{"100 Mbit/s 40 ms 1 %", netsim.Link{Delay: 10 * ms, Rate: 100e6, Queue: 500_000, Loss: 0.01, Down: &netsim.Link{Delay: 10 * ms}}, 10 * ms, 0.80},
		{"100 Mbit/s 40 ms 3 %", netsim.Link{Delay: 10 * ms, Rate: 100e6, Queue: 500_000, Loss: 0.03, Down: &netsim.Link{Delay: 10 * ms}}, 10 * ms, 0.80},
		{"20 Mbit/s 100 ms 1 %", netsim.Link{Delay: 25 * ms, Rate: 20e6, Queue: 250_000, Loss: 0.01, Down: &netsim.Link{Delay: 25 * ms}}, 25 * ms, 0.80},
		{"20 Mbit/s 100 ms 1 % both ways", netsim.Link{Delay: 25 * ms, Rate: 20e6, Queue: 250_000, Loss: 0.01}, 25 * ms, 0.80},
		{"jitter 10 ms, reordering", netsim.Link{Delay: 10 * ms, Rate: 20e6, Queue: 100_000, Jitter: 10 * ms, Reorder: 1}, 10 * ms, 0.80},
	} {
		if raceEnabled && tt.name != "jitter 10 ms, reordering" {
			continue // make test runs these without the detector
		}
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := bbrPair(t, CongestionBBR, 1, tt.up, tt.rest)
				a, b := streamPair(t, client, server)
				got, begun := 0, time.Now()
				go func() {
					buf := make([]byte, 64<<10)
					for {
						if _, err := a.Write(buf); err != nil {
							return
						}
					}
				}()
				buf := make([]byte, 64<<10)
				for time.Since(begun) < 20*time.Second {
					n, err := b.Read(buf)
					if err != nil && err != io.EOF {
						t.Fatal(err)
					}
					got += n
				}
				// Of a packet of 1500 bytes on the link, 28 are IP and UDP, 29 the
				// packet's and some 10 the frame's; what is lost has been carried.
				share := float64(got) * 8 / 20 / float64(tt.up.Rate) / (1433.0 / 1500) / (1 - tt.up.Loss)
				state := ""
				client.mu.Lock()
				p := client.sending
				if c, ok := p.cc.(*bbr); ok {
					state = fmt.Sprintf("%v bw %.1f floor %.3f", c.state, c.maxBW.max()*8/1e6, c.tolerant.floor())
				}
				state += fmt.Sprintf(" cwnd %d inflight %d srtt %v lost %d sent %d ptos %d threshold %d", p.cc.Cwnd(), p.loss.bytesInFlight(), p.rtt.smoothed, p.packetsLost, p.packetsSent, p.probeTimeouts, p.loss.threshold)
				client.mu.Unlock()
				t.Logf("%.3f of what the link can carry: %s", share, state)
				if share < tt.want {
					t.Errorf("goodput = %.3f of what the link can carry, want at least %.2f", share, tt.want)
				}
				client.endpoint.Close()
				server.endpoint.Close()
			})
		})
	}
}
