package ri2n

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestTraceKnowsEveryFrame: a frame without a case would hide those behind it.
// CRYPTO does not occur in the packets that are traced.
func TestTraceKnowsEveryFrame(t *testing.T) {
	for _, v := range frameVectors() {
		b := v.encode(nil)
		typ, _, err := parseVarint(b)
		if err != nil || typ == frameCrypto {
			continue
		}
		frames := traceFrames(b)
		if len(frames) != 1 || frames[0].Type != frameName(typ) {
			t.Errorf("%s: traceFrames = %+v, want one %s", v.name, frames, frameName(typ))
		}
	}
}

// A traceLog keeps the events of one session.
type traceLog struct {
	mu     sync.Mutex
	events []TraceEvent
	last   time.Time
}

func (l *traceLog) Trace(now time.Time, e TraceEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.last) {
		panic("ri2n: traced time never goes back")
	}
	l.last = now
	l.events = append(l.events, e)
}

func count[E TraceEvent](l *traceLog, which func(E) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e, ok := e.(E); ok && which(e) {
			n++
		}
	}
	return n
}

// TestStatsAndTraceAgree runs a transfer with losses over two links of which
// one dies, and compares what the snapshots, the endpoint and a tracer say.
func TestStatsAndTraceAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(traceLog)
		w := netsim.New(t, 3)
		link := netsim.Link{Delay: 10 * time.Millisecond, Rate: 20e6, Loss: 0.01}
		a := newTestEndpoint(t, func(c *Config) { c.Trace = func(*Session) Tracer { return log } })
		b := newTestEndpoint(t)
		ha, hb := w.Host(link), w.Host(link)
		la, lb := addSimulated(t, a, ha, 7000), addSimulated(t, b, hb, 7000)
		client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
		addDirectPath(t, w, client, server, link)
		st, in := streamPair(t, client, server)
		cut := time.AfterFunc(300*time.Millisecond, func() { w.SetUplink(ha.Name(), netsim.Link{Cut: true}) })
		defer cut.Stop()
		transfer(t, st, in, 3<<20)
		in.Close()
		st.Close()
		time.Sleep(500 * time.Millisecond)

		s, r, e := client.Stats(), server.Stats(), a.Stats()
		if s.StreamBytesSent != 3<<20+1 || r.StreamBytesReceived != 3<<20+1 {
			t.Errorf("stream bytes sent %d and received %d, want %d", s.StreamBytesSent, r.StreamBytesReceived, 3<<20+1)
		}
		if s.PacketsLost == 0 || s.Failovers == 0 || s.PacketsReinjected == 0 || s.ProbeTimeouts == 0 || s.Stalls.Count() == 0 {
			t.Errorf("lost %d, failovers %d, reinjected %d, probe time-outs %d, stalls %d: want all above zero",
				s.PacketsLost, s.Failovers, s.PacketsReinjected, s.ProbeTimeouts, s.Stalls.Count())
		}
		if e.PacketsLost != s.PacketsLost || e.PacketsSpurious != s.PacketsSpurious || e.PacketsReinjected != s.PacketsReinjected || e.ProbeTimeouts != s.ProbeTimeouts || e.Stalls != s.Stalls {
			t.Errorf("endpoint counts %+v, its only session %+v", e, s)
		}
		if e.Sessions != 1 || e.Links != 2 || e.Reads == 0 || e.Bursts < s.Bursts {
			t.Errorf("endpoint counts %+v", e)
		}
		if s.Bursts == 0 || s.Bursts > s.PacketsSent || s.Streams != 0 || s.StreamsOpened != 1 || s.BufferedBytes != 0 || r.ReorderBytes != 0 {
			t.Errorf("session counts %+v", s)
		}
		limited := s.ApplicationLimited + s.FlowLimited + s.WindowLimited + s.PacingLimited
		if limited <= 0 || s.ApplicationLimited < 400*time.Millisecond || s.WindowLimited+s.PacingLimited < 300*time.Millisecond {
			t.Errorf("limited by the application %v, credit %v, windows %v, pacer %v", s.ApplicationLimited, s.FlowLimited, s.WindowLimited, s.PacingLimited)
		}

		all := func(n int, want uint64, what string) {
			if uint64(n) != want {
				t.Errorf("traced %d %s, counted %d", n, what, want)
			}
		}
		all(count(log, func(TracePacketSent) bool { return true }), s.PacketsSent, "packets sent")
		all(count(log, func(TracePacketReceived) bool { return true }), s.PacketsReceived, "packets received")
		all(count(log, func(TraceBurst) bool { return true }), s.Bursts, "bursts")
		all(count(log, func(e TracePath) bool { return e.New == PathSuspect }), s.Failovers, "failovers")
		all(count(log, func(e TraceStream) bool { return e.Open }), 1, "streams")
		all(count(log, func(e TraceStream) bool { return !e.Open && e.Sent == 3<<20+1 }), 1, "ends of streams")
		if n := count(log, func(TracePacketLost) bool { return true }); n == 0 || uint64(n) > s.PacketsLost {
			t.Errorf("traced %d losses, counted %d", n, s.PacketsLost)
		}
		client.Close()
		<-client.Ended()
		all(count(log, func(TraceClosed) bool { return true }), 1, "ends")
	})
}

// TestFlowLimited: a reader that does not read is the limit, and what it holds
// is seen.
func TestFlowLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Delay(10*time.Millisecond))
		a, b := streamPair(t, client, server)
		go func() {
			a.Write(make([]byte, 2*initialStreamWindow))
			a.Close()
		}()
		time.Sleep(10 * time.Second)
		s := client.Stats()
		if s.FlowLimited < 9*time.Second {
			t.Errorf("flow limited for %v of 10 s", s.FlowLimited)
		}
		if got := server.Stats().UnreadBytes; got != initialStreamWindow-1 {
			t.Errorf("%d bytes wait for Read, want a window but for the first byte", got)
		}
		io.Copy(io.Discard, b)
		time.Sleep(time.Second)
		if again := client.Stats(); again.FlowLimited-s.FlowLimited > 100*time.Millisecond {
			t.Errorf("flow limited for another %v once all was read", again.FlowLimited-s.FlowLimited)
		}
	})
}

func TestStallHistogram(t *testing.T) {
	var h StallHistogram
	for _, d := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 10*time.Millisecond + 1, time.Hour} {
		h.observe(d)
	}
	if h.Counts[0] != 2 || h.Counts[1] != 1 || h.Counts[len(StallBounds)] != 1 || h.Count() != 4 {
		t.Errorf("counts = %v", h.Counts)
	}
}

// TestTraceHoldsNoData: a stream's bytes and a path's tokens stay out.
func TestTraceHoldsNoData(t *testing.T) {
	var b []byte
	b = appendStreamHeader(b, 4, 0, 6, true, false)
	b = append(b, "secret"...)
	f := traceFrames(b)
	if len(f) != 1 || f[0].Length != 6 || bytes.Contains([]byte(f[0].Type), []byte("secret")) {
		t.Errorf("traceFrames = %+v", f)
	}
}
