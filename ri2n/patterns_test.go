package ri2n

import (
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// messages sends size bytes on st every gap until d has passed, and returns
// how long each took to reach the reader of in.
func messages(t *testing.T, st, in *Stream, size int, gap, d time.Duration) (took []time.Duration) {
	t.Helper()
	begun := time.Now()
	go func() {
		for n := 0; time.Since(begun) < d; n++ {
			msg := make([]byte, size)
			binary.BigEndian.PutUint64(msg, uint64(time.Since(begun)))
			if _, err := st.Write(msg); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			time.Sleep(gap)
		}
		st.CloseWrite()
	}()
	msg := make([]byte, size)
	for {
		if _, err := io.ReadFull(in, msg); err == io.EOF {
			return took
		} else if err != nil {
			t.Fatalf("read: %v", err)
		}
		took = append(took, time.Since(begun)-time.Duration(binary.BigEndian.Uint64(msg)))
	}
}

// TestMessagesBesideBulk: small messages on one stream take the better of two
// unequal paths, whatever another stream fills both with.
func TestMessagesBesideBulk(t *testing.T) {
	for _, tt := range []struct {
		name  string
		links []netsim.Link
		least float64 // of the bulk, Mbit/s
	}{
		{"20 Mbit/s at 10 and 100 ms", []netsim.Link{simLine(20, 10*time.Millisecond), simLine(20, 100*time.Millisecond)}, 34},
		{"20 and 2 Mbit/s", []netsim.Link{simLine(20, 10*time.Millisecond), simLine(2, 10*time.Millisecond)}, 19},
		{"the worse path is the older one", []netsim.Link{simLine(2, 100*time.Millisecond), simLine(20, 10*time.Millisecond)}, 18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const warmUp, length = 2 * time.Second, 7 * time.Second
				_, client, server, _ := simLinks(t, 1, func(c *Config) { c.Congestion = CongestionBBR }, tt.links...)
				a, b := streamPair(t, client, server)
				x, y := streamPair(t, client, server)
				flowed := make(chan *flow, 1)
				go func() { flowed <- runFlow(t, a, b, length) }()
				time.Sleep(warmUp)
				took := messages(t, x, y, 1024, 20*time.Millisecond, length-warmUp)
				rate := (<-flowed).rate(warmUp, length)
				p99 := percentile(took, 0.99)
				t.Logf("p50 %v, p99 %v, longest %v of %d messages beside %.1f Mbit/s", percentile(took, 0.5), p99, took[len(took)-1], len(took), rate)
				// The queue of the fast path under BBR: 18 ms alone, too.
				if p99 > 30*time.Millisecond {
					t.Errorf("p99 = %v, want 30 ms", p99)
				}
				if rate < tt.least {
					t.Errorf("%.1f Mbit/s beside the messages, want %v", rate, tt.least)
				}
			})
		})
	}
}
