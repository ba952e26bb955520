package ri2n

import (
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestCongestionNames: the zero value is the default, which is BBR.
func TestCongestionNames(t *testing.T) {
	for _, tt := range []struct {
		c    Congestion
		name string
		is   func(CongestionController) bool
	}{
		{0, "default", isA[*bbr]},
		{CongestionDefault, "default", isA[*bbr]},
		{CongestionBBR, "bbr", isA[*bbr]},
		{CongestionCUBIC, "cubic", isA[*cubic]},
		{CongestionNewReno, "newreno", isA[*newReno]},
		{99, "unknown", isA[*bbr]},
	} {
		cc := tt.c.New(CongestionParams{MaxDatagramSize: 1200})
		if tt.c.String() != tt.name || !tt.is(cc) || cc.Cwnd() != 12000 {
			t.Errorf("%d: %q makes a %T with a window of %d, want %q", tt.c, tt.c, cc, cc.Cwnd(), tt.name)
		}
	}
}

func isA[T CongestionController](cc CongestionController) bool {
	_, ok := cc.(T)
	return ok
}

// A badController answers nonsense.
type badController struct {
	CongestionController
	cwnd int
	rate float64
}

func (b *badController) Cwnd() int           { return b.cwnd }
func (b *badController) PacingRate() float64 { return b.rate }

func TestGuardedController(t *testing.T) {
	for _, tt := range []struct {
		name     string
		cwnd     int
		rate     float64
		wantCwnd int
		wantRate float64
	}{
		{"sane", 50_000, 1e6, 50_000, 1e6},
		{"nothing", 0, 0, 2400, 0},
		{"negative", -5, -1, 2400, 0},
		{"smallest", math.MinInt, -math.MaxFloat64, 2400, 0},
		{"largest", math.MaxInt, math.MaxFloat64, maxCwnd, maxPacingRate},
		{"not a number", 1, math.NaN(), 2400, 0},
		{"infinite", 2400, math.Inf(1), 2400, 0},
		{"infinitely negative", 2401, math.Inf(-1), 2401, 0},
		{"a byte in centuries", 5000, 1e-300, 5000, minPacingRate},
	} {
		g := &guardedController{cc: &badController{newNewReno(1200), tt.cwnd, tt.rate}, mss: 1200}
		if got, rate := g.Cwnd(), g.PacingRate(); got != tt.wantCwnd || rate != tt.wantRate {
			t.Errorf("%s: window %d and rate %v, want %d and %v", tt.name, got, rate, tt.wantCwnd, tt.wantRate)
		}
	}
	g := &guardedController{cc: &badController{newNewReno(1200), 0, 0}, mss: 1200}
	g.SetMaxDatagramSize(1400)
	if got := g.Cwnd(); got != 2800 {
		t.Errorf("window = %d after the MTU grew, want 2800", got)
	}
}

// A session whose controller answers nonsense goes on.
func TestSessionSurvivesBadControllers(t *testing.T) {
	for _, tt := range []struct {
		name string
		cwnd int
		rate float64
	}{
		{"no window", 0, 0},
		{"negative", -1, -1},
		{"not a number", -1 << 40, math.NaN()},
		{"tiny rate", 1 << 40, 1e-9},
		{"no bounds", math.MaxInt, math.Inf(1)},
		{"fastest", math.MaxInt, math.MaxFloat64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				made := 0
				bad := func(c *Config) {
					c.NewCongestion = func(p CongestionParams) CongestionController {
						made++
						return &badController{Congestion(0).New(p), tt.cwnd, tt.rate}
					}
				}
				w := netsim.New(t, 1)
				link := netsim.Link{Delay: 5 * ms, Rate: 100e6, Loss: 0.01}
				a, b := newTestEndpoint(t, bad), newTestEndpoint(t, bad)
				la, lb := addSimulated(t, a, w.Host(link), 7000), addSimulated(t, b, w.Host(netsim.Delay(5*ms)), 7000)
				client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
				x, y := streamPair(t, client, server)
				const size = 20_000
				go func() {
					x.Write(make([]byte, size))
					x.CloseWrite()
				}()
				y.SetReadDeadline(time.Now().Add(2 * time.Minute))
				if n, err := io.Copy(io.Discard, y); n != size || err != nil {
					t.Errorf("%d bytes arrived: %v", n, err)
				}
				if made == 0 {
					t.Error("NewCongestion was not called")
				}
				a.Close()
				b.Close()
			})
		})
	}
}

// A nil controller means the algorithm of the configuration.
func TestNilControllerMeansDefault(t *testing.T) {
	edit := func(c *Config) {
		c.Congestion = CongestionCUBIC
		c.NewCongestion = func(CongestionParams) CongestionController { return nil }
	}
	a, b := newTestEndpoint(t, edit), newTestEndpoint(t)
	la, lb := addLoopback(t, a), addLoopback(t, b)
	client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
	client.mu.Lock()
	defer client.mu.Unlock()
	if cc := client.sending.cc; !isA[*cubic](cc) {
		t.Errorf("controller is a %T, want CUBIC", cc)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if cc := server.sending.cc; !isA[*bbr](cc) {
		t.Errorf("controller of the zero configuration is a %T, want BBR", cc)
	}
}
