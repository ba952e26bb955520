package sim

import (
	"flag"
	"math"
	"testing"
	"time"
)

// nodes makes the simulations larger: go test ./routing/sim -nodes 10000.
var nodes = flag.Int("nodes", 300, "nodes of each simulated grid")

func TestLookups(t *testing.T) {
	g := NewGrid(1)
	n := *nodes
	start := time.Now()
	if failed := g.Grow(n, 50); failed != 0 {
		t.Fatalf("%d of %d nodes could not join", failed, n)
	}
	t.Logf("grown after %v virtual, %v real; %d messages, %d bytes", g.Elapsed(), time.Since(start), g.Sent, g.Bytes)
	l := g.Look(300, 10*time.Second)
	t.Logf("correct %d of %d, hops median %d max %d, asked %d, slowest %v; real %v", l.Correct, l.Count, l.Median(), l.Max(), l.Asked, l.Slowest, time.Since(start))
	if l.Correct != l.Count {
		t.Errorf("correct = %d, want %d", l.Correct, l.Count)
	}
	if want := int(math.Ceil(math.Log2(float64(n)))) + 1; l.Max() > want {
		t.Errorf("hops = %d, want at most %d", l.Max(), want)
	}
}
