package main

import (
	"errors"
	"os"
	"testing"

	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestFloodRuns: each flood of each contender, briefly. What it measures is
// for a quiet machine to say.
func TestFloodRuns(t *testing.T) {
	if err := kernel.Check(); errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Setenv(childVariable, "1")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := floodPlan{rate: 2000, rounds: 1, seconds: 0.3, program: program}
	for _, name := range []string{"ri2n", "quic"} {
		for _, kind := range floodKinds(name) {
			r := p.compare(t.Context(), name, kind)
			if r.Error != "" || !(r.Goodput > 0) || !(r.Control > 0) || r.Sent == 0 || !(r.Peak > 0) {
				t.Errorf("%s, %s: %+v", name, kind, r)
			}
		}
	}
}
