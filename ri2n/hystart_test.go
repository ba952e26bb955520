package ri2n

import (
	"testing"
	"time"
)

// RFC 9406, section 4.2.
func TestHystart(t *testing.T) {
	type round struct {
		rtt     time.Duration
		samples int
	}
	steady := round{40 * ms, 8}
	for _, tt := range []struct {
		name   string
		rounds []round
		want   float64 // growth after the last
	}{
		{"steady RTT", []round{steady, steady, steady}, 1},
		{"rise below an eighth", []round{steady, {44 * ms, 8}}, 1},
		{"rise of an eighth", []round{steady, {45 * ms, 8}}, 0.25},
		{"too few samples", []round{steady, {60 * ms, 7}}, 1},
		{"4 ms at least", []round{{8 * ms, 8}, {11 * ms, 8}}, 1},
		{"4 ms is enough", []round{{8 * ms, 8}, {12 * ms, 8}}, 0.25},
		{"16 ms at most", []round{{400 * ms, 8}, {416 * ms, 8}}, 0.25},
		{"passing rise", []round{steady, {50 * ms, 8}, {45 * ms, 8}}, 1},
		{"four more rounds", []round{steady, {50 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}}, 0.25},
		{"five more rounds", []round{steady, {50 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}, {55 * ms, 8}}, 0},
	} {
		var h hystart
		var got float64
		for _, r := range tt.rounds {
			for i := range r.samples {
				got = h.ack(r.rtt, i == 0)
				if got == 0 {
					break
				}
			}
		}
		if got != tt.want {
			t.Errorf("%s: growth = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// With a deep queue slow start ends by the rise of the RTT, not by loss.
func TestHystartEndsSlowStartBeforeLoss(t *testing.T) {
	b := bottleneck{rate: 100e6 / 8, rtt: 40 * ms, queue: 8_000_000, mss: 1200, seed: 3}
	c := newCubic(b.mss)
	r := b.run(t, c, 2*time.Second)
	if c.InSlowStart() || r.drops > 0 {
		t.Errorf("slow start %v with %d drops after 2 s: %v", c.InSlowStart(), r.drops, r)
	}
}
