package durable

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnyTwoLost: whichever two of its holders go for good, an object is read
// back, and soon it is whole again.
func TestAnyTwoLost(t *testing.T) {
	for _, tt := range []struct {
		name         string
		chunks, size int
	}{
		{"copies", 3, 50_000},
		{"coded", 20, 150_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var longest time.Duration
			for i := range 6 {
				for j := range i {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, 10)
						object, ids := w.put(t, "member00", 1, tt.chunks, tt.size)
						rec := w.record(t, object)
						if i >= rec.Scheme.Slots {
							return
						}
						ctx, cancel := context.WithCancel(t.Context())
						var wg sync.WaitGroup
						w.run(ctx, &wg)
						time.Sleep(time.Hour)
						w.set(rec.Holders[i][0], false)
						w.set(rec.Holders[j][0], false)
						w.set("member00", false) // nor is its owner there
						if err := w.restores(t, object, ids); err != nil {
							t.Errorf("without holders %d and %d: %v", i, j, err)
						}
						began := time.Now()
						for w.whole(t, object) < rec.Scheme.Slots && time.Since(began) < 3*time.Hour {
							time.Sleep(time.Second)
						}
						longest = max(longest, time.Since(began))
						if got := w.whole(t, object); got < rec.Scheme.Slots {
							t.Errorf("without holders %d and %d: %d of %d slots after %v", i, j, got, rec.Scheme.Slots, time.Since(began))
						}
						if err := w.restores(t, object, ids); err != nil {
							t.Errorf("after the repair: %v", err)
						}
						cancel()
						wg.Wait()
					})
				}
			}
			t.Logf("whole again after %v at the most", longest)
			if longest > 5*time.Minute {
				t.Errorf("a repair took %v", longest)
			}
		})
	}
}

// slowly spares a test of days the looks of each half minute.
func slowly(c *Config) { c.Every = 5 * time.Minute }

// TestAttrition: two of six go, and then one more in each period.
func TestAttrition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 12, slowly)
		object, ids := w.put(t, "member00", 1, 10, 120_000)
		small, smallIDs := w.put(t, "member00", 2, 1, 10_000)
		w.wipe("member00")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		w.run(ctx, &wg)
		time.Sleep(time.Hour)
		rng := rand.New(rand.NewPCG(3, 4))
		away := ""
		for period := range 100 {
			rec := w.record(t, object)
			name := rec.Holders[rng.IntN(len(rec.Holders))][0]
			w.set(name, false)
			if away != "" { // it is back, with an empty disk
				w.wipe(away)
				w.set(away, true)
			}
			away = name
			time.Sleep(2 * time.Hour)
			if period%20 != 19 {
				continue
			}
			if err := w.restores(t, object, ids); err != nil {
				t.Fatalf("period %d: %v", period, err)
			}
			if err := w.restores(t, small, smallIDs); err != nil {
				t.Fatalf("period %d: %v", period, err)
			}
		}
		cancel()
		wg.Wait()
	})
}

// TestSleepingLaptop: a holder that sleeps each night costs one repair, not one
// each night.
func TestSleepingLaptop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, slowly)
		object, _ := w.put(t, "member00", 1, 10, 120_000)
		rec := w.record(t, object)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		w.run(ctx, &wg)
		for range 10 {
			time.Sleep(16 * time.Hour)
			w.set(rec.Holders[2][0], false)
			time.Sleep(8 * time.Hour)
			w.set(rec.Holders[2][0], true)
		}
		repairs := uint64(0)
		for _, n := range w.nodes {
			repairs += n.guard.Counters().Repairs
		}
		if repairs != 1 {
			t.Errorf("%d repairs in ten nights, want 1", repairs)
		}
		cancel()
		wg.Wait()
	})
}

// TestCutOff: a holder that sees nobody repairs nothing.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 12)
		object, _ := w.put(t, "member00", 1, 10, 120_000)
		rec := w.record(t, object)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		w.run(ctx, &wg)
		time.Sleep(time.Hour)
		stay := map[string]bool{rec.Holders[0][0]: true, rec.Holders[1][0]: true, rec.Holders[2][0]: true, rec.Holders[3][0]: true}
		for name := range w.nodes {
			w.set(name, stay[name])
		}
		time.Sleep(30 * time.Minute)
		repairs, held := uint64(0), uint64(0)
		for _, n := range w.nodes {
			c := n.guard.Counters()
			repairs, held = repairs+c.Repairs+c.Failed, held+c.HeldBack
		}
		if repairs != 0 || held == 0 {
			t.Errorf("%d repairs begun, held back %d times; want none, and some", repairs, held)
		}
		cancel()
		wg.Wait()
	})
}

// TestAudit: who lost its disk and who alters its shard is found out.
func TestAudit(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(w *world, holder string)
		lies uint64
	}{
		{"lost disk", func(w *world, holder string) { w.wipe(holder) }, 0},
		{"liar", func(w *world, holder string) { w.mu.Lock(); w.nodes[holder].alters = true; w.mu.Unlock() }, 1},
	} {
		for _, size := range []int{10_000, 120_000} {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 10, func(c *Config) { c.Audit = time.Hour })
					object, ids := w.put(t, "member00", 1, 10, size)
					rec := w.record(t, object)
					ctx, cancel := context.WithCancel(t.Context())
					var wg sync.WaitGroup
					w.run(ctx, &wg)
					time.Sleep(time.Minute)
					tt.do(w, rec.Holders[1][0])
					time.Sleep(8 * time.Hour) // each holder has had its turn
					if got := w.whole(t, object); got != rec.Scheme.Slots {
						t.Errorf("%d of %d slots are whole", got, rec.Scheme.Slots)
					}
					absent, lies := uint64(0), uint64(0)
					for _, n := range w.nodes {
						c := n.guard.Counters()
						absent, lies = absent+c.Absent, lies+c.Lies
					}
					if lies < tt.lies || absent+lies == 0 || tt.lies == 0 && lies > 0 {
						t.Errorf("absent = %d, lies = %d", absent, lies)
					}
					if err := w.restores(t, object, ids); err != nil {
						t.Error(err)
					}
					cancel()
					wg.Wait()
				})
			})
		}
	}
}

func TestProtectGoesRoundWhoRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		for _, name := range []string{"member01", "member02", "member03"} {
			w.nodes[name].full = true
		}
		object, ids := w.put(t, "member00", 1, 20, 120_000)
		if got := w.whole(t, object); got != 6 {
			t.Errorf("%d slots are whole", got)
		}
		if err := w.restores(t, object, ids); err != nil {
			t.Error(err)
		}
		var few *HoldersError
		w.nodes["member04"].full = true
		if _, err := w.nodes["member00"].guard.Protect(t.Context(), [32]byte{9}, ids, nil); !errors.As(err, &few) {
			t.Errorf("Protect with five holders = %v", err)
		}
	})
}
