package rendezvous

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestBackoffDoublesToItsCap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var b backoff
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
		want *= time.Millisecond
		if got := b.failed(random); got < want/2 || got > want*3/2 {
			t.Errorf("pause %d = %v, want %v, half of it more or less", i, got, want)
		}
	}
	b.reset()
	if got := b.failed(random); got > 150*time.Millisecond {
		t.Errorf("first pause after a success = %v", got)
	}
	for range 1000 {
		if got := b.lost(random); got < 0 || got >= backoffSpread {
			t.Fatalf("pause after a loss = %v", got)
		}
	}
}

// security.md, section 2: 10,000 agents lose their server at one moment. The
// model of a server completes 1,000 registrations a second and lets the rest
// fail after the time of an attempt, which is worse than a queue.
func TestTenThousandAgentsDoNotStampede(t *testing.T) {
	const (
		agents   = 10_000
		capacity = 100 // in each slot of 100 ms
		slot     = 100 * time.Millisecond
	)
	random := rand.New(rand.NewPCG(1, 2))
	backoffs := make([]backoff, agents)
	due := make(map[int][]int) // slot: agents that try in it
	for i := range agents {
		at := int(backoffs[i].lost(random) / slot)
		due[at] = append(due[at], i)
	}
	left, peak := agents, 0
	for now := 0; left > 0; now++ {
		if now > int(time.Minute/slot) {
			t.Fatalf("%d agents are not back after a minute", left)
		}
		trying := due[now]
		peak = max(peak, len(trying))
		served := min(len(trying), capacity)
		left -= served
		for _, i := range trying[served:] {
			at := now + int((connectTime+backoffs[i].failed(random))/slot)
			due[at] = append(due[at], i)
		}
	}
	if peak > 12*capacity {
		t.Errorf("%d agents try in 100 ms, the server completes %d", peak, capacity)
	}
}
