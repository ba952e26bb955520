package netsim_test

import (
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A line is one link between the host a and the core, where b is.
type line struct {
	*netsim.Stepped
	tb       testing.TB
	a, b     *netsim.Port
	arrivals []arrival // at b
	answers  int       // at a
}

type arrival struct {
	at     time.Duration
	number uint32 // in the order of sending, from 0
}

func newLine(t testing.TB, seed uint64, l netsim.Link) *line {
	t.Helper()
	s, err := netsim.NewStepped(netsim.Scenario{
		Seed:  seed,
		Hosts: []netsim.HostNode{{Name: "a", Uplink: l}, {Name: "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln := &line{Stepped: s, tb: t}
	ln.a, err = s.Bind("a", 1, func(netip.AddrPort, []byte) { ln.answers++ })
	if err != nil {
		t.Fatal(err)
	}
	ln.b, err = s.Bind("b", 1, func(_ netip.AddrPort, payload []byte) {
		ln.arrivals = append(ln.arrivals, arrival{s.Now(), binary.BigEndian.Uint32(payload)})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// send sends count packets of size bytes, IP and UDP headers included, one
// every interval.
func (l *line) send(count, size int, interval time.Duration) {
	payload := make([]byte, size-28)
	start := l.Now()
	for i := range count {
		l.At(start+time.Duration(i)*interval, func() {
			binary.BigEndian.PutUint32(payload, uint32(i))
			l.a.Send(l.b.Addr(), payload)
		})
	}
	l.Run(start + time.Duration(count)*interval + 10*time.Minute)
}

func (l *line) dropped(place string, cause netsim.DropCause) int {
	for _, d := range l.Drops() {
		if d.Place == place && d.Cause == cause {
			return int(d.Packets)
		}
	}
	return 0
}

func TestLinkDelay(t *testing.T) {
	l := newLine(t, 1, netsim.Link{Delay: 10 * time.Millisecond})
	l.send(3, 100, time.Second)
	for i, a := range l.arrivals {
		if want := time.Duration(i)*time.Second + 10*time.Millisecond; a.at != want {
			t.Errorf("packet %d arrived at %v, want %v", i, a.at, want)
		}
	}
	if len(l.arrivals) != 3 {
		t.Errorf("%d packets arrived, want 3", len(l.arrivals))
	}
}

func TestLinkRate(t *testing.T) {
	for _, rate := range []int64{56e3, 7e6, 100e6, 1e9, 333333333} {
		const count, size = 1000, 1228
		l := newLine(t, 1, netsim.Link{Rate: rate, Queue: count * size, Delay: time.Millisecond})
		l.send(count, size, 0)
		if len(l.arrivals) != count {
			t.Fatalf("%d bit/s: %d packets arrived, want %d", rate, len(l.arrivals), count)
		}
		// The last bit leaves when all bits have had their time, to the
		// nanosecond, however many packets they are in.
		for _, n := range []int{1, count / 2, count} {
			want := time.Millisecond + time.Duration(int64(n)*size*8*int64(time.Second)/rate)
			if got := l.arrivals[n-1].at; got != want {
				t.Errorf("%d bit/s: packet %d arrived at %v, want %v", rate, n, got, want)
			}
		}
	}
}

func TestLinkQueue(t *testing.T) {
	for _, tt := range []struct {
		name  string
		link  netsim.Link
		size  int
		count int
		want  int // that arrive of a burst
	}{
		{"ten fit", netsim.Link{Rate: 8e6, Queue: 10_000}, 1000, 100, 10},
		{"a packet for an idle line always fits", netsim.Link{Rate: 8e6, Queue: 1}, 1000, 100, 1},
		{"default is 100 ms", netsim.Link{Rate: 8e6}, 1000, 1000, 100},
		{"default is at least two packets", netsim.Link{Rate: 8e3}, 1500, 10, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLine(t, 1, tt.link)
			l.send(tt.count, tt.size, 0)
			if len(l.arrivals) != tt.want {
				t.Errorf("%d packets arrived, want %d", len(l.arrivals), tt.want)
			}
			for i, a := range l.arrivals {
				if a.number != uint32(i) {
					t.Fatalf("arrival %d is packet %d, want the tail dropped", i, a.number)
				}
			}
			if got, want := l.dropped("a up", netsim.DropQueue), tt.count-tt.want; got != want {
				t.Errorf("dropped %d, want %d", got, want)
			}
		})
	}
}

func TestLinkJitter(t *testing.T) {
	const count = 10_000
	run := func(reorder float64) (early int) {
		l := newLine(t, 1, netsim.Link{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: reorder})
		l.send(count, 100, time.Millisecond)
		if len(l.arrivals) != count {
			t.Fatalf("%d packets arrived, want %d", len(l.arrivals), count)
		}
		var last uint32
		for _, a := range l.arrivals {
			late := a.at - time.Duration(a.number)*time.Millisecond
			if late < 10*time.Millisecond || late >= 15*time.Millisecond {
				t.Fatalf("packet %d took %v, want 10 ms to 15 ms", a.number, late)
			}
			if a.number < last {
				early++
			}
			last = max(last, a.number)
		}
		return early
	}
	if got := run(0); got != 0 {
		t.Errorf("%d packets overtaken without reorder, want none", got)
	}
	some, many := run(0.1), run(1)
	if some == 0 || many < 2*some {
		t.Errorf("overtaken at 0.1: %d, at 1: %d", some, many)
	}
}

// near fails if got is not within four standard deviations of n trials with
// probability p.
func near(t *testing.T, what string, got, n int, p float64) {
	t.Helper()
	want, sigma := float64(n)*p, math.Sqrt(float64(n)*p*(1-p))
	if math.Abs(float64(got)-want) > 4*sigma {
		t.Errorf("%s: %d of %d, want %.0f +- %.0f", what, got, n, want, 4*sigma)
	}
}

func TestLinkLoss(t *testing.T) {
	const count = 20_000
	for _, p := range []float64{0, 0.001, 0.1, 0.9, 1} {
		l := newLine(t, 1, netsim.Link{Loss: p})
		l.send(count, 100, time.Microsecond)
		near(t, "lost", count-len(l.arrivals), count, p)
		if got := l.dropped("a up", netsim.DropLoss); got != count-len(l.arrivals) {
			t.Errorf("counted %d, lost %d", got, count-len(l.arrivals))
		}
	}
}

// Gilbert and Elliott: the share of time in the bad state is p/(p+r), a stay
// in it lasts 1/r packets on average.
func TestLinkBurstLoss(t *testing.T) {
	const count = 50_000
	ge := netsim.GilbertElliott{GoodToBad: 0.02, BadToGood: 0.2, LossBad: 1}
	l := newLine(t, 1, netsim.Link{Burst: &ge})
	l.send(count, 100, time.Microsecond)
	arrived := make([]bool, count)
	for _, a := range l.arrivals {
		arrived[a.number] = true
	}
	lost, bursts := 0, 0
	for i, ok := range arrived {
		if ok {
			continue
		}
		lost++
		if i == 0 || arrived[i-1] {
			bursts++
		}
	}
	if got, want := float64(lost)/count, ge.GoodToBad/(ge.GoodToBad+ge.BadToGood); math.Abs(got-want) > 0.1*want {
		t.Errorf("lost %.4f, want %.4f", got, want)
	}
	if got, want := float64(lost)/float64(bursts), 1/ge.BadToGood; math.Abs(got-want) > 0.1*want {
		t.Errorf("bursts of %.2f packets, want %.2f", got, want)
	}
}

func TestLinkDuplicate(t *testing.T) {
	const count = 20_000
	l := newLine(t, 1, netsim.Link{Duplicate: 0.05})
	l.send(count, 100, time.Microsecond)
	near(t, "duplicates", len(l.arrivals)-count, count, 0.05)
}

func TestLinkMTU(t *testing.T) {
	for _, tt := range []struct {
		name string
		mtu  int
		size int
		want int
	}{
		{"default fits", 0, 1500, 1},
		{"default exceeded", 0, 1501, 0},
		{"small fits", 1280, 1280, 1},
		{"small exceeded", 1280, 1281, 0},
		{"jumbo fits", 9000, 9000, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLine(t, 1, netsim.Link{MTU: tt.mtu})
			if tt.mtu > 1500 {
				if err := l.SetUplink("b", netsim.Link{MTU: tt.mtu}); err != nil {
					t.Fatal(err)
				}
			}
			l.send(1, tt.size, 0)
			if len(l.arrivals) != tt.want {
				t.Errorf("%d packets arrived, want %d", len(l.arrivals), tt.want)
			}
			if got := l.dropped("a up", netsim.DropMTU); got != 1-tt.want {
				t.Errorf("dropped %d, want %d", got, 1-tt.want)
			}
		})
	}
}

func TestLinkDown(t *testing.T) {
	l := newLine(t, 1, netsim.Link{Delay: time.Second, Down: &netsim.Link{Delay: 3 * time.Second}})
	l.send(1, 100, 0)
	if got := l.arrivals[0].at; got != time.Second {
		t.Errorf("up took %v, want 1s", got)
	}
	start := l.Now()
	l.b.Send(l.a.Addr(), []byte("answer"))
	if l.Run(start + 3*time.Second - 1); l.answers != 0 {
		t.Error("down took less than 3s")
	}
	if l.Run(start + 3*time.Second); l.answers != 1 {
		t.Error("down took more than 3s")
	}
}

// A link changes under way: what was sent before arrives as it would have, and
// nothing overtakes it.
func TestLinkChange(t *testing.T) {
	l := newLine(t, 1, netsim.Link{Delay: time.Second})
	number := uint32(0)
	send := func() {
		l.a.Send(l.b.Addr(), binary.BigEndian.AppendUint32(nil, number))
		number++
	}
	set := func(link netsim.Link) {
		if err := l.SetUplink("a", link); err != nil {
			t.Fatal(err)
		}
	}
	send()
	l.Run(100 * time.Millisecond)
	set(netsim.Link{Cut: true})
	send() // lost
	l.Run(200 * time.Millisecond)
	set(netsim.Link{Delay: time.Millisecond})
	send() // waits for the first
	l.Run(2 * time.Second)
	send()
	l.Run(3 * time.Second)
	want := []arrival{{time.Second, 0}, {time.Second, 2}, {2*time.Second + time.Millisecond, 3}}
	if len(l.arrivals) != len(want) {
		t.Fatalf("arrivals = %v, want %v", l.arrivals, want)
	}
	for i := range want {
		if l.arrivals[i] != want[i] {
			t.Errorf("arrival %d = %v, want %v", i, l.arrivals[i], want[i])
		}
	}
	if got := l.dropped("a up", netsim.DropCut); got != 1 {
		t.Errorf("dropped by the cut %d, want 1", got)
	}
	if err := l.SetUplink("a", netsim.Link{Loss: 2}); err == nil {
		t.Error("a link with loss 2 was accepted")
	}
	if err := l.SetUplink("nobody", netsim.Link{}); err == nil {
		t.Error("an unknown node was accepted")
	}
}

func TestDropsWithoutDestination(t *testing.T) {
	l := newLine(t, 1, netsim.Link{})
	l.a.Send(netip.MustParseAddrPort("192.168.1.2:1"), nil)
	l.a.Send(netip.AddrPortFrom(l.Addr("b"), 2), nil)
	if l.dropped("core", netsim.DropNoRoute) != 1 || l.dropped("b", netsim.DropNoSocket) != 1 {
		t.Errorf("drops = %v, want one without route and one without socket", l.Drops())
	}
	if st := l.Stats(); st != (netsim.Stats{Sent: 2, Dropped: 2}) {
		t.Errorf("stats = %+v", st)
	}
}
