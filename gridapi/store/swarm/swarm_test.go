package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
)

const (
	mbit  = 1e6 / 8
	delay = 10 * time.Millisecond
)

// object returns n random chunks of size bytes.
func (x *content) object(seed uint64, n, size int) (ids []chunk.ID) {
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	for range n {
		b := make([]byte, size)
		rng.Read(b)
		ids = append(ids, x.add(b))
	}
	return ids
}

// A homes is the world of the goal: a source in a home, and workers in four
// others.
type homes struct {
	net     *simNet
	content *content
	ids     []chunk.ID
	bytes   int64
	source  *Swarm
	workers []*Swarm
	names   []string
	held    []*memory
	began   time.Time
}

func newHomes(t testing.TB, chunks, size int, change ...func(*Config)) *homes {
	h := &homes{net: newSimNet(), content: newContent(), began: time.Now()}
	h.ids = h.content.object(1, chunks, size)
	h.bytes = int64(chunks) * int64(size)
	h.net.site("office", 10*mbit, 50*mbit, delay)
	h.source = h.net.start(t, "source", "office", h.content.holdings(h.ids...), change...)
	for i := range 4 {
		site := fmt.Sprintf("home%d", i)
		h.net.site(site, 10*mbit, 50*mbit, delay)
		for j := range 4 {
			name := fmt.Sprintf("worker%d%d", i, j)
			m := h.content.holdings()
			h.names, h.held = append(h.names, name), append(h.held, m)
			h.workers = append(h.workers, h.net.start(t, name, site, m, change...))
		}
	}
	return h
}

// fetch has all workers fetch, and returns their errors.
func (h *homes) fetch(ctx context.Context) []error {
	errs := make([]error, len(h.workers))
	var wg sync.WaitGroup
	for i, w := range h.workers {
		wg.Go(func() { errs[i] = w.Fetch(ctx, h.ids, nil) })
	}
	wg.Wait()
	return errs
}

func (h *homes) close() {
	for _, w := range h.workers {
		w.Close()
	}
	h.source.Close()
	for name := range h.net.nodes {
		h.net.kill(name)
	}
	time.Sleep(time.Minute) // what is on its way arrives
}

// report logs and returns bytes on each border as parts of the object.
func (h *homes) report(t testing.TB) (up float64, down []float64) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	up = float64(h.net.sites["office"].up.bytes) / float64(h.bytes)
	text := ""
	for i := range 4 {
		s := h.net.sites[fmt.Sprintf("home%d", i)]
		down = append(down, float64(s.down.bytes)/float64(h.bytes))
		text += fmt.Sprintf(" down %.3f up %.3f,", down[i], float64(s.up.bytes)/float64(h.bytes))
	}
	t.Logf("%v (bound %v): source's uplink %.3f of the object; homes:%s",
		time.Since(h.began).Round(10*time.Millisecond), time.Duration(float64(h.bytes)/(10*mbit)*1e9).Round(10*time.Millisecond), up, text)
	return up, down
}

func TestOneTransferASite(t *testing.T) {
	chunks, size := 200, 250_000 // 50 MB
	if raceEnabled {
		chunks = 40
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, chunks, size)
		defer h.close()
		for i, err := range h.fetch(t.Context()) {
			if err != nil || h.held[i].size() != len(h.ids) {
				t.Errorf("%s: %v, %d of %d chunks", h.names[i], err, h.held[i].size(), len(h.ids))
			}
		}
		up, down := h.report(t)
		if up > 1.10 {
			t.Errorf("source's uplink carried %.3f of the object, want at most 1.10", up)
		}
		for i, d := range down {
			if d > 1.05 {
				t.Errorf("home %d's downlink carried %.3f of the object, want at most 1.05", i, d)
			}
		}
	})
}

// TestPlainForComparison is what the same costs when everybody asks the source.
func TestPlainForComparison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, 8, 250_000, func(c *Config) { c.Plain = true })
		defer h.close()
		for i, err := range h.fetch(t.Context()) {
			if err != nil {
				t.Errorf("%s: %v", h.names[i], err)
			}
		}
		if up, _ := h.report(t); up < 16 {
			t.Errorf("source's uplink carried %.3f of the object, want 16", up)
		}
	})
}

// TestDeaths: members go at the worst moments, and the others get it all.
func TestDeaths(t *testing.T) {
	const chunks, size = 60, 60_000
	for _, tt := range []struct {
		name string
		at   time.Duration
		do   func(h *homes) (gone []int)
		up   float64
	}{
		{"a fetcher is killed", time.Second, func(h *homes) []int { h.net.kill("worker00"); return []int{0} }, 1.30},
		{"a fetcher falls asleep", time.Second, func(h *homes) []int { h.net.deafen("worker00"); return []int{0} }, 1.40},
		{"a home is cut off", time.Second, func(h *homes) []int {
			for j := range 4 {
				h.net.kill(fmt.Sprintf("worker1%d", j))
			}
			return []int{4, 5, 6, 7}
		}, 1.40},
		{"the source is killed after one copy", 0, nil, 1.10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHomes(t, chunks, size)
				defer h.close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var gone []int
				over := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					if tt.do != nil {
						time.Sleep(tt.at)
						gone = tt.do(h)
						return
					}
					for h.source.Counters().ChunksOut < chunks {
						select {
						case <-over:
							t.Error("all was over before the source had sent one copy")
							return
						case <-time.After(20 * time.Millisecond):
						}
					}
					time.Sleep(200 * time.Millisecond) // it is on the wire
					h.net.kill("source")
				})
				errs := make([]error, len(h.workers))
				var fetches sync.WaitGroup
				for i, w := range h.workers {
					one, stop := context.WithTimeout(ctx, 10*time.Minute)
					fetches.Go(func() { defer stop(); errs[i] = w.Fetch(one, h.ids, nil) })
				}
				fetches.Wait()
				close(over)
				wg.Wait()
				for _, i := range gone {
					errs[i] = nil
				}
				for i, err := range errs {
					if err != nil {
						t.Errorf("%s: %v", h.names[i], err)
					}
				}
				if up, _ := h.report(t); up > tt.up {
					t.Errorf("source's uplink carried %.3f of the object, want at most %.2f", up, tt.up)
				}
			})
		})
	}
}

func TestNobodyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, 4, 1000)
		defer h.close()
		h.held[0].drop(h.ids[0])
		lost := h.content.object(9, 2, 1000)
		var got []chunk.ID
		err := h.workers[0].Fetch(t.Context(), append(lost, h.ids...), func(id chunk.ID) { got = append(got, id) })
		var missing *MissingError
		if !errors.As(err, &missing) || missing.Missing != 2 || len(got) != 4 {
			t.Errorf("Fetch = %v with %d chunks, want 2 missing and 4 chunks", err, len(got))
		}
		if took := time.Since(h.began); took > 30*time.Second {
			t.Errorf("it took %v to find out", took)
		}
	})
}

func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, 0, 0)
		defer h.close()
		// Each worker holds three results, one of which all of them have.
		common := h.content.object(2, 1, 5000)
		want := common
		for i := range h.workers {
			own := h.content.object(uint64(10+i), 2, 5000)
			for _, id := range append(own, common...) {
				must(t, h.held[i].Put(id, h.content.chunks[id]))
			}
			want = append(want, own...)
		}
		got := make(map[chunk.ID]int)
		err := h.source.Gather(t.Context(), h.names, want, func(id chunk.ID) { got[id]++ })
		if err != nil || len(got) != len(want) {
			t.Fatalf("Gather = %v, %d of %d results", err, len(got), len(want))
		}
		n := h.source.Counters()
		if n.ChunksIn != uint64(len(want)) || n.Wasted != 0 {
			t.Errorf("%d chunks came, %d bytes twice; want each of %d once", n.ChunksIn, n.Wasted, len(want))
		}
		sending := make(map[string]int)
		for _, p := range h.source.Peers() {
			if p.BytesIn > 0 {
				sending[p.Site]++
			}
		}
		if len(sending) != 4 {
			t.Errorf("%d homes sent, want 4", len(sending))
		}
		for site, n := range sending {
			if n != 1 {
				t.Errorf("%d members of %s sent, want one", n, site)
			}
		}
	})
}

func TestPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := newContent()
		ids := content.object(1, 20, 10_000)
		n := newSimNet()
		for _, site := range []string{"a", "b", "c"} {
			n.site(site, 10*mbit, 10*mbit, delay)
		}
		bad := content.holdings(ids...)
		for _, id := range ids {
			bad.wrong[id] = []byte("poison")
		}
		liar := n.start(t, "liar", "b", bad)
		honest := n.start(t, "honest", "c", content.holdings(ids...))
		m := content.holdings()
		s := n.start(t, "reader", "a", m)
		defer func() { liar.Close(); honest.Close(); s.Close(); time.Sleep(time.Minute) }()
		if err := s.Fetch(t.Context(), ids, nil); err != nil || m.size() != len(ids) {
			t.Fatalf("Fetch = %v, %d of %d chunks", err, m.size(), len(ids))
		}
		if c := s.Counters(); c.Poisoned != 1 {
			t.Errorf("poisoned = %d, want 1: the first ends it", c.Poisoned)
		}
		for _, p := range s.Peers() {
			if p.Member == "liar" {
				t.Error("the liar is still connected")
			}
		}
	})
}

func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, 4, 1000)
		defer h.close()
		h.held[0].full = true
		if err := h.workers[0].Fetch(t.Context(), h.ids, nil); !errors.Is(err, errFull) {
			t.Errorf("Fetch = %v, want %v", err, errFull)
		}
	})
}

// TestResume: what was fetched is not fetched again.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHomes(t, 40, 100_000)
		defer h.close()
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := h.workers[0].Fetch(ctx, h.ids, func(chunk.ID) {
			if n++; n == 10 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Fetch = %v", err)
		}
		h.workers[0].Close()
		h.net.kill("worker00")
		again := h.net.start(t, "worker00b", "home0", h.held[0])
		defer again.Close()
		before := h.source.Counters().ChunksOut
		if err := again.Fetch(t.Context(), h.ids, nil); err != nil {
			t.Fatal(err)
		}
		if again := h.source.Counters().ChunksOut - before; again > 30 {
			t.Errorf("%d chunks of 40 were sent after 10 had come", again)
		}
	})
}
