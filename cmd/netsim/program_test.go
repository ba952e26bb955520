package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestPrograms runs this program inside a host. It needs root and namespaces.
func TestPrograms(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	sc, err := netsim.NamedScenario("symmetric-pair")
	if err != nil {
		t.Fatal(err)
	}
	network, err := kernel.Start(sc)
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, args ...string) *program {
		p, err := startProgram(ctx, network, "a", self, args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stop)
		return p
	}
	var d struct{ Schema, Program string }

	p := start(t.Context(), "version", "--json")
	if err := p.until(&d, func() bool { return d.Program != "" }); err != nil || d.Program != "netsim" {
		t.Errorf("%+v, %v", d, err)
	}
	if err := p.finish(&d); err != nil {
		t.Error(err)
	}

	// One that fails says why.
	p = start(t.Context(), "run", "nothing")
	err = p.until(&d, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "neither a file nor a built-in scenario") || !strings.Contains(err.Error(), "run on host a") {
		t.Errorf("error of a program that failed: %v", err)
	}

	// One that waits for its input is killed when its context ends.
	ctx, cancel := context.WithCancel(t.Context())
	p = start(ctx, "version", "--json")
	cancel()
	if err := p.finish(&d); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("error after an interrupt: %v", err)
	}
}
