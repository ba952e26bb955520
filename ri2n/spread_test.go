package ri2n

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// simLinks connects two endpoints by one path for each of ups, which are the
// uplinks of both sides. It returns the names of the client's hosts.
func simLinks(t testing.TB, seed uint64, edit func(*Config), ups ...netsim.Link) (w *netsim.World, client, server *Session, hosts []string) {
	t.Helper()
	if edit == nil {
		edit = func(*Config) {}
	}
	w = netsim.New(t, seed)
	a, b := newTestEndpoint(t, edit), newTestEndpoint(t, edit)
	for i, up := range ups {
		far := up // the delay, jitter and loss of the path are those of one side
		far.Delay, far.Jitter, far.Reorder, far.Loss, far.Rate = 0, 0, 0, 0, 0
		ha, hb := w.Host(up), w.Host(far)
		hosts = append(hosts, ha.Name())
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		if i == 0 {
			client, server = connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if _, err := client.AddPath(ctx, Remote{Link: la, Addr: linkAddr(lb)}); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	return w, client, server, hosts
}

// A flow is an endless transfer with a record of what the reader got when.
type flow struct {
	begun   time.Time
	arrived []arrivedBytes
}

type arrivedBytes struct {
	at time.Duration
	n  int
}

// runFlow writes to a for d and reads b.
func runFlow(t testing.TB, a, b *Stream, d time.Duration) *flow {
	t.Helper()
	f := &flow{begun: time.Now()}
	go func() {
		buf := make([]byte, 64<<10)
		for time.Since(f.begun) < d {
			if _, err := a.Write(buf); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
		a.CloseWrite()
	}()
	buf := make([]byte, 256<<10)
	for {
		n, err := b.Read(buf)
		f.arrived = append(f.arrived, arrivedBytes{time.Since(f.begun), n})
		if err == io.EOF {
			return f
		}
		if err != nil {
			t.Fatalf("read: %v", err)
		}
	}
}

// rate is the goodput from one moment to another, in Mbit/s.
func (f *flow) rate(from, to time.Duration) float64 {
	sum := 0
	for _, x := range f.arrived {
		if x.at > from && x.at <= to {
			sum += x.n
		}
	}
	return float64(sum) * 8 / (to - from).Seconds() / 1e6
}

// gap is the longest wait for bytes between two moments.
func (f *flow) gap(from, to time.Duration) (longest, when time.Duration) {
	last := from
	for _, x := range f.arrived {
		if x.at <= from || x.n == 0 {
			continue
		}
		if x.at > to {
			break
		}
		if x.at-last > longest {
			longest, when = x.at-last, last
		}
		last = x.at
	}
	return max(longest, 0), when
}

// gapsAbove counts the waits for bytes that are longer than limit.
func (f *flow) gapsAbove(limit, from, to time.Duration) (n int) {
	for from < to {
		gap, when := f.gap(from, to)
		if gap <= limit {
			break
		}
		n += f.gapsAbove(limit, from, when)
		n++
		from = when + gap
	}
	return n
}

func logPaths(t testing.TB, s *Session) {
	t.Helper()
	for _, p := range s.Paths() {
		t.Logf("path %d %s: %v rtt %v (var %v, min %v) cwnd %d in flight %d, %d packets sent, %d lost, %d time-outs, %d failovers",
			p.ID, p.Link, p.State, p.RTT.Round(time.Microsecond), p.RTTVar.Round(time.Microsecond), p.MinRTT, p.CongestionWindow, p.BytesInFlight,
			p.PacketsSent, p.PacketsLost, p.ProbeTimeouts, p.Failovers)
	}
}

var bothControls = []Congestion{CongestionCUBIC, CongestionBBR}

// simLine has a queue of 100 ms, as the lines of the kernel scenarios.
func simLine(megabits int64, roundTrip time.Duration) netsim.Link {
	return netsim.Link{Rate: megabits * 1e6, Delay: roundTrip / 2}
}

func TestAggregate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		links []netsim.Link
		least float64 // Mbit/s
	}{
		{"one", []netsim.Link{simLine(100, 10*time.Millisecond)}, 85},
		{"equal", []netsim.Link{simLine(100, 10*time.Millisecond), simLine(100, 10*time.Millisecond)}, 176},
		{"10 and 100 ms", []netsim.Link{simLine(100, 10*time.Millisecond), simLine(100, 100*time.Millisecond)}, 153},
		{"100 and 10 Mbit/s", []netsim.Link{simLine(100, 10*time.Millisecond), simLine(10, 10*time.Millisecond)}, 95},
	} {
		for _, cc := range bothControls {
			t.Run(fmt.Sprintf("%s, %v", tt.name, cc), func(t *testing.T) {
				if raceEnabled {
					t.Skip("long")
				}
				synctest.Test(t, func(t *testing.T) {
					_, client, server, _ := simLinks(t, 1, func(c *Config) { c.Congestion = cc }, tt.links...)
					a, b := streamPair(t, client, server)
					f := runFlow(t, a, b, 6*time.Second)
					got := f.rate(time.Second, 6*time.Second)
					gap, when := f.gap(0, 6*time.Second)
					t.Logf("%.1f Mbit/s; first second %.1f; longest gap %v at %v", got, f.rate(0, time.Second), gap, when)
					logPaths(t, client)
					if got < tt.least {
						t.Errorf("%.1f Mbit/s, want %.1f", got, tt.least)
					}
				})
			})
		}
	}
}

// TestAggregateWithLossyLink: a second link that loses one packet in twenty is
// worth half of the first at least.
func TestAggregateWithLossyLink(t *testing.T) {
	if raceEnabled {
		t.Skip("long")
	}
	synctest.Test(t, func(t *testing.T) {
		clean := simLine(100, 10*time.Millisecond)
		lossy := clean
		lossy.Loss = 0.05
		_, client, server, _ := simLinks(t, 1, func(c *Config) { c.Congestion = CongestionBBR }, clean, lossy)
		a, b := streamPair(t, client, server)
		got := runFlow(t, a, b, 4*time.Second).rate(time.Second, 4*time.Second)
		t.Logf("%.1f Mbit/s", got)
		logPaths(t, client)
		if got < 1.5*94 {
			t.Errorf("%.1f Mbit/s, want half as much again as the 94 of one link", got)
		}
	})
}

// TestLinkDies: of two links in use one goes silent. The reader must not wait
// for long, and the other link must be used fully soon.
func TestLinkDies(t *testing.T) {
	for _, dead := range []int{0, 1} {
		for _, rtt := range []time.Duration{10 * time.Millisecond, 20 * time.Millisecond} {
			for _, cc := range bothControls {
				t.Run(fmt.Sprintf("link %d, %v, %v", dead, rtt, cc), func(t *testing.T) {
					if raceEnabled {
						t.Skip("long")
					}
					synctest.Test(t, func(t *testing.T) {
						line := simLine(100, rtt)
						w, client, server, hosts := simLinks(t, 1, func(c *Config) { c.Congestion = cc }, line, line)
						a, b := streamPair(t, client, server)
						cut := 2400 * time.Millisecond
						time.AfterFunc(cut, func() {
							logPaths(t, client)
							w.SetUplink(hosts[dead], netsim.Link{Cut: true})
						})
						f := runFlow(t, a, b, 5*time.Second)
						gap, when := f.gap(cut-20*time.Millisecond, cut+500*time.Millisecond)
						after := f.rate(cut+500*time.Millisecond, cut+1500*time.Millisecond)
						t.Logf("longest gap %v at %v; %.1f Mbit/s before, %.1f in the first half second, %.1f then",
							gap, when-cut, f.rate(time.Second, cut), f.rate(cut, cut+500*time.Millisecond), after)
						logPaths(t, client)
						if gap > 60*time.Millisecond { // asked are 100 ms
							t.Errorf("longest gap %v, want 60 ms", gap)
						}
						if after < 0.9*90 {
							t.Errorf("%.1f Mbit/s on the link that is left", after)
						}
					})
				})
			}
		}
	}
}
