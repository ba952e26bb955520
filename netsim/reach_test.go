package netsim_test

import (
	"testing"

	"github.com/instantgrid/instantgrid/netsim"
)

func TestDirectPossibleCount(t *testing.T) {
	types := netsim.NATTypes()
	pairs, direct := 0, 0
	for i, a := range types {
		for _, b := range types[i:] {
			pairs++
			if netsim.DirectPossible(a, b) {
				direct++
			}
			if netsim.DirectPossible(a, b) != netsim.DirectPossible(b, a) {
				t.Errorf("%v and %v: the order matters", a, b)
			}
		}
	}
	if pairs != 45 || direct != 23 {
		t.Errorf("%d of %d pairs direct, want 23 of 45", direct, pairs)
	}
}
