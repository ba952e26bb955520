package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// An arrival is a packet that left a pipe.
type arrival struct {
	after time.Duration // since the start
	id    byte          // the packet's first byte
	size  int
}

// through sends packets into a pipe, each at its time, and returns what came
// out by the end of the bubble's second hour.
func through(t *testing.T, l netsim.Link, sent []arrival) (out []arrival, c Counters) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		pool := newPacketPool(2048)
		start := time.Now()
		p := newPipe(l, 1, 2, pool, func(pkt *packet, at time.Time) {
			if now := time.Now(); !at.Equal(now) {
				t.Errorf("packet due at %v was handed over at %v", at.Sub(start), now.Sub(start))
			}
			out = append(out, arrival{at.Sub(start), pkt.data[0], len(pkt.data)})
			pool.put(pkt)
		})
		for _, s := range sent {
			time.Sleep(s.after - time.Since(start))
			pkt := pool.get()
			pkt.data = pkt.data[:s.size]
			pkt.data[0] = s.id
			p.send(pkt, time.Now())
		}
		time.Sleep(2 * time.Hour)
		c = p.counters.snapshot()
		p.close()
	})
	return out, c
}

func TestPipe(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name string
		link netsim.Link
		sent []arrival
		want []arrival
		c    Counters
	}{
		{
			"perfect", netsim.Link{},
			[]arrival{{0, 1, 100}, {5 * ms, 2, 100}},
			[]arrival{{0, 1, 100}, {5 * ms, 2, 100}},
			Counters{Passed: 2},
		},
		{
			"delay", netsim.Link{Delay: 20 * ms},
			[]arrival{{0, 1, 100}, {5 * ms, 2, 100}},
			[]arrival{{20 * ms, 1, 100}, {25 * ms, 2, 100}},
			Counters{Passed: 2},
		},
		{
			"rate", netsim.Link{Rate: 8_000_000, Delay: 10 * ms}, // 1 byte each microsecond
			[]arrival{{0, 1, 1000}, {0, 2, 500}, {10 * ms, 3, 1000}},
			[]arrival{{11 * ms, 1, 1000}, {11*ms + 500*time.Microsecond, 2, 500}, {21 * ms, 3, 1000}},
			Counters{Passed: 3},
		},
		{
			"queue", netsim.Link{Rate: 8_000_000, Queue: 2000},
			[]arrival{{0, 1, 1000}, {0, 2, 1000}, {0, 3, 1000}, {1 * ms, 4, 1000}},
			[]arrival{{1 * ms, 1, 1000}, {2 * ms, 2, 1000}, {3 * ms, 4, 1000}},
			Counters{Passed: 3, Overflow: 1},
		},
		{
			"MTU", netsim.Link{MTU: 1280},
			[]arrival{{0, 1, 1280}, {0, 2, 1281}},
			[]arrival{{0, 1, 1280}},
			Counters{Passed: 1, TooBig: 1},
		},
		{
			"usual MTU", netsim.Link{},
			[]arrival{{0, 1, 1500}, {0, 2, 1501}},
			[]arrival{{0, 1, 1500}},
			Counters{Passed: 1, TooBig: 1},
		},
		{
			"cut", netsim.Link{Cut: true},
			[]arrival{{0, 1, 100}},
			nil,
			Counters{Cut: 1},
		},
		{
			"total loss", netsim.Link{Loss: 1},
			[]arrival{{0, 1, 100}},
			nil,
			Counters{Lost: 1},
		},
		{
			"duplicates", netsim.Link{Duplicate: 1, Delay: ms},
			[]arrival{{0, 1, 100}},
			[]arrival{{ms, 1, 100}, {ms, 1, 100}},
			Counters{Passed: 2, Duplicated: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, c := through(t, tt.link, tt.sent)
			if !slices.Equal(got, tt.want) {
				t.Errorf("left the pipe: %v, want %v", got, tt.want)
			}
			for _, a := range got {
				tt.c.Bytes += uint64(a.size)
			}
			if c != tt.c {
				t.Errorf("counted %+v, want %+v", c, tt.c)
			}
		})
	}
}

// many returns n packets, one each millisecond.
func many(n int) []arrival {
	sent := make([]arrival, n)
	for i := range sent {
		sent[i] = arrival{time.Duration(i) * time.Millisecond, byte(i), 100}
	}
	return sent
}

func TestPipeJitter(t *testing.T) {
	l := netsim.Link{Delay: 10 * time.Millisecond, Jitter: 20 * time.Millisecond}
	sent := many(200)
	for _, tt := range []struct {
		name    string
		reorder float64
	}{{"keeps order", 0}, {"reorders", 1}} {
		t.Run(tt.name, func(t *testing.T) {
			l.Reorder = tt.reorder
			got, _ := through(t, l, sent)
			if len(got) != len(sent) {
				t.Fatalf("%d packets left, want %d", len(got), len(sent))
			}
			inOrder := slices.IsSortedFunc(got, func(a, b arrival) int { return int(a.id) - int(b.id) })
			if inOrder != (tt.reorder == 0) {
				t.Errorf("in order = %v", inOrder)
			}
			for _, a := range got {
				took := a.after - sent[a.id].after
				if took < l.Delay || took >= l.Delay+l.Jitter {
					t.Errorf("packet %d took %v, want %v to %v", a.id, took, l.Delay, l.Delay+l.Jitter)
				}
			}
		})
	}
}

func TestPipeLoss(t *testing.T) {
	const n = 10_000
	for _, tt := range []struct {
		name  string
		link  netsim.Link
		want  float64
		burst float64 // mean length of losses in a row
	}{
		{"independent", netsim.Link{Loss: 0.1}, 0.1, 1 / 0.9},
		{
			// Bad for 1/5 of the time, in runs of 10 on average.
			"Gilbert-Elliott",
			netsim.Link{Burst: &netsim.GilbertElliott{GoodToBad: 0.025, BadToGood: 0.1, LossBad: 1}},
			0.2, 10,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := make([]arrival, n)
			for i := range sent {
				sent[i] = arrival{time.Duration(i), byte(i), 20}
			}
			got, c := through(t, tt.link, sent)
			if lost := float64(c.Lost) / n; math.Abs(lost-tt.want) > 0.03 {
				t.Errorf("lost %.3f, want about %.3f", lost, tt.want)
			}
			runs := 0
			for i := 1; i < len(got); i++ {
				if got[i].after > got[i-1].after+1 {
					runs++
				}
			}
			if mean := float64(c.Lost) / float64(runs); math.Abs(mean/tt.burst-1) > 0.25 {
				t.Errorf("losses come %.2f in a row, want about %.2f", mean, tt.burst)
			}
		})
	}
}

func TestPipeSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPacketPool(2048)
		var out []byte
		p := newPipe(netsim.Link{Delay: time.Second}, 1, 2, pool, func(pkt *packet, _ time.Time) {
			out = append(out, pkt.data[0])
			pool.put(pkt)
		})
		defer p.close()
		send := func(id byte) {
			pkt := pool.get()
			pkt.data[0] = id
			pkt.data = pkt.data[:100]
			p.send(pkt, time.Now())
		}
		// What was sent before a change arrives as it would have, and first.
		send(1)
		p.set(netsim.Link{})
		send(2)
		time.Sleep(2 * time.Second)
		p.set(netsim.Link{Delay: time.Second})
		send(3)
		p.set(netsim.Link{Cut: true})
		send(4)
		time.Sleep(2 * time.Second)
		p.set(netsim.Link{})
		send(5)
		time.Sleep(time.Second)
		if want := []byte{1, 2, 3, 5}; !slices.Equal(out, want) {
			t.Errorf("left the pipe: %v, want %v", out, want)
		}
	})
}

func TestScheduleOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	base := time.Now()
	var s schedule
	var want []held
	for i := range 1000 {
		h := held{due: base.Add(time.Duration(rng.IntN(100))), seq: uint64(i)}
		want = append(want, h)
		s.push(h)
	}
	slices.SortFunc(want, func(a, b held) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	for i, w := range want {
		if got := s.pop(); got.seq != w.seq {
			t.Fatalf("packet %d is number %d, want %d", i, got.seq, w.seq)
		}
	}
}
