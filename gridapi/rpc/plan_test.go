package rpc

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A simWorker is a worker of the simulated pool.
type simWorker struct {
	slots  int           // zero: one
	each   time.Duration // for one call of factor 1
	dies   time.Duration // after this; zero: never
	sleeps [2]time.Duration
	lies   int // one of so many results is wrong; zero: none
}

// A pool runs a plan against simulated workers in virtual time.
type pool struct {
	t       testing.TB
	plan    *plan
	rng     *rand.Rand
	start   time.Time
	now     time.Time
	workers map[string]*simWorker
	events  eventQueue
	lived   map[uint64]bool // attempts under way
	results map[uint64]string
	errs    map[uint64]error
	digests map[uint64]string // of attempts
	deadly  map[uint64]bool   // calls that kill their worker
	last    time.Time         // of the last settlement
}

type simEvent struct {
	at  time.Time
	seq int
	do  func()
}

type eventQueue []simEvent

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *eventQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

var testPlan = planConfig{suspectAfter: 3 * time.Second, lostAfter: 30 * time.Second, deadly: 3, mostAttempts: 10, isolateAfter: 2}

func newPool(t testing.TB, cfg planConfig, workers map[string]*simWorker) *pool {
	rng := rand.New(rand.NewPCG(1, 2))
	s := &pool{
		t: t, plan: newPlan(cfg, rng), rng: rng, workers: workers, lived: make(map[uint64]bool),
		results: make(map[uint64]string), errs: make(map[uint64]error), digests: make(map[uint64]string), deadly: make(map[uint64]bool),
	}
	s.start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = s.start
	for name, w := range workers {
		w.slots = max(w.slots, 1)
		s.plan.join(s.now, name, "", w.slots, []string{"f"})
		if w.dies > 0 {
			s.after(w.dies, func() { s.kill(name) })
		}
	}
	return s
}

func (s *pool) after(d time.Duration, do func()) {
	heap.Push(&s.events, simEvent{s.now.Add(d), s.events.Len(), do})
}

func (s *pool) kill(name string) {
	if s.workers[name] == nil {
		return
	}
	delete(s.workers, name)
	s.plan.leave(s.now, name, "connection lost")
}

// carry does what the plan has decided.
func (s *pool) carry() {
	for _, d := range s.plan.take() {
		switch d.kind {
		case startAttempt:
			s.begin(d)
		case stopAttempt:
			delete(s.lived, d.attempt)
		case settleResult, settleFailed:
			if _, twice := s.results[d.call]; twice || s.errs[d.call] != nil {
				s.t.Errorf("call %d is settled twice", d.call)
			}
			if s.last = s.now; d.kind == settleFailed {
				s.errs[d.call] = d.err
			} else {
				s.results[d.call] = s.digests[d.attempt]
			}
		}
	}
}

func (s *pool) begin(d decision) {
	w, name := s.workers[d.worker], d.worker
	s.lived[d.attempt] = true
	if s.deadly[d.call] {
		s.after(w.each/2, func() { s.kill(name) })
		return
	}
	took := w.each
	if from, to := s.start.Add(w.sleeps[0]), s.start.Add(w.sleeps[1]); w.sleeps[1] > 0 && s.now.Before(to) && s.now.Add(took).After(from) {
		took += w.sleeps[1] - w.sleeps[0]
	}
	digest := fmt.Sprint("right ", d.call)
	if w.lies > 0 && s.rng.IntN(w.lies) == 0 {
		digest = fmt.Sprint("wrong ", s.rng.Uint64())
	}
	s.digests[d.attempt] = digest
	s.after(took, func() {
		if s.workers[name] == nil {
			return
		}
		s.plan.finished(s.now, d.attempt, digest)
	})
}

// run submits n calls and drives the plan until all are settled. It returns how
// long that took.
func (s *pool) run(n int, spec callSpec) time.Duration {
	s.t.Helper()
	for i := range n {
		spec.id, spec.function = uint64(i+1), "f"
		s.plan.submit(s.now, spec)
	}
	var beat, tick func()
	beat = func() {
		for name, w := range s.workers {
			if asleep := !s.now.Before(s.start.Add(w.sleeps[0])) && s.now.Before(s.start.Add(w.sleeps[1])); !asleep {
				s.plan.beat(s.now, name)
			}
		}
		s.after(time.Second, beat)
	}
	tick = func() {
		s.plan.advance(s.now)
		s.after(planTick, tick)
	}
	s.after(time.Second, beat)
	s.after(planTick, tick)
	for steps := 0; len(s.results)+len(s.errs) < n; steps++ {
		s.carry()
		if len(s.results)+len(s.errs) == n {
			break
		}
		if steps > 1_000_000 {
			s.t.Fatalf("%d of %d calls settled after %v", len(s.results)+len(s.errs), n, s.now.Sub(s.start))
		}
		e := heap.Pop(&s.events).(simEvent)
		s.now = e.at
		e.do()
	}
	if got := len(s.plan.calls) + len(s.plan.running); got != 0 {
		s.t.Errorf("%d calls and attempts are left", got)
	}
	return s.last.Sub(s.start)
}

// right expects every call to have its right result.
func (s *pool) right(n int) {
	s.t.Helper()
	for i := range n {
		id := uint64(i + 1)
		if got, want := s.results[id], fmt.Sprint("right ", id); got != want {
			s.t.Errorf("call %d: %q, %v; want %q", id, got, s.errs[id], want)
		}
	}
}

// The talk's codeml run: 200 calls on 8 workers, of which one is killed, one is
// put to sleep and one is ten times slower.
func TestPlanLosesNoTime(t *testing.T) {
	workers := make(map[string]*simWorker)
	for i := range 8 {
		workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second}
	}
	workers["w1"].dies = 7500 * time.Millisecond
	workers["w2"].sleeps = [2]time.Duration{10 * time.Second, 40 * time.Second}
	workers["w3"].each = 10 * time.Second
	s := newPool(t, testPlan, workers)
	took := s.run(200, callSpec{})
	s.right(200)
	// The one that dies has done 7 by then and the one that sleeps 10; the others
	// do 5.1 in a second.
	ideal := time.Second * (200 - 7 - 10) * 10 / 51
	t.Logf("%v, ideal %v: %.3f; %+v", took, ideal, took.Seconds()/ideal.Seconds(), s.plan.counters)
	if took > ideal*115/100 {
		t.Errorf("200 calls took %v, want at most 1.15 of %v", took, ideal)
	}
}

// Workers of very different speed end together.
func TestPlanEndsTogether(t *testing.T) {
	workers := map[string]*simWorker{
		"fast": {each: time.Second}, "half": {each: 2 * time.Second}, "slow": {each: 20 * time.Second}, "slot": {each: time.Second, slots: 4},
	}
	s := newPool(t, testPlan, workers)
	took := s.run(100, callSpec{})
	s.right(100)
	ideal := time.Second * 100 * 20 / 111 // one second's calls: 1 + 1/2 + 1/20 + 4
	t.Logf("%v, ideal %v; %+v", took, ideal, s.plan.counters)
	if took > ideal*115/100 {
		t.Errorf("100 calls took %v, want at most 1.15 of %v", took, ideal)
	}
}

// A call that kills three workers is reported, and the others are not harmed.
func TestPlanGivesUpPoison(t *testing.T) {
	workers := make(map[string]*simWorker)
	for i := range 8 {
		workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second}
	}
	s := newPool(t, testPlan, workers)
	s.deadly[20] = true
	s.run(50, callSpec{})
	var poison *PoisonError
	if !errors.As(s.errs[20], &poison) || len(poison.Workers) != 3 {
		t.Errorf("the call that kills ends with %v", s.errs[20])
	}
	if len(s.results) != 49 || len(s.workers) != 5 {
		t.Errorf("%d results with %d workers left; %v", len(s.results), len(s.workers), s.errs)
	}
}

// Three of ten workers change one of fifty results: none is accepted where two
// of three must agree, and the three are found out.
func TestPlanAcceptsNoLie(t *testing.T) {
	workers := make(map[string]*simWorker)
	for i := range 10 {
		workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second}
	}
	for _, name := range []string{"w2", "w5", "w9"} {
		workers[name].lies = 50
	}
	s := newPool(t, testPlan, workers)
	s.run(2000, callSpec{need: 2, of: 3})
	s.right(2000)
	t.Logf("%+v", s.plan.counters)
	if c := s.plan.counters; c.Isolated != 3 || c.Lies < 6 {
		t.Errorf("%d lies found, %d workers isolated, want 3", c.Lies, c.Isolated)
	}
	for name, w := range s.plan.workers {
		if liar := s.workers[name].lies > 0; w.isolated != liar {
			t.Errorf("%s isolated: %v", name, w.isolated)
		}
	}
}

// Whoever was found lying once is checked from then on.
func TestPlanSpotChecks(t *testing.T) {
	workers := make(map[string]*simWorker)
	for i := range 10 {
		workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second}
	}
	workers["w3"].lies = 2
	cfg := testPlan
	cfg.spotCheck = 0.1
	s := newPool(t, cfg, workers)
	s.run(1000, callSpec{})
	c := s.plan.counters
	if c.Isolated != 1 || c.SpotChecks < 50 || c.SpotChecks > 150 {
		t.Errorf("%+v", c)
	}
	if extra := float64(c.Attempts) / 1000; extra > 1.25 {
		t.Errorf("%.2f attempts for a call with 10 %% of spot checks", extra)
	}
}

// Results that never agree end the call with an error, not a guess.
func TestPlanWithoutQuorum(t *testing.T) {
	workers := make(map[string]*simWorker)
	for i := range 5 {
		workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second, lies: 1}
	}
	cfg := testPlan
	cfg.isolateAfter = 1000
	s := newPool(t, cfg, workers)
	s.run(10, callSpec{need: 2, of: 3})
	for i := range 10 {
		var no *NoQuorumError
		if !errors.As(s.errs[uint64(i+1)], &no) || len(no.Workers) != 3 {
			t.Errorf("call %d: %q, %v", i+1, s.results[uint64(i+1)], s.errs[uint64(i+1)])
		}
	}
}

// A call that may be carried out once is not tried again.
func TestPlanAtMostOnce(t *testing.T) {
	workers := map[string]*simWorker{
		"dies": {each: 10 * time.Second, dies: 5 * time.Second}, "stays": {each: 10 * time.Second},
	}
	s := newPool(t, testPlan, workers)
	s.run(2, callSpec{once: true})
	var maybe *MaybeExecutedError
	lost := 0
	for _, err := range s.errs {
		if errors.As(err, &maybe) && maybe.Worker == "dies" {
			lost++
		}
	}
	if lost != 1 || len(s.results) != 1 || s.plan.counters.Attempts != 2 {
		t.Errorf("%v, %v, %+v", s.results, s.errs, s.plan.counters)
	}
}

// A worker that sleeps is suspected, its call done elsewhere, and whoever
// wakes up first is believed.
func TestPlanSleeper(t *testing.T) {
	workers := map[string]*simWorker{
		"sleeps": {each: 2 * time.Second, sleeps: [2]time.Duration{time.Second, 20 * time.Second}}, "awake": {each: 2 * time.Second},
	}
	s := newPool(t, testPlan, workers)
	took := s.run(2, callSpec{})
	s.right(2)
	if took > 8*time.Second || s.plan.counters.Suspicions != 1 || s.plan.counters.WorkersLost != 0 {
		t.Errorf("%v, %+v", took, s.plan.counters)
	}
}

// A worker that is full is left alone for a while, and a call that nobody can
// take ends.
func TestPlanReturned(t *testing.T) {
	p := newPlan(testPlan, rand.New(rand.NewPCG(1, 1)))
	now := time.Unix(0, 0)
	p.join(now, "w", "", 1, []string{"f"})
	p.submit(now, callSpec{id: 1, function: "f"})
	for i := range testPlan.mostAttempts {
		d := p.take()
		if len(d) != 1 || d[0].kind != startAttempt {
			t.Fatalf("attempt %d: %+v", i+1, d)
		}
		p.returned(now, d[0].attempt, "no room on its disk", time.Second)
		if i+1 < testPlan.mostAttempts {
			if d := p.take(); len(d) != 0 {
				t.Fatalf("at once: %+v", d)
			}
			now = now.Add(time.Second)
			p.advance(now)
		}
	}
	var failed *AttemptsError
	if d := p.take(); len(d) != 1 || !errors.As(d[0].err, &failed) || len(failed.Causes) != testPlan.mostAttempts {
		t.Errorf("in the end: %+v", d)
	}
}

// Any order of events leaves nothing behind and settles each call once.
func TestPlanSurvivesAnything(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		cfg := testPlan
		cfg.spotCheck = 0.2
		p := newPlan(cfg, rng)
		now := time.Unix(0, 0)
		running := make(map[uint64]bool)
		settled := make(map[uint64]bool)
		submitted := uint64(0)
		carry := func() {
			for _, d := range p.take() {
				switch d.kind {
				case startAttempt:
					running[d.attempt] = true
				case stopAttempt:
					delete(running, d.attempt)
				case settleResult, settleFailed:
					if settled[d.call] {
						t.Fatalf("seed %d: call %d is settled twice", seed, d.call)
					}
					settled[d.call] = true
				}
			}
		}
		some := func() (n uint64) {
			for n = range running {
				break
			}
			return n
		}
		for range 400 {
			name := fmt.Sprint("w", rng.IntN(6))
			switch rng.IntN(10) {
			case 0:
				p.join(now, name, "", 1+rng.IntN(3), []string{"f", "g"})
			case 1:
				p.leave(now, name, "test")
			case 2, 3:
				submitted++
				p.submit(now, callSpec{id: submitted, function: []string{"f", "g"}[rng.IntN(2)], once: rng.IntN(5) == 0, need: rng.IntN(3), of: 3})
			case 4:
				p.cancel(now, uint64(rng.IntN(int(submitted)+1)))
			case 5, 6:
				n := some()
				delete(running, n)
				p.finished(now, n, fmt.Sprint(rng.IntN(3)))
			case 7:
				n := some()
				delete(running, n)
				p.returned(now, n, "full", time.Second)
			case 8:
				now = now.Add(time.Duration(rng.IntN(5000)) * time.Millisecond)
				p.advance(now)
			case 9:
				p.beat(now, name)
			}
			carry()
		}
		for name := range p.workers {
			for _, a := range p.workers[name].running {
				if p.running[a.number] != a || p.calls[a.call.spec.id] != a.call {
					t.Fatalf("seed %d: %s has attempt %d of a call that is gone", seed, name, a.number)
				}
			}
		}
		if len(p.running) > 0 && len(p.calls) == 0 {
			t.Fatalf("seed %d: %d attempts without calls", seed, len(p.running))
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for b.Loop() {
		workers := make(map[string]*simWorker)
		for i := range 64 {
			workers[fmt.Sprint("w", i)] = &simWorker{each: time.Second, slots: 4}
		}
		newPool(b, testPlan, workers).run(20_000, callSpec{})
	}
}
