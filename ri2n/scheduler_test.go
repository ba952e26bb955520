package ri2n

import (
	"testing"
	"time"
)

func millis(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

// pathAt is a path of the given rate and round trip, without a queue, that has
// room for so many bytes, or waits.
func pathAt(megabits, rtt float64, room int, wait float64) pathView {
	return pathView{srtt: millis(rtt), oneWay: millis(rtt / 2), rttvar: millis(rtt / 20), rate: megabits * 1e6 / 8, room: room, wait: millis(wait)}
}

func TestPick(t *testing.T) {
	const much = 4 << 20
	bulk := demand{fresh: much, outstanding: much, window: much}
	first := func(v pathView) pathView { v.favored = true; return v }
	for _, tt := range []struct {
		name   string
		policy Policy
		views  []pathView
		demand demand
		want   choice
	}{
		{"no path", PolicyAggregate, nil, bulk, choice{path: -1}},
		{"of two equal ones the first", PolicyAggregate,
			[]pathView{pathAt(100, 10, 60000, 0), pathAt(100, 10, 60000, 0)}, bulk, choice{path: 0}},
		{"the one with room", PolicyAggregate,
			[]pathView{pathAt(100, 10, 0, 1), pathAt(100, 10, 60000, 0)}, bulk, choice{path: 1}},
		{"the one without a queue", PolicyAggregate,
			[]pathView{{srtt: millis(60), oneWay: millis(55), rate: 12.5e6, room: 60000}, pathAt(100, 10, 60000, 0)}, bulk, choice{path: 1}},
		{"a long path too, if there is enough to send", PolicyAggregate,
			[]pathView{pathAt(100, 10, 0, 1), pathAt(100, 100, 60000, 0)}, bulk, choice{path: 1}},
		// ECF: all of it arrives sooner on the short path.
		{"wait for the short path with the rest of a transfer", PolicyAggregate,
			[]pathView{pathAt(100, 10, 0, 1), pathAt(100, 100, 60000, 0)},
			demand{fresh: 200000, outstanding: 200000, window: much}, choice{path: 0}},
		// BLEST: 100 ms at 100 Mbit/s are more than the credit.
		{"no long path while credit is short", PolicyAggregate,
			[]pathView{pathAt(100, 10, 0, 1), pathAt(100, 100, 60000, 0)},
			demand{fresh: much, outstanding: 2 * much, window: 1 << 20}, choice{path: 0}},
		{"credit does not matter among equals", PolicyAggregate,
			[]pathView{pathAt(100, 10, 0, 1), pathAt(100, 10, 60000, 0)},
			demand{fresh: much, outstanding: 2 * much, window: 4096}, choice{path: 1}},
		{"little data stays on the first choice", PolicyAggregate,
			[]pathView{pathAt(100, 10, 60000, 0), first(pathAt(100, 11, 60000, 0))},
			demand{fresh: 20000, outstanding: 20000, window: much}, choice{path: 1}},
		{"and waits for it", PolicyAggregate,
			[]pathView{first(pathAt(100, 10, 0, 1)), pathAt(100, 20, 60000, 0)},
			demand{fresh: 20000, outstanding: 20000, window: much}, choice{path: 0}},
		{"unless that is much slower", PolicyAggregate,
			[]pathView{first(pathAt(1, 10, 60000, 0)), pathAt(100, 12, 60000, 0)},
			demand{fresh: 60000, outstanding: 60000, window: much}, choice{path: 1}},
		{"lost data go where they arrive first", PolicyAggregate,
			[]pathView{pathAt(100, 100, 60000, 0), pathAt(100, 10, 60000, 0)},
			demand{lost: 3000, outstanding: much, window: much}, choice{path: 1}},
		{"and wait for it, while new data leave elsewhere", PolicyAggregate,
			[]pathView{pathAt(100, 100, 60000, 0), pathAt(100, 10, 0, 1)},
			demand{lost: 3000, fresh: much, outstanding: 2 * much, window: much}, choice{path: 0, freshOnly: true}},
		{"nobody has room", PolicyAggregate,
			[]pathView{pathAt(100, 30, 0, 1), pathAt(100, 10, 0, 1)}, bulk, choice{path: 1}},
		{"backup: the first choice alone", PolicyBackup,
			[]pathView{pathAt(100, 10, 60000, 0), first(pathAt(100, 20, 0, 5))}, bulk, choice{path: 1}},
		{"latency: the least RTT", PolicyLatency,
			[]pathView{pathAt(100, 20, 60000, 0), pathAt(10, 10, 60000, 0)}, bulk, choice{path: 1}},
		{"latency: the least RTT with room", PolicyLatency,
			[]pathView{pathAt(100, 20, 60000, 0), pathAt(10, 10, 0, 5)}, bulk, choice{path: 0}},
		{"redundant: as latency", PolicyRedundant(2),
			[]pathView{pathAt(100, 20, 60000, 0), pathAt(10, 10, 60000, 0)}, bulk, choice{path: 1}},
	} {
		if got := tt.policy.pick(tt.views, tt.demand); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestWorthCopying(t *testing.T) {
	slow, fast := pathAt(100, 100, 60000, 0), pathAt(100, 10, 60000, 0)
	for _, tt := range []struct {
		name       string
		slow, fast pathView
		ago        time.Duration
		want       bool
	}{
		{"just sent on a slow path", slow, fast, 0, true},
		{"nearly there", slow, fast, millis(45), false},
		{"equal paths", fast, fast, 0, false},
		{"the slow way round", fast, slow, 0, false},
		{"the fast path is held up", slow, pathAt(100, 10, 0, 45), 0, false},
	} {
		if got := worthCopying(&tt.slow, &tt.fast, tt.ago); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// FuzzPick looks for a choice that is none of the paths, or that waits for a
// path while nothing holds another up.
func FuzzPick(f *testing.F) {
	f.Add(uint8(0), uint32(1<<20), uint32(0), uint32(1<<20), []byte{10, 10, 1, 0, 100, 100, 0, 5})
	f.Add(uint8(3), uint32(1000), uint32(50), uint32(0), []byte{1, 200, 9, 0, 100, 1, 0, 50, 50, 50, 1, 1})
	f.Fuzz(func(t *testing.T, policy uint8, fresh, lost, window uint32, b []byte) {
		var views []pathView
		room := false
		for len(b) >= 4 && len(views) < maxPaths {
			v := pathAt(float64(b[0])+0.01, float64(b[1]), int(b[2])*1000, float64(b[3]))
			if v.room > 0 {
				v.wait = 0
				room = true
			} else {
				v.wait = max(v.wait, time.Microsecond)
			}
			v.favored = len(views) == 0
			views = append(views, v)
			b = b[4:]
		}
		p := Policy(policy) % (PolicyRedundant(maxCopies) + 1)
		d := demand{lost: int(lost), fresh: int(fresh), outstanding: int(fresh) + int(lost), window: int(window)}
		c := p.pick(views, d)
		if len(views) == 0 {
			if c.path >= 0 {
				t.Fatalf("chose path %d of none", c.path)
			}
			return
		}
		if c.path < 0 || c.path >= len(views) {
			t.Fatalf("chose path %d of %d", c.path, len(views))
		}
		// All waits end by themselves, so a choice without room is no deadlock;
		// but who has only paths with room must send.
		all := true
		for _, v := range views {
			all = all && v.room > 0
		}
		if all && room && views[c.path].room == 0 {
			t.Fatalf("%v waits for %+v of %+v", p, c, views)
		}
		if c.freshOnly && fresh == 0 {
			t.Fatalf("%v: nothing fresh to send: %+v", p, d)
		}
	})
}
