package main

import (
	"errors"
	"testing"

	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// BenchmarkSmallCall is bench-grid's first scenario for profilers: a contender at
// a time. It needs root.
func BenchmarkSmallCall(b *testing.B) {
	p := new(callPair)
	defer p.close()
	callers, err := p.start(b.Context())
	if errors.Is(err, kernel.ErrNotPermitted) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range callers {
		b.Run("contender="+c.Contender, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.call(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
