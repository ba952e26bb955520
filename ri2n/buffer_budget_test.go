package ri2n

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestBufferBudget: sessions whose peers send fast grow their windows only as
// far as the endpoint's budget goes, and give back what they took.
func TestBufferBudget(t *testing.T) {
	for _, tt := range []struct {
		name   string
		budget int64
		most   uint64 // of all windows together beyond their first size
	}{
		{"none", -1, 0},
		{"one doubling", initialSessionWindow, initialSessionWindow},
		{"plenty", 1 << 40, 1 << 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := netsim.New(t, 1)
				up := netsim.Link{Delay: 30 * time.Millisecond, Rate: 1e9}
				a := newTestEndpoint(t)
				b := newTestEndpoint(t, func(c *Config) { c.BufferBudget = tt.budget })
				la, lb := addSimulated(t, a, w.Host(up), 7000), addSimulated(t, b, w.Host(up), 7000)
				var grown uint64
				var servers []*Session
				for range 3 {
					client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
					st, in := streamPair(t, client, server)
					go func() {
						st.Write(make([]byte, 16<<20))
						st.CloseWrite()
					}()
					if _, err := io.Copy(io.Discard, in); err != nil {
						t.Fatal(err)
					}
					server.mu.Lock()
					grown += server.recvWindow.size - initialSessionWindow
					server.mu.Unlock()
					servers = append(servers, server)
				}
				if grown > tt.most {
					t.Errorf("windows grew by %d bytes, want at most %d", grown, tt.most)
				}
				if got := uint64(b.buffers.used.Load()); got != grown {
					t.Errorf("budget used = %d, want %d", got, grown)
				}
				held := b.Stats().WindowsHeld
				if plenty := tt.budget > 1<<30; plenty && (grown == 0 || held != 0) || !plenty && held == 0 {
					t.Errorf("windows grew by %d bytes and were held %d times", grown, held)
				}
				for _, s := range servers {
					s.CloseWithError(0, "")
					<-s.Ended()
				}
				if got := b.buffers.used.Load(); got != 0 {
					t.Errorf("budget used = %d after all sessions have ended, want 0", got)
				}
			})
		})
	}
}
