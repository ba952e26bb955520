package mpi_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/mpi"
	"github.com/instantgrid/instantgrid/gridapi/mpi/mpitest"
)

func TestConformance(t *testing.T) {
	for name, make := range map[string]mpitest.Endpoints{
		"memory": func(_ testing.TB, n int) []mpi.Endpoint { return mpi.Local(n) },
		"pipe":   mpitest.Pipe,
		"tcp":    mpitest.TCP,
	} {
		t.Run(name, func(t *testing.T) { mpitest.Conform(t, make) })
	}
}

// TestFinalizeWaits: a rank that is done waits for one that is not.
func TestFinalizeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mpitest.Run(t, mpi.Local(3), mpi.Config{}, func(p *mpi.Process, c *mpi.Comm) error {
			time.Sleep(time.Duration(c.Rank()) * time.Second)
			over, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			begin := time.Now()
			if err := p.Finalize(over); err != nil {
				return err
			}
			if d := time.Since(begin); d != time.Duration(2-c.Rank())*time.Second {
				return fmt.Errorf("rank %d waited %v", c.Rank(), d)
			}
			return nil
		})
	})
}
