package shortcut

import (
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// A bench is a policy with a network in which sessions take a while.
type bench struct {
	*Policy
	t       *testing.T
	now     time.Time
	takes   time.Duration // to connect
	refuse  bool
	pending map[routing.PeerID]time.Time
	most    int
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), takes: 250 * time.Millisecond, pending: make(map[routing.PeerID]time.Time)}
	cfg.Connect = func(now time.Time, id routing.PeerID) { b.pending[id] = now.Add(b.takes) }
	cfg.Close = func(now time.Time, id routing.PeerID) {}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Policy = p
	return b
}

// run lets d pass in steps and calls each at every one.
func (b *bench) run(d, step time.Duration, each func()) {
	for end := b.now.Add(d); b.now.Before(end); b.now = b.now.Add(step) {
		for id, at := range b.pending {
			if !b.now.Before(at) {
				delete(b.pending, id)
				if b.refuse {
					b.Closed(b.now, id)
				} else {
					b.Connected(b.now, id)
				}
			}
		}
		if d := b.Deadline(); !d.IsZero() && !b.now.Before(d) {
			b.Advance(b.now)
		}
		each()
		if b.most = max(b.most, b.Open()); b.most > b.cfg.Cap {
			b.t.Fatalf("%d sessions, the cap is %d", b.most, b.cfg.Cap)
		}
	}
}

func id(i int) (p routing.PeerID) {
	p[0], p[1] = byte(i>>8), byte(i)
	return p
}

const saves = 60 * time.Millisecond

// The patterns of Ni, Harwood and Stuckey.
func TestPatternsGetTheirShortcuts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		peers int
		every time.Duration // a message to each
	}{
		{"unicast", 1, 100 * time.Millisecond},
		{"barrier of 64: six partners", 6, 200 * time.Millisecond},
		{"broadcast to 15", 15, 200 * time.Millisecond},
		{"all to all of 200", 200, 200 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{Nodes: 1000})
			direct := func() (n int) {
				for i := range tt.peers {
					if b.Has(id(i)) {
						n++
					}
				}
				return n
			}
			next := b.now
			load := func() {
				if b.now.Before(next) {
					return
				}
				next = next.Add(tt.every)
				for i := range tt.peers {
					b.Sent(b.now, id(i), 100, 4, saves)
				}
			}
			b.run(2*time.Second, 10*time.Millisecond, load)
			if got, want := direct(), min(tt.peers, b.cfg.Cap); got != want {
				t.Errorf("after 2 s, %d shortcuts, want %d", got, want)
			}
			opened := b.Counters().Opened
			b.run(20*time.Second, 50*time.Millisecond, load)
			// Hysteresis: the same load opens no more.
			if got := b.Counters(); got.Opened != opened || got.Closed != 0 {
				t.Errorf("under the same load: %+v, opened %d before", got, opened)
			}
			b.run(time.Minute, 100*time.Millisecond, func() {})
			if b.Open() != 0 || len(b.order) != 0 {
				t.Errorf("after a minute of silence, %d sessions and %d peers", b.Open(), len(b.order))
			}
		})
	}
}

func TestNewcomerMustBeWorthTwice(t *testing.T) {
	for _, tt := range []struct {
		name  string
		times int // messages of the newcomer for each of the others'
		want  bool
	}{
		{"as much", 1, false},
		{"three times as much", 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{Cap: 4})
			old := func() {
				for i := range 4 {
					b.Sent(b.now, id(i), 100, 4, saves)
				}
			}
			b.run(30*time.Second, 200*time.Millisecond, old)
			b.run(60*time.Second, 200*time.Millisecond, func() {
				old()
				for range tt.times {
					b.Sent(b.now, id(9), 100, 4, saves)
				}
			})
			if got := b.Has(id(9)); got != tt.want {
				t.Errorf("the newcomer has a session: %v, want %v", got, tt.want)
			}
			if b.Open() != 4 {
				t.Errorf("open = %d, want 4", b.Open())
			}
		})
	}
}

func TestUnreachablePeerIsLeftAlone(t *testing.T) {
	b := newBench(t, Config{})
	b.refuse = true
	b.run(10*time.Minute, 50*time.Millisecond, func() { b.Sent(b.now, id(1), 1000, 3, saves) })
	// 30, 60, 120, 240, 480 s apart.
	if got := b.Counters().Opened; got < 4 || got > 6 {
		t.Errorf("tried %d times in 10 minutes", got)
	}
}

func TestHintOpensAtOnce(t *testing.T) {
	b := newBench(t, Config{Cap: 8})
	var ids []routing.PeerID
	for i := range 20 {
		ids = append(ids, id(i))
	}
	b.Hint(b.now, ids)
	if b.Open() != 8 {
		t.Errorf("open = %d, want the cap of 8", b.Open())
	}
	b.run(time.Minute, 50*time.Millisecond, func() {})
	if b.Open() != 0 {
		t.Errorf("a minute after unused hints, open = %d", b.Open())
	}
}

func TestStateIsBounded(t *testing.T) {
	b := newBench(t, Config{Cap: 10})
	for i := range 20000 {
		b.Sent(b.now, id(i), 10, 3, saves)
		b.now = b.now.Add(time.Millisecond)
	}
	if len(b.peers) > watchedPerSession*10 || len(b.order) != len(b.peers) {
		t.Errorf("%d peers are watched", len(b.peers))
	}
}
