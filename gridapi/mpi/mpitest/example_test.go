package mpitest_test

import (
	"testing"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

// A test of endpoints of your own takes one line.
func ExampleConform() {
	_ = func(t *testing.T) {
		mpitest.Conform(t, func(_ testing.TB, n int) []mpi.Endpoint { return mpi.Local(n) })
	}
}
